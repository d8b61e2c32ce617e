//! `everworld upgrade check`: what this build would make of a stopped server's data, tried on a copy of it.
//!
//! Schema first: what is brought along, what is left behind, what does not fit. Then history: the ticks that the log
//! still holds are computed again under this build, and compared with what was recorded.

use super::{
    Failed,
    past::{Past, note},
};
use crate::{
    history::Timeline,
    spine::{BUILD_ID_HEX, SpineError},
};
use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use everworld_engine::{
    Column as _, Image, LiveWorld, MigrationReport, Registry, StateHash, Tick, Uid,
    migrate::{Change, Misfit, SchemaChange, plan_migration},
    migrate_image,
};
use everworld_persistence::SnapshotMeta;
use everworld_systems::Plugin;
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    path::{Path, PathBuf},
};

/// Rehearse what this build would make of a stopped server's data
#[derive(Args, Debug)]
pub struct UpgradeArgs {
    #[command(subcommand)]
    command: UpgradeCommand,
}

#[derive(Subcommand, Debug)]
enum UpgradeCommand {
    /// Show schema changes and the first tick that comes out differently; changes nothing in DIR
    Check {
        /// The data directory of a stopped server
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// The world, where the data directory has several
        #[arg(long, value_name = "W")]
        world: Option<String>,
        /// Replay at most so many of the newest ticks
        #[arg(long, value_name = "N", default_value_t = TICKS_MAX_DEFAULT)]
        ticks: u64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Within reason: a day of a town at ten ticks a second replays in minutes.
pub const TICKS_MAX_DEFAULT: u64 = 1_000_000;
/// So many differing fields are shown.
const SHOWN_MAX: usize = 10;

/// What a rehearsal found.
#[derive(Debug, Serialize)]
pub struct Rehearsal {
    /// The world.
    pub world: String,
    /// This build.
    pub build: &'static str,
    /// The build that wrote the end of the log.
    pub stored_build: String,
    /// The last tick that may have been shown.
    pub stopped_at: Tick,
    /// Whether the newest snapshot holds all that the log tells: then an upgrade begins there.
    pub stopped_in_order: bool,
    /// The ticks of the kept snapshots, oldest first.
    pub snapshots: Vec<Tick>,
    /// What becomes of the newest snapshot; none when there is no snapshot.
    pub schema: Option<MigrationReport>,
    /// What does not fit.
    pub misfits: Vec<Misfit>,
    /// The replay; none when something does not fit.
    pub replay: Option<Replay>,
}

/// The logged ticks again, under this build.
#[derive(Debug, Serialize)]
pub struct Replay {
    /// Where it began.
    pub from: Tick,
    /// How far it came.
    pub to: Tick,
    /// Snapshots that were compared.
    pub snapshots_compared: u64,
    /// Hash checkpoints that were compared.
    pub checkpoints_compared: u64,
    /// Hash checkpoints that say nothing about this build, since rows were migrated.
    pub checkpoints_passed_over: u64,
    /// The last tick at which both agree for sure.
    pub agrees_until: Tick,
    /// The first tick that is known to differ.
    pub divergence: Option<Divergence>,
}

/// A tick that comes out differently.
#[derive(Debug, Serialize)]
pub struct Divergence {
    /// The tick.
    pub tick: Tick,
    /// The recorded hash, in this build's schema.
    pub expected: Option<StateHash>,
    /// The hash under this build.
    pub found: Option<StateHash>,
    /// Why the tick does not finish under this build.
    pub failure: Option<String>,
    /// Rows that differ, by column; where a snapshot was compared.
    pub rows: BTreeMap<String, u64>,
    /// Resources that differ.
    pub resources: Vec<String>,
    /// Some of the fields that differ, by Uid.
    pub examples: Vec<Difference>,
}

/// A value that comes out differently.
#[derive(Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Whose.
    pub uid: Uid,
    /// The column.
    pub column: String,
    /// What was recorded; none when the entity did not have it.
    pub recorded: Option<Value>,
    /// What it is under this build.
    pub found: Option<Value>,
}

pub(super) fn run(args: &UpgradeArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    let UpgradeCommand::Check { data, world, ticks, json } = &args.command;
    let rehearsal = rehearse(data, world.as_deref(), *ticks, plugins)?;
    if *json {
        println!("{}", serde_json::to_string_pretty(&rehearsal).context("could not print the rehearsal")?);
    } else {
        print!("{rehearsal}");
    }
    rehearsal.verdict()
}

/// Tries this build on a copy of a stopped server's data.
///
/// # Errors
/// When the data cannot be read; what does not fit and what diverges is in the rehearsal.
pub fn rehearse(
    data: &Path,
    world: Option<&str>,
    ticks_max: u64,
    plugins: &'static [Plugin],
) -> Result<Rehearsal, Failed> {
    let past = Past::open(data, world, plugins)?;
    let mut rehearsal = Rehearsal {
        world: past.world.clone(),
        build: BUILD_ID_HEX,
        stored_build: past.build_id(),
        stopped_at: past.end,
        stopped_in_order: past.history.is_in_order()?,
        snapshots: past.snapshots.iter().map(|meta| meta.tick).collect(),
        schema: None,
        misfits: Vec::new(),
        replay: None,
    };
    let live = past.empty_world()?;
    let mut newest = None;
    for meta in past.snapshots.iter().rev() {
        match past.stored(meta) {
            Ok(image) => {
                newest = Some(image);
                break;
            }
            Err(failed) => note(&format!("the snapshot of tick {}: {failed}", meta.tick)),
        }
    }
    if let Some(image) = newest {
        let (schema, misfits) = plan_migration(live.registry(), &image);
        rehearsal.schema = Some(schema);
        rehearsal.misfits = misfits;
    }
    if rehearsal.misfits.is_empty() {
        rehearsal.replay = Some(replay(&past, ticks_max)?);
    }
    Ok(rehearsal)
}

/// Replays from the oldest snapshot that is near enough, and compares whatever is known on the way.
fn replay(past: &Past, ticks_max: u64) -> Result<Replay, Failed> {
    let near = |meta: &&SnapshotMeta| past.end.0 - meta.tick.0 <= ticks_max;
    let candidates: Vec<&SnapshotMeta> = past.snapshots.iter().filter(near).collect();
    let candidates = if candidates.is_empty() { past.snapshots.iter().rev().collect() } else { candidates };
    let mut begin = None;
    let mut reason = None;
    for meta in candidates {
        match past.world_of(meta) {
            Ok(found) => {
                begin = Some(found);
                break;
            }
            Err(failed) => {
                note(&failed.to_string());
                reason = Some(failed);
            }
        }
    }
    let (mut live, mut timeline) = match (begin, reason) {
        (Some(begin), _) => begin,
        (None, Some(failed)) => return Err(failed),
        (None, None) => past.first_world()?,
    };
    if live.now() == past.end && !timeline.migrated && past.end.0 <= ticks_max {
        // The only snapshot is the end: the log from the beginning, if it is still there, can be compared with it.
        if let Ok(first) = past.first_world() {
            (live, timeline) = first;
        }
    }
    let from = live.now();
    let mut replay = Replay {
        from,
        to: from,
        snapshots_compared: 0,
        checkpoints_compared: 0,
        checkpoints_passed_over: 0,
        agrees_until: from,
        divergence: None,
    };
    while live.now() < past.end && replay.divergence.is_none() {
        if let Err(error) = timeline.advance(&mut live)? {
            replay.divergence = Some(Divergence::of(live.now(), None, None, Some(error.to_string())));
            break;
        }
        replay.compare(past, &live, &mut timeline)?;
    }
    replay.to = live.now();
    Ok(replay)
}

impl Replay {
    /// Compares all that is known of the tick that the world is at.
    fn compare(&mut self, past: &Past, live: &LiveWorld, timeline: &mut Timeline) -> Result<(), Failed> {
        let tick = live.now();
        for meta in past.snapshots.iter().filter(|meta| meta.tick == tick) {
            let image = past.stored(meta).and_then(|image| {
                migrate_image(live.registry(), image)
                    .map_err(|source| SpineError::Schema { world: past.world.clone(), source }.into())
            });
            match image {
                Ok((image, _)) => {
                    self.snapshots_compared += 1;
                    self.expect(live, image.hash, Some(&image));
                }
                Err(failed) => note(&failed.to_string()),
            }
        }
        match timeline.checkpoint(tick)? {
            // A hash of other columns says nothing about ours.
            Some(_) if timeline.migrated => self.checkpoints_passed_over += 1,
            Some(hash) if self.divergence.is_none() => {
                self.checkpoints_compared += 1;
                self.expect(live, hash, None);
            }
            _ => {}
        }
        Ok(())
    }

