//! What a running world's systems are told: whether they run, and how often. Part of the state, since results depend on it,
//! and changed by an input, as everything from outside is.
//!
//! Declared values stay what the plan shows; a setting takes their place from the tick that applies it on. Deliberately
//! absent: priorities, which make the order of the plan, and that is built once.

use crate::{
    column::Fault,
    input::{Input, InputError, InputWorld, Outcome},
    plan::{NodeKind, Plan},
    registry::Registry,
    resource,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What was set of a system, and is not as declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemSetting {
    /// It does not run.
    pub disabled: bool,
    /// Runs in every n-th tick, in the one where tick mod n is the second number.
    pub rate: Option<(u64, u64)>,
}

resource! {
    /// What was set of systems, by name.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct SystemSettings("systems", version 1) {
        /// Those that are not as declared.
        pub systems: BTreeMap<String, SystemSetting>,
    }
}

/// A system of the plan, as inputs may name it.
#[derive(Clone, Debug)]
pub(crate) struct Settable {
    pub(crate) name: String,
    /// What it rebuilds is read in every tick.
    pub(crate) every_tick: bool,
}

/// Those of a plan.
pub(crate) fn settable(plan: &Plan, derived: &[&str]) -> Vec<Settable> {
    let nodes = plan.nodes.iter().filter(|node| matches!(node.kind, NodeKind::System | NodeKind::Exclusive));
    let one = |node: &crate::PlanNode| Settable {
        name: node.name.clone(),
        every_tick: node.writes.iter().any(|name| derived.contains(&name.as_str()))
            || (node.kind == NodeKind::Exclusive && !derived.is_empty()),
    };
    nodes.map(one).collect()
}

impl Registry {
    /// Whether a system of this build may run at such a rate.
    pub(crate) fn may_run_at(&self, system: &str, (every, offset): (u64, u64)) -> bool {
        let known = self.settable.iter().find(|known| known.name == system);
        (1..=EVERY_MAX).contains(&every)
            && offset < every
            && known.is_some_and(|known| every == 1 || !known.every_tick)
    }
}

/// The most ticks between two runs of a system.
pub const EVERY_MAX: u64 = 1_000_000;

/// Lets a system run or not, and at another rate.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetSystem {
    /// Its name.
    pub system: String,
    /// Whether it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// It runs in every n-th tick.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// In the one where tick mod n is this; 0 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

impl Input for SetSystem {
    const KIND: &'static str = "set_system";
    const DOC: &'static str = "Lets a system run or not (enabled), and in every n-th tick only (every, offset); what is not given stays.";

    fn check(&self, registry: &Registry) -> Vec<Fault> {
        let Some(system) = registry.settable.iter().find(|known| known.name == self.system) else {
            let known: Vec<&str> = registry.settable.iter().map(|known| known.name.as_str()).collect();
            let detail = format!("there is no system \"{}\"; systems: {}", self.system, known.join(", "));
            return vec![Fault::new("/system", detail)];
        };
        let mut faults = Vec::new();
        match (self.every, self.offset) {
            (None, None) if self.enabled.is_none() => {
                faults.push(Fault::new("", "expected one of enabled and every"));
            }
            (None, Some(_)) => faults.push(Fault::new("/offset", "expected every with it")),
            (Some(every), _) if !(1..=EVERY_MAX).contains(&every) => {
                faults.push(Fault::new("/every", format!("expected 1 to {EVERY_MAX}, found {every}")));
            }
            (Some(every), Some(offset)) if offset >= every => {
                faults.push(Fault::new("/offset", format!("expected less than {every}, found {offset}")));
            }
            (Some(every), _) if every > 1 && system.every_tick => {
                let detail =
                    "what this system rebuilds is read in every tick: it can be disabled, not slowed down";
                faults.push(Fault::new("/every", detail));
            }
            _ => {}
        }
        faults
    }

    fn apply(self, world: &mut InputWorld<'_>) -> Result<Outcome, InputError> {
        let registry = world.registry();
        // A build that came after the input was logged may not have it any more.
        if let Some(fault) = self.check(&registry).first() {
            return Err(InputError::Rejected(fault.to_string()));
        }
        let mut settings = world.resource_mut::<SystemSettings>();
        let setting = settings.systems.entry(self.system.clone()).or_default();
        if let Some(enabled) = self.enabled {
            setting.disabled = !enabled;
        }
        if let Some(every) = self.every {
            setting.rate = Some((every, self.offset.unwrap_or(0)));
        }
        if *setting == SystemSetting::default() {
            settings.systems.remove(&self.system);
        }
        Ok(Outcome::default())
    }
}
