//! `everworld rewind` and `everworld fork`: another line of history, in this world or in one beside it.

use super::{
    Failed, exit,
    inspect::{parse, plain},
    past::choose,
    snapshot::{legal_name, options, serve_hint},
    source::{Source, SourceArgs},
};
use crate::{
    history,
    questions::At,
    spine::{self, Spine, SpineError, SpineOptions},
    status::WorldStatus,
};
use clap::Args;
use everworld_engine::Tick;
use everworld_systems::Plugin;
use serde_json::json;

/// Go back to a former tick and go on from there on a new branch; nothing is lost
#[derive(Args, Debug)]
pub struct RewindArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// The tick
    #[arg(long, value_name = "T")]
    to: u64,
    /// The world's name once more
    #[arg(long, value_name = "W")]
    confirm: String,
}

/// Make a new world of a former tick, beside its parent
#[derive(Args, Debug)]
pub struct ForkArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// The tick: 1200, or 0/1200 with its branch
    #[arg(long, value_name = "T")]
    at: String,
    /// The new world's name
    #[arg(long, value_name = "N")]
    name: String,
}

pub(super) fn rewind(args: &RewindArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    let confirmed = |world: &str| {
        if args.confirm == world {
            return Ok(());
        }
        let text = format!("--confirm: expected the world's name, \"{world}\", found \"{}\"", args.confirm);
        Err(exit::usage(&text))
    };
    let answer = match args.source.open(plugins)? {
        Source::Live(mut remote) => {
            confirmed(&remote.world)?;
            let path = format!("/rewind?confirm={}", remote.world);
            remote.ask("POST", &path, &json!({"tick": args.to}))?
        }
        Source::Stopped(past) => {
            confirmed(&past.world)?;
            let tick = Tick(args.to);
            // Whether there is such a tick is found out before anything is written.
            let questions = past.questions();
            questions.world_at(questions.place(At { branch: None, tick: Some(tick) })?)?;
            let (record, world) = (past.record()?.clone(), past.world.clone());
            drop((questions, past));
            let data = args.source.data.as_deref().unwrap_or_else(|| std::path::Path::new("."));
            let lock = spine::lock(data)?;
            let (status, options) = (WorldStatus::default(), options()?);
            let (mut spine, live) = Spine::open_observed(
                lock,
                data,
                &record,
                plugins,
                options.clone(),
                &SpineOptions::default(),
                &status,
                &mut |_| {},
            )?;
            drop(live);
            let mut live = spine.rewind(tick, &options)?;
            let branch = spine.history.branches().current();
            spine.close(&mut live)?;
            json!({"world": world, "branch": branch, "tick": tick})
        }
    };
    args.source.print(&answer, |answer| {
        let [branch, tick] = ["branch", "tick"].map(|key| plain(&answer[key]));
        format!(
            "the world goes on after tick {tick} on branch {branch}; what was is kept on its former branch\n"
        )
    })
}

pub(super) fn fork(args: &ForkArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    legal_name(&args.name)?;
    let at: At = parse("--at", &args.at)?;
    let (answer, data) = match args.source.open(plugins)? {
        Source::Live(mut remote) => {
            let body = json!({"at_tick": at.tick, "branch": at.branch, "name": args.name});
            (remote.ask("POST", "/fork", &body)?, None)
        }
        Source::Stopped(past) => {
            let data = args.source.data.clone().unwrap_or_default();
            if choose(&data, Some(&args.name)).is_ok() {
                return Err(SpineError::Exists { world: args.name.clone() }.into());
            }
            let questions = past.questions();
            let place = questions.place(at)?;
            // A tick that is not kept is told with those that are.
            drop(questions.world_at(place)?);
            let spine_options = SpineOptions::default();
            history::fork(&past.history, &data, place, (&args.name, &[]), &past.options, &spine_options)?;
            let answer = json!({
                "world": args.name, "parent": past.world, "branch": place.0, "tick": place.1,
            });
            (answer, Some(data))
        }
    };
    args.source.print(&answer, |answer| {
        let [parent, tick] = ["parent", "tick"].map(|key| plain(&answer[key]));
        let data = data.unwrap_or_else(|| "DIR".into());
        let hint = serve_hint(&data, &args.name);
        format!("world \"{}\" begins as {parent} was at tick {tick}; run it with: {hint}\n", args.name)
    })
}
