//! `everworld chronicle` and `everworld npc`: what can be told of a world, and of somebody in it.

use super::{
    Failed,
    source::{Source, SourceArgs, encoded, query},
};
use crate::questions::{AskError, At};
use clap::Args;
use everworld_engine::Tick;
use everworld_systems::{Plugin, chronicle::Asked, portrait};
use serde_json::{Value, json};

/// Tell what happened to the cast, as a story in Markdown
#[derive(Args, Debug)]
pub struct ChronicleArgs {
    /// From this tick on
    #[arg(long, value_name = "T")]
    from: Option<u64>,
    /// Up to this tick
    #[arg(long, value_name = "T")]
    to: Option<u64>,
    /// Only what touches one of the cast: a name, or the beginning of one
    #[arg(long, value_name = "NAME")]
    about: Option<String>,
    #[command(flatten)]
    source: SourceArgs,
}

pub(super) fn chronicle(args: &ChronicleArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    let answer = match args.source.open(plugins)? {
        Source::Stopped(past) => {
            let questions = past.questions();
            let (story, image) = (questions.story()?, questions.image_at(questions.place(At::default())?)?.0);
            let asked = Asked { from: args.from.map(Tick), to: args.to.map(Tick), about: args.about.clone() };
            let told = (story.chronicle)(&image, &asked).map_err(AskError::from)?;
            json!({"tick": image.tick.0, "markdown": told})
        }
        Source::Live(mut remote) => {
            let parameters = [
                ("from", args.from.map(|tick| tick.to_string())),
                ("to", args.to.map(|tick| tick.to_string())),
                ("about", args.about.clone()),
            ];
            remote.ask("GET", &format!("/chronicle{}", query(&parameters)), &Value::Null)?
        }
    };
    args.source.print(&answer, |answer| answer["markdown"].as_str().unwrap_or_default().to_owned())
}

/// Show who somebody is, what they feel, want and remember, whom they like, and why they do what they do now
#[derive(Args, Debug)]
pub struct NpcArgs {
    /// A name of the cast, the beginning of one, or a Uid
    #[arg(value_name = "NAME|UID")]
    who: String,
    #[command(flatten)]
    source: SourceArgs,
}

pub(super) fn npc(args: &NpcArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    let answer = match args.source.open(plugins)? {
        Source::Stopped(past) => {
            let questions = past.questions();
            let (story, image) = (questions.story()?, questions.image_at(questions.place(At::default())?)?.0);
            (story.portrait)(&image, &args.who).map_err(AskError::from)?
        }
        Source::Live(mut remote) => {
            remote.ask("GET", &format!("/characters/{}", encoded(&args.who)), &Value::Null)?
        }
    };
    args.source.print(&answer, portrait::describe)
}
