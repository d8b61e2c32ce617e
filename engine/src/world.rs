//! The builder that takes a world's parts, and the world that ticks.

use crate::{
    capture::{Buffers, Capture, Capturing},
    changes::COLUMNS_MAX,
    column::{Column, SlowColumn},
    edits::{DespawnEntities, UpdateEntities},
    effects::{
        self, BuiltArchetypes, Effect, Lives, SharedRegistry, Slot, StructureSlots, UidCounter, UidIndex,
    },
    event::{Event, EventBatch, EventKind, Happened},
    explain,
    grid::{self, Grid, GridKind, Space},
    hash::{StateHash, hash_plain_rows, hash_resource, hash_row, hash_state},
    ids::{Tick, Uid},
    image::{CHUNK_ROWS, Chunk, ColumnImage, ColumnSchema, Image, ImageError, TableImage},
    input::{self, HowToApply, Input, InputEnvelope, InputKind, InputWorld, SpawnEntities, TakenInputs},
    marks::Marks,
    migrate::Migration,
    param,
    plan::{BuildError, Edge, EdgeReason, NodeKind, Plan, PlanNode, Unplaced, edges, total_order},
    pool::Pool,
    raw::{Executor, HowToRun, Node, panic_message, spawn_rows},
    registry::{ColumnInfo, Registry, RowsOf},
    report::{CPU_SAMPLE_NANOS, CPU_SAMPLE_TICKS, Stopwatch, SystemReport, TINY_SAMPLE_NANOS, TickReport},
    rows::RowsWrites,
    sabotage::Sabotage,
    settings::{SetSystem, SystemSettings, settable},
    state::{StateResource, TickTime},
    system::{Class, CurrentSystem, Phase, Priority, SystemConfig},
    timers::{self, DueTimers, TimerQueue, TimerSlots},
    watch::Watch,
};
use bevy_ecs::{
    component::ComponentId, observer::Observer, prelude::*, query::AccessConflicts, storage::Table,
    system::SystemAccess,
};
use rayon::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// Takes the parts of a world. A plugin is `fn plugin(world: &mut WorldBuilder)`.
///
/// Faults are collected: [`WorldBuilder::build`] reports all of them.
pub struct WorldBuilder {
    world: World,
    registry: Registry,
    derived: BTreeMap<ComponentId, &'static str>,
    rebuild: Vec<fn(&mut World)>,
    warm: Vec<fn(&mut World)>,
    phases: Vec<Phase>,
    systems: Vec<SystemConfig>,
    setup: Vec<Box<dyn Fn(&mut InputWorld<'_>) + Send + Sync>>,
    events: Vec<EventKind>,
    grids: Vec<GridKind>,
    faults: Vec<BuildError>,
    sabotage: Vec<Sabotage>,
}

/// All faults of a build.
#[derive(Debug, PartialEq, Eq)]
pub struct BuildErrors(pub Vec<BuildError>);

impl fmt::Display for BuildErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for BuildErrors {}

/// How a world is run. Nothing here changes a result (W1).
#[derive(Clone)]
pub struct Options {
    /// The pool that ticks run on. Worlds may share one.
    pub pool: Arc<Pool>,
    /// Whether nodes may run side by side.
    pub parallel: Parallel,
    /// The clocks to measure with.
    pub stopwatch: Stopwatch,
}

/// Whether the nodes of a tick run side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parallel {
    /// Where it pays: a tick whose estimate is tiny is run on one thread.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What the engine itself keeps beside the state.
const ENGINE_DERIVED: [&str; 2] = ["uid_index", "due_timers"];

/// What is told of every world, under these topics, and what plans call births and deaths: no event has such a name.
const RESERVED_TOPICS: [&str; 9] =
    ["tick", "input", "entity", "job", "snapshot", "system", "state", "alert", "structure"];

/// A tick whose systems took less than this together is not worth a second thread: handing it over costs as much.
const SERIAL_NANOS: u64 = 20_000;

/// A world that ticks. Only its host holds it, and changes it only by ticking it (T3).
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and none excludes another")]
pub struct LiveWorld {
    world: World,
    registry: Arc<Registry>,
    rebuild: Vec<fn(&mut World)>,
    /// What takes its memory before the first tick needs it.
    warm: Vec<fn(&mut World)>,
    setup: Vec<Box<dyn Fn(&mut InputWorld<'_>) + Send + Sync>>,
    /// The kinds of events, in the order of their names; and how many of each a report tells.
    events: Vec<EventKind>,
    events_told: usize,
    plan: Plan,
    executor: Executor,
    watch: Watch,
    /// The user's own among `rebuild`: a disabled system no longer rebuilds what it did.
    rebuild_own: Vec<fn(&mut World)>,
    /// True when a system is disabled.
    cut: bool,
    /// Inputs that are left out.
    skipped: BTreeSet<u64>,
    careful: bool,
    traced: bool,
    /// What systems were told, as it was applied.
    settings: SystemSettings,
    /// What the systems of a tick take, smoothed.
    estimate_nanos: u64,
    /// When systems were measured for the last time.
    measured_nanos: u64,
    /// The tick and time at which CPU time was sampled for the last time.
    cpu_sampled: (u64, u64),
    /// The last finished tick, as in [`TickTime`].
    now: Tick,
    /// True when inputs wait for a tick to come.
    has_pending: bool,
    /// The queues of structural effects, and of timers.
    structure: Vec<Arc<Slot<Effect>>>,
    timers: Vec<Arc<Slot<(Tick, u32)>>>,
    options: Options,
    capturing: Capturing,
    report: TickReport,
    poisoned: Option<TickError>,
}

/// Why a tick did not finish. The world is half changed and refuses to go on; restore it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TickError {
    /// A system panicked, or one of its parameters could not be had.
    #[error("system \"{system}\" failed in tick {tick}: {message}")]
    System {
        /// Which system.
        system: String,
        /// In which tick.
        tick: Tick,
        /// The panic's words.
        message: String,
    },
    /// An input or the set-up of a new world panicked.
    #[error("applying the inputs of tick {tick} failed{}: {message}", culprit(*seq))]
    Inputs {
        /// In which tick.
        tick: Tick,
        /// Which input, if it was one.
        seq: Option<u64>,
        /// The panic's words.
        message: String,
    },
}

impl TickError {
    /// The tick that failed.
    pub fn tick(&self) -> Tick {
        match self {
            Self::System { tick, .. } | Self::Inputs { tick, .. } => *tick,
        }
    }
}

fn culprit(seq: Option<u64>) -> String {
    seq.map_or_else(String::new, |seq| format!(" at input {seq}"))
}

/// Why a system cannot be disabled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnableError {
    /// There is none of that name.
    #[error("the world has no system \"{0}\"")]
    Unknown(String),
    /// The engine needs it.
    #[error("\"{0}\" is a node of the engine, not a system")]
    Engine(String),
}

impl WorldBuilder {
    /// An empty world with that seed, in which `dt_secs` seconds pass in a tick.
    pub fn new(seed: u64, dt_secs: f64) -> Self {
        let mut builder = Self {
            world: World::new(),
            registry: Registry::default(),
            derived: BTreeMap::new(),
            rebuild: Vec::new(),
            warm: Vec::new(),
            phases: vec![Phase("tick")],
            systems: Vec::new(),
            setup: Vec::new(),
            events: Vec::new(),
            grids: Vec::new(),
            faults: Vec::new(),
            sabotage: Vec::new(),
        };
        builder.world.init_resource::<CurrentSystem>();
        builder.world.init_resource::<StructureSlots>();
        builder.world.init_resource::<TimerSlots>();
        builder.world.init_resource::<Lives>();
        builder.world.init_resource::<Marks>();
        builder.world.init_resource::<RowsWrites>();
        builder.world.init_resource::<BuiltArchetypes>();
        builder.derive_as::<UidIndex>(ENGINE_DERIVED[0], renew::<UidIndex>);
        builder.derive_as::<DueTimers>(ENGINE_DERIVED[1], renew::<DueTimers>);
        builder
            .column::<Uid>()
            .resource(TickTime { tick: Tick(0), seed, dt_secs })
            .resource(UidCounter { next: 1 })
            .resource(TimerQueue::default())
            .resource(TakenInputs::default())
            .resource(SystemSettings::default())
            .input::<SpawnEntities>()
            .input::<UpdateEntities>()
            .input::<DespawnEntities>()
            .input::<SetSystem>();
        builder
    }