    fn expect(&mut self, live: &LiveWorld, expected: StateHash, recorded: Option<&Image>) {
        let found = live.state_hash();
        if found == expected {
            self.agrees_until = live.now();
            return;
        }
        let mut divergence = Divergence::of(live.now(), Some(expected), Some(found), None);
        if let Some(recorded) = recorded {
            divergence.look_into(live.registry(), recorded, &live.image());
        }
        self.divergence = Some(divergence);
    }
}

impl Divergence {
    fn of(
        tick: Tick,
        expected: Option<StateHash>,
        found: Option<StateHash>,
        failure: Option<String>,
    ) -> Self {
        let (rows, resources, examples) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { tick, expected, found, failure, rows, resources, examples }
    }

    /// Finds rows and resources that differ.
    fn look_into(&mut self, registry: &Registry, recorded: &Image, found: &Image) {
        let (recorded_rows, found_rows) = (rows(recorded), rows(found));
        let uids: std::collections::BTreeSet<u64> =
            recorded_rows.keys().chain(found_rows.keys()).copied().collect();
        for uid in uids {
            let row = |image: &Image, at: Option<&(usize, usize)>, column: &str| {
                let (table, row) = at?;
                let column = image.tables[*table].column(column)?;
                Some(image.row(column, *row).to_vec())
            };
            for column in registry.columns().iter().filter(|column| column.name != Uid::NAME) {
                let recorded = row(recorded, recorded_rows.get(&uid), column.name);
                let found = row(found, found_rows.get(&uid), column.name);
                if recorded != found {
                    *self.rows.entry(column.name.into()).or_default() += 1;
                    if self.examples.len() < SHOWN_MAX {
                        self.examples.push(Difference {
                            uid: Uid::new(uid),
                            column: column.name.into(),
                            recorded: recorded.map(|row| column.to_json(&row)),
                            found: found.map(|row| column.to_json(&row)),
                        });
                    }
                }
            }
        }
        let differs = |name: &&str| {
            recorded.resource(name).map(|resource| &resource.bytes)
                != found.resource(name).map(|resource| &resource.bytes)
        };
        let names = registry.resources().iter().map(|resource| resource.name);
        self.resources = names.filter(differs).map(str::to_owned).collect();
    }
}

/// Where the rows of an image are: (table, row) by Uid.
fn rows(image: &Image) -> BTreeMap<u64, (usize, usize)> {
    let mut rows = BTreeMap::new();
    for (number, table) in image.tables.iter().enumerate() {
        let Some(uids) = table.column(Uid::NAME) else { continue };
        for row in 0..table.rows {
            let uid = image.row(uids, row).try_into().map_or(0, u64::from_le_bytes);
            rows.insert(uid, (number, row));
        }
    }
    rows
}

impl Rehearsal {
    /// Ok, or what stands against this build: exit code 78 when something does not fit, 3 for a divergence.
    pub fn verdict(&self) -> Result<(), Failed> {
        if !self.misfits.is_empty() {
            let text = format!("the state of world \"{}\" does not fit this build", self.world);
            return Err(Failed::new(78, anyhow!(text)));
        }
        match self.replay.as_ref().and_then(|replay| replay.divergence.as_ref()) {
            Some(divergence) => {
                let text = format!("tick {} comes out differently under this build", divergence.tick);
                Err(Failed::new(3, anyhow!(text)))
            }
            None => Ok(()),
        }
    }
}

impl fmt::Display for Rehearsal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { world, stored_build, build, stopped_at, snapshots, .. } = self;
        writeln!(f, "world      {world}")?;
        writeln!(f, "written by build {stored_build}")?;
        let same = if stored_build == build { " (the same)" } else { "" };
        writeln!(f, "this is    build {build}{same}")?;
        let order = if self.stopped_in_order {
            "in order: an upgrade begins at its newest snapshot"
        } else {
            "not in order: start the former build once and stop it, so that its last ticks are in a snapshot"
        };
        writeln!(f, "stopped at tick {stopped_at}, {order}")?;
        let ticks: Vec<_> = snapshots.iter().map(ToString::to_string).collect();
        let ticks = if ticks.is_empty() { "none".into() } else { ticks.join(", ") };
        writeln!(f, "snapshots  {ticks}")?;
        if let Some(schema) = &self.schema {
            fmt_schema(f, schema)?;
        }
        if !self.misfits.is_empty() {
            writeln!(f, "\nwhat does not fit")?;
            self.misfits.iter().try_for_each(|misfit| writeln!(f, "  {misfit}"))?;
        }
        self.replay.as_ref().map_or(Ok(()), |replay| replay.fmt(f))
    }
}

