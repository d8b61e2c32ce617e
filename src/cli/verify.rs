//! `everworld verify`: whether a world comes back as it was, computed again with another number of threads.

use super::{
    Failed, exit,
    source::{Source, SourceArgs},
};
use crate::questions::{FieldDifference, ImageDiff, Verified, VerifyOptions};
use anyhow::{Context as _, anyhow};
use clap::Args;
use everworld_engine::Tick;
use everworld_systems::Plugin;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Compute the kept ticks again and compare every hash that is known of them
#[derive(Args, Debug)]
pub struct VerifyArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// On how many threads; another number than the server's tells more. 1 when not given
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    threads: u64,
    /// The first tick; the oldest that is kept when not given
    #[arg(long, value_name = "A")]
    from: Option<u64>,
    /// The last tick; the newest when not given
    #[arg(long, value_name = "B")]
    to: Option<u64>,
    /// The branch; the one that goes on when not given
    #[arg(long, value_name = "B")]
    branch: Option<u32>,
    /// Load every kept snapshot and begin there, not only at some of them
    #[arg(long)]
    deep: bool,
}

pub(super) fn run(args: &VerifyArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from > to
    {
        return Err(exit::usage(&format!("--from: tick {from} comes after tick {to}")));
    }
    let options = VerifyOptions {
        branch: args.branch,
        from: args.from.map(Tick),
        to: args.to.map(Tick),
        threads: args.threads as usize,
        deep: args.deep,
        idle: false,
    };
    let verified: Verified = match args.source.open(plugins)? {
        Source::Stopped(past) => past.questions().verify(&options)?,
        Source::Live(mut remote) => {
            let body = json!({
                "branch": args.branch, "from": args.from, "to": args.to, "threads": args.threads, "deep": args.deep,
            });
            let answer = remote.ask("POST", "/verify", &body)?;
            serde_json::from_value(answer).context("the server answers something else")?
        }
    };
    let answer = serde_json::to_value(&verified).context("could not print the answer")?;
    args.source.print(&answer, |_| text(&verified))?;
    if verified.agrees {
        return Ok(());
    }
    let why = match &verified.mismatch {
        Some(mismatch) => format!("tick {} does not come back as it was", mismatch.tick),
        None => "something that was kept cannot be read".into(),
    };
    Err(Failed::new(3, anyhow!(why)))
}

fn text(verified: &Verified) -> String {
    let Verified { world, branch, from, to, threads, ticks, .. } = verified;
    let mut text = format!("world       {world}, branch {branch}\n");
    let _ = writeln!(text, "computed    {ticks} ticks again, {from} to {to}, on {threads} threads");
    let (snapshots, checkpoints) = (verified.snapshots_compared, verified.checkpoints_compared);
    let loaded = verified.snapshots_loaded;
    let _ = writeln!(
        text,
        "compared    {snapshots} snapshots ({loaded} loaded), {checkpoints} hashes of the log"
    );
    for damage in &verified.damaged {
        let _ = writeln!(text, "damaged     {damage}");
    }
    let Some(mismatch) = &verified.mismatch else {
        text += if verified.agrees { "all agree\n" } else { "the rest agrees\n" };
        return text;
    };
    let _ = writeln!(text, "agrees      until tick {}", mismatch.agrees_until);
    let _ = writeln!(text, "differs     at tick {} ({})", mismatch.tick, mismatch.what);
    if let (Some(expected), Some(found)) = (mismatch.expected, mismatch.found) {
        let _ = writeln!(text, "expected    {expected}\nfound       {found}");
    }
    if let Some(failure) = &mismatch.failure {
        let _ = writeln!(text, "failed      {failure}");
    }
    if let Some(build) = &mismatch.other_build {
        let _ = writeln!(
            text,
            "cause       build {build} computed that tick, this one comes to another state: restarts begin with a snapshot \
             after it; to go back to that tick, use that build"
        );
        return mismatch.differs.as_ref().map_or(text.clone(), |diff| text + &diff_text(diff));
    }
    text += if mismatch.depends_on_threads {
        "cause       results depend on the number of threads\n"
    } else {
        "cause       not the number of threads: what was recorded, or computed then, is another state\n"
    };
    mismatch.differs.as_ref().map_or(text.clone(), |diff| text + &diff_text(diff))
}

/// What differs, for people.
pub(super) fn diff_text(diff: &ImageDiff) -> String {
    if diff.same {
        return "nothing differs\n".into();
    }
    let mut text =
        format!("entities    {} added, {} removed, {} changed\n", diff.added, diff.removed, diff.changed);
    for (component, rows) in &diff.components {
        let _ = writeln!(text, "  {component:<16} {rows} rows differ");
    }
    if !diff.resources.is_empty() {
        let _ = writeln!(text, "resources   {}", diff.resources.join(", "));
    }
    let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "-".into(), Value::to_string);
    for item in &diff.items {
        let _ = writeln!(text, "entity {} {}", item.uid, item.change);
        let fields = item.fields.iter().filter(|_| item.change == "changed");
        for FieldDifference { field, from, to } in fields {
            let _ = writeln!(text, "  {field:<24} {} -> {}", shown(from), shown(to));
        }
    }
    text
}