    /// A column of plain rows.
    pub fn column<T: Column>(&mut self) -> &mut Self {
        let result = self.registry.add_column::<T>(&mut self.world);
        self.note(result)
    }

    /// A column of rare values of any shape.
    pub fn slow_column<T: SlowColumn>(&mut self) -> &mut Self {
        let result = self.registry.add_slow_column::<T>(&mut self.world);
        self.note(result)
    }

    /// How rows or a value of a former version become those of the next, see [`crate::migrate`].
    pub fn migrate(&mut self, migration: Migration) -> &mut Self {
        self.registry.evolution.migrations.push(migration);
        self
    }

    /// A column or resource that former builds called otherwise.
    pub fn was(&mut self, name: &str, former: &str) -> &mut Self {
        self.registry.evolution.renamed.push((name.into(), former.into()));
        self
    }

    /// A column or resource that former builds had: what is stored of it is left behind.
    pub fn retired(&mut self, name: &str) -> &mut Self {
        self.registry.evolution.retired.push(name.into());
        self
    }

    /// A resource that is state, with its first value.
    pub fn resource<R: StateResource>(&mut self, value: R) -> &mut Self {
        let result = self.registry.add_resource(&mut self.world, value);
        self.note(result)
    }

    /// A resource that is rebuilt in every tick before it is read, hence neither hashed nor stored.
    pub fn derived<R: Resource + Default>(&mut self) -> &mut Self {
        let name = std::any::type_name::<R>().rsplit("::").next().unwrap_or("derived");
        self.derive_as::<R>(name, renew::<R>);
        self
    }

    /// A grid of who is near, built by a system of its name in each tick in which its rows may have moved; `place` says where
    /// in the tick that comes.
    pub fn grid<S: Space>(&mut self, place: impl FnOnce(SystemConfig) -> SystemConfig) -> &mut Self {
        self.derive_as::<Grid<S>>(S::NAME, grid::empty::<S>);
        self.warm.push(grid::warm::<S>);
        self.grids.push(GridKind::of::<S>());
        self.system(place(grid::config::<S>()))
    }

    /// A kind of event, for systems that take [`Emit`](crate::Emit) of it.
    pub fn event<E: Event>(&mut self) -> &mut Self {
        self.emitted::<E>(true)
    }

    /// A kind of event that is for other systems only: what rows hand to each other within a tick. It is told nowhere else.
    pub fn message<E: Event>(&mut self) -> &mut Self {
        self.emitted::<E>(false)
    }

    fn emitted<E: Event>(&mut self, is_told: bool) -> &mut Self {
        let kind = EventKind { is_told, ..EventKind::of::<E>() };
        if self.events.iter().any(|known| known.info.name == E::NAME) {
            self.faults.push(BuildError::DuplicateName("event", E::NAME.into()));
            return self;
        }
        self.derive_as::<Happened<E>>(E::NAME, kind.clear);
        EventKind::prepare::<E>(&mut self.world);
        self.events.push(kind);
        self
    }

    /// A resource that `empty` makes what it was in the beginning.
    fn derive_as<R: Resource + Default>(&mut self, name: &'static str, empty: fn(&mut World)) {
        self.world.init_resource::<R>();
        let id = self.world.register_component::<R>();
        self.derived.insert(id, name);
        self.rebuild.push(empty);
    }

