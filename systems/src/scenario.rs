//! A scenario: the TOML file that names a plugin, a seed, a population and its parameters.
//!
//! Resolved once, when a world is created, into a [`WorldRecord`] that is logged by value: neither file is read
//! again for that world.

use crate::chronicle::{Asked, ChronicleError};
use everworld_engine::{Image, Uid, WorldBuilder};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{fmt::Display, ops::Range};

/// A kind of world: its name, its built-in scenario, and what registers its parts.
#[derive(Clone, Copy)]
pub struct Plugin {
    /// What scenarios call it.
    pub name: &'static str,
    /// The scenario of the same name, as TOML.
    pub scenario: &'static str,
    /// Registers columns, systems, inputs and set-up; checks the scenario's own parameters.
    pub build: fn(&mut WorldBuilder, &Scenario) -> Result<(), ScenarioError>,
    /// What its worlds are measured by, from outside: the figures of a state.
    pub statistics: Option<fn(&Image) -> Vec<Statistic>>,
    /// What can be told of them.
    pub story: Option<Story>,
}

/// What can be told of worlds of a kind, from outside.
#[derive(Clone, Copy)]
pub struct Story {
    /// What happened, as Markdown.
    pub chronicle: fn(&Image, &Asked) -> Result<String, ChronicleError>,
    /// Those whom it is about: their Uids and names.
    pub characters: fn(&Image) -> Result<Vec<(Uid, String)>, ChronicleError>,
    /// Somebody, by name or Uid, as JSON.
    pub portrait: fn(&Image, &str) -> Result<Value, ChronicleError>,
}

impl Plugin {
    /// A kind of world that is measured by nothing of its own.
    pub const fn new(
        name: &'static str,
        scenario: &'static str,
        build: fn(&mut WorldBuilder, &Scenario) -> Result<(), ScenarioError>,
    ) -> Self {
        Self { name, scenario, build, statistics: None, story: None }
    }

    /// The same, measured by that.
    pub const fn measured_by(self, statistics: fn(&Image) -> Vec<Statistic>) -> Self {
        Self { statistics: Some(statistics), ..self }
    }

    /// The same, told of by that.
    pub const fn told_by(self, story: Story) -> Self {
        Self { story: Some(story), ..self }
    }
}

/// A figure of a state.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Statistic {
    /// Its name; the same names in each state of a world.
    pub name: &'static str,
    /// Its value; none where there is nothing to measure.
    pub value: Option<f64>,
}

impl Statistic {
    /// A figure; none when it is no number.
    pub fn new(name: &'static str, value: f64) -> Self {
        Self { name, value: value.is_finite().then_some(value) }
    }
}

/// Who of a standard model sees what the others did in the same tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Update {
    /// Nobody: all decide by the state at the beginning of the tick.
    Synchronous,
    /// Those who come later: one after the other, in an order that is drawn anew in each tick.
    Asynchronous,
}

/// What every scenario says; the rest is its plugin's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// Names the world.
    pub name: String,
    /// Which [`Plugin`] makes it.
    pub plugin: String,
    /// What all chance in it is drawn from.
    pub seed: u64,
    /// How many NPCs there are at the start.
    pub population: u64,
    /// In-world seconds of a tick.
    pub dt_secs: f64,
    /// The plugin's own parameters.
    #[serde(flatten)]
    pub params: toml::Table,
    /// Where it was read from, for errors.
    #[serde(skip)]
    source: Source,
}

/// The text of a scenario. No part of it: two that say the same are the same.
#[derive(Clone, Debug, Default)]
struct Source {
    origin: String,
    text: String,
}

impl PartialEq for Source {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// The line of a place in a text, from 1 on.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text.char_indices().take_while(|(place, _)| *place < at).filter(|(_, letter)| *letter == '\n').count() + 1
}

impl Source {
    /// The line of a key, as `town.coins` or `cast[2].trade`; that of its table where it is not given.
    fn line(&self, key: &str) -> Option<usize> {
        let (table, name) = key.split_once('.').unwrap_or(("", key));
        let name = name.split(['.', '[']).next().unwrap_or(name);
        let (header, number) = match table.split_once('[') {
            Some((table, number)) => (format!("[[{table}]]"), number.trim_end_matches(']').parse().ok()?),
            None => (format!("[{table}]"), 0),
        };
        let lines = || self.text.lines().map(str::trim).enumerate();
        let start =
            if table.is_empty() { 0 } else { lines().filter(|(_, line)| *line == header).nth(number)?.0 + 1 };
        let own = lines().skip(start).take_while(|(_, line)| !line.starts_with('['));
        let is_key =
            |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('='));
        let found = own.into_iter().find(|(_, line)| is_key(line)).map(|(at, _)| at + 1);
        found.or((start > 0).then_some(start))
    }
}

/// What a world begins with, by value: logged as its first record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorldRecord {
    /// The world's name.
    pub world: String,
    /// The resolved scenario.
    pub scenario: Scenario,
}

/// Why a scenario is no good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .faults.join("\n"))]
pub struct ScenarioError {
    /// Each with its place.
    pub faults: Vec<String>,
}

impl ScenarioError {
    /// One fault.
    pub fn new(fault: impl Into<String>) -> Self {
        Self { faults: vec![fault.into()] }
    }
}

/// What parameters of a scenario have to be, and which of them are not; see [`Scenario::expected`].
pub struct Expected<'s> {
    scenario: &'s Scenario,
    faults: Vec<String>,
}

