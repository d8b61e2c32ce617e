//! The mechanism of a tick: columns, the static plan, its parallel execution, capture and the mirror.
//!
//! Promises: one result for any number of threads, for any order of rows and of registration (invariants
//! W1, W3); a world built from an [`Image`] goes on exactly as the one that the image was taken of (W4).
//! Deliberately absent: files, sockets, clocks and nouns of any game. Time that is measured (never used
//! by a system) comes in as two function pointers, see [`Stopwatch`].
//!
//! Reading order: [`component!`] and [`WorldBuilder`] say what a world is made of, [`system()`] what happens in
//! it, [`Plan`] in which order, [`LiveWorld`] runs it.
//!
//! A system writes columns through [`Rows`], or through a plain `Query` as `&mut T` gives it. What it writes behind bevy's
//! change detection (`bypass_change_detection`, `set_last_changed`, a raw pointer) no [`Capture`] sees: the world goes
//! on with it; the mirror, and with it readers and snapshots, does not. No type of a parameter shows it, so that the
//! builder cannot refuse it: this repository's clippy.toml bans the calls, which a crate of one's own should do too,
//! and `everworld-bench heavy` compares the mirror with the world at every tick.

// For the macros, which name this crate by the path that its users see.
extern crate self as everworld_engine;

mod capture;
mod changes;
pub mod column;
pub mod edits;
mod effects;
pub mod event;
pub mod explain;
pub mod fold;
pub mod grid;
mod hash;
mod ids;
mod image;
pub mod input;
mod marks;
pub mod math;
pub mod migrate;
mod mirror;
mod param;
mod plan;
mod pool;
pub mod query;
pub mod random;
mod raw;
mod registry;
mod report;
mod rows;
mod sabotage;
mod schema;
mod settings;
mod slab;
mod state;
mod system;
mod timers;
pub mod turn;
mod uid_map;
mod watch;
mod world;

pub use bevy_ecs as ecs;
pub use capture::{Buffers, Capture};
pub use changes::{Change, Changes, Place};
pub use column::{Column, Layout, SlowColumn};
pub use effects::{Effects, LIVES_MAX, Lives, UidIndex};
pub use event::{Emit, EventBatch, EventInfo, Happened};
pub use grid::{Geometry, Grid, InCells, Near, Projected, Projection, Space};
pub use hash::StateHash;
pub use ids::{Tick, Uid};
pub use image::{
    CHUNK_ROWS, Chunk, ColumnImage, ColumnSchema, Image, ImageError, ResourceImage, TableImage,
    each_difference,
};
pub use input::{Input, InputEnvelope, InputError, InputKind, Outcome};
pub use migrate::{Migration, MigrationReport, migrate_image};
pub use mirror::{Applied, Mirror, MirrorHandle, MirrorHooks};
pub use plan::{BuildError, Edge, EdgeReason, NodeKind, Plan, PlanNode};
pub use pool::Pool;
pub use random::Random;
pub use registry::{ColumnInfo, Registry, ResourceInfo};
pub use report::{CPU_SAMPLE_TICKS, Stopwatch, SystemReport, TickReport};
pub use rows::{Marked, RowData, Rows, Write};
#[doc(hidden)]
pub use sabotage::Sabotage;
pub use schema::{StoredField, StoredShape, stored_fields};
pub use settings::{SetSystem, SystemSetting, SystemSettings};
pub use slab::SharedRows;
pub use state::{StateResource, TickTime};
pub use system::{Class, Phase, Priority, SystemConfig, system};
pub use timers::{Due, Timers};
pub use turn::Turn;
pub use watch::{Doing, InTick, Watch};
pub use world::{BuildErrors, EnableError, LiveWorld, Options, Parallel, TickError, WorldBuilder};

/// What a file with components, systems or a plugin usually needs.
pub mod prelude {
    pub use crate::{
        Column, Due, Effects, Emit, Happened, Input, InputError, LiveWorld, Marked, Outcome, Phase, Priority,
        Random, Rows, StateResource, TickTime, Timers, Turn, Uid, UidIndex, WorldBuilder, Write, component,
        event, explain, math, resource, slow_component, system,
    };
    pub use bevy_ecs::prelude::{Query, Res, ResMut, With, Without};
}

/// What the macros of this crate expand to. Not an interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::state::register_resource_marker;
    pub use bevy_ecs;
    pub use bytemuck;
    pub use serde;
}