    /// The names of what is derived, but for what the engine keeps.
    fn own_derived(&self) -> Vec<&'static str> {
        self.derived.values().copied().filter(|name| !ENGINE_DERIVED.contains(name)).collect()
    }

    /// Events with names that mean something else where systems and topics are named.
    fn taken_names(&self) -> Vec<BuildError> {
        let columns = self.registry.columns.iter().map(|column| column.name);
        let resources = self.registry.resources.iter().map(|resource| resource.name);
        let names: Vec<&str> = columns.chain(resources).chain(self.derived.values().copied()).collect();
        let events = self.events.iter().map(|kind| kind.info.name);
        let is_taken = |name: &&str| {
            // What happened is derived, under its own name.
            RESERVED_TOPICS.contains(name) || names.iter().filter(|known| *known == name).count() > 1
        };
        events.filter(is_taken).map(|name| BuildError::TakenName(name.into())).collect()
    }

    /// A kind of input.
    pub fn input<I: Input>(&mut self) -> &mut Self {
        if self.registry.input(I::KIND).is_some() {
            self.faults.push(BuildError::DuplicateName("input", I::KIND.into()));
        } else {
            self.registry.inputs.push(InputKind::of::<I>());
        }
        self
    }

    /// What a new entity of that name starts with, for inputs that name only what differs. Columns are given as
    /// their default values, or by `row`.
    pub fn prototype(&mut self, name: &str, columns: &[(&str, Option<&[u8]>)]) -> &mut Self {
        let find = |(column, row): &(&str, Option<&[u8]>)| {
            let index = self.registry.columns.iter().position(|known| known.name == *column)?;
            Some((index, row.map_or_else(self.registry.columns[index].default_row, <[u8]>::to_vec)))
        };
        let rows: Option<Vec<_>> = columns.iter().map(find).collect();
        match rows {
            Some(rows) if !self.registry.prototypes.contains_key(name) => {
                self.registry.prototypes.insert(name.to_owned(), rows);
            }
            _ => self.faults.push(BuildError::DuplicateName(
                "prototype (or a column of it is missing, or it)",
                name.into(),
            )),
        }
        self
    }

    /// The phases of a tick, in order.
    pub fn phases(&mut self, phases: &[Phase]) -> &mut Self {
        self.phases = phases.to_vec();
        self
    }

    /// A system.
    pub fn system(&mut self, system: SystemConfig) -> &mut Self {
        self.systems.push(system);
        self
    }

    /// What happens once, when the world is created.
    pub fn setup(&mut self, setup: impl Fn(&mut InputWorld<'_>) + Send + Sync + 'static) -> &mut Self {
        self.setup.push(Box::new(setup));
        self
    }

    /// Turns the order of what was registered so far around by chance: what the tests of W3 do before building.
    pub fn permute_registration(&mut self, seed: u64) -> &mut Self {
        let mut draws = crate::random::Draws::new(seed, 0, 0, 0);
        draws.shuffle(&mut self.systems);
        draws.shuffle(&mut self.registry.resources);
        // Prototypes name columns by index.
        let mut order: Vec<usize> = (0..self.registry.columns.len()).collect();
        for i in (1..order.len()).rev() {
            let j = draws.below(i as u32 + 1) as usize;
            order.swap(i, j);
            self.registry.columns.swap(i, j);
        }
        for rows in self.registry.prototypes.values_mut() {
            for (index, _) in rows {
                *index = order.iter().position(|old| old == index).expect("a permutation keeps every index");
            }
        }
        self
    }

    /// Breaks something on purpose, for the canaries of the harness.
    #[doc(hidden)]
    pub fn sabotage(&mut self, sabotage: Sabotage) {
        self.sabotage.push(sabotage);
    }

    fn note(&mut self, result: Result<(), BuildError>) -> &mut Self {
        self.faults.extend(result.err());
        self
    }

    /// Makes the plan.
    ///
    /// # Errors
    /// All faults, each naming its systems.
    pub fn build(mut self, options: Options) -> Result<LiveWorld, BuildErrors> {
        let mut faults = std::mem::take(&mut self.faults);
        faults.extend(self.registry.evolution_faults());
        let (found, max) = (self.registry.columns.len(), COLUMNS_MAX);
        if found > max {
            faults.push(BuildError::TooManyColumns { found, max });
        }
        faults.extend(self.taken_names());
        let planner = Planner::new(&mut self, &mut faults);
        let by_ticks = planner.as_ref().map(|planner| planner.written_by_ticks(&self)).unwrap_or_default();
        let written = planner.as_ref().map(Planner::written);
        let planned = planner.and_then(|planner| planner.place(&self.own_derived(), &mut faults));
        if self.world.component_id::<Observer>().is_some() {
            faults.push(BuildError::Observers);
        }
        let Some((plan, nodes)) = planned.filter(|_| faults.is_empty()) else {
            return Err(BuildErrors(faults));
        };
        if let Some(Some(written)) = written {
            for grid in &self.grids {
                if (grid.columns)(&mut self.world).iter().all(|column| !written.contains(column)) {
                    (grid.stand_still)(&mut self.world);
                }
            }
        }
        if plan.nodes.iter().any(|node| node.kind == NodeKind::Exclusive) {
            self.world.resource_mut::<Marks>().follow_all_moves();
        }
        // The first two are the engine's: see WorldBuilder::new().
        self.registry.settable = settable(&plan, &self.own_derived());
        let registry = Arc::new(self.registry);
        self.world.insert_resource(SharedRegistry(registry.clone()));
        let archetypes = self.world.archetypes().len();
        self.world.resource_mut::<BuiltArchetypes>().0 = archetypes;
        let report =
            TickReport { systems: vec![SystemReport::default(); nodes.len()], ..TickReport::default() };
        let structure = std::mem::take(&mut self.world.resource_mut::<StructureSlots>().0);
        let timers = std::mem::take(&mut self.world.resource_mut::<TimerSlots>().0);
        let names = plan.nodes.iter().map(|node| node.name.clone()).collect();
        let watch = Watch::new(names, options.pool.threads());
        let is_lost = |edge: &&Edge| {
            let (from, to) = (plan.nodes[edge.from].name.as_str(), plan.nodes[edge.to].name.as_str());
            self.sabotage
                .iter()
                .any(|sabotage| matches!(sabotage, Sabotage::LoseEdge(a, b) if (*a, *b) == (from, to)))
        };
        let edges = plan.edges.iter().filter(|edge| !is_lost(edge)).map(|edge| (edge.from, edge.to));
        let mut executor = Executor::new(nodes, edges, watch.clone());
        for sabotage in &self.sabotage {
            let position = |name: &str| plan.nodes.iter().position(|node| node.name == name);
            match sabotage {
                Sabotage::Seldom(name) => executor.set(position(name).expect("a system"), false, (2, 0)),
                Sabotage::Never(name) => executor.set(position(name).expect("a system"), true, (1, 0)),
                Sabotage::LoseEdge(..) | Sabotage::ForgetSpawns => {}
            }
        }
        let mut capturing = Capturing::new(by_ticks);
        capturing.spawns_forgotten = self.sabotage.contains(&Sabotage::ForgetSpawns);
        // The first two are the engine's: see WorldBuilder::new().
        let rebuild_own = self.rebuild[2..].to_vec();
        Ok(LiveWorld {
            world: self.world,
            registry,
            rebuild: self.rebuild,
            warm: self.warm,
            setup: self.setup,
            events: self.events,
            events_told: 0,
            plan,
            executor,
            watch,
            rebuild_own,
            cut: false,
            skipped: BTreeSet::new(),
            careful: false,
            traced: false,
            settings: SystemSettings::default(),
            estimate_nanos: u64::MAX,
            measured_nanos: 0,
            cpu_sampled: (0, 0),
            now: Tick(0),
            has_pending: false,
            structure,
            timers,
            options,
            capturing,
            report,
            poisoned: None,
        })
    }
}

fn renew<R: Resource + Default>(world: &mut World) {
    world.insert_resource(R::default());
}

/// Turns systems into nodes, and finds what is wrong with them.
struct Planner {
    phases: Vec<Phase>,
    names: BTreeMap<ComponentId, String>,
    nodes: Vec<Planned>,
}

struct Planned {
    node: PlanNode,
    /// User phases are the even numbers; what ends a phase comes at the odd one after it.
    phase: usize,
    access: SystemAccess,
    system: bevy_ecs::system::BoxedSystem,
    /// Declared predecessors and, for the engine's own nodes, emitters.
    after: Vec<usize>,
}

impl Planner {
    fn new(builder: &mut WorldBuilder, faults: &mut Vec<BuildError>) -> Option<Self> {
        let mut names: BTreeMap<ComponentId, String> = BTreeMap::new();
        names.extend(builder.registry.columns.iter().map(|column| (column.id, column.name.to_owned())));
        names.extend(
            builder.registry.resources.iter().map(|resource| (resource.id, resource.name.to_owned())),
        );
        names.extend(builder.derived.iter().map(|(id, name)| (*id, (*name).to_owned())));
        let hidden = builder.world.register_component::<Marks>();

        let configs = std::mem::take(&mut builder.systems);
        let before = faults.len();
        check_declarations(&configs, &builder.phases, faults);
        let after = predecessors(&configs, &builder.phases, faults);
        let mut planner = Self { phases: builder.phases.clone(), names, nodes: Vec::new() };
        for (config, after) in configs.into_iter().zip(after) {
            match planner.initialize(&mut builder.world, config, after, hidden) {
                Ok(node) => planner.nodes.push(node),
                Err(fault) => faults.push(fault),
            }
        }
        let rebuilt = builder.own_derived();
        for node in planner.nodes.iter().map(|planned| &planned.node).filter(|node| node.every > 1) {
            // What an exclusive system writes nobody knows.
            let any = rebuilt.first().filter(|_| node.kind == NodeKind::Exclusive).copied();
            let written = node.writes.iter().map(String::as_str).find(|name| rebuilt.contains(name));
            if let Some(name) = written.or(any) {
                let reason = format!(
                    "it runs in every {}th tick, but \"{name}\" is derived: rebuilt in each tick before it is read",
                    node.every
                );
                faults.push(BuildError::Parameter { system: node.name.clone(), reason });
            }
        }
        if faults.len() > before {
            return None;
        }
        builder.events.sort_by_key(|kind| kind.info.name);
        let told = builder.events.iter().filter(|kind| kind.is_told);
        builder.registry.events = told.map(|kind| kind.info).collect();
        planner.add_effect_nodes(&mut builder.world);
        planner.add_event_nodes(&mut builder.world, &builder.events);
        Some(planner)
    }

