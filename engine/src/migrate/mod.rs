//! Schema change: bringing a stored state along into a build that declares its columns otherwise.
//!
//! A column that changes its shape or meaning raises its version and declares the step beside its registration;
//! steps make a chain. Policy: the same version in the same layout is taken as it is, an older version needs a full
//! chain, a newer one is refused; a column that this build does not know is refused unless it is declared `retired`
//! or renamed (`was`); one that the state does not have is simply not there. Everything that does not fit is told
//! at once. Deliberately absent: files, and when a migration is allowed, which is the host's.
//!
//! ```
//! use everworld_engine::{Migration, component, prelude::*};
//! component! {
//!     /// What a body lacks.
//!     pub struct Needs("needs", version 3) { hunger: f32, thirst: f32 }
//! }
//! fn plugin(world: &mut WorldBuilder) {
//!     world
//!         .column::<Needs>()
//!         .migrate(Migration::from("needs", 1).rename("hungr", "hunger").default("thirst", 0.5).drop("mood"))
//!         .migrate(Migration::from("needs", 2).map("hunger", |percent| percent / 100.0))
//!         .was("needs", "wants")
//!         .retired("luck");
//! }
//! # plugin(&mut WorldBuilder::new(1, 1.0));
//! ```

mod rows;

use crate::{
    column::{Column, FieldInfo, Layout},
    effects::UidCounter,
    ids::Uid,
    image::{CHUNK_ROWS, Chunk, ColumnImage, ColumnSchema, Image, ImageError, ResourceImage, TableImage},
    input::TakenInputs,
    plan::BuildError,
    registry::{ColumnInfo, Registry, encode},
    schema::StoredField,
    state::{StateResource, TickTime},
    timers::TimerQueue,
};
use rayon::prelude::*;
use rows::{Stage, plain_stages, run_chunk};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

/// One step of a column or resource, from one version to the next.
///
/// Plain columns change by the names of their fields, or by [`Migration::rows`]; slow columns and resources by
/// [`Migration::value`]. What is said is done in the order in which it is said. A field that keeps its name and
/// changes its kind of number is converted where every value fits, labels by their names.
pub struct Migration {
    name: String,
    from: u16,
    steps: Vec<Step>,
}

enum Step {
    Rename(String, String),
    Default(String, Value),
    Drop(String),
    Map(String, Map),
    Rows { old: Declared, new: Declared, run: RowFn },
    Value(ValueFn),
}

type Map = Arc<dyn Fn(f64) -> f64 + Send + Sync>;
type RowFn = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;
type ValueFn = Arc<dyn Fn(&[u8]) -> Result<Vec<u8>, String> + Send + Sync>;

/// What a type of [`Migration::rows`] declares of itself.
#[derive(Clone, Copy)]
struct Declared {
    version: u16,
    fields: &'static [FieldInfo],
}

impl Migration {
    /// From that version of that column or resource to the next one.
    pub fn from(name: &str, version: u16) -> Self {
        Self { name: name.into(), from: version, steps: Vec::new() }
    }

    /// A field has another name.
    pub fn rename(self, old: &str, new: &str) -> Self {
        self.with(Step::Rename(old.into(), new.into()))
    }

    /// A new field, and what it is for those who are there already, as in JSON.
    pub fn default(self, field: &str, value: impl Into<Value>) -> Self {
        self.with(Step::Default(field.into(), value.into()))
    }

    /// A field is gone.
    pub fn drop(self, field: &str) -> Self {
        self.with(Step::Drop(field.into()))
    }

    /// The numbers of a field mean something else.
    pub fn map(self, field: &str, map: impl Fn(f64) -> f64 + Send + Sync + 'static) -> Self {
        self.with(Step::Map(field.into(), Arc::new(map)))
    }

    /// A whole row of a plain column by a function. The former shape is declared by
    /// [`component!`](crate::component!) with its former version; it is not registered.
    pub fn rows<Old: Column, New: Column>(self, convert: fn(Old) -> New) -> Self {
        let old = Declared { version: Old::VERSION, fields: Old::FIELDS };
        let new = Declared { version: New::VERSION, fields: New::FIELDS };
        let run = move |row: &[u8]| bytemuck::bytes_of(&convert(bytemuck::pod_read_unaligned(row))).to_vec();
        self.with(Step::Rows { old, new, run: Arc::new(run) })
    }

