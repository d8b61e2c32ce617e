//! The static plan of a tick: one total order, and an edge for every pair that must not overlap.
//!
//! Kahn's algorithm with a heap keyed by (phase, priority, name) gives the total order (Kahn 1962); each pair
//! with incompatible access gets an edge along it, so that results never depend on threads and no ambiguity
//! is left (W1); then the transitive reduction drops what other edges imply.

use crate::system::{Class, Priority};
use serde::{Deserialize, Serialize};
use std::{cmp::Reverse, collections::BinaryHeap, fmt, fmt::Write as _};

/// What runs in a tick, in which order, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The phases in order.
    pub phases: Vec<String>,
    /// The nodes in the total order.
    pub nodes: Vec<PlanNode>,
    /// The edges after transitive reduction, by (from, to).
    pub edges: Vec<Edge>,
}

/// A node of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanNode {
    /// The system's name.
    pub name: String,
    /// What it is.
    pub kind: NodeKind,
    /// Its phase.
    pub phase: String,
    /// Its rank where nothing else decides.
    pub priority: Priority,
    /// Runs in every n-th tick.
    pub every: u64,
    /// Each row has its turn in one of so many ticks; 1 for all in each.
    pub spread: u64,
    /// In which of them.
    pub offset: u64,
    /// What may be done to it under load.
    pub class: Class,
    /// Its share among systems of its class.
    pub weight: u32,
    /// How long a run should take at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_micros: Option<u64>,
    /// The systems that it declares to come after (or that declare to come before it).
    pub after: Vec<String>,
    /// Columns and resources that it reads.
    pub reads: Vec<String>,
    /// Columns and resources that it writes.
    pub writes: Vec<String>,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A system with declared access.
    System,
    /// A system with the whole world for itself: a barrier.
    Exclusive,
    /// Applies the structural effects of its phase: a barrier.
    Structure,
    /// Applies the timers that systems set.
    Timers,
    /// Puts what the systems of its phase emitted in order.
    Events,
}

impl NodeKind {
    /// True for what the engine adds to the systems.
    pub fn is_engine(self) -> bool {
        matches!(self, Self::Structure | Self::Timers | Self::Events)
    }
}

/// `from` has finished before `to` starts. Positions in [`Plan::nodes`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// The earlier node.
    pub from: usize,
    /// The later node.
    pub to: usize,
    /// Why.
    pub reason: EdgeReason,
}

/// Why two nodes must not overlap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EdgeReason {
    /// By `after` or `before`.
    Declared,
    /// Both use these columns or resources, and at least one writes.
    Conflict(Vec<String>),
    /// One of them has the whole world for itself.
    Barrier,
    /// The later one applies what the earlier one emits.
    Effects,
}

