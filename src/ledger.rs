//! What the sequencer remembers of inputs that came with an idempotency key: key, hash of the body, number, outcome.
//!
//! Bounded: the oldest keys are forgotten. It outlives the process: the snapshot has what was known, the log after it
//! the rest. Keys are of the world, not of a branch: a rewind changes nothing here.

use crate::sequencer::Applied;
use everworld_engine::{InputError, Outcome, Tick};
use everworld_persistence::{IdempotencyKey, LogError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};
use tokio::sync::oneshot;

/// The keys of one world.
#[derive(Default)]
pub struct Ledger {
    keys_max: usize,
    numbers: HashMap<String, u64>,
    entries: BTreeMap<u64, Entry>,
    /// What changed since it was last written to the store.
    unwritten: BTreeSet<u64>,
}

/// An input with a key.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Key and hash of the body.
    pub key: IdempotencyKey,
    /// What its sender was told: the first tick that could see it.
    pub earliest_tick: Tick,
    /// What became of it, once its tick was published.
    pub applied: Option<Applied>,
    /// Its place in the log; 0 if that is behind us.
    pub lsn: u64,
    /// When its sender is told that it is durable.
    pub durable: Durable,
}

/// What a snapshot needs of the keys.
#[derive(Debug, Default)]
pub struct Changes {
    /// What is older than this is forgotten.
    pub floor: u64,
    /// What to store.
    pub entries: Vec<(u64, Entry)>,
}

impl Changes {
    /// The entries as bytes.
    pub fn encode(&self) -> Vec<(u64, Vec<u8>)> {
        let encode = |(seq, entry): &(u64, Entry)| {
            let applied = entry.applied.clone().map(|applied| (applied.tick, applied.outcome));
            let stored = Stored { key: entry.key.clone(), earliest_tick: entry.earliest_tick, applied };
            let bytes = postcard::to_extend(&stored, vec![STORED_VERSION]);
            (*seq, bytes.expect("an entry holds only sized sequences, which postcard always encodes"))
        };
        self.entries.iter().map(encode).collect()
    }
}

/// An entry as a snapshot has it.
#[derive(Serialize, Deserialize)]
struct Stored {
    key: IdempotencyKey,
    earliest_tick: Tick,
    applied: Option<(Tick, Result<Outcome, InputError>)>,
}

const STORED_VERSION: u8 = 1;

impl Ledger {
    /// Remembers up to `keys_max` keys, and for a start what a snapshot had.
    ///
    /// # Errors
    /// When an entry was not written by a build that this one understands.
    pub fn new(keys_max: usize, stored: Vec<(u64, Vec<u8>)>) -> Result<Self, String> {
        let mut ledger = Self { keys_max, ..Self::default() };
        for (seq, bytes) in stored {
            let Stored { key, earliest_tick, applied } = match bytes.split_first() {
                Some((&STORED_VERSION, rest)) => {
                    postcard::from_bytes(rest).map_err(|error| format!("key of input {seq}: {error}"))?
                }
                _ => return Err(format!("key of input {seq}: it has an unknown version")),
            };
            let applied = applied.map(|(tick, outcome)| Applied { tick, outcome });
            ledger.insert(seq, Entry { key, earliest_tick, applied, lsn: 0, durable: Durable::already() });
        }
        ledger.unwritten.clear();
        Ok(ledger)
    }

    /// The input that came with a key, if it is remembered.
    pub fn find(&self, key: &str) -> Option<(u64, &Entry)> {
        let seq = self.numbers.get(key)?;
        self.entries.get(seq).map(|entry| (*seq, entry))
    }