impl Expected<'_> {
    /// That parameter has to be so; what it was found to be is named if it is not.
    pub fn that(&mut self, right: bool, key: impl Display, expected: impl Display, found: impl Display) {
        if !right {
            let (scenario, key) = (self.scenario, key.to_string());
            let place = match scenario.source.line(&key) {
                Some(line) => format!("{}:{line}: {key}", scenario.source.origin),
                None => format!("scenario \"{}\": {key}", scenario.name),
            };
            self.faults.push(format!("{place}: expected {expected}, found {found}"));
        }
    }

    /// All was as expected.
    ///
    /// # Errors
    /// All that was not.
    pub fn met(self) -> Result<(), ScenarioError> {
        if self.faults.is_empty() { Ok(()) } else { Err(ScenarioError { faults: self.faults }) }
    }
}

/// The population that a world may have at the start.
const POPULATION_MAX: u64 = 50_000_000;

impl Scenario {
    /// Reads a scenario's text; `origin` (a file's name) and the line are named in errors. `sets` are overrides
    /// `key=value` with dotted keys and TOML values.
    ///
    /// # Errors
    /// Every fault that can be told apart, each with its place.
    pub fn parse(text: &str, origin: &str, sets: &[String]) -> Result<Self, ScenarioError> {
        let at_line = |error: &toml::de::Error| {
            let line = error
                .span()
                .map_or(1, |span: Range<usize>| text[..span.start.min(text.len())].lines().count().max(1));
            ScenarioError::new(format!("{origin}:{line}: {}", error.message()))
        };
        // As it stands first: an error then has its line.
        let written: Self = toml::from_str(text).map_err(|error| at_line(&error))?;
        let mut scenario = written;
        if !sets.is_empty() {
            let mut table: toml::Table = toml::from_str(text).map_err(|error| at_line(&error))?;
            let faults: Vec<String> =
                sets.iter().filter_map(|set| override_key(&mut table, set).err()).collect();
            if !faults.is_empty() {
                return Err(ScenarioError { faults });
            }
            scenario = Self::deserialize(table)
                .map_err(|error| ScenarioError::new(format!("{origin} with --set: {}", error.message())))?;
        }
        scenario.source = Source { origin: origin.to_owned(), text: text.to_owned() };
        scenario.check(origin)?;
        Ok(scenario)
    }

    fn check(&self, origin: &str) -> Result<(), ScenarioError> {
        let mut faults = Vec::new();
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(legal) {
            faults.push(format!(
                "{origin}: name: expected 1 to 64 letters, digits, - and _, found {:?}",
                self.name
            ));
        }
        if self.population > POPULATION_MAX {
            faults.push(format!(
                "{origin}: population: expected at most {POPULATION_MAX}, found {}",
                self.population
            ));
        }
        if !(self.dt_secs.is_finite() && self.dt_secs > 0.0) {
            faults.push(format!("{origin}: dt_secs: expected a positive number, found {}", self.dt_secs));
        }
        if self.seed > i64::MAX as u64 {
            faults.push(format!("{origin}: seed: expected at most {}, found {}", i64::MAX, self.seed));
        }
        if faults.is_empty() { Ok(()) } else { Err(ScenarioError { faults }) }
    }

    /// The plugin's own parameters, as its type; unknown and ill-typed ones are faults.
    pub fn params<P: DeserializeOwned>(&self) -> Result<P, ScenarioError> {
        P::deserialize(self.params.clone()).map_err(|error| {
            ScenarioError::new(format!(
                "scenario \"{}\": {}",
                self.name,
                error.to_string().trim().replace('\n', " ")
            ))
        })
    }

    /// What is expected of its parameters, to be said one by one.
    pub fn expected(&self) -> Expected<'_> {
        Expected { scenario: self, faults: Vec::new() }
    }

    /// A world of this scenario, made by the plugin that it names.
    ///
    /// # Errors
    /// When no such plugin is known, or the plugin refuses the parameters.
    pub fn builder(&self, plugins: &[Plugin]) -> Result<WorldBuilder, ScenarioError> {
        let plugin = plugins.iter().find(|plugin| plugin.name == self.plugin).ok_or_else(|| {
            let known: Vec<_> = plugins.iter().map(|plugin| plugin.name).collect();
            ScenarioError::new(format!(
                "unknown plugin \"{}\", expected one of {}",
                self.plugin,
                known.join(", ")
            ))
        })?;
        let mut world = WorldBuilder::new(self.seed, self.dt_secs);
        (plugin.build)(&mut world, self)?;
        Ok(world)
    }
}

/// Writes `key=value` into a table; the value is TOML, or a plain string where it is not.
fn override_key(table: &mut toml::Table, set: &str) -> Result<(), String> {
    let (key, value) = set.split_once('=').ok_or_else(|| format!("--set {set}: expected key=value"))?;
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}")).ok();
    let value = parsed.and_then(|mut parsed| parsed.remove("value")).unwrap_or_else(|| value.into());
    let mut path: Vec<&str> = key.trim().split('.').collect();
    let last =
        path.pop().filter(|last| !last.is_empty()).ok_or_else(|| format!("--set {set}: expected a key"))?;
    let mut at = table;
    for step in path {
        let next = at.entry(step).or_insert_with(|| toml::Table::new().into());
        at = next.as_table_mut().ok_or_else(|| format!("--set {set}: \"{step}\" is not a table"))?;
    }
    at.insert(last.to_owned(), value);
    Ok(())
}