    fn initialize(
        &self,
        world: &mut World,
        mut config: SystemConfig,
        after: Vec<usize>,
        hidden: ComponentId,
    ) -> Result<Planned, BuildError> {
        let system = config.name.clone();
        if let Some(reason) = param::refuse(config.params) {
            return Err(BuildError::Parameter { system, reason });
        }
        let spread = config.spread;
        *world.resource_mut::<CurrentSystem>() =
            CurrentSystem { name: system.clone(), spread, takes_turns: false };
        let access = catch_unwind(AssertUnwindSafe(|| config.system.initialize(world))).map_err(|panic| {
            BuildError::Initialize { system: system.clone(), detail: panic_message(&*panic) }
        })?;
        if spread != 1 && !world.resource::<CurrentSystem>().takes_turns {
            let reason =
                format!("it is spread over {spread} ticks, but takes no Turn to know whose turn it is");
            return Err(BuildError::Parameter { system, reason });
        }
        let exclusive = access.is_exclusive();
        // An exclusive system carries the flag too; here it runs as a barrier on whatever thread is free.
        if !exclusive && !config.system.is_send() {
            return Err(BuildError::NonSend(system));
        }
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        if let SystemAccess::Shared(set) = &access {
            let unbounded = |verb| BuildError::Unregistered {
                system: system.clone(),
                verb,
                what: "any component".into(),
                params: config.params.into(),
            };
            let written =
                set.combined_access().writes().as_finite_set().ok_or_else(|| unbounded("writes"))?;
            let touched = set.combined_access().reads().as_finite_set().ok_or_else(|| unbounded("reads"))?;
            for id in touched.iter().filter(|id| *id != hidden) {
                let is_write = written.contains(id);
                let name = self.names.get(&id).cloned().ok_or_else(|| BuildError::Unregistered {
                    system: system.clone(),
                    verb: if is_write { "writes" } else { "reads" },
                    what: format!("component {}", id.index()),
                    params: config.params.into(),
                })?;
                let own = match name.as_str() {
                    SystemSettings::NAME => Some("it writes what systems are told, which inputs alone do"),
                    TickTime::NAME => Some("it writes the time, which ticking alone does"),
                    Uid::NAME => Some("it writes Uids, which the engine alone gives"),
                    _ => None,
                };
                if let Some(reason) = own.filter(|_| is_write) {
                    return Err(BuildError::Parameter { system, reason: reason.into() });
                }
                if is_write { writes.push(name) } else { reads.push(name) }
            }
            reads.sort();
            writes.sort();
        }
        let phase = self.phases.iter().position(|phase| Some(*phase) == config.phase).unwrap_or(0);
        let kind = if exclusive { NodeKind::Exclusive } else { NodeKind::System };
        let node = PlanNode {
            name: system,
            kind,
            phase: self.phases[phase].0.to_owned(),
            priority: config.priority,
            every: config.every,
            spread,
            offset: config.offset,
            class: config.class,
            weight: config.weight,
            budget_micros: config.budget_micros,
            after: Vec::new(),
            reads,
            writes,
        };
        Ok(Planned { node, phase: 2 * phase, access, system: config.system, after })
    }

