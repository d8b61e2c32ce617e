//! What a benchmark prints: rows with their baseline and ratio, and whether the run counts.

use serde::{Serialize, Serializer};
use serde_json::Value;
use std::{process::Command, sync::OnceLock};

/// A benchmark's result.
#[derive(Serialize)]
pub(crate) struct Report {
    bench: &'static str,
    machine: Machine,
    #[serde(serialize_with = "judged")]
    rows: Vec<Row>,
    /// What else there is to be drawn or compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    /// Why the run does not count, if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    void: Option<String>,
}

#[derive(Serialize)]
struct Machine {
    cpu: String,
    cores: usize,
    rustc: String,
    load: f64,
    /// The share of this program's time that the host took from the machine's processors.
    stolen: f64,
}

/// The machine's times when this program began: what was stolen, and all, in ticks of the system.
static BEGAN: OnceLock<(u64, u64)> = OnceLock::new();

/// Notes the machine's times. Called once, first of all.
pub(crate) fn begin() {
    BEGAN.get_or_init(times);
}

fn times() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let times: Vec<u64> = line.split_whitespace().skip(1).filter_map(|time| time.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal, see proc_stat(5); guests are in user already.
    (times.get(7).copied().unwrap_or(0), times.iter().take(8).sum())
}

/// A figure.
#[derive(Serialize)]
pub(crate) struct Row {
    pub case: String,
    pub mode: String,
    pub value: f64,
    pub unit: &'static str,
    /// The least and the most of what the value is the median of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<[f64; 2]>,
    /// What it is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// What the ratio must keep to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
}

/// A row as JSON has it: with what comes of its bound.
#[derive(Serialize)]
struct Judged<'r> {
    #[serde(flatten)]
    row: &'r Row,
    verdict: String,
}

fn judged<S: Serializer>(rows: &[Row], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rows.iter().map(|row| Judged { row, verdict: row.verdict() }))
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// As near to 1 as that.
    Within(f64),
}

impl Row {
    /// A figure beside its baseline.
    pub(crate) fn ratio(
        case: &str,
        mode: &str,
        value: f64,
        unit: &'static str,
        baseline: f64,
        bound: Bound,
    ) -> Self {
        let (case, mode) = (case.to_owned(), mode.to_owned());
        Self {
            case,
            mode,
            value,
            unit,
            spread: None,
            baseline: Some(baseline),
            ratio: Some(value / baseline),
            bound: Some(bound),
        }
    }

    /// A figure beside one that it is to be seen with, whatever comes out.
    pub(crate) fn beside(case: &str, mode: &str, value: f64, unit: &'static str, baseline: f64) -> Self {
        Self { bound: None, ..Self::ratio(case, mode, value, unit, baseline, Bound::AtMost(0.0)) }
    }

    /// With what it is the median of.
    pub(crate) fn of(self, samples: &[f64]) -> Self {
        let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
        let most = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Self { spread: (least <= most).then_some([least, most]), ..self }
    }

    /// A figure by itself.
    pub(crate) fn plain(case: &str, mode: &str, value: f64, unit: &'static str) -> Self {
        Self {
            case: case.to_owned(),
            mode: mode.to_owned(),
            value,
            unit,
            spread: None,
            baseline: None,
            ratio: None,
            bound: None,
        }
    }

    /// A figure that must keep to a bound by itself.
    pub(crate) fn bounded(case: &str, mode: &str, value: f64, unit: &'static str, bound: Bound) -> Self {
        Self { bound: Some(bound), ..Self::plain(case, mode, value, unit) }
    }

    /// The bound and whether it is kept; empty without one.
    pub(crate) fn verdict(&self) -> String {
        let (sign, bound) = match self.bound {
            None => return String::new(),
            Some(Bound::AtMost(most)) => ("<=", most),
            Some(Bound::AtLeast(least)) => (">=", least),
            Some(Bound::Within(part)) => ("1 +-", part),
        };
        format!("{sign} {bound} {}", if self.is_met() { "met" } else { "MISSED" })
    }