    /// The value of a slow column or a resource by a function; both types by serde.
    pub fn value<Old: DeserializeOwned + 'static, New: Serialize + 'static>(
        self,
        convert: fn(Old) -> New,
    ) -> Self {
        self.with(Step::Value(Arc::new(move |bytes| {
            let (old, rest) = postcard::take_from_bytes::<Old>(bytes).map_err(|error| error.to_string())?;
            if rest.is_empty() { Ok(encode(&convert(old))) } else { Err("bytes are left over".into()) }
        })))
    }

    fn with(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

/// All that a build declares about former states.
#[derive(Default)]
pub(crate) struct Evolution {
    pub(crate) migrations: Vec<Migration>,
    /// (now, then)
    pub(crate) renamed: Vec<(String, String)>,
    pub(crate) retired: Vec<String>,
}

/// Something of a stored state that does not fit this build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Misfit {
    /// `column "needs"`, `resource "day"`.
    pub what: String,
    /// Why, and what could be declared.
    pub detail: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.detail)
    }
}

/// What a migration did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MigrationReport {
    /// Columns of the state or of this build, by name.
    pub columns: Vec<SchemaChange>,
    /// Resources of the state or of this build, by name.
    pub resources: Vec<SchemaChange>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// What becomes of a column or resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchemaChange {
    /// Its name in this build; of one that this build does not have, its name in the state.
    pub name: String,
    /// What happens to it.
    pub change: Change,
    /// Its former name, when that was another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// The version in the state.
    pub stored: Option<u16>,
    /// The version in this build.
    pub known: Option<u16>,
    /// The entities that have it in the state; 1 for a resource.
    pub rows: u64,
    /// Fields that come, go or are of another kind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
    /// The declared steps in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<String>,
}

/// What happens to a column or resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Taken as it is, perhaps under a new name.
    Kept,
    /// Brought along by declared steps.
    Migrated,
    /// The state does not have it: nobody has the column; a resource has its first value.
    Absent,
    /// Declared as gone.
    Retired,
    /// It cannot be brought along.
    Refused,
}

/// A field that differs between state and build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// Its name.
    pub name: String,
    /// Its kind in the state, if it is there.
    pub stored: Option<String>,
    /// Its kind in this build, if it is there.
    pub known: Option<String>,
}

impl MigrationReport {
    /// True when the state is one of this build already, to the last byte.
    pub fn is_identity(&self) -> bool {
        let same = |change: &SchemaChange| change.change == Change::Kept && change.was.is_none();
        let absent = |change: &SchemaChange| change.change == Change::Absent;
        self.columns.iter().all(|change| same(change) || absent(change)) && self.resources.iter().all(same)
    }
}

impl fmt::Display for SchemaChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version =
            |version: Option<u16>| version.map_or_else(|| "-".into(), |version| version.to_string());
        let (stored, known) = (version(self.stored), version(self.known));
        match self.change {
            Change::Kept => write!(f, "version {known}, taken as it is")?,
            Change::Migrated => write!(f, "version {stored} -> {known}")?,
            Change::Absent => write!(f, "not in the state")?,
            Change::Retired => write!(f, "version {stored}, retired: left behind")?,
            Change::Refused => write!(f, "version {stored}, does not fit version {known}")?,
        }
        if let Some(was) = &self.was {
            write!(f, ", was \"{was}\"")?;
        }
        if self.change == Change::Migrated && !self.steps.is_empty() {
            write!(f, ": {}", self.steps.join("; "))?;
        }
        Ok(())
    }
}

