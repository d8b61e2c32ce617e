//! `everworld entity` and `everworld input`: single entities of a running world, looked at and changed over HTTP.

use super::{
    Failed, exit,
    source::{Remote, query},
};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

/// Look at the entities of a running world, and change them
///
/// A change is an input: the command ends when its tick has applied it, or refused it.
#[derive(Args, Debug)]
pub struct EntityArgs {
    #[command(subcommand)]
    command: EntityCommand,
    #[command(flatten)]
    server: ServerArgs,
}

/// Which running world.
#[derive(Args, Debug)]
struct ServerArgs {
    /// The server; its token, if it wants one, comes from the variable `EVERWORLD_TOKEN`
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7170", global = true)]
    url: String,
    /// The world, where there are several
    #[arg(long, value_name = "W", global = true)]
    world: Option<String>,
}

#[derive(Subcommand, Debug)]
enum EntityCommand {
    /// List entities: everworld entity list 'needs.hunger>0.8' --sort=-needs.hunger --select needs
    List {
        /// Which ones
        condition: Option<String>,
        /// By a number; with - before it the largest first
        #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
        sort: Option<String>,
        /// Components or fields, separated by commas
        #[arg(long, value_name = "FIELDS")]
        select: Option<String>,
        /// So many at the most
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
    },
    /// Show one
    Show {
        /// Which
        uid: u64,
    },
    /// Make one: everworld entity spawn townsman purse.coins=7
    Spawn {
        /// The prototype to begin with
        prototype: Option<String>,
        /// Fields that differ: component.field=value
        #[arg(value_name = "FIELD=VALUE", num_args = 0..)]
        fields: Vec<String>,
    },
    /// Change fields: everworld entity set 7 needs.hunger=0.5 purse.coins=3
    Set {
        /// Whose
        uid: u64,
        /// component.field=value
        #[arg(value_name = "FIELD=VALUE", required = true)]
        fields: Vec<String>,
    },
    /// Remove one, or with --component a component of it
    Remove {
        /// Which
        uid: u64,
        /// Only this of it
        #[arg(long, value_name = "C")]
        component: Option<String>,
    },
}

/// Send an input of any kind to a running world: everworld input spawn_entities '{"entities": [{}]}'
#[derive(Args, Debug)]
pub struct InputArgs {
    /// Its kind; without one the kinds that the world knows are listed
    kind: Option<String>,
    /// Its payload as JSON
    #[arg(default_value = "{}")]
    payload: String,
    /// Not before this tick
    #[arg(long, value_name = "T")]
    at_tick: Option<u64>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn entity(args: &EntityArgs) -> Result<(), Failed> {
    let mut remote = args.server.connect()?;
    let answer = match &args.command {
        EntityCommand::List { condition, sort, select, limit } => {
            let parameters = [
                ("where", condition.clone()),
                ("sort", sort.clone()),
                ("select", select.clone()),
                ("limit", Some(limit.to_string())),
            ];
            let answer = remote.ask("GET", &format!("/entities{}", query(&parameters)), &Value::Null)?;
            for item in answer["items"].as_array().into_iter().flatten() {
                println!("{}  {}", item["uid"].as_str().unwrap_or_default(), item["components"]);
            }
            if answer["next"].is_string() {
                eprintln!("there are more; --limit shows up to 1000");
            }
            return Ok(());
        }
        EntityCommand::Show { uid } => remote.ask("GET", &format!("/entities/{uid}"), &Value::Null)?,
        EntityCommand::Spawn { prototype, fields: given } => {
            // A first word with = is a field: whoever names no prototype begins with nothing.
            let (prototype, first) = match prototype {
                Some(word) if word.contains('=') => (None, Some(word)),
                other => (other.as_ref(), None),
            };
            let mut entity = json!({"components": fields(first.into_iter().chain(given))?});
            if let Some(prototype) = prototype {
                entity["prototype"] = prototype.as_str().into();
            }
            remote.ask("POST", "/entities?ack=applied", &entity)?
        }
        EntityCommand::Set { uid, fields: given } => {
            remote.ask("PATCH", &format!("/entities/{uid}?ack=applied"), &fields(given.iter())?.into())?
        }
        EntityCommand::Remove { uid, component } => {
            let path =
                component.as_ref().map_or_else(String::new, |component| format!("/components/{component}"));
            remote.ask("DELETE", &format!("/entities/{uid}{path}?ack=applied"), &Value::Null)?
        }
    };
    told(&answer)
}

pub(super) fn input(args: &InputArgs) -> Result<(), Failed> {
    let mut remote = args.server.connect()?;
    let Some(kind) = &args.kind else {
        let answer = remote.ask("GET", "/inputs/kinds", &Value::Null)?;
        for item in answer["items"].as_array().into_iter().flatten() {
            println!(
                "{}  {}",
                item["kind"].as_str().unwrap_or_default(),
                item["doc"].as_str().unwrap_or_default()
            );
        }
        return Ok(());
    };
    let payload: Value = serde_json::from_str(&args.payload)
        .map_err(|error| exit::usage(&format!("the payload is no JSON: {error}")))?;
    // One for a later tick is not waited for.
    let parameters = match args.at_tick {
        Some(tick) => vec![("at_tick", Some(tick.to_string()))],
        None => vec![("ack", Some("applied".to_owned()))],
    };
    let body = json!({"kind": kind, "payload": payload});
    told(&remote.ask("POST", &format!("/inputs{}", query(&parameters)), &body)?)
}

/// Prints an answer; a refusal of the tick is a failure.
fn told(answer: &Value) -> Result<(), Failed> {
    if let Some(why) = answer["rejected"].as_str() {
        return Err(Failed::new(1, anyhow::anyhow!("tick {} refused it: {why}", answer["tick"])));
    }
    println!("{answer:#}");
    Ok(())
}

impl ServerArgs {
    fn connect(&self) -> Result<Remote, Failed> {
        Remote::connect(&self.url, self.world.as_deref())
    }
}

/// `component.field=value` of several, as components.
fn fields<'t>(texts: impl Iterator<Item = &'t String>) -> Result<Map<String, Value>, Failed> {
    let mut components = Map::new();
    for text in texts {
        let wrong =
            || exit::usage(&format!("\"{text}\": expected component.field=value, such as needs.hunger=0.5"));
        let (path, value) = text.split_once('=').ok_or_else(wrong)?;
        let (component, field) = path.split_once('.').ok_or_else(wrong)?;
        // What is no JSON is text: a label, a name.
        let value: Value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        let members = components.entry(component).or_insert_with(|| json!({}));
        let mut place = members;
        let mut parts = field.split('.').peekable();
        while let Some(part) = parts.next() {
            if part.is_empty() {
                return Err(wrong());
            }
            if parts.peek().is_some() {
                place = &mut place[part];
            } else {
                place[part] = value.clone();
            }
        }
    }
    Ok(components)
}