/// Why a world cannot be built. Every message names the systems.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// Two systems of one name.
    #[error("two systems are named \"{0}\"")]
    DuplicateSystem(String),
    /// One function twice: a dependency on it would be ambiguous.
    #[error("system \"{0}\" is registered twice, also as \"{1}\"")]
    DuplicateFunction(String, String),
    /// More columns than a set of columns can name.
    #[error("{found} columns are registered, {max} is the most")]
    TooManyColumns {
        /// How many.
        found: usize,
        /// How many are allowed.
        max: usize,
    },
    /// An event under a name that means something else.
    #[error("event \"{0}\" has the name of something else: a column, a resource or a topic of every world")]
    TakenName(String),
    /// A closure without a name.
    #[error("system \"{0}\" is a closure: give it a name with .named(\"...\")")]
    Unnamed(String),
    /// A dependency on a system that is not there.
    #[error("system \"{system}\" is declared {relation} \"{other}\", which is not registered")]
    UnknownDependency {
        /// The system that declares it.
        system: String,
        /// `after` or `before`.
        relation: &'static str,
        /// What it names.
        other: String,
    },
    /// A phase that the world does not list.
    #[error("system \"{system}\" belongs to phase \"{phase}\", which is not one of {known}")]
    UnknownPhase {
        /// The system.
        system: String,
        /// Its phase.
        phase: String,
        /// The phases of the world.
        known: String,
    },
    /// A dependency against the order of phases.
    #[error("system \"{first}\" (phase {first_phase}) cannot come before \"{then}\" (phase {then_phase})")]
    AgainstPhases {
        /// What should come first.
        first: String,
        /// Its phase.
        first_phase: String,
        /// What should come after.
        then: String,
        /// Its phase, an earlier one.
        then_phase: String,
    },
    /// A rate that never fires.
    #[error(
        "system \"{0}\" runs every {1} ticks at offset {2}: the offset must be below the number of ticks"
    )]
    Rate(String, u64, u64),
    /// Dependencies in a circle.
    #[error("dependency cycle: {}", .0.join(" -> "))]
    Cycle(Vec<String>),
    /// What is declared about former versions of a column or resource does not fit together.
    #[error("migrations of \"{what}\": {detail}")]
    Migration {
        /// The column or resource.
        what: String,
        /// What does not fit.
        detail: String,
    },
    /// A parameter that would keep state outside the world or depend on threads.
    #[error("system \"{system}\" cannot be run deterministically: {reason}")]
    Parameter {
        /// The system.
        system: String,
        /// What is wrong with which parameter.
        reason: String,
    },
    /// bevy's own check of the parameters failed, for instance two conflicting queries in one system.
    #[error("system \"{system}\" cannot be initialised: {detail}")]
    Initialize {
        /// The system.
        system: String,
        /// bevy's words.
        detail: String,
    },
    /// A system bound to one thread.
    #[error("system \"{0}\" cannot run on any thread but the main one: it has a non-send parameter")]
    NonSend(String),
    /// Access to what is neither registered nor derived.
    #[error("system \"{system}\" {verb} {what}, which is neither registered nor declared derived ({params})")]
    Unregistered {
        /// The system.
        system: String,
        /// `reads` or `writes`.
        verb: &'static str,
        /// The component's number, or "any component".
        what: String,
        /// The system's parameters, to find it.
        params: String,
    },
    /// An observer in the world.
    #[error("the world has observers: they act where no plan says so")]
    Observers,
    /// Two columns, resources or inputs of one name, or two names of one type.
    #[error("{0} \"{1}\" is registered twice")]
    DuplicateName(&'static str, String),
}

/// A node before it has a place: what the order is made from.
#[derive(Clone, Debug)]
pub(crate) struct Unplaced {
    pub name: String,
    pub phase: usize,
    pub priority: Priority,
    /// Indices of nodes that come before this one, by declaration or as emitters of effects.
    pub after: Vec<usize>,
}

/// The total order: indices of the nodes.
///
/// # Errors
/// [`BuildError::Cycle`] with the names along one cycle.
pub(crate) fn total_order(nodes: &[Unplaced]) -> Result<Vec<usize>, BuildError> {
    let mut waiting: Vec<usize> = nodes.iter().map(|node| node.after.len()).collect();
    let mut successors = vec![Vec::new(); nodes.len()];
    for (to, node) in nodes.iter().enumerate() {
        node.after.iter().for_each(|from| successors[*from].push(to));
    }
    let key = |i: usize| Reverse((nodes[i].phase, Reverse(nodes[i].priority), nodes[i].name.as_str(), i));
    let mut ready: BinaryHeap<_> = (0..nodes.len()).filter(|i| waiting[*i] == 0).map(key).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse((.., i))) = ready.pop() {
        order.push(i);
        for &to in &successors[i] {
            waiting[to] -= 1;
            if waiting[to] == 0 {
                ready.push(key(to));
            }
        }
    }
    if order.len() == nodes.len() { Ok(order) } else { Err(BuildError::Cycle(find_cycle(nodes, &waiting))) }
}