/// Makes a stored state one of this build's schema, with the hash that it then has.
///
/// # Errors
/// [`ImageError::Misfits`] names everything that does not fit; [`ImageError::Hash`] when the stored state is not
/// the one that it says it is, which could not be told any more after a migration.
pub fn migrate_image(registry: &Registry, image: Image) -> Result<(Image, MigrationReport), ImageError> {
    let planned = Planned::new(registry, &image);
    if !planned.misfits.is_empty() {
        return Err(ImageError::Misfits(planned.misfits));
    }
    for table in &image.tables {
        table.check()?;
    }
    if planned.report.is_identity() {
        // Another list of labels alone: bytes and hash stay.
        let image = planned.relabel(image);
        return Ok((image, planned.report));
    }
    let found = image.compute_hash();
    if found != image.hash {
        return Err(ImageError::Hash { expected: image.hash, found });
    }
    planned.run(registry, &image)
}

/// What [`migrate_image`] would do, without doing it, and what does not fit.
pub fn plan_migration(registry: &Registry, image: &Image) -> (MigrationReport, Vec<Misfit>) {
    let planned = Planned::new(registry, image);
    (planned.report, planned.misfits)
}

/// The fate of every stored column and resource.
struct Planned<'r> {
    columns: BTreeMap<ColumnSchema, Fate<'r>>,
    resources: BTreeMap<String, ResourceFate>,
    report: MigrationReport,
    misfits: Vec<Misfit>,
}

