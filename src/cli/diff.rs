//! `everworld diff`: what differs between two ticks, two lines of history, or two worlds.

use super::{
    Failed,
    inspect::{parse, plain},
    past::Past,
    source::{Source, SourceArgs, query},
    verify::diff_text,
};
use crate::questions::{At, ImageDiff};
use anyhow::Context as _;
use clap::Args;
use everworld_systems::Plugin;
use serde_json::Value;
use std::fmt::Write as _;

/// Show what differs between two ticks, branches or worlds, by component and field
#[derive(Args, Debug)]
pub struct DiffArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// The one tick: 1200, or 0/1200 with its branch
    #[arg(long, value_name = "A")]
    from: String,
    /// The other tick; the same when not given
    #[arg(long, value_name = "B")]
    to: Option<String>,
    /// The other tick is of this world of the same data directory
    #[arg(long, value_name = "W")]
    other_world: Option<String>,
    /// List at most so many entities
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

pub(super) fn run(args: &DiffArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    let to = args.to.as_ref().unwrap_or(&args.from);
    let (first, second): (At, At) = (parse("--from", &args.from)?, parse("--to", to)?);
    let answer = match args.source.open(plugins)? {
        Source::Stopped(past) => {
            let other = args.other_world.as_ref().zip(args.source.data.as_ref());
            let other = other.map(|(world, data)| Past::beside(data, world, plugins, &past)).transpose()?;
            let other = other.as_ref().map(Past::questions);
            past.questions().diff(first, second, other.as_ref(), args.limit)?
        }
        Source::Live(mut remote) => {
            let parameters = [
                ("from", Some(first.to_string())),
                ("to", Some(second.to_string())),
                ("other_world", args.other_world.clone()),
                ("limit", Some(args.limit.to_string())),
            ];
            remote.ask("GET", &format!("/diff{}", query(&parameters)), &Value::Null)?
        }
    };
    let diff: ImageDiff =
        serde_json::from_value(answer.clone()).context("the server answers something else")?;
    args.source.print(&answer, |answer| {
        let mut text = String::new();
        for key in ["from", "to"] {
            let at = &answer[key];
            let [world, branch, tick, entities, hash] =
                ["world", "branch", "tick", "entities", "state_hash"].map(|key| plain(&at[key]));
            let _ = writeln!(
                text,
                "{key:<11} world {world}, branch {branch}, tick {tick}: {entities} entities, hash {hash}"
            );
        }
        if let Some(first) = answer.get("first_tick_that_differs") {
            let range = format!("{} to {}", plain(&first["compared_from"]), plain(&first["compared_to"]));
            let _ = match first["tick"].as_u64() {
                Some(tick) => writeln!(text, "parted      at tick {tick} (compared {range})"),
                None => writeln!(text, "parted      not in the ticks {range}"),
            };
        }
        text + &diff_text(&diff)
    })
}