fn fmt_schema(f: &mut fmt::Formatter<'_>, schema: &MigrationReport) -> fmt::Result {
    writeln!(f, "\nschema")?;
    let all: Vec<(&str, &SchemaChange)> = schema
        .columns
        .iter()
        .map(|column| ("column", column))
        .chain(schema.resources.iter().map(|resource| ("resource", resource)))
        .collect();
    let is_kept = |change: &SchemaChange| {
        change.change == Change::Kept && change.was.is_none() && change.fields.is_empty()
    };
    let is_told = |change: &SchemaChange| !is_kept(change) && change.change != Change::Absent;
    let changed: Vec<_> = all.iter().filter(|(_, change)| is_told(change)).collect();
    let width = changed.iter().map(|(_, change)| change.name.len()).max().unwrap_or(0);
    for (what, change) in &changed {
        let rows = match (*what, change.change) {
            ("column", Change::Migrated | Change::Kept | Change::Retired) => {
                format!(" ({} rows)", change.rows)
            }
            _ => String::new(),
        };
        writeln!(f, "  {what:<8}  {:<width$}  {change}{rows}", change.name)?;
        for field in &change.fields {
            let mut line = String::new();
            match (&field.stored, &field.known) {
                (Some(stored), Some(known)) => write!(line, "  {} {stored} -> {known}", field.name)?,
                (Some(stored), None) => write!(line, "- {} {stored}", field.name)?,
                (None, Some(known)) => write!(line, "+ {} {known}", field.name)?,
                (None, None) => {}
            }
            writeln!(f, "            {:<width$}  {line}", "")?;
        }
    }
    let absent: Vec<&str> = all
        .iter()
        .filter(|(_, change)| change.change == Change::Absent)
        .map(|(_, change)| change.name.as_str())
        .collect();
    if !absent.is_empty() {
        writeln!(f, "  not in the state: {}", absent.join(", "))?;
    }
    let kept: Vec<&str> =
        all.iter().filter(|(_, change)| is_kept(change)).map(|(_, change)| change.name.as_str()).collect();
    if !kept.is_empty() {
        writeln!(f, "  taken as they are: {}", kept.join(", "))?;
    }
    schema.notes.iter().try_for_each(|note| writeln!(f, "  note: {note}"))
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == self.to && self.divergence.is_none() {
            return writeln!(f, "\nno ticks to replay: the snapshot is the end of the log");
        }
        writeln!(f, "\nreplay of ticks {} to {} under this build", self.from.next(), self.to)?;
        let compared = format!(
            "{} snapshots and {} hash checkpoints compared",
            self.snapshots_compared, self.checkpoints_compared
        );
        write!(f, "  {compared}")?;
        if self.checkpoints_passed_over > 0 {
            let count = self.checkpoints_passed_over;
            write!(f, ", {count} checkpoints of the former schema passed over")?;
        }
        let Some(divergence) = &self.divergence else {
            return match self.snapshots_compared + self.checkpoints_compared {
                0 => writeln!(f, "\n  nothing was recorded to compare with"),
                _ => writeln!(f, "\n  no divergence: all agree"),
            };
        };
        writeln!(f, "\n  agrees until tick {}, differs at tick {}", self.agrees_until, divergence.tick)?;
        if let Some(failure) = &divergence.failure {
            writeln!(f, "  {failure}")?;
        }
        if let (Some(expected), Some(found)) = (divergence.expected, divergence.found) {
            writeln!(f, "  recorded hash {expected}, this build has {found}")?;
        }
        for (column, rows) in &divergence.rows {
            writeln!(f, "  column {column}: {rows} rows differ")?;
        }
        if !divergence.resources.is_empty() {
            writeln!(f, "  resources that differ: {}", divergence.resources.join(", "))?;
        }
        let text =
            |value: &Option<Value>| value.as_ref().map_or_else(|| "not there".into(), Value::to_string);
        for Difference { uid, column, recorded, found } in &divergence.examples {
            writeln!(f, "  entity {uid}, {column}")?;
            writeln!(f, "    recorded    {}", text(recorded))?;
            writeln!(f, "    this build  {}", text(found))?;
        }
        Ok(())
    }
}