enum Fate<'r> {
    Keep(&'r Arc<ColumnSchema>),
    Run(&'r Arc<ColumnSchema>, Vec<Stage>),
    Retire,
}

enum ResourceFate {
    /// Its name and version in this build, and what brings it there.
    Run(String, u16, Vec<ValueFn>),
    Retire,
}

impl<'r> Planned<'r> {
    fn new(registry: &'r Registry, image: &Image) -> Self {
        let mut planned = Self {
            columns: BTreeMap::new(),
            resources: BTreeMap::new(),
            report: MigrationReport::default(),
            misfits: Vec::new(),
        };
        let mut stored: BTreeMap<&ColumnSchema, u64> = BTreeMap::new();
        for table in &image.tables {
            let mut names = BTreeSet::new();
            for column in &table.columns {
                *stored.entry(&column.schema).or_default() += table.rows as u64;
                let name = registry.evolution.now(&column.schema.name);
                if !names.insert(name.to_owned()) {
                    let detail = "the state has it under its former name as well".into();
                    planned.misfits.push(Misfit { what: format!("column \"{name}\""), detail });
                }
            }
        }
        for (schema, rows) in stored {
            planned.column(registry, schema, rows);
        }
        planned.missing_columns(registry);
        image.resources.iter().for_each(|resource| planned.resource(registry, resource));
        planned.missing_resources(registry);
        planned.note_inputs(registry, image);
        planned.report.columns.sort_by(|a, b| a.name.cmp(&b.name));
        planned.report.resources.sort_by(|a, b| a.name.cmp(&b.name));
        planned
    }

    fn column(&mut self, registry: &'r Registry, stored: &ColumnSchema, rows: u64) {
        let name = registry.evolution.now(&stored.name);
        let known = registry.column(name);
        let mut faults = Vec::new();
        let (change, fate) = match known {
            None if registry.evolution.retired.contains(&stored.name) => {
                (Change::Retired, Some(Fate::Retire))
            }
            None => {
                faults.push(unknown("column", &stored.name));
                (Change::Refused, None)
            }
            Some(known) => match fate(registry, known, stored, &mut faults) {
                Some(fate @ Fate::Keep(_)) => (Change::Kept, Some(fate)),
                Some(fate) => (Change::Migrated, Some(fate)),
                None => (Change::Refused, None),
            },
        };
        let was = (name != stored.name).then(|| stored.name.clone());
        self.report.columns.push(SchemaChange {
            name: name.into(),
            change,
            was,
            stored: Some(stored.version),
            known: known.map(|known| known.version),
            rows,
            fields: known.map_or_else(Vec::new, |known| field_changes(&stored.fields, &known.schema.fields)),
            steps: registry.evolution.words(name, stored.version, known.map(|known| known.version)),
        });
        let what = format!("column \"{}\"", stored.name);
        self.misfits.extend(faults.into_iter().map(|detail| Misfit { what: what.clone(), detail }));
        if let Some(fate) = fate {
            self.columns.insert(stored.clone(), fate);
        }
    }

    fn missing_columns(&mut self, registry: &Registry) {
        let stored: BTreeSet<String> = self.report.columns.iter().map(|column| column.name.clone()).collect();
        for known in registry.columns.iter().filter(|known| !stored.contains(known.name)) {
            self.report.columns.push(absent(known.name, known.version));
        }
    }

    fn resource(&mut self, registry: &Registry, stored: &ResourceImage) {
        let evolution = &registry.evolution;
        let name = evolution.now(&stored.name);
        let known = registry.resources.iter().find(|known| known.name == name);
        let fault = match known {
            None if evolution.retired.contains(&stored.name) => None,
            None => Some(unknown("resource", &stored.name)),
            Some(known) if stored.version > known.version => Some(newer(stored.version, known.version)),
            Some(_)
                if self
                    .resources
                    .values()
                    .any(|fate| matches!(fate, ResourceFate::Run(taken, ..) if taken == name)) =>
            {
                Some("the state has it under its former name as well".into())
            }
            Some(known) => evolution.gap(name, stored.version, known.version),
        };
        let change = match known {
            _ if fault.is_some() => Change::Refused,
            None => Change::Retired,
            Some(known) if known.version == stored.version => Change::Kept,
            Some(_) => Change::Migrated,
        };
        let fate = known.map_or(ResourceFate::Retire, |known| {
            let steps = evolution.chain(name, stored.version, known.version);
            let values = steps.flat_map(|migration| &migration.steps).filter_map(|step| match step {
                Step::Value(run) => Some(run.clone()),
                _ => None,
            });
            ResourceFate::Run(known.name.into(), known.version, values.collect())
        });
        self.report.resources.push(SchemaChange {
            name: name.into(),
            change,
            was: (name != stored.name).then(|| stored.name.clone()),
            stored: Some(stored.version),
            known: known.map(|known| known.version),
            rows: 1,
            fields: Vec::new(),
            steps: evolution.words(name, stored.version, known.map(|known| known.version)),
        });
        self.misfits
            .extend(fault.map(|detail| Misfit { what: format!("resource \"{}\"", stored.name), detail }));
        self.resources.insert(stored.name.clone(), fate);
    }

    fn missing_resources(&mut self, registry: &Registry) {
        let stored: BTreeSet<String> =
            self.report.resources.iter().map(|resource| resource.name.clone()).collect();
        for known in registry.resources.iter().filter(|known| !stored.contains(known.name)) {
            // Time, the counter of Uids, timers and inputs have no first value: they are the state's own.
            if is_engines(known.name) {
                let what = format!("resource \"{}\"", known.name);
                self.misfits.push(Misfit { what, detail: "the state lacks it".into() });
            }
            self.report.resources.push(absent(known.name, known.version));
        }
    }

    /// Inputs that wait for their tick are state too: one of a kind that is gone will be rejected then.
    fn note_inputs(&mut self, registry: &Registry, image: &Image) {
        let inputs = image.resource(TakenInputs::NAME);
        let inputs = inputs.and_then(|inputs| postcard::from_bytes::<TakenInputs>(&inputs.bytes).ok());
        for input in inputs.into_iter().flat_map(|inputs| inputs.pending) {
            if registry.input(&input.kind).is_none() {
                self.report.notes.push(format!(
                    "input {} waits for its tick, and this build has no kind \"{}\": it will be rejected",
                    input.seq, input.kind
                ));
            }
        }
    }

    fn relabel(&self, mut image: Image) -> Image {
        for column in image.tables.iter_mut().flat_map(|table| &mut table.columns) {
            if let Some(Fate::Keep(schema)) = self.columns.get(&*column.schema) {
                column.schema = (*schema).clone();
            }
        }
        image
    }

    fn run(mut self, registry: &Registry, image: &Image) -> Result<(Image, MigrationReport), ImageError> {
        let mut misfits = BTreeSet::new();
        let mut tables: Vec<TableImage> = Vec::new();
        for table in &image.tables {
            let migrated = self.table(table, &mut misfits);
            // What told two tables apart may be retired.
            let names = |table: &TableImage| -> Vec<String> {
                table.columns.iter().map(|column| column.schema.name.clone()).collect()
            };
            match tables.iter_mut().find(|other| names(other) == names(&migrated)) {
                Some(other) => append(other, &migrated),
                None => tables.push(migrated),
            }
        }
        let mut resources = Vec::new();
        for resource in &image.resources {
            let Some(ResourceFate::Run(name, version, values)) = self.resources.get(&resource.name) else {
                continue;
            };
            let bytes =
                values.iter().try_fold(resource.bytes.to_vec(), |bytes, run| run(&bytes)).map(Arc::from);
            match bytes {
                Ok(bytes) => resources.push(ResourceImage { name: name.clone(), version: *version, bytes }),
                Err(detail) => {
                    misfits.insert((format!("resource \"{name}\""), detail));
                }
            }
        }
        for known in &registry.resources {
            if self.report.resources.iter().any(|r| r.name == known.name && r.change == Change::Absent) {
                let (name, bytes) = (known.name.to_owned(), known.first.as_slice().into());
                resources.push(ResourceImage { name, version: known.version, bytes });
                let note = format!("resource \"{}\" is new: it has its first value", known.name);
                self.report.notes.push(note);
            }
        }
        if !misfits.is_empty() {
            let misfits = misfits.into_iter().map(|(what, detail)| Misfit { what, detail });
            return Err(ImageError::Misfits(misfits.collect()));
        }
        resources.sort_by(|a, b| a.name.cmp(&b.name));
        let mut image = Image { tick: image.tick, hash: image.hash, tables, resources };
        image.hash = image.compute_hash();
        Ok((image, self.report))
    }

    fn table(&self, table: &TableImage, misfits: &mut BTreeSet<(String, String)>) -> TableImage {
        let mut columns = Vec::new();
        for column in &table.columns {
            match self.columns.get(&*column.schema) {
                Some(Fate::Keep(schema)) => {
                    columns.push(ColumnImage { schema: (*schema).clone(), chunks: column.chunks.clone() });
                }
                Some(Fate::Run(schema, stages)) => {
                    let number = |i: usize| table.chunk_uids(i);
                    let run = |(i, chunk): (usize, &Arc<Chunk>)| run_chunk(stages, column, chunk, &number(i));
                    // As in compute_hash: who is on no pool would start rayon's global one.
                    let chunks: Vec<_> = if rayon::current_thread_index().is_some() {
                        column.chunks.par_iter().enumerate().map(run).collect()
                    } else {
                        column.chunks.iter().enumerate().map(run).collect()
                    };
                    let mut migrated = Vec::with_capacity(chunks.len());
                    for chunk in chunks {
                        match chunk {
                            Ok(chunk) => migrated.push(Arc::new(chunk)),
                            Err(detail) => {
                                misfits.insert((format!("column \"{}\"", column.schema.name), detail));
                            }
                        }
                    }
                    columns.push(ColumnImage { schema: (*schema).clone(), chunks: migrated });
                }
                Some(Fate::Retire) | None => {}
            }
        }
        columns.sort_by(|a, b| a.schema.name.cmp(&b.schema.name));
        TableImage { rows: table.rows, columns }
    }
}

impl Evolution {
    /// What a stored name is called in this build.
    fn now<'a>(&'a self, stored: &'a str) -> &'a str {
        self.renamed.iter().find(|(_, then)| then == stored).map_or(stored, |(now, _)| now)
    }

    fn chain(&self, name: &str, from: u16, to: u16) -> impl Iterator<Item = &Migration> {
        (from..to).filter_map(move |version| self.step(name, version))
    }

    fn step(&self, name: &str, version: u16) -> Option<&Migration> {
        self.migrations.iter().find(|migration| migration.name == name && migration.from == version)
    }

    /// The first version on the way that has no step.
    fn gap(&self, name: &str, from: u16, to: u16) -> Option<String> {
        let version = (from..to).find(|version| self.step(name, *version).is_none())?;
        Some(format!(
            "stored as version {from}, this build has version {to}, and no migration from version {version} is declared"
        ))
    }

    fn words(&self, name: &str, from: u16, to: Option<u16>) -> Vec<String> {
        let word = |step: &Step| match step {
            Step::Rename(old, new) => format!("{old} renamed to {new}"),
            Step::Default(field, value) => format!("{field} added as {value}"),
            Step::Drop(field) => format!("{field} dropped"),
            Step::Map(field, _) => format!("{field} recomputed"),
            Step::Rows { .. } | Step::Value(_) => "converted by a function".into(),
        };
        self.chain(name, from, to.unwrap_or(from)).flat_map(|step| &step.steps).map(word).collect()
    }
}

impl Registry {
    /// What is wrong with the declarations about former states.
    pub(crate) fn evolution_faults(&self) -> Vec<BuildError> {
        let mut faults = Vec::new();
        let mut fault = |what: &str, detail: String| {
            faults.push(BuildError::Migration { what: what.to_owned(), detail });
        };
        let version = |name: &str| {
            let resource = self.resources.iter().find(|resource| resource.name == name);
            self.column(name).map(|column| column.version).or(resource.map(|resource| resource.version))
        };
        let is_known = |name: &str| version(name).is_some();
        let Evolution { migrations, renamed, retired } = &self.evolution;
        for (i, migration) in migrations.iter().enumerate() {
            let Migration { name, from, steps } = migration;
            match version(name) {
                None => fault(name, "no such column or resource is registered".into()),
                Some(known) if *from >= known => {
                    fault(name, format!("from version {from}, but this build has version {known}"));
                }
                Some(known) => {
                    if self.evolution.step(name, from + 1).is_none() && from + 1 != known {
                        fault(
                            name,
                            format!("there is a step from version {from}, and none from {}", from + 1),
                        );
                    }
                }
            }
            if migrations[..i].iter().any(|other| (&other.name, other.from) == (name, *from)) {
                fault(name, format!("two steps from version {from}"));
            }
            let plain = self.column(name).is_some_and(|column| matches!(column.layout, Layout::Plain { .. }));
            for step in steps {
                match step {
                    Step::Value(_) if plain => fault(name, "a plain column: use rows(), not value()".into()),
                    Step::Value(_) => {}
                    _ if !plain && is_known(name) => {
                        fault(name, "it is kept by serde: use value(), which alone can change it".into());
                    }
                    Step::Rows { old, new, .. } if (old.version, new.version) != (*from, from + 1) => {
                        fault(
                            name,
                            format!(
                                "the step from version {from} converts version {} to {}",
                                old.version, new.version
                            ),
                        );
                    }
                    _ => {}
                }
            }
        }
        for (now, then) in renamed {
            if !is_known(now) || is_known(then) || now == Uid::NAME || is_engines(now) {
                fault(now, format!("was(\"{now}\", \"{then}\") needs a registered name and a former one"));
            }
            if renamed.iter().filter(|(_, other)| other == then).count() > 1 || retired.contains(then) {
                fault(now, format!("\"{then}\" has become several things"));
            }
        }
        for name in retired.iter().filter(|name| is_known(name)) {
            fault(name, "declared as retired, but registered".into());
        }
        faults
    }
}

/// The resources that every world has.
fn is_engines(name: &str) -> bool {
    [TickTime::NAME, UidCounter::NAME, TimerQueue::NAME, TakenInputs::NAME].contains(&name)
}

fn unknown(what: &str, name: &str) -> String {
    format!(
        "this build has no such {what}; declare retired(\"{name}\"), or was(.., \"{name}\") where it has another name"
    )
}

fn newer(stored: u16, known: u16) -> String {
    format!("stored as version {stored} by a newer build, this one has version {known}")
}

fn absent(name: &str, version: u16) -> SchemaChange {
    SchemaChange {
        name: name.into(),
        change: Change::Absent,
        was: None,
        stored: None,
        known: Some(version),
        rows: 0,
        fields: Vec::new(),
        steps: Vec::new(),
    }
}

fn field_changes(stored: &[StoredField], known: &[StoredField]) -> Vec<FieldChange> {
    if stored.is_empty() {
        return Vec::new();
    }
    let find = |fields: &[StoredField], name: &str| {
        fields.iter().find(|field| field.name == name).map(|field| field.shape.clone())
    };
    let mut names: Vec<&str> = stored.iter().chain(known).map(|field| field.name.as_str()).collect();
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(*name));
    let change = |name: &str| {
        let (then, now) = (find(stored, name), find(known, name));
        let differs = then != now;
        let (stored, known) = (then.map(|s| s.to_string()), now.map(|s| s.to_string()));
        differs.then(|| FieldChange { name: name.into(), stored, known })
    };
    names.into_iter().filter_map(change).collect()
}

