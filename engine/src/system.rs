//! How a system is declared: the function, its place in the tick, and what it may cost.

use bevy_ecs::{
    prelude::*,
    system::{BoxedSystem, SystemParamFunction},
};
use std::any::{TypeId, type_name};

/// A named stretch of the tick. A world lists its phases in order; all systems of an earlier phase come before
/// those of a later one in the total order. A contract about order, not a barrier: what does not conflict overlaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Phase(pub &'static str);

/// Which of two systems comes first where nothing else decides; the higher one does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// After the others.
    Low,
    /// Where nothing is said.
    #[default]
    Normal,
    /// Before the others.
    High,
}

/// What may be done to a system under load; the governor reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Runs whatever happens.
    Critical,
    /// Runs at its rate.
    #[default]
    Normal,
    /// May run less often at a lower quality.
    Background,
}

/// A system with all that is declared about it.
pub struct SystemConfig {
    pub(crate) name: String,
    pub(crate) key: TypeId,
    pub(crate) system: BoxedSystem,
    pub(crate) params: &'static str,
    pub(crate) phase: Option<Phase>,
    pub(crate) priority: Priority,
    pub(crate) after: Vec<Dependency>,
    pub(crate) before: Vec<Dependency>,
    pub(crate) every: u64,
    pub(crate) offset: u64,
    pub(crate) spread: u64,
    pub(crate) class: Class,
    pub(crate) weight: u32,
    pub(crate) budget_micros: Option<u64>,
}

/// A system that another one names by its function.
#[derive(Clone, Debug)]
pub(crate) struct Dependency {
    pub(crate) key: TypeId,
    pub(crate) name: String,
}

/// The name of the system that is being initialised: parameters make their streams and queues from it.
#[derive(Resource, Default)]
pub(crate) struct CurrentSystem {
    pub(crate) name: String,
    /// Over how many ticks its rows are spread.
    pub(crate) spread: u64,
    /// Set by a [`Turn`](crate::Turn) among its parameters.
    pub(crate) takes_turns: bool,
}

/// Declares a system: `system(needs::decay).after(sense::look)`.
///
/// Its name is the last two segments of the function's path. A closure needs [`SystemConfig::named`].
pub fn system<M, F>(function: F) -> SystemConfig
where
    M: 'static,
    F: SystemParamFunction<M, In = (), Out = ()>,
{
    SystemConfig {
        name: short_name(type_name::<F>()),
        key: TypeId::of::<F>(),
        system: Box::new(IntoSystem::into_system(function)),
        params: type_name::<F::Param>(),
        phase: None,
        priority: Priority::default(),
        after: Vec::new(),
        before: Vec::new(),
        every: 1,
        offset: 0,
        spread: 1,
        class: Class::default(),
        weight: 1,
        budget_micros: None,
    }
}

impl SystemConfig {
    /// Another name than the function's.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The phase that it belongs to; without one, the first.
    pub fn phase(mut self, phase: Phase) -> Self {
        self.phase = Some(phase);
        self
    }

    /// Its rank among systems that may come in either order.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Runs after that system.
    pub fn after<M, F: SystemParamFunction<M>>(mut self, other: F) -> Self {
        self.after.push(dependency(&other));
        self
    }

    /// Runs before that system.
    pub fn before<M, F: SystemParamFunction<M>>(mut self, other: F) -> Self {
        self.before.push(dependency(&other));
        self
    }

    /// Runs in every n-th tick only.
    pub fn every(mut self, ticks: u64) -> Self {
        self.every = ticks;
        self
    }

    /// In which of the `every` ticks: the one where tick mod every = offset.
    pub fn offset(mut self, ticks: u64) -> Self {
        self.offset = ticks;
        self
    }

    /// Each row has its turn in one of so many ticks, by its Uid: see [`Turn`](crate::Turn), which the system has to take.
    pub fn spread(mut self, ticks: u64) -> Self {
        self.spread = ticks;
        self
    }

    /// What may be done to it under load.
    pub fn class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// Its share among systems of its class.
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// How long a run of it should take at most.
    pub fn budget_micros(mut self, micros: u64) -> Self {
        self.budget_micros = Some(micros);
        self
    }
}

fn dependency<F: 'static>(_: &F) -> Dependency {
    Dependency { key: TypeId::of::<F>(), name: short_name(type_name::<F>()) }
}

/// The last two segments of a path: `needs::decay`.
fn short_name(path: &str) -> String {
    let path = path.split('<').next().unwrap_or(path);
    let segments: Vec<&str> = path.rsplit("::").take(2).collect();
    segments.into_iter().rev().collect::<Vec<_>>().join("::")
}
