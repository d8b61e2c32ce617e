//! `everworld branches` and `everworld history`: the lines of history, and one entity over time.

use super::{
    Failed,
    inspect::{cells, parse, plain, table},
    source::{Source, SourceArgs, query},
};
use crate::questions::At;
use clap::Args;
use everworld_engine::Uid;
use everworld_systems::Plugin;
use serde_json::Value;
use std::fmt::Write as _;

/// List the lines of history of a world
#[derive(Args, Debug)]
pub struct BranchesArgs {
    #[command(flatten)]
    source: SourceArgs,
}

/// Show one entity over time
#[derive(Args, Debug)]
pub struct HistoryArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// The entity
    #[arg(long, value_name = "U")]
    uid: u64,
    /// The first tick; the oldest that is kept when not given
    #[arg(long, value_name = "A", default_value = "0")]
    from: String,
    /// The last tick, also with its branch (0/1200); the newest when not given
    #[arg(long, value_name = "B", default_value = "now")]
    to: String,
    /// Every tick at which it became another, computed again; else the kept snapshots only
    #[arg(long)]
    exact: bool,
}

pub(super) fn branches(args: &BranchesArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    let answer = match args.source.open(plugins)? {
        Source::Stopped(past) => past.questions().branches(),
        Source::Live(mut remote) => remote.ask("GET", "/branches", &Value::Null)?,
    };
    args.source.print(&answer, |answer| {
        let keys = ["branch", "parent", "from_tick", "current"];
        let items = answer["items"].as_array().into_iter().flatten();
        let rows: Vec<_> = items.map(|item| cells(item, &keys)).collect();
        table(&["branch", "parent", "from tick", "goes on"], &rows)
    })
}

pub(super) fn history(args: &HistoryArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    let (from, to): (At, At) = (parse("--from", &args.from)?, parse("--to", &args.to)?);
    let answer = match args.source.open(plugins)? {
        Source::Stopped(past) => past.questions().entity_history(Uid::new(args.uid), from, to, args.exact)?,
        Source::Live(mut remote) => {
            let parameters = [
                ("from", Some(from.to_string())),
                ("to", Some(to.to_string())),
                ("exact", Some(args.exact.to_string())),
            ];
            let path = format!("/entities/{}/history{}", args.uid, query(&parameters));
            remote.ask("GET", &path, &Value::Null)?
        }
    };
    args.source.print(&answer, text)
}

fn text(answer: &Value) -> String {
    let what = if answer["exact"] == true { "ticks" } else { "snapshots" };
    let mut text = format!(
        "entity {} of world {}, branch {}: {} {what} from tick {} to {}\n",
        plain(&answer["uid"]),
        plain(&answer["world"]),
        plain(&answer["branch"]),
        plain(&answer["looked_at"]),
        plain(&answer["from"]),
        plain(&answer["to"]),
    );
    for item in answer["items"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "tick {}", plain(&item["tick"]));
        let changes = item["changes"].as_array().map_or(&[][..], Vec::as_slice);
        if item["components"].is_null() {
            text += "  is gone\n";
        } else if changes.is_empty() {
            for (component, value) in item["components"].as_object().into_iter().flatten() {
                let _ = writeln!(text, "  {component:<24} {}", plain(value));
            }
        } else {
            for change in changes {
                let [field, before, after] = ["field", "before", "after"].map(|key| plain(&change[key]));
                let _ = writeln!(text, "  {field:<24} {before} -> {after}");
            }
        }
    }
    text
}