/// How stored rows become rows of a known column; faults where they cannot.
fn fate<'r>(
    registry: &'r Registry,
    known: &'r ColumnInfo,
    stored: &ColumnSchema,
    faults: &mut Vec<String>,
) -> Option<Fate<'r>> {
    let before = faults.len();
    // Under its new name: a renamed column is judged by its content.
    let renamed = ColumnSchema { name: known.name.into(), ..stored.clone() };
    if known.schema.reads(&renamed) {
        return Some(Fate::Keep(&known.schema));
    }
    if stored.version > known.version {
        faults.push(newer(stored.version, known.version));
    } else if stored.version == known.version {
        let fields: Vec<_> = field_changes(&stored.fields, &known.schema.fields)
            .into_iter()
            .map(|field| match (field.stored, field.known) {
                (Some(stored), Some(known)) => format!("{} was {stored}, is {known}", field.name),
                (Some(_), None) => format!("{} is gone", field.name),
                _ => format!("{} is new", field.name),
            })
            .collect();
        let how = if fields.is_empty() { "its fields lie otherwise".into() } else { fields.join(", ") };
        let version = stored.version;
        faults.push(format!(
            "version {version} in both, but another layout ({how}): raise the version and declare a migration"
        ));
    } else if let Some(gap) = registry.evolution.gap(known.name, stored.version, known.version) {
        faults.push(gap);
    } else {
        let stages = match known.layout {
            Layout::Plain { fields, .. } => plain_stages(registry, known, fields, stored, faults),
            Layout::Slow if stored.lanes.is_some() => {
                faults.push("it was a plain column and is kept by serde now: give it another name".into());
                Vec::new()
            }
            Layout::Slow => {
                let steps = registry.evolution.chain(known.name, stored.version, known.version);
                let values = steps.flat_map(|migration| &migration.steps);
                values
                    .filter_map(|step| match step {
                        Step::Value(run) => Some(Stage::Value(run.clone())),
                        _ => None,
                    })
                    .collect()
            }
        };
        return (faults.len() == before).then_some(Fate::Run(&known.schema, stages));
    }
    None
}

/// Puts the rows of a table behind those of one with the same columns.
fn append(table: &mut TableImage, more: &TableImage) {
    for (column, more_column) in table.columns.iter_mut().zip(&more.columns) {
        let bytes = column.schema.row_bytes();
        let chunks = column.chunks.iter().chain(&more_column.chunks);
        column.chunks = if let Some(bytes) = bytes {
            let mut rows = Vec::new();
            chunks.flat_map(|chunk| chunk.runs()).for_each(|run| rows.extend_from_slice(run));
            rows.chunks((CHUNK_ROWS * bytes).max(1))
                .map(|rows| Arc::new(Chunk::Plain(rows.to_vec())))
                .collect()
        } else {
            let mut values = Vec::new();
            for chunk in chunks {
                if let Chunk::Slow(more) = &**chunk {
                    values.extend_from_slice(more);
                }
            }
            values.chunks(CHUNK_ROWS).map(|values| Arc::new(Chunk::Slow(values.to_vec()))).collect()
        };
    }
    table.rows += more.rows;
}