/// Walks backwards among the nodes that never became ready until one comes again.
fn find_cycle(nodes: &[Unplaced], waiting: &[usize]) -> Vec<String> {
    let stuck = |i: &usize| waiting[*i] > 0;
    let mut path: Vec<usize> = Vec::new();
    let mut at = (0..nodes.len()).find(stuck).expect("a cycle leaves nodes behind");
    while !path.contains(&at) {
        path.push(at);
        at = *nodes[at].after.iter().find(|i| stuck(i)).expect("a stuck node waits for a stuck node");
    }
    let start = path.iter().position(|i| *i == at).expect("the walk came back to it");
    let mut cycle: Vec<usize> = path[start..].to_vec();
    // From the smallest name on and forwards, so that one cycle has one description.
    cycle.reverse();
    let first = (0..cycle.len()).min_by_key(|i| &nodes[cycle[*i]].name).expect("a cycle has members");
    cycle.rotate_left(first);
    cycle.push(cycle[0]);
    cycle.into_iter().map(|i| nodes[i].name.clone()).collect()
}

/// The edges among `count` nodes in total order, reduced. `reason(i, j)` says for i < j why j must wait for i.
pub(crate) fn edges(count: usize, mut reason: impl FnMut(usize, usize) -> Option<EdgeReason>) -> Vec<Edge> {
    let words = count.div_ceil(64);
    let mut ancestors: Vec<Vec<u64>> = Vec::with_capacity(count);
    let mut edges = Vec::new();
    for to in 0..count {
        let mut known = vec![0u64; words];
        // Nearest first: what is reachable through a later one needs no edge of its own.
        for from in (0..to).rev() {
            if known[from / 64] >> (from % 64) & 1 == 1 {
                continue;
            }
            if let Some(reason) = reason(from, to) {
                edges.push(Edge { from, to, reason });
                known.iter_mut().zip(&ancestors[from]).for_each(|(word, other)| *word |= other);
                known[from / 64] |= 1 << (from % 64);
            }
        }
        ancestors.push(known);
    }
    edges.sort_by_key(|edge| (edge.from, edge.to));
    edges
}

impl Plan {
    /// The position of the node of that name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }
}

impl fmt::Display for EdgeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Declared => f.write_str("declared"),
            Self::Conflict(names) => write!(f, "both use {}", names.join(", ")),
            Self::Barrier => f.write_str("barrier"),
            Self::Effects => f.write_str("applies its effects"),
        }
    }
}

impl fmt::Display for PlanNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.kind {
            NodeKind::System => {}
            NodeKind::Exclusive => f.write_str("  [exclusive]")?,
            NodeKind::Structure => f.write_str("  [applies structural effects]")?,
            NodeKind::Timers => f.write_str("  [applies timers]")?,
            NodeKind::Events => f.write_str("  [gathers events]")?,
        }
        if self.priority != Priority::Normal {
            write!(f, "  priority {:?}", self.priority)?;
        }
        if self.every != 1 {
            write!(f, "  every {} ticks at {}", self.every, self.offset)?;
        }
        if self.spread != 1 {
            write!(f, "  spread over {} ticks", self.spread)?;
        }
        if self.class != Class::Normal {
            write!(f, "  class {:?}", self.class)?;
        }
        if let Some(micros) = self.budget_micros {
            write!(f, "  budget {micros} us")?;
        }
        for (verb, names) in [("reads", &self.reads), ("writes", &self.writes)] {
            if !names.is_empty() {
                write!(f, "\n      {verb} {}", names.join(", "))?;
            }
        }
        Ok(())
    }
}