    fn is_met(&self) -> bool {
        let value = self.ratio.unwrap_or(self.value);
        match self.bound {
            None => true,
            Some(Bound::AtMost(most)) => value <= most,
            Some(Bound::AtLeast(least)) => value >= least,
            Some(Bound::Within(part)) => (value - 1.0).abs() <= part,
        }
    }
}

/// Rows of a benchmark of many minutes: each is said on stderr as soon as it is measured.
#[derive(Default)]
pub(crate) struct Told(Vec<Row>);

impl Told {
    pub(crate) fn push(&mut self, row: Row) {
        let baseline = row.baseline.map_or(String::new(), |baseline| format!(" of {baseline:.3}"));
        let ratio = row.ratio.map_or(String::new(), |ratio| format!(", {ratio:.3}"));
        let Row { case, mode, value, unit, .. } = &row;
        eprintln!("{case}: {mode}: {value:.3} {unit}{baseline}{ratio}  {}", row.verdict());
        self.0.push(row);
    }

    pub(crate) fn into_rows(self) -> Vec<Row> {
        self.0
    }
}

impl Report {
    pub(crate) fn new(bench: &'static str, rows: Vec<Row>, void: Option<String>) -> Self {
        Self { bench, machine: Machine::here(), rows, data: None, void }
    }

    /// With more to be drawn or compared.
    pub(crate) fn with(self, data: Value) -> Self {
        Self { data: Some(data), ..self }
    }

    /// Prints; false when a bound is missed or the run is void.
    pub(crate) fn print(&self, json: bool) -> anyhow::Result<bool> {
        if json {
            println!("{}", serde_json::to_string_pretty(self)?);
        } else {
            println!("{}: {}", self.bench, self.machine_line());
            let wide = |text: fn(&Row) -> &str| {
                self.rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0).max(4)
            };
            let (case, mode, unit) = (wide(|row| &row.case), wide(|row| &row.mode), wide(|row| row.unit));
            println!(
                "{:<case$}  {:<mode$}  {:>12} {:<unit$} {:>12} {:>8}",
                "case", "mode", "value", "unit", "baseline", "ratio"
            );
            for row in &self.rows {
                let optional =
                    |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.3}"));
                let (baseline, ratio) = (optional(row.baseline), optional(row.ratio));
                let spread =
                    row.spread.map_or(String::new(), |[least, most]| format!("{least:.3}..{most:.3}"));
                println!(
                    "{:<case$}  {:<mode$}  {:>12.3} {:<unit$} {baseline:>12} {ratio:>8}  {} {spread}",
                    row.case,
                    row.mode,
                    row.value,
                    row.unit,
                    row.verdict()
                );
            }
            if let Some(void) = &self.void {
                println!("VOID: {void}");
            }
        }
        Ok(self.is_met())
    }

    /// True when every bound is kept and the run counts.
    pub(crate) fn is_met(&self) -> bool {
        self.void.is_none() && self.rows.iter().all(Row::is_met)
    }

    /// The figures.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// What it ran on.
    pub(crate) fn machine_line(&self) -> String {
        let Machine { cpu, cores, rustc, load, stolen } = &self.machine;
        format!("{cpu}, {cores} cores, load {load}, {:.1} % stolen, {rustc}", 100.0 * stolen)
    }
}

impl Machine {
    fn here() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        let rustc = Command::new("rustc").arg("-V").output();
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let (now, began) = (times(), BEGAN.get().copied().unwrap_or_default());
        Self {
            stolen: (now.0 - began.0) as f64 / (now.1 - began.1).max(1) as f64,
            cpu: cpu.trim_start_matches([' ', '\t', ':']).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            rustc: rustc
                .map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
                .unwrap_or_default(),
            load: load.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        }
    }
}