    /// Remembers an input, and forgets the oldest one when there are too many.
    pub fn insert(&mut self, seq: u64, entry: Entry) {
        if self.keys_max == 0 {
            return;
        }
        let former = self.numbers.get(&entry.key.key).copied();
        // What the log says again after a snapshot adds nothing.
        if former.is_some_and(|former| former >= seq) {
            return;
        }
        if let Some(former) = former {
            self.entries.remove(&former);
            self.unwritten.remove(&former);
        }
        self.numbers.insert(entry.key.key.clone(), seq);
        self.entries.insert(seq, entry);
        self.unwritten.insert(seq);
        while self.entries.len() > self.keys_max {
            if let Some((forgotten, entry)) = self.entries.pop_first() {
                self.unwritten.remove(&forgotten);
                if self.numbers.get(&entry.key.key) == Some(&forgotten) {
                    self.numbers.remove(&entry.key.key);
                }
            }
        }
    }

    /// Notes what became of an input; nothing when it has no key.
    pub fn applied(&mut self, seq: u64, applied: &Applied) {
        if let Some(entry) = self.entries.get_mut(&seq) {
            entry.applied = Some(applied.clone());
            self.unwritten.insert(seq);
        }
    }

    /// What became of an input, if it came with a key and its tick was published.
    pub fn applied_to(&self, seq: u64) -> Option<&Applied> {
        self.entries.get(&seq)?.applied.as_ref()
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The lowest number that is remembered; 0 when none is.
    pub fn floor(&self) -> u64 {
        self.entries.first_key_value().map_or(0, |(seq, _)| *seq)
    }

    /// Whether no key is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many can be.
    pub fn keys_max(&self) -> usize {
        self.keys_max
    }

    /// What a snapshot needs: all entries, or those that changed since the last time. What is not durable in the log
    /// comes later: a snapshot must not know what a crash may still take back. By its place and not by what its sender
    /// was told, which is later: whatever the snapshot cuts off of the log is in it.
    pub fn changes(&mut self, all: bool, durable_lsn: u64) -> Changes {
        let floor = self.floor();
        let is_durable = |entry: &Entry| entry.lsn <= durable_lsn;
        let changed = std::mem::take(&mut self.unwritten);
        let (now, later): (BTreeSet<u64>, _) =
            changed.into_iter().partition(|seq| is_durable(&self.entries[seq]));
        self.unwritten = later;
        let entries = if all {
            let durable = self.entries.iter().filter(|(_, entry)| is_durable(entry));
            durable.map(|(seq, entry)| (*seq, entry.clone())).collect()
        } else {
            now.iter().map(|seq| (*seq, self.entries[seq].clone())).collect()
        };
        Changes { floor, entries }
    }
}

/// When an input becomes durable, for any number of those who wait.
#[derive(Clone, Debug, Default)]
pub struct Durable(Arc<Mutex<DurableState>>);

#[derive(Debug, Default)]
struct DurableState {
    result: Option<Result<(), Arc<LogError>>>,
    waiting: Vec<oneshot::Sender<Result<(), Arc<LogError>>>>,
}

impl Durable {
    /// It was before this process began.
    pub fn already() -> Self {
        let durable = Self::default();
        durable.settle(Ok(()));
        durable
    }

    /// It is now, or never will be.
    pub fn settle(&self, result: Result<(), Arc<LogError>>) {
        let mut state = self.0.lock();
        for waiting in state.waiting.drain(..) {
            // Nobody waits any more when the client has gone.
            let _ = waiting.send(result.clone());
        }
        state.result = Some(result);
    }

    /// Resolves once it is known.
    pub fn wait(&self) -> oneshot::Receiver<Result<(), Arc<LogError>>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.0.lock();
        if let Some(result) = &state.result {
            // The other end is in our hands.
            let _ = sender.send(result.clone());
        } else {
            state.waiting.retain(|waiting| !waiting.is_closed());
            state.waiting.push(sender);
        }
        receiver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str) -> Entry {
        let key = IdempotencyKey { key: key.into(), body_hash: 7 };
        Entry { key, earliest_tick: Tick(1), applied: None, lsn: 0, durable: Durable::already() }
    }