    /// A node at the end of each phase in which systems emit structural effects, one at the tick's end for timers.
    fn add_effect_nodes(&mut self, world: &mut World) {
        let systems = self.nodes.len();
        let emitters = |slots: &BTreeSet<String>, nodes: &[Planned]| -> Vec<usize> {
            (0..systems).filter(|i| slots.contains(&nodes[*i].node.name)).collect()
        };
        let structure = world.resource::<StructureSlots>().0.clone();
        let names: BTreeSet<String> = structure.iter().map(|slot| slot.system.clone()).collect();
        for (number, phase) in self.phases.clone().into_iter().enumerate() {
            let after: Vec<usize> = emitters(&names, &self.nodes)
                .into_iter()
                .filter(|i| self.nodes[*i].phase == 2 * number)
                .collect();
            if after.is_empty() {
                continue;
            }
            let mut slots = Vec::new();
            for i in &after {
                slots
                    .extend(structure.iter().filter(|slot| slot.system == self.nodes[*i].node.name).cloned());
            }
            // By name here; place() has no say in it, since names do not depend on registration either.
            slots.sort_by(|a, b| a.system.cmp(&b.system));
            let system = IntoSystem::into_system(move |world: &mut World| effects::apply(world, &slots));
            self.push_engine_node(
                world,
                format!("{}::structure", phase.0),
                NodeKind::Structure,
                2 * number + 1,
                phase.0,
                Box::new(system),
                after,
            );
        }
        let mut slots = world.resource::<TimerSlots>().0.clone();
        let names: BTreeSet<String> = slots.iter().map(|slot| slot.system.clone()).collect();
        let after = emitters(&names, &self.nodes);
        if !after.is_empty() {
            slots.sort_by(|a, b| a.system.cmp(&b.system));
            let last = self.phases.last().map_or("tick", |phase| phase.0);
            let system = IntoSystem::into_system(move |mut queue: ResMut<'_, TimerQueue>| {
                timers::apply(&mut queue, &slots);
            });
            self.push_engine_node(
                world,
                "timers::set".into(),
                NodeKind::Timers,
                2 * self.phases.len(),
                last,
                Box::new(system),
                after,
            );
        }
    }

    /// For each kind of event a node at the end of each phase in which systems emit it.
    fn add_event_nodes(&mut self, world: &mut World, kinds: &[EventKind]) {
        for kind in kinds {
            let emitters = (kind.emitters)(world);
            for (number, phase) in self.phases.clone().into_iter().enumerate() {
                let is_emitter =
                    |planned: &Planned| planned.phase == 2 * number && emitters.contains(&planned.node.name);
                let after: Vec<usize> =
                    (0..self.nodes.len()).filter(|i| is_emitter(&self.nodes[*i])).collect();
                if !after.is_empty() {
                    let systems: Vec<String> =
                        after.iter().map(|i| self.nodes[*i].node.name.clone()).collect();
                    let (name, gathering) =
                        (format!("{}::{}", phase.0, kind.info.name), (kind.gathering)(world, &systems));
                    self.push_engine_node(
                        world,
                        name,
                        NodeKind::Events,
                        2 * number + 1,
                        phase.0,
                        gathering,
                        after,
                    );
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one struct, at its three places of origin")]
    fn push_engine_node(
        &mut self,
        world: &mut World,
        name: String,
        kind: NodeKind,
        phase: usize,
        phase_name: &str,
        mut system: bevy_ecs::system::BoxedSystem,
        after: Vec<usize>,
    ) {
        let access = system.initialize(world);
        let writes = match kind {
            NodeKind::Timers => vec!["timers".to_owned()],
            NodeKind::Events => name.rsplit("::").next().map(str::to_owned).into_iter().collect(),
            _ => Vec::new(),
        };
        let node = PlanNode {
            name,
            kind,
            phase: phase_name.to_owned(),
            priority: Priority::Normal,
            every: 1,
            spread: 1,
            offset: 0,
            class: Class::Critical,
            weight: 1,
            budget_micros: None,
            after: Vec::new(),
            reads: Vec::new(),
            writes,
        };
        self.nodes.push(Planned { node, phase, access, system, after });
    }

    /// The columns that something writes otherwise than through [`crate::Rows`].
    fn written_by_ticks(&self, builder: &WorldBuilder) -> BTreeSet<ComponentId> {
        let by_marks = &builder.world.resource::<RowsWrites>().0;
        let mut found = BTreeSet::new();
        for planned in self.nodes.iter().filter(|planned| planned.node.kind != NodeKind::Structure) {
            let SystemAccess::Shared(set) = &planned.access else {
                // It may write anything; what the engine itself changes is marked.
                found.extend(builder.registry.columns.iter().map(|column| column.id));
                continue;
            };
            let marking = by_marks.get(&planned.node.name).map_or(&[][..], Vec::as_slice);
            for column in &builder.registry.columns {
                // Each query of a system is an access of its own, those inside `Rows` as well.
                let writing = set.filtered_accesses().iter().filter(|filtered| {
                    let writes = filtered.access().writes();
                    writes.as_finite_set().is_none_or(|writes| writes.contains(column.id))
                });
                if writing.count() > marking.iter().filter(|id| **id == column.id).count() {
                    found.insert(column.id);
                }
            }
        }
        found
    }

    /// What systems write; none where one may write anything.
    fn written(&self) -> Option<BTreeSet<ComponentId>> {
        let mut found = BTreeSet::new();
        // What structural effects write is seen as a change of structure.
        for planned in self.nodes.iter().filter(|planned| planned.node.kind != NodeKind::Structure) {
            let SystemAccess::Shared(set) = &planned.access else {
                // Without any access.
                if planned.access.is_exclusive() {
                    return None;
                }
                continue;
            };
            found.extend(set.combined_access().writes().as_finite_set()?.iter());
        }
        Some(found)
    }

    fn place(mut self, derived: &[&str], faults: &mut Vec<BuildError>) -> Option<(Plan, Vec<Node>)> {
        let unplaced: Vec<_> = self
            .nodes
            .iter()
            .map(|planned| Unplaced {
                name: planned.node.name.clone(),
                phase: planned.phase,
                priority: planned.node.priority,
                after: planned.after.clone(),
            })
            .collect();
        let order = total_order(&unplaced).map_err(|fault| faults.push(fault)).ok()?;
        faults.extend(self.too_early(&order, derived));
        let edges = edges(order.len(), |from, to| self.reason(order[from], order[to]));
        for i in 0..self.nodes.len() {
            let after: Vec<String> =
                self.nodes[i].after.iter().map(|from| self.nodes[*from].node.name.clone()).collect();
            self.nodes[i].node.after = after;
        }
        let phases = self.phases.iter().map(|phase| phase.0.to_owned()).collect();
        let mut nodes: Vec<Option<Planned>> = self.nodes.into_iter().map(Some).collect();
        let placed: Vec<Planned> = order.iter().filter_map(|i| nodes[*i].take()).collect();
        let (mut shown, mut runnable) = (Vec::new(), Vec::new());
        for planned in placed {
            let PlanNode { kind, every, offset, .. } = planned.node;
            runnable.push(Node::new(planned.system, kind, every, offset));
            shown.push(planned.node);
        }
        Some((Plan { phases, nodes: shown, edges }, runnable))
    }

    /// Systems that would see what is derived as the tick before has left it, and as nothing after a restore (W4).
    fn too_early(&self, order: &[usize], derived: &[&str]) -> Vec<BuildError> {
        let mut faults = Vec::new();
        for name in derived {
            let writes = |node: &PlanNode| node.writes.iter().any(|written| written == name);
            let touches = |node: &PlanNode| writes(node) || node.reads.iter().any(|read| read == name);
            let nodes = || order.iter().map(|i| &self.nodes[*i].node);
            // A grid is built by the system of its name; others may only copy its columns again.
            let builder =
                nodes().find(|node| node.name == *name).or_else(|| nodes().find(|node| writes(node)));
            let Some(builder) = builder else { continue };
            for node in nodes().take_while(|node| node.name != builder.name).filter(|node| touches(node)) {
                let reason = format!(
                    "it uses \"{name}\" before \"{}\", which builds it in each tick: declare it after that",
                    builder.name
                );
                faults.push(BuildError::Parameter { system: node.name.clone(), reason });
            }
        }
        faults
    }

    /// Why `to` must wait for `from`.
    fn reason(&self, from: usize, to: usize) -> Option<EdgeReason> {
        let (a, b) = (&self.nodes[from], &self.nodes[to]);
        if b.after.contains(&from) {
            return Some(if b.node.kind.is_engine() { EdgeReason::Effects } else { EdgeReason::Declared });
        }
        // bevy calls a system without any access compatible with everything, an exclusive one included; but it
        // too takes a change tick from the world, which an exclusive one holds alone.
        if a.access.is_exclusive() || b.access.is_exclusive() {
            return Some(EdgeReason::Barrier);
        }
        if a.access.is_compatible(&b.access) {
            return None;
        }
        Some(match a.access.get_conflicts(&b.access) {
            AccessConflicts::All => EdgeReason::Barrier,
            AccessConflicts::Individual(ids) => {
                let mut names: Vec<String> =
                    ids.iter().filter_map(|id| self.names.get(&id).cloned()).collect();
                names.sort();
                EdgeReason::Conflict(names)
            }
        })
    }
}

/// Uids are unique, and below the next that will be given.
fn check_uids(image: &Image) -> Result<(), ImageError> {
    let malformed = |text: String| Err(ImageError::Malformed(text));
    let counter =
        image.resource(UidCounter::NAME).map(|stored| postcard::from_bytes::<UidCounter>(&stored.bytes));
    let Some(Ok(UidCounter { next })) = counter else {
        return malformed("the next Uid is not readable".into());
    };
    if next > UID_MAX {
        return malformed(format!("the next Uid is {next}, {UID_MAX} is the highest"));
    }
    let mut uids: Vec<Uid> = image.tables.iter().flat_map(TableImage::uids).collect();
    uids.sort_unstable();
    if let Some([twice, ..]) = uids.windows(2).find(|pair| pair[0] == pair[1]) {
        return malformed(format!("two entities have the Uid {twice}"));
    }
    match (uids.first(), uids.last()) {
        (Some(first), Some(last)) if first.get() == 0 || last.get() >= next => {
            malformed(format!("an entity has a Uid that was never given, {first} or {last} of {next}"))
        }
        _ => Ok(()),
    }
}

/// More entities than any world has seen; what finds them by Uid grows with the highest one.
const UID_MAX: u64 = 1 << 36;

fn check_declarations(configs: &[SystemConfig], phases: &[Phase], faults: &mut Vec<BuildError>) {
    for (i, config) in configs.iter().enumerate() {
        let name = || config.name.clone();
        if config.name.contains('{') {
            faults.push(BuildError::Unnamed(name()));
        }
        if configs[..i].iter().any(|other| other.name == config.name) {
            faults.push(BuildError::DuplicateSystem(name()));
        } else if let Some(other) = configs[..i].iter().find(|other| other.key == config.key) {
            faults.push(BuildError::DuplicateFunction(other.name.clone(), name()));
        }
        if config.spread == 0 {
            let reason = "it is spread over 0 ticks: 1 is everybody in each".to_owned();
            faults.push(BuildError::Parameter { system: name(), reason });
        }
        if config.every == 0 || config.offset >= config.every {
            faults.push(BuildError::Rate(name(), config.every, config.offset));
        }
        if let Some(phase) = config.phase.filter(|phase| !phases.contains(phase)) {
            let known: Vec<_> = phases.iter().map(|phase| phase.0).collect();
            faults.push(BuildError::UnknownPhase {
                system: name(),
                phase: phase.0.into(),
                known: known.join(", "),
            });
        }
    }
}

/// Per system the indices of those that it declares to come after, or that declare to come before it.
fn predecessors(configs: &[SystemConfig], phases: &[Phase], faults: &mut Vec<BuildError>) -> Vec<Vec<usize>> {
    let mut after = vec![Vec::new(); configs.len()];
    let phase =
        |config: &SystemConfig| phases.iter().position(|phase| Some(*phase) == config.phase).unwrap_or(0);
    for (i, config) in configs.iter().enumerate() {
        let declared = config.after.iter().map(|other| ("after", other));
        for (relation, other) in declared.chain(config.before.iter().map(|other| ("before", other))) {
            let Some(j) = configs.iter().position(|known| known.key == other.key) else {
                faults.push(BuildError::UnknownDependency {
                    system: config.name.clone(),
                    relation,
                    other: other.name.clone(),
                });
                continue;
            };
            let (first, then) = if relation == "after" { (j, i) } else { (i, j) };
            if phase(&configs[first]) > phase(&configs[then]) {
                faults.push(BuildError::AgainstPhases {
                    first: configs[first].name.clone(),
                    first_phase: phases[phase(&configs[first])].0.into(),
                    then: configs[then].name.clone(),
                    then_phase: phases[phase(&configs[then])].0.into(),
                });
            }
            if !after[then].contains(&first) {
                after[then].push(first);
            }
        }
    }
    after
}

impl LiveWorld {
    /// What runs in a tick, in which order, and why.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the world is made of.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The last finished tick.
    pub fn now(&self) -> Tick {
        self.now
    }

    /// What all chance in it is drawn from.
    pub fn seed(&self) -> u64 {
        self.world.resource::<TickTime>().seed
    }

    /// How many entities there are.
    pub fn entities(&self) -> usize {
        self.world.resource::<UidIndex>().len()
    }

    /// A resource, to read.
    pub fn resource<R: Resource>(&self) -> &R {
        self.world.resource::<R>()
    }

    /// How many inputs were taken from the log and wait for their tick.
    pub fn pending_inputs(&self) -> usize {
        if self.has_pending { self.world.resource::<TakenInputs>().pending.len() } else { 0 }
    }

    /// The numbers of those inputs.
    pub fn pending_seqs(&self) -> Vec<u64> {
        self.world.resource::<TakenInputs>().pending.iter().map(|input| input.seq).collect()
    }

    /// The number of the last input that was taken from the log.
    pub fn taken_seq(&self) -> u64 {
        self.world.resource::<TakenInputs>().up_to_seq
    }

    /// How many rows were marked as written since the last capture.
    pub fn marked_rows(&self) -> u64 {
        self.world.resource::<Marks>().count()
    }

    /// The last tick.
    pub fn report(&self) -> &TickReport {
        &self.report
    }

    /// Why the world refuses to go on, if it does.
    pub fn poisoned(&self) -> Option<&TickError> {
        self.poisoned.as_ref()
    }

    /// What the world is doing, for another thread.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Lets a system run, or not. Not part of the state: who replays disables at the same tick.
    ///
    /// # Errors
    /// When there is no such system, or it is one of the engine's own nodes.
    pub fn set_enabled(&mut self, system: &str, enabled: bool) -> Result<(), EnableError> {
        let node = self.plan.nodes.iter().position(|node| node.name == system);
        let node = node.ok_or_else(|| EnableError::Unknown(system.to_owned()))?;
        if self.plan.nodes[node].kind.is_engine() {
            return Err(EnableError::Engine(system.to_owned()));
        }
        self.executor.set_quarantined(node, !enabled);
        self.cut = !self.executor.all_enabled();
        Ok(())
    }

    /// The systems that are left out by [`LiveWorld::set_enabled`], in the total order.
    pub fn disabled(&self) -> impl Iterator<Item = &str> {
        let nodes = self.plan.nodes.iter().enumerate();
        nodes.filter(|(i, _)| self.executor.is_quarantined(*i)).map(|(_, node)| node.name.as_str())
    }

    /// Has systems run as [`SystemSettings`] say, whoever wrote them: a rate that makes no sense, or not in this build, is
    /// none.
    fn apply_settings(&mut self) {
        self.settings = self.world.resource::<SystemSettings>().clone();
        for (i, node) in self.plan.nodes.iter().enumerate() {
            let set = self.settings.systems.get(&node.name).copied().unwrap_or_default();
            let rate = set.rate.filter(|rate| self.registry.may_run_at(&node.name, *rate));
            self.executor.set(i, set.disabled, rate.unwrap_or((node.every, node.offset)));
        }
        self.cut = !self.executor.all_enabled();
    }

    /// Leaves an input out when its tick comes: its outcome is [`InputError::Skipped`](crate::InputError).
    pub fn skip_input(&mut self, seq: u64) {
        self.skipped.insert(seq);
    }

    /// Looks closer at each step, so that the next failure names its culprit; slower, with the same results.
    pub fn set_careful(&mut self, careful: bool) {
        self.careful = careful;
    }

    /// Has reports tell the first so many events of each kind, and not only how many there were.
    pub fn tell_events(&mut self, most: usize) {
        self.events_told = most;
    }

    /// What happened in the last tick, once: [`TickReport::events`] is empty then.
    pub fn take_events(&mut self) -> Vec<EventBatch> {
        std::mem::take(&mut self.report.events)
    }

    /// Notes of each node when and where it ran, see [`SystemReport::began`].
    pub fn set_traced(&mut self, traced: bool) {
        self.traced = traced;
    }

    /// Runs the set-up of a new world: tick 0.
    ///
    /// # Errors
    /// When it panics; the world is poisoned.
    pub fn create(&mut self) -> Result<(), TickError> {
        let setup = std::mem::take(&mut self.setup);
        let result = catch_unwind(AssertUnwindSafe(|| {
            setup.iter().for_each(|setup| setup(&mut InputWorld { world: &mut self.world }));
            effects::settle_structure(&mut self.world);
            self.warm.iter().for_each(|warm| warm(&mut self.world));
        }));
        self.setup = setup;
        // The first ones came before the first tick.
        *self.world.resource_mut::<Lives>() = Lives::default();
        result.map_err(|panic| self.poison_inputs(Tick(0), None, panic_message(&*panic)))
    }

    /// Computes the next tick with these inputs.
    ///
    /// # Errors
    /// When a system or an input panics; from then on the world is poisoned and returns the same error.
    pub fn tick(&mut self, inputs: &[InputEnvelope]) -> Result<&TickReport, TickError> {
        if let Some(error) = &self.poisoned {
            return Err(error.clone());
        }
        let wall = self.options.stopwatch.wall_nanos;
        let start = wall();
        let tick = self.now.next();
        self.now = tick;
        self.watch.begin(tick, start);
        self.world.resource_mut::<TickTime>().tick = tick;
        self.report.outcomes.clear();
        self.events.iter().for_each(|kind| (kind.clear)(&mut self.world));
        if self.has_pending || !inputs.is_empty() {
            let how = HowToApply { watch: &self.watch, skipped: &self.skipped, settle_each: self.careful };
            let world = &mut self.world;
            let applied = catch_unwind(AssertUnwindSafe(|| input::apply_all(world, tick, inputs, &how)));
            self.report.outcomes = applied
                .map_err(|panic| self.poison_inputs(tick, self.watch.last_input(), panic_message(&*panic)))?;
            self.watch.input(0);
            if !self.skipped.is_empty() {
                // Their numbers do not come again.
                for (seq, _) in &self.report.outcomes {
                    self.skipped.remove(seq);
                }
            }
            self.has_pending = !self.world.resource::<TakenInputs>().pending.is_empty();
        }
        let was_cut = self.cut;
        if *self.world.resource::<SystemSettings>() != self.settings {
            self.apply_settings();
        }
        if was_cut || self.cut {
            // What a disabled system rebuilt is empty, also when it was not before, and from the tick that disables it
            // on: a restore makes it so (W4). Inputs do not see it.
            self.rebuild_own.iter().for_each(|rebuild| rebuild(&mut self.world));
        }
        if !self.timers.is_empty() {
            timers::take_due(&mut self.world, tick);
        }
        let applied = wall();
        self.report.inputs_nanos = applied.wrapping_sub(start);
        self.run_systems(tick, applied)?;
        self.world.clear_trackers();
        if let Some(check) = self.world.check_change_ticks() {
            self.capturing.ticks_clamped();
            self.executor.check_change_ticks(check);
        }
        self.report.tick = tick;
        self.report.began_nanos = start;
        self.report.lives = std::mem::take(&mut *self.world.resource_mut::<Lives>());
        self.report.entities = self.entities();
        let told = self.events.iter().filter(|kind| kind.is_told);
        let happened = told.map(|kind| (kind.told)(&self.world, self.events_told));
        self.report.events.clear();
        self.report.events.extend(happened.filter(|batch| batch.count > 0));
        self.watch.end();
        let end = wall();
        self.report.wall_nanos = end.wrapping_sub(start);
        // An eighth of the way to the newest: one slow tick does not turn it, a trend does.
        let total = end.wrapping_sub(applied);
        let last = if self.estimate_nanos == u64::MAX { total } else { self.estimate_nanos };
        self.estimate_nanos = last - last / 8 + total / 8;
        Ok(&self.report)
    }

    /// As [`LiveWorld::tick`], node after node, with what each did to one entity and why; up to where it failed, if it
    /// did. The state comes out the same.
    pub fn tick_explained(
        &mut self,
        inputs: &[InputEnvelope],
        uid: Uid,
    ) -> (Vec<explain::Step>, Result<(), TickError>) {
        let tick = self.now.next();
        explain::watch(uid, || self.tick(inputs).map(|_| ())).unwrap_or_else(|error| {
            (Vec::new(), Err(TickError::Inputs { tick, seq: None, message: error.to_string() }))
        })
    }

    /// An entity as it is now.
    pub fn entity(&self, uid: Uid) -> Option<explain::EntityRow> {
        explain::row_of(&self.world, uid)
    }

    fn run_systems(&mut self, tick: Tick, started: u64) -> Result<(), TickError> {
        let threads = self.options.pool.threads();
        let is_tiny = self.estimate_nanos < SERIAL_NANOS;
        let serial = match self.options.parallel {
            // The first failure in the total order, whatever the threads do.
            _ if self.careful => true,
            Parallel::Always => false,
            Parallel::Never => true,
            Parallel::Auto => threads == 1 || is_tiny,
        };
        let measure = self.traced || !is_tiny || started - self.measured_nanos >= TINY_SAMPLE_NANOS;
        if measure {
            self.measured_nanos = started;
        }
        let (cpu_tick, cpu_nanos) = self.cpu_sampled;
        let sample_cpu =
            measure && tick.0 - cpu_tick >= CPU_SAMPLE_TICKS && started - cpu_nanos >= CPU_SAMPLE_NANOS;
        if sample_cpu {
            self.cpu_sampled = (tick.0, started);
        }
        let how = HowToRun {
            tick: tick.0,
            stopwatch: self.options.stopwatch,
            measure,
            sample_cpu,
            trace: self.traced,
        };
        let (executor, world) = (&mut self.executor, &mut self.world);
        let result = if explain::is_explained() {
            explain::run_nodes(executor, world, &self.plan, how)
        } else if serial {
            executor.run_serial(world, how)
        } else if self.options.pool.is_here() {
            executor.run_parallel(world, how, threads)
        } else {
            self.options.pool.install(|| executor.run_parallel(world, how, threads))
        };
        if let Err(failure) = result {
            let system = self.plan.nodes[failure.node].name.clone();
            return Err(self.poison(TickError::System { system, tick, message: failure.message }));
        }
        self.report.serial = serial;
        for (report, node) in self.report.systems.iter_mut().zip(self.executor.nodes()) {
            let ran = node.is_due(tick.0);
            let (wall_nanos, cpu_nanos) = if ran && measure { node.measured() } else { (None, None) };
            let began = (ran && self.traced).then(|| node.traced());
            *report = SystemReport { ran, enabled: node.is_enabled(), wall_nanos, cpu_nanos, began };
        }
        Ok(())
    }

    fn poison_inputs(&mut self, tick: Tick, seq: Option<u64>, message: String) -> TickError {
        self.poison(TickError::Inputs { tick, seq, message })
    }

    fn poison(&mut self, error: TickError) -> TickError {
        self.watch.end();
        self.poisoned = Some(error.clone());
        error
    }

    /// Copies what changed since the last capture; the first one takes everything. Forgets the marks: all that they
    /// point to is in the capture, which belongs to the mirror.
    pub fn capture(&mut self) -> Capture {
        let (capturing, world) = (&mut self.capturing, &mut self.world);
        let (registry, now) = (&self.registry, self.now);
        if self.options.pool.is_here() {
            capturing.take(world, registry, now)
        } else {
            self.options.pool.install(|| capturing.take(world, registry, now))
        }
    }

    /// The next capture takes everything: what another mirror begins with.
    pub fn recapture(&mut self) {
        self.capturing.forget();
    }

    /// Takes over the buffers of a world whose mirror goes on with this one.
    pub fn set_buffers(&mut self, buffers: Arc<Buffers>) {
        self.capturing.buffers = buffers;
    }

    /// The buffers that captures are copied into.
    pub fn buffers(&self) -> &Arc<Buffers> {
        &self.capturing.buffers
    }

    /// The whole state as an image with its hash: a copy that has nothing to do with captures.
    pub fn image(&self) -> Image {
        self.options.pool.install(|| {
            let mut image = self.copy_state();
            image.hash = image.compute_hash();
            image
        })
    }

    /// The hash of the state, without a copy of it.
    pub fn state_hash(&self) -> StateHash {
        self.options.pool.install(|| {
            let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
            for (table, uids) in self.tables() {
                for column in self.registry.columns.iter().filter(|column| table.has_column(column.id)) {
                    let sum = match &column.rows {
                        RowsOf::Plain(bytes) => {
                            let row_bytes = column.schema.row_bytes().expect("a plain column");
                            let rows = bytes(table, column.id).par_chunks(CHUNK_ROWS * row_bytes);
                            let chunks = uids.par_chunks(CHUNK_ROWS).zip(rows);
                            chunks
                                .map(|(uids, rows)| hash_plain_rows(uids, column.salt, rows, row_bytes))
                                .reduce(|| 0, u64::wrapping_add)
                        }
                        RowsOf::Slow(value) => {
                            uids.iter().zip(table.entities()).fold(0u64, |sum, (uid, entity)| {
                                sum.wrapping_add(hash_row(*uid, column.salt, &value(&self.world, *entity)))
                            })
                        }
                    };
                    let total = sums.entry(column.name).or_default();
                    *total = total.wrapping_add(sum);
                }
            }
            let resources = self
                .registry
                .resources
                .iter()
                .map(|resource| (resource.name, hash_resource(&(resource.save)(&self.world))));
            hash_state(self.now(), sums, resources)
        })
    }

    /// The tables with entities of ours, and their Uids.
    fn tables(&self) -> impl Iterator<Item = (&Table, &[u64])> {
        let uid = self.registry.column(Uid::NAME).expect("every world has Uids");
        let tables = self.world.storages().tables.iter();
        tables.filter(|table| table.has_column(uid.id) && table.entity_count() > 0).map(|table| {
            let RowsOf::Plain(bytes) = &uid.rows else { unreachable!("Uids are plain") };
            (table, bytemuck::cast_slice(bytes(table, uid.id)))
        })
    }

    fn copy_state(&self) -> Image {
        let tables = self.tables().map(|(table, uids)| {
            let mut columns: Vec<&ColumnInfo> =
                self.registry.columns.iter().filter(|column| table.has_column(column.id)).collect();
            columns.sort_by_key(|column| column.name);
            let copy = |column: &ColumnInfo| ColumnImage {
                schema: column.schema.clone(),
                chunks: match &column.rows {
                    RowsOf::Plain(bytes) => {
                        let row_bytes = column.schema.row_bytes().expect("a plain column");
                        let chunks = bytes(table, column.id).par_chunks(CHUNK_ROWS * row_bytes);
                        chunks.map(|rows| Arc::new(Chunk::Plain(rows.to_vec()))).collect()
                    }
                    RowsOf::Slow(value) => {
                        let values = |entities: &[Entity]| {
                            entities.iter().map(|entity| value(&self.world, *entity)).collect()
                        };
                        let chunks = table.entities().chunks(CHUNK_ROWS);
                        chunks.map(|entities| Arc::new(Chunk::Slow(values(entities)))).collect()
                    }
                },
            };
            TableImage { rows: uids.len(), columns: columns.into_iter().map(copy).collect() }
        });
        let resources = self.registry.save_resources(&self.world);
        Image { tick: self.now(), hash: StateHash::default(), tables: tables.collect(), resources }
    }

    /// Makes the world be what the image says, whatever it was before; a poisoned world goes on.
    ///
    /// # Errors
    /// When the image is not a state of this world, or its hash is not that of what came out. The world is
    /// then empty or wrong, and poisoned.
    pub fn restore(&mut self, image: &Image) -> Result<(), ImageError> {
        self.begin_restore(image.tick);
        self.check_image(image)?;
        check_uids(image)?;
        for table in &image.tables {
            for chunk in 0..table.rows.div_ceil(CHUNK_ROWS) {
                let column = |column: &'_ ColumnImage| (column.schema.clone(), column.chunks[chunk].clone());
                self.spawn_chunk(&table.columns.iter().map(column).collect::<Vec<_>>())?;
            }
        }
        self.end_restore(image)
    }

    /// Begins to make the world be what an image says whose rows come one chunk after the other, by
    /// [`LiveWorld::restore_chunk`] in their order; [`LiveWorld::finish_restore`] ends it. Until then the world is poisoned.
    pub fn begin_restore(&mut self, tick: Tick) {
        self.poisoned =
            Some(TickError::Inputs { tick, seq: None, message: "the restore did not finish".into() });
        // What systems asked for before one of them failed was never part of a state.
        self.structure.iter().for_each(|slot| drop(slot.take()));
        self.timers.iter().for_each(|slot| drop(slot.take()));
        self.events.iter().for_each(|kind| (kind.forget)(&mut self.world));
        effects::clear(&mut self.world);
        self.capturing.forget();
        self.rebuild.iter().for_each(|rebuild| rebuild(&mut self.world));
    }

    /// Takes the next rows of a restore, in all columns of their table.
    ///
    /// # Errors
    /// When this world has no such columns, these are no rows, or one has a Uid above `uid_max`: what finds entities grows with
    /// the highest one. Whether the rows are those of the image is seen at the end.
    pub fn restore_chunk(
        &mut self,
        columns: &[(Arc<ColumnSchema>, Arc<Chunk>)],
        uid_max: u64,
    ) -> Result<(), ImageError> {
        let column = |(schema, chunk): &(Arc<ColumnSchema>, Arc<Chunk>)| ColumnImage {
            schema: schema.clone(),
            chunks: vec![chunk.clone()],
        };
        let columns_of_table = columns.iter().map(column).collect::<Vec<_>>();
        let uids = columns.iter().find(|(schema, _)| schema.name == Uid::NAME);
        let rows = uids.map_or(0, |(_, chunk)| chunk.rows(size_of::<Uid>()));
        let table = TableImage { rows, columns: columns_of_table };
        self.check_table(&table)?;
        let index = self.world.resource::<UidIndex>();
        for uid in table.uids() {
            if uid.get() == 0 || uid.get() > uid_max.min(UID_MAX) {
                return Err(ImageError::Malformed(format!(
                    "an entity has the Uid {uid}, which is never given"
                )));
            }
            if index.get(uid).is_some() {
                return Err(ImageError::Malformed(format!("two entities have the Uid {uid}")));
            }
        }
        self.spawn_chunk(columns)
    }

    /// Ends a restore whose rows came before.
    ///
    /// # Errors
    /// As [`LiveWorld::restore`], also where the rows that came are others than the image's.
    pub fn finish_restore(&mut self, image: &Image) -> Result<(), ImageError> {
        self.check_image(image)?;
        check_uids(image)?;
        self.end_restore(image)
    }

    fn end_restore(&mut self, image: &Image) -> Result<(), ImageError> {
        for resource in &self.registry.resources {
            let stored = image.resource(resource.name).expect("check_image has seen it");
            (resource.load)(&mut self.world, &stored.bytes)?;
        }
        effects::settle_structure(&mut self.world);
        self.warm.iter().for_each(|warm| warm(&mut self.world));
        self.world.clear_trackers();
        self.apply_settings();
        self.now = self.world.resource::<TickTime>().tick;
        self.cpu_sampled.0 = self.now.0;
        self.has_pending = !self.world.resource::<TakenInputs>().pending.is_empty();
        let found = self.state_hash();
        if found != image.hash {
            return Err(ImageError::Hash { expected: image.hash, found });
        }
        self.poisoned = None;
        Ok(())
    }

    fn check_image(&self, image: &Image) -> Result<(), ImageError> {
        image.tables.iter().try_for_each(|table| self.check_table(table))?;
        let stored: BTreeMap<&str, u16> =
            image.resources.iter().map(|r| (r.name.as_str(), r.version)).collect();
        let known: BTreeMap<&str, u16> =
            self.registry.resources.iter().map(|r| (r.name, r.version)).collect();
        let differs = stored.iter().find(|(name, version)| known.get(*name) != Some(version));
        match differs.or_else(|| known.iter().find(|(name, _)| !stored.contains_key(*name))) {
            Some((name, _)) => Err(ImageError::Resource((*name).to_owned())),
            None => Ok(()),
        }
    }

    fn check_table(&self, table: &TableImage) -> Result<(), ImageError> {
        table.check()?;
        for column in &table.columns {
            let schema = &*column.schema;
            let known = self.registry.column(&schema.name);
            let known = known.ok_or_else(|| ImageError::UnknownColumn(schema.name.clone()))?;
            if !known.schema.reads(schema) {
                let (name, stored, known) = (schema.name.clone(), schema.version, known.version);
                return Err(ImageError::ColumnDiffers { name, stored, known });
            }
        }
        Ok(())
    }

    /// Rows that [`LiveWorld::check_table`] has seen.
    fn spawn_chunk(&mut self, columns: &[(Arc<ColumnSchema>, Arc<Chunk>)]) -> Result<(), ImageError> {
        let registry = self.registry.clone();
        let (mut plain, mut slow, mut uids) = (Vec::new(), Vec::new(), Vec::<u64>::new());
        for (schema, chunk) in columns {
            let known = registry.column(&schema.name).expect("it was checked");
            if let Chunk::Slow(values) = &**chunk {
                slow.push((known, values));
            } else if let Some(bytes) = chunk.plain() {
                if known.name == Uid::NAME {
                    uids = bytemuck::pod_collect_to_vec(&bytes);
                }
                plain.push((known.id, schema.row_bytes().expect("a plain chunk"), bytes));
            }
        }
        let mut failed = None;
        let plain: Vec<_> = plain.iter().map(|(id, row_bytes, bytes)| (*id, *row_bytes, &**bytes)).collect();
        spawn_rows(&mut self.world, uids.len(), &plain, |world, row, entity| {
            world.resource_mut::<UidIndex>().insert(Uid::new(uids[row]), entity);
            for (column, values) in &slow {
                if let Err(detail) = (column.insert)(&mut world.entity_mut(entity), &values[row]) {
                    failed = Some(ImageError::Decode { what: format!("column \"{}\"", column.name), detail });
                }
            }
        });
        failed.map_or(Ok(()), Err)
    }
}
