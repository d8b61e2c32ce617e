//! `everworld inspect`: one tick of a world: what it comes to, one entity of it, or those that match a query.

use super::{
    Failed, exit,
    source::{Source, SourceArgs, query},
};
use crate::questions::At;
use clap::Args;
use everworld_engine::Uid;
use everworld_engine::query::Filter;
use everworld_systems::Plugin;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Show a tick of a world: its hash, its entities, one of them, or those that match
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// The data directory of a stopped server, then a query such as "needs.hunger>0.8 and job.kind==2"; with --data or
    /// --url the query alone
    #[arg(value_name = "DIR [QUERY]", num_args = 0..=2)]
    what: Vec<String>,
    /// The tick; the newest when not given
    #[arg(long, value_name = "T")]
    at_tick: Option<String>,
    /// The branch; the one that goes on when not given
    #[arg(long, value_name = "B")]
    branch: Option<u32>,
    /// One entity
    #[arg(long, value_name = "U")]
    uid: Option<u64>,
    /// List at most so many entities that match
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    source: SourceArgs,
}

pub(super) fn run(args: &InspectArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    let mut source = args.source.clone();
    let mut what = args.what.iter();
    if source.data.is_none() && source.url.is_none() {
        source.data = what.next().map(PathBuf::from);
    }
    let wanted = what.next();
    if what.next().is_some() {
        return Err(exit::usage("expected one query; put quotes around it"));
    }
    let mut at: At = parse("--at-tick", args.at_tick.as_deref().unwrap_or("now"))?;
    at.branch = args.branch.or(at.branch);
    let wanted_query: Option<Filter> = wanted.map(|text| parse("query", text)).transpose()?;
    let uid = args.uid.map(Uid::new);
    let answer = match source.open(plugins)? {
        Source::Stopped(past) => past.questions().inspect(at, uid, wanted_query.as_ref(), args.limit)?,
        Source::Live(mut remote) => {
            let parameters = [
                ("at", Some(at.to_string())),
                ("uid", args.uid.map(|uid| uid.to_string())),
                ("where", wanted.cloned()),
                ("limit", Some(args.limit.to_string())),
            ];
            remote.ask("GET", &format!("/inspect{}", query(&parameters)), &Value::Null)?
        }
    };
    source.print(&answer, text)
}

/// An argument, or what is wrong with it.
pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &str,
    text: &str,
) -> Result<T, Failed> {
    text.parse().map_err(|error| exit::usage(&format!("{name}: {error}")))
}

fn text(answer: &Value) -> String {
    let mut text = String::new();
    for (label, key) in [
        ("world", "world"),
        ("branch", "branch"),
        ("tick", "tick"),
        ("state hash", "state_hash"),
        ("entities", "entities"),
        ("matched", "matched"),
    ] {
        if let Some(value) = answer.get(key) {
            let _ = writeln!(text, "{label:<11} {}", plain(value));
        }
    }
    let entity = answer.get("entity").into_iter();
    for entity in entity.chain(answer["items"].as_array().into_iter().flatten()) {
        let _ = writeln!(text, "\nentity {}", plain(&entity["uid"]));
        for (component, value) in entity["components"].as_object().into_iter().flatten() {
            let _ = writeln!(text, "  {component:<14} {}", plain(value));
        }
    }
    text
}

/// A value without the quotes of a string.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

/// A row of a table of text: the columns by their widths.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |i: usize| {
        let cells = rows.iter().map(|row| row[i].chars().count());
        cells.chain([head[i].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let cells = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let rows = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    line(head.to_vec()) + &rows.collect::<String>()
}

/// The cells of a document for a table.
pub(super) fn cells(item: &Value, keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| plain(item.get(*key).unwrap_or(&json!(null)))).collect()
}