    #[test]
    fn the_oldest_keys_are_forgotten() {
        let mut ledger = Ledger::new(2, Vec::new()).unwrap();
        for (seq, key) in [(1, "a"), (5, "b"), (9, "c")] {
            ledger.insert(seq, entry(key));
        }
        let found = |key: &str| ledger.find(key).map(|(seq, _)| seq);
        assert_eq!(["a", "b", "c"].map(found), [None, Some(5), Some(9)]);
        assert_eq!(ledger.changes(false, 0).floor, 5, "nothing older is wanted back");
        let mut none = Ledger::new(0, Vec::new()).unwrap();
        none.insert(1, entry("a"));
        assert!(none.is_empty());
    }

    /// The bytes that docs/FORMAT.md has. Whoever changes them raises the version.
    #[test]
    fn entries_are_as_documented() {
        let stored = |applied| {
            let changes = Changes { floor: 0, entries: vec![(3, Entry { applied, ..entry("key") })] };
            changes.encode().pop().unwrap()
        };
        let after = |outcome| stored(Some(Applied { tick: Tick(300), outcome }));
        let head = [1, 3, b'k', b'e', b'y', 7, 1];
        let check = |(number, found): (u64, Vec<u8>), rest: &[u8]| {
            assert_eq!((number, &found[..]), (3, &[&head, rest].concat()[..]));
            let back = Ledger::new(9, vec![(3, found.clone())]).unwrap();
            let (seq, entry) = back.find("key").unwrap();
            let again = Changes { floor: 0, entries: vec![(seq, entry.clone())] };
            assert_eq!(again.encode(), [(3, found)]);
        };
        check(stored(None), &[0]);
        let created = vec![everworld_engine::Uid::new(8), everworld_engine::Uid::new(200)];
        check(after(Ok(Outcome { created })), &[1, 0xAC, 2, 0, 2, 8, 0xC8, 1]);
        check(after(Err(InputError::UnknownKind("a".into()))), &[1, 0xAC, 2, 1, 0, 1, b'a']);
        check(after(Err(InputError::Malformed("b".into()))), &[1, 0xAC, 2, 1, 1, 1, b'b']);
        check(after(Err(InputError::Rejected("c".into()))), &[1, 0xAC, 2, 1, 2, 1, b'c']);
        check(after(Err(InputError::Skipped)), &[1, 0xAC, 2, 1, 3]);
        check(after(Err(InputError::NotFound(everworld_engine::Uid::new(7)))), &[1, 0xAC, 2, 1, 4, 7]);
        check(
            after(Err(InputError::PreconditionFailed(everworld_engine::Uid::new(300)))),
            &[1, 0xAC, 2, 1, 5, 0xAC, 2],
        );
    }

    #[test]
    fn it_comes_back_from_what_was_stored() {
        let mut ledger = Ledger::new(10, Vec::new()).unwrap();
        ledger.insert(3, entry("a"));
        ledger.insert(4, entry("b"));
        let mut stored: BTreeMap<_, _> = ledger.changes(false, 10).encode().into_iter().collect();
        assert_eq!(stored.len(), 2);
        let outcome = Ok(Outcome { created: vec![everworld_engine::Uid::new(8)] });
        ledger.applied(4, &Applied { tick: Tick(6), outcome: outcome.clone() });
        let changed = ledger.changes(false, 10).encode();
        assert_eq!(changed.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [4]);
        assert!(ledger.changes(false, 10).encode().is_empty());
        ledger.insert(5, Entry { lsn: 11, durable: Durable::default(), ..entry("c") });
        assert!(ledger.changes(false, 10).entries.is_empty(), "it may still be taken back");
        assert_eq!(ledger.changes(false, 11).entries.len(), 1, "whether its sender knows or not");
        assert!(ledger.changes(false, 11).entries.is_empty());
        assert_eq!(ledger.changes(true, 11).entries.len(), 3);
        stored.extend(changed);
        let back = Ledger::new(10, stored.into_iter().collect()).unwrap();
        assert_eq!(back.find("b").unwrap().1.applied.as_ref().unwrap().outcome, outcome);
        assert!(back.find("a").unwrap().1.applied.is_none());
        assert!(Ledger::new(10, vec![(1, vec![9, 9])]).is_err());
    }
}
