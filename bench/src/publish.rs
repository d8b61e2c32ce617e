//! `report`: what the benchmarks found, as docs/BENCHMARKS.md and as one page with plots that needs nothing else.
//!
//! Reads the JSON that each of them prints; with `--measure` runs them first, one after the other.

use crate::{
    models::Figure,
    npcs::{self, Case},
    plots,
};
use anyhow::{Context as _, ensure};
use clap::Args;
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

#[derive(Args)]
pub(crate) struct ReportArgs {
    /// Run all benchmarks first: about an hour on a machine that does nothing else
    #[arg(long)]
    measure: bool,
    /// Where their JSON is, one file each
    #[arg(long, default_value = "target/benchmarks")]
    dir: PathBuf,
    /// The text to be written
    #[arg(long, default_value = "docs/BENCHMARKS.md")]
    markdown: PathBuf,
    /// The page to be written
    #[arg(long, default_value = "target/benchmarks/report.html")]
    html: PathBuf,
}

/// A benchmark of the report.
struct Run {
    file: &'static str,
    title: &'static str,
    args: &'static [&'static str],
    /// What the figures say, and what they cannot be compared with.
    note: &'static str,
}

const RUNS: [Run; 7] = [
    Run {
        file: "npcs-town",
        title: "The town by size",
        args: &["npcs"],
        note: "Ticks of the built-in town as fast as they go, without persistence. Each measurement is a process of its own.",
    },
    Run {
        file: "npcs-flocking",
        title: "Flocking by size",
        args: &["npcs", "--scenario", "flocking", "--ticks", "10"],
        note: "The scaled variant of the standard model, from the second step on. Flocks clump, and cost more as they do: only \
               equal windows of steps can be compared.",
    },
    Run {
        file: "peers",
        title: "Flocking in other frameworks",
        args: &["peers", "--with", "flecs,krabmaga,mesa"],
        note: "All begin with the same birds; the first 10 steps, all Rust code for the same target. Bare arrays are the bound: \
               birds in no order of their own, without names, events, determinism across threads or anything else around them. \
               Not comparable: krABMaga computes in 32 bits on one thread and sees nobody across the seam of its torus; Mesa \
               goes through its birds one after the other and looks at all others for each, which is why it has few. A row \
               \"sorted flat grid\" is the framework with a counting sort into flat arrays, written by hand: on one thread, looked at \
               bird by bird, without lanes. Those outside this process run after the others, not in turns with them.",
    },
    Run {
        file: "peers-100k",
        title: "The same with 100,000 birds",
        args: &["peers", "--agents", "100000", "--with", "flecs,krabmaga"],
        note: "As above.",
    },
    Run {
        file: "rivals",
        title: "Loads of other world servers",
        args: &["rivals"],
        note: "March is of SpacetimeDB's keynote (a mean of 357 ms a call, and 32 MB of log), Battle is Typhon's \
               SimpleSpaceBattle (12.0 ms on 30 workers). Not comparable: their figures are published ones, of their machines. \
               Durable means that the world comes back as it was, bit for bit, after a kill at any instant. The 131 neighbours \
               that are published are those of a ship that no wall takes any from.",
    },
    Run {
        file: "events",
        title: "Events",
        args: &["events"],
        note: "What systems emit, put in one order for any number of threads. Beyond `tick.events_max` of a kind and tick they \
               are counted and not told.",
    },
    Run {
        file: "models",
        title: "The standard models against their reference",
        args: &["models"],
        note: "50 seeds each, beside the means and standard deviations of a reference implementation, by Welch's z. Figures of \
               another variant and of planted faults have to be told apart.",
    },
];

/// What a benchmark printed.
#[derive(Deserialize)]
struct Found {
    machine: Machine,
    rows: Vec<Row>,
    #[serde(default)]
    data: Value,
    void: Option<String>,
}

#[derive(Deserialize)]
struct Machine {
    cpu: String,
    cores: usize,
    rustc: String,
    stolen: f64,
}

#[derive(Deserialize)]
struct Row {
    case: String,
    mode: String,
    /// None where it is beyond all numbers.
    value: Option<f64>,
    unit: String,
    spread: Option<[f64; 2]>,
    baseline: Option<f64>,
    ratio: Option<f64>,
    verdict: String,
}

pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<()> {
    if args.measure {
        fs::create_dir_all(&args.dir)?;
        RUNS.iter().try_for_each(|run| measure(run, &args.dir))?;
    }
    let found = |run: &'static Run| -> anyhow::Result<Option<(&'static Run, Found)>> {
        let path = args.dir.join(run.file).with_extension("json");
        if !path.exists() {
            eprintln!("{}: not measured, left out", path.display());
            return Ok(None);
        }
        let text = fs::read_to_string(&path)?;
        let found = serde_json::from_str(&text).with_context(|| {
            format!("{}: expected what `everworld-bench {}` prints", path.display(), run.args[0])
        })?;
        Ok(Some((run, found)))
    };
    let found: Vec<_> = RUNS.iter().map(found).filter_map(Result::transpose).collect::<Result<_, _>>()?;
    ensure!(!found.is_empty(), "nothing was measured: run with --measure");
    let sections =
        found.iter().map(|(run, found)| Section::of(run, found)).collect::<anyhow::Result<Vec<_>>>()?;
    let machine = &found[0].1.machine;
    let head = format!(
        "Measured with everworld {} on {}, {} cores, {}. What stands for several runs is their median, in brackets the least and \
         the most of them. A figure counts only in a run whose second core was free: a random gather has to gain 1.8 on two \
         threads, and what a run gained is its first row.",
        env!("CARGO_PKG_VERSION"),
        machine.cpu,
        machine.cores,
        machine.rustc
    );
    write(&args.markdown, &markdown(&head, &sections))?;
    write(&args.html, &html(&head, &sections))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    println!("{}", path.display());
    Ok(())
}

/// So often a benchmark is run until a run of it counts.
const TRIES: usize = 3;

fn measure(run: &Run, dir: &Path) -> anyhow::Result<()> {
    for _ in 0..TRIES {
        eprintln!("{}", run.args.join(" "));
        let mut command = Command::new(std::env::current_exe()?);
        // Missed bounds end it with 1, and are told.
        let output = command.args(run.args).arg("--json").stderr(Stdio::inherit()).output()?;
        let found: Found = serde_json::from_slice(&output.stdout).with_context(|| {
            format!("`everworld-bench {}` ended with {}", run.args.join(" "), output.status)
        })?;
        fs::write(dir.join(run.file).with_extension("json"), &output.stdout)?;
        if found.void.is_none() {
            break;
        }
    }
    Ok(())
}

/// A part of the report.
struct Section {
    title: &'static str,
    command: String,
    notes: Vec<String>,
    tables: Vec<Table>,
    /// SVG, each with whether it is a small one.
    plots: Vec<(String, bool)>,
}

struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Section {
    fn of(run: &Run, found: &Found) -> anyhow::Result<Self> {
        let mut notes = vec![run.note.to_owned()];
        if let Some(void) = &found.void {
            notes.push(format!("This run does not count: {void}."));
        }
        if found.machine.stolen >= 0.01 {
            notes.push(format!("The host took {:.1} % of the time.", 100.0 * found.machine.stolen));
        }
        let (mut tables, mut plots) = (Vec::new(), Vec::new());
        if run.args[0] == "npcs" {
            let npcs::Data { cases } = serde_json::from_value(found.data.clone())?;
            tables.push(sizes(&cases));
            tables.extend(shares(&cases));
            let is_own = |row: &&Row| cases.iter().all(|case| row.case != case.name());
            tables.push(figures(found.rows.iter().filter(is_own)));
            plots.push((plots::scaling(&cases), false));
        } else {
            tables.push(figures(found.rows.iter()));
        }
        if run.args[0] == "peers" {
            let steps = found.rows.iter().filter(|row| row.unit == "ms/step");
            let mut by_case: BTreeMap<&str, Vec<(String, f64)>> = BTreeMap::new();
            for row in steps {
                by_case.entry(&row.case).or_default().push((row.mode.clone(), row.value.unwrap_or(0.0)));
            }
            plots.extend(by_case.iter().map(|(case, bars)| (plots::bars(case, "ms a step", bars), false)));
        }
        if run.args[0] == "models" {
            let figures: Vec<Figure> = serde_json::from_value(found.data.clone())?;
            plots.push((plots::errors(&figures), false));
            let mut series: BTreeMap<(&str, &str), Vec<&Figure>> = BTreeMap::new();
            for figure in figures.iter().filter(|figure| figure.step.is_some()) {
                series.entry((&figure.case, &figure.statistic)).or_default().push(figure);
            }
            plots.extend(
                series.values().filter(|steps| steps.len() > 2).map(|steps| (plots::series(steps), true)),
            );
        }
        let command = format!("everworld-bench {}", run.args.join(" "));
        Ok(Self { title: run.title, command, notes, tables, plots })
    }
}

