//! `everworld why`: one tick again, step by step, and what each did to one entity.

use super::{
    Failed, exit,
    past::note,
    source::{Source, SourceArgs, query},
};
use crate::{
    questions::{At, Explained, Told},
    spine::BUILD_ID_HEX,
};
use anyhow::{Context as _, anyhow};
use clap::Args;
use everworld_engine::{Layout, NodeKind, Registry, Tick, Uid, explain::StepKind};
use everworld_systems::Plugin;
use serde_json::Value;
use std::{io::IsTerminal as _, sync::Arc};

/// Show what each system did to one entity in one tick, and why
#[derive(Args, Debug)]
pub struct WhyArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// The entity
    #[arg(long, value_name = "U")]
    uid: u64,
    /// The tick
    #[arg(long, value_name = "T")]
    tick: u64,
    /// The branch; the one that goes on when not given
    #[arg(long, value_name = "B")]
    branch: Option<u32>,
}

pub(super) fn run(args: &WhyArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    if args.tick == 0 {
        return Err(exit::usage("--tick: tick 0 is the world as it was created; systems run from tick 1"));
    }
    let at = At { branch: args.branch, tick: Some(Tick(args.tick)) };
    let (explained, registry): (Explained, Option<Arc<Registry>>) = match args.source.open(plugins)? {
        Source::Stopped(past) => {
            if past.build_id() != BUILD_ID_HEX {
                note(&format!(
                    "this build is {BUILD_ID_HEX}, the log is of {}: what is shown is what this build does",
                    past.build_id()
                ));
            }
            let questions = past.questions();
            (questions.why(Uid::new(args.uid), at)?, Some(questions.registry()?))
        }
        Source::Live(mut remote) => {
            let path = format!("/entities/{}/why{}", args.uid, query(&[("tick", Some(at.to_string()))]));
            let answer = remote.ask("GET", &path, &Value::Null)?;
            (serde_json::from_value(answer).context("the server answers something else")?, None)
        }
    };
    let answer = serde_json::to_value(&explained).context("could not print the steps")?;
    args.source.print(&answer, |_| Text::new(registry.as_deref()).of(&explained))?;
    explained.failed.map_or(Ok(()), |error| Err(anyhow!(error).into()))
}

/// Steps as text for a terminal.
struct Text<'r> {
    registry: Option<&'r Registry>,
    coloured: bool,
}

impl<'r> Text<'r> {
    fn new(registry: Option<&'r Registry>) -> Self {
        let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { registry, coloured }
    }

    fn of(&self, explained: &Explained) -> String {
        let Explained { world, tick, uid, name, state_hash, failed, steps, .. } = explained;
        let who =
            name.as_ref().map_or_else(|| format!("entity {uid}"), |name| format!("{name}, entity {uid}"));
        let mut lines =
            vec![self.bold(&format!("{who}, in tick {tick} of world \"{world}\"")), String::new()];
        for told in steps.iter().filter(|told| told.quiet().is_none()) {
            self.step(told, &mut lines);
            lines.push(String::new());
        }
        let silent: Vec<&str> = steps.iter().filter_map(Told::quiet).collect();
        if !silent.is_empty() {
            lines.push(self.dim(&format!("could have changed it and did not: {}", silent.join(", "))));
        }
        if steps.is_empty() {
            lines.push("nothing that ran in this tick may change it".into());
        }
        lines.extend(state_hash.map(|hash| format!("state hash after the tick: {hash}")));
        lines.extend(failed.as_ref().map(|error| format!("the tick failed: {error}")));
        lines.into_iter().map(|line| line + "\n").collect()
    }

    fn step(&self, told: &Told, lines: &mut Vec<String>) {
        let step = &told.step;
        let (title, about) = title(&step.kind);
        lines.push(format!("{}  {}", self.bold(&title), self.dim(&about)));
        lines.extend(step.reasons.iter().map(|reason| format!("    because  {reason}")));
        match (&step.before, &step.after) {
            (None, Some(_)) => lines.push("    is born".into()),
            (Some(_), None) => lines.push("    is gone".into()),
            _ if told.changes.is_empty() => lines.push("    nothing changes".into()),
            _ => {}
        }
        let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "-".into(), show);
        // Of one who is gone the last state is in the steps before.
        let changes = told.changes.iter().filter(|_| step.after.is_some());
        let rows: Vec<[String; 3]> = changes
            .clone()
            .map(|change| [change.field.clone(), shown(&change.before), shown(&change.after)])
            .collect();
        let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
        let (field_width, before_width, after_width) = (width(0), width(1), width(2));
        for ([field, before, after], change) in rows.iter().zip(changes) {
            let line = format!("    {field:<field_width$}  {before:>before_width$} -> ");
            lines.push(match self.doc(&change.field) {
                Some(doc) => format!("{line}{after:<after_width$}  {}", self.dim(&doc)),
                None => line + after,
            });
        }
    }

    fn bold(&self, text: &str) -> String {
        if self.coloured { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn dim(&self, text: &str) -> String {
        if self.coloured { format!("\u{1b}[2m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// What a field means, from its declaration.
    fn doc(&self, path: &str) -> Option<String> {
        let mut parts = path.split('.');
        let column = self.registry?.column(parts.next()?)?;
        let Layout::Plain { fields, .. } = column.layout else { return None };
        let name = parts.next()?;
        let field = fields.iter().find(|field| field.name == name)?;
        let doc = field.doc.trim().trim_end_matches('.').replace('\n', " ");
        Some(doc).filter(|doc| !doc.is_empty())
    }
}

/// What ran, and what there is to say about it.
fn title(kind: &StepKind) -> (String, String) {
    match kind {
        StepKind::Input { seq, kind, payload, rejected } => {
            let outcome =
                rejected.as_ref().map_or_else(|| "applied".to_owned(), |why| format!("rejected: {why}"));
            let mut payload = payload.to_string();
            if payload.chars().count() > PAYLOAD_SHOWN_MAX {
                payload = payload.chars().take(PAYLOAD_SHOWN_MAX).chain("...".chars()).collect();
            }
            (format!("input {seq}: {kind} {payload}"), outcome)
        }
        StepKind::Timer { kind } => (format!("timer of kind {kind}"), "due".into()),
        StepKind::Node { system, phase, kind: NodeKind::Exclusive, .. } => {
            (system.clone(), format!("phase {phase}, has the whole world"))
        }
        StepKind::Node { system, phase, writes, .. } if writes.is_empty() => {
            (system.clone(), format!("phase {phase}"))
        }
        StepKind::Node { system, phase, writes, .. } => {
            (system.clone(), format!("phase {phase}, may write {}", writes.join(", ")))
        }
    }
}

/// So much of an input is shown in text; all of it is in the JSON.
const PAYLOAD_SHOWN_MAX: usize = 200;

/// A value on a line: numbers with six digits that count, the whole of them is in the JSON.
fn show(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or(0.0);
            let digits = if number == 0.0 { 0 } else { 5 - number.abs().log10().floor() as i32 };
            let text = format!("{number:.*}", digits.clamp(1, 9) as usize);
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        other => other.to_string(),
    }
}