/// Order, edges and the reason of each edge, as text.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        let mut phase = "";
        for (position, node) in self.nodes.iter().enumerate() {
            if node.phase != phase {
                phase = &node.phase;
                writeln!(text, "{phase}")?;
            }
            writeln!(text, "  {position:>2} {node}")?;
            for edge in self.edges.iter().filter(|edge| edge.to == position) {
                writeln!(text, "      <- {} ({})", self.nodes[edge.from].name, edge.reason)?;
            }
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Nodes that read and write some of 8 columns, as bit sets.
    fn access() -> impl Strategy<Value = Vec<(u8, u8)>> {
        prop::collection::vec((any::<u8>(), any::<u8>().prop_map(|bits| bits & (bits >> 3))), 0..40)
    }

    fn conflict((reads_a, writes_a): (u8, u8), (reads_b, writes_b): (u8, u8)) -> bool {
        writes_a & (reads_b | writes_b) != 0 || reads_a & writes_b != 0
    }

    fn reachable(edges: &[Edge], count: usize) -> Vec<Vec<bool>> {
        let mut reach = vec![vec![false; count]; count];
        for from in (0..count).rev() {
            for edge in edges.iter().filter(|edge| edge.from == from) {
                reach[from][edge.to] = true;
                let beyond = reach[edge.to].clone();
                reach[from].iter_mut().zip(beyond).for_each(|(here, there)| *here |= there);
            }
        }
        reach
    }

    proptest! {
        #[test]
        fn w1_every_incompatible_pair_has_a_path(access in access()) {
            let count = access.len();
            let edges = edges(count, |a, b| conflict(access[a], access[b]).then_some(EdgeReason::Barrier));
            let reach = reachable(&edges, count);
            for a in 0..count {
                for b in a + 1..count {
                    prop_assert!(!conflict(access[a], access[b]) || reach[a][b], "{a} and {b} may overlap");
                }
            }
            // Reduced: no edge is implied by the others.
            for i in 0..edges.len() {
                let mut others = edges.clone();
                let edge = others.remove(i);
                prop_assert!(!reachable(&others, count)[edge.from][edge.to], "edge {edge:?} is superfluous");
            }
        }

        #[test]
        fn cycles_are_found_and_named(count in 2usize..20, pairs in prop::collection::vec((0usize..20, 0usize..20), 0..40)) {
            let mut nodes: Vec<_> = (0..count)
                .map(|i| Unplaced { name: format!("n{i:02}"), phase: 0, priority: Priority::Normal, after: vec![] })
                .collect();
            for (from, to) in pairs.iter().map(|(a, b)| (a % count, b % count)) {
                if !nodes[to].after.contains(&from) {
                    nodes[to].after.push(from);
                }
            }
            match total_order(&nodes) {
                Ok(order) => {
                    let place = |i: usize| order.iter().position(|x| *x == i).expect("all are placed");
                    for (to, node) in nodes.iter().enumerate() {
                        prop_assert!(node.after.iter().all(|from| place(*from) < place(to)));
                    }
                }
                Err(BuildError::Cycle(names)) => {
                    prop_assert!(names.len() > 1 && names.first() == names.last());
                    let index = |name: &str| nodes.iter().position(|node| node.name == name).expect("a node's name");
                    for pair in names.windows(2) {
                        prop_assert!(nodes[index(&pair[1])].after.contains(&index(&pair[0])), "{names:?} is no cycle");
                    }
                }
                Err(other) => prop_assert!(false, "{other}"),
            }
        }

        #[test]
        fn w3_the_order_does_not_depend_on_registration(access in access(), seed in any::<u64>()) {
            let mut nodes: Vec<_> = (0..access.len())
                .map(|i| Unplaced {
                    name: format!("n{i:02}"),
                    phase: i % 3,
                    priority: [Priority::Low, Priority::Normal, Priority::High][i % 5 % 3],
                    after: vec![],
                })
                .collect();
            let names = |nodes: &[Unplaced]| -> Vec<String> {
                let order = total_order(nodes).expect("without dependencies there is no cycle");
                order.into_iter().map(|i| nodes[i].name.clone()).collect()
            };
            let before = names(&nodes);
            nodes.sort_by_key(|node| crate::random::mix(seed ^ node.name.len() as u64 ^ xxhash_rust::xxh3::xxh3_64(node.name.as_bytes())));
            prop_assert_eq!(before, names(&nodes));
        }
    }
}