/// A row for each number of NPCs and threads.
fn sizes(cases: &[Case]) -> Table {
    let row = |case: &Case| {
        vec![
            grouped(case.npcs as f64),
            case.threads.to_string(),
            number(case.ticks_per_second),
            format!("{} ({}..{})", number(case.ns_per_npc), number(case.spread[0]), number(case.spread[1])),
            number(case.p99_ns_per_npc),
            number(case.cpu_ns_per_npc),
            number(case.bytes_per_npc),
        ]
    };
    let head =
        vec!["NPCs", "threads", "ticks/s", "ns per NPC and tick", "p99", "CPU ns per NPC", "bytes per NPC"];
    Table { head, rows: cases.iter().map(row).collect() }
}

/// Where the time of the largest world goes.
fn shares(cases: &[Case]) -> Option<Table> {
    let case = cases.iter().max_by_key(|case| (case.npcs, case.threads))?;
    let mut systems: Vec<_> = case.systems.iter().filter(|(_, share)| **share >= 0.005).collect();
    systems.sort_by(|a, b| b.1.total_cmp(a.1));
    let row =
        |(system, share): (&String, &f64)| vec![format!("`{system}`"), format!("{:.1} %", 100.0 * share)];
    Some(Table {
        head: vec!["system, in the largest world", "share"],
        rows: systems.into_iter().map(row).collect(),
    })
}

fn figures<'r>(rows: impl Iterator<Item = &'r Row>) -> Table {
    let row = |row: &Row| {
        let spread = row.spread.map_or(String::new(), |[least, most]| {
            if least < most { format!(" ({}..{})", number(least), number(most)) } else { String::new() }
        });
        let beside = row.baseline.map_or(String::new(), number);
        let ratio = row.ratio.map_or(String::new(), number);
        let value = row.value.map_or_else(|| "beyond all".into(), number);
        let value = format!("{value}{spread} {}", row.unit);
        vec![row.case.clone(), row.mode.clone(), value, beside, ratio, row.verdict.clone()]
    };
    Table { head: vec!["case", "what", "figure", "beside", "ratio", "due"], rows: rows.map(row).collect() }
}

/// With three digits that say something; large ones whole.
fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        1000.0.. => grouped(value),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        0.0 => "0".into(),
        _ => format!("{value:.3}"),
    }
}

/// A whole number in groups of three digits.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn markdown(head: &str, sections: &[Section]) -> String {
    let mut text = format!(
        "# Benchmarks\n\nWritten by `cargo run --release -p everworld-bench -- report --measure`; the same with plots is \
         target/benchmarks/report.html.\n\n{head}\n"
    );
    for Section { title, command, notes, tables, .. } in sections {
        let _ = write!(text, "\n## {title}\n\n`{command}`\n");
        for note in notes {
            let _ = write!(text, "\n{note}\n");
        }
        for Table { head, rows } in tables.iter().filter(|table| !table.rows.is_empty()) {
            let _ = write!(text, "\n| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
            for row in rows {
                let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
                let _ = writeln!(text, "| {} |", cells.join(" | "));
            }
        }
    }
    text
}

fn html(head: &str, sections: &[Section]) -> String {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut text = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Everworld: benchmarks</title><style>\
         body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}\
         table{border-collapse:collapse;margin:1rem 0;font-size:13px}td,th{border-bottom:1px solid #ddd;padding:.2rem .6rem;\
         text-align:left}code{background:#f3f3f3;padding:.1rem .3rem}.missed{color:#b00020}svg{max-width:100%;height:auto}\
         .small svg{margin:.2rem}</style><h1>Everworld: benchmarks</h1>",
    );
    let _ = write!(text, "<p>{}</p>", escaped(head));
    for Section { title, command, notes, tables, plots } in sections {
        let _ = write!(text, "<h2>{}</h2><p><code>{}</code></p>", escaped(title), escaped(command));
        for note in notes {
            let _ = write!(text, "<p>{}</p>", escaped(note));
        }
        for (svg, _) in plots.iter().filter(|(_, is_small)| !is_small) {
            let _ = write!(text, "<div>{svg}</div>");
        }
        for Table { head, rows } in tables.iter().filter(|table| !table.rows.is_empty()) {
            text.push_str("<table><tr>");
            head.iter().for_each(|cell| _ = write!(text, "<th>{}</th>", escaped(cell)));
            for row in rows {
                let is_missed = row.last().is_some_and(|cell| cell.ends_with("MISSED"));
                text.push_str(if is_missed { "<tr class=\"missed\">" } else { "<tr>" });
                row.iter().for_each(|cell| _ = write!(text, "<td>{}</td>", escaped(cell.trim_matches('`'))));
            }
            text.push_str("</table>");
        }
        text.push_str("<div class=\"small\">");
        plots.iter().filter(|(_, is_small)| *is_small).for_each(|(svg, _)| text.push_str(svg));
        text.push_str("</div>");
    }
    text.push_str("</html>\n");
    text
}
