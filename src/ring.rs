//! The last so many of something, numbered, for who reads them late: neither who adds nor the tick waits for a reader.

use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
};

/// A bounded ring.
///
/// Its members are numbered from the time at which it was made, in microseconds: what a reader knows of a former process
/// is never taken for something of this one.
pub struct Ring<T> {
    /// What is not numbered yet. Who adds sends here, and numbers it only where no reader is just looking.
    incoming: SyncSender<T>,
    inner: Mutex<Inner<T>>,
    /// What its members may weigh together.
    capacity: usize,
}

/// What a member of a ring takes of its capacity.
pub trait Weigh {
    /// At least 1.
    fn weight(&self) -> usize {
        1
    }
}

struct Inner<T> {
    incoming: Receiver<T>,
    /// The number of the next member.
    next: u64,
    kept: VecDeque<Arc<T>>,
    weight: usize,
}

/// What a reader gets at once.
pub struct Batch<T> {
    /// The members with their numbers, in order.
    pub items: Vec<(u64, Arc<T>)>,
    /// What is not kept any more of what comes after the reader's place: first and last number.
    pub missed: Option<(u64, u64)>,
}

/// So many wait to be numbered while a reader looks (L1).
const WAITING_MAX: usize = 1_024;

impl<T: Weigh> Ring<T> {
    /// An empty one that keeps members of so much weight, and the newest in any case.
    pub fn new(capacity: usize) -> Self {
        Self::beginning_with(crate::clock::unix_millis() * 1_000, capacity)
    }

    fn beginning_with(next: u64, capacity: usize) -> Self {
        let (send, incoming) = sync_channel(WAITING_MAX);
        let inner = Inner { incoming, next, kept: VecDeque::new(), weight: 0 };
        Self { incoming: send, inner: Mutex::new(inner), capacity }
    }

    /// Adds one; the oldest goes if it is full. Waits for no reader, unless one looks for as long as it takes to fill
    /// the channel.
    pub fn push(&self, item: T) {
        if let Err(TrySendError::Full(item)) = self.incoming.try_send(item) {
            let mut inner = self.inner.lock();
            inner.take_in(self.capacity);
            inner.keep(item, self.capacity);
            return;
        }
        if let Some(mut inner) = self.inner.try_lock() {
            inner.take_in(self.capacity);
        }
    }

    /// The number of the newest; before the first the one before.
    pub fn newest(&self) -> u64 {
        self.last(0)
    }

    /// The number after which at most so many are.
    pub fn last(&self, count: usize) -> u64 {
        let mut inner = self.inner.lock();
        inner.take_in(self.capacity);
        inner.next - 1 - inner.kept.len().min(count) as u64
    }

    /// The newest member.
    pub fn latest(&self) -> Option<Arc<T>> {
        let mut inner = self.inner.lock();
        inner.take_in(self.capacity);
        inner.kept.back().cloned()
    }

    /// At most so many of those that come after a number.
    pub fn after(&self, number: u64, limit: usize) -> Batch<T> {
        let mut inner = self.inner.lock();
        inner.take_in(self.capacity);
        let oldest = inner.next - inner.kept.len() as u64;
        let (first, missed) = match number {
            // Of a clock that has gone back since: what he knows is not of this ring.
            ahead if ahead >= inner.next => (oldest, Some((oldest - 1, oldest - 1))),
            behind if behind + 1 < oldest => (oldest, Some((behind + 1, oldest - 1))),
            known => (known + 1, None),
        };
        let skipped = (first - oldest) as usize;
        let items = inner.kept.iter().skip(skipped).take(limit).cloned();
        Batch { items: (first..).zip(items).collect(), missed }
    }
}

impl<T: Weigh> Inner<T> {
    fn take_in(&mut self, capacity: usize) {
        while let Ok(item) = self.incoming.try_recv() {
            self.keep(item, capacity);
        }
    }

    fn keep(&mut self, item: T, capacity: usize) {
        self.next += 1;
        self.weight += item.weight();
        self.kept.push_back(Arc::new(item));
        while self.weight > capacity && self.kept.len() > 1 {
            self.weight -= self.kept.pop_front().map_or(0, |item| item.weight());
        }
    }
}

impl Default for Ring<crate::events::Event> {
    fn default() -> Self {
        Self::new(crate::events::EVENTS_KEPT)
    }
}

impl Default for Ring<crate::statistician::Sample> {
    fn default() -> Self {
        Self::new(crate::statistician::SAMPLES_KEPT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weigh for u64 {}

    struct Heavy(usize);

    impl Weigh for Heavy {
        fn weight(&self) -> usize {
            self.0
        }
    }

    #[test]
    fn it_keeps_as_much_as_it_can_hold_and_the_newest() {
        let ring = Ring::beginning_with(1, 10);
        [4, 4, 3].into_iter().for_each(|weight| ring.push(Heavy(weight)));
        let kept =
            |ring: &Ring<Heavy>| ring.after(0, 9).items.iter().map(|(number, _)| *number).collect::<Vec<_>>();
        assert_eq!(kept(&ring), [2, 3]);
        ring.push(Heavy(50));
        assert_eq!(kept(&ring), [4]);
        ring.push(Heavy(1));
        assert_eq!(kept(&ring), [5]);
    }

    #[test]
    fn who_comes_late_is_told_what_is_missing() {
        let ring = Ring::beginning_with(101, 3);
        let seen = |after: u64, limit| {
            let batch = ring.after(after, limit);
            (batch.items.iter().map(|(number, item)| (*number, **item)).collect::<Vec<_>>(), batch.missed)
        };
        assert_eq!((seen(100, 9), ring.newest()), ((vec![], None), 100));
        // He knows what another one told him.
        assert_eq!(seen(7, 9), (vec![], Some((8, 100))));
        (10u64..15).for_each(|item| ring.push(item));
        assert_eq!(seen(100, 9), (vec![(103, 12), (104, 13), (105, 14)], Some((101, 102))));
        assert_eq!(seen(102, 2), (vec![(103, 12), (104, 13)], None));
        assert_eq!(seen(105, 9), (vec![], None));
        assert_eq!(seen(999, 1), (vec![(103, 12)], Some((102, 102))));
        assert_eq!((ring.newest(), ring.last(2), ring.last(9)), (105, 103, 102));
    }

    #[test]
    fn who_adds_waits_for_no_reader() {
        let ring = Ring::beginning_with(1, 2_000);
        let looking = ring.inner.lock();
        std::thread::scope(|threads| {
            threads.spawn(|| (0u64..1_000).for_each(|item| ring.push(item))).join().unwrap();
            drop(looking);
        });
        let batch = ring.after(0, 2_000);
        assert!(batch.items.iter().map(|(number, item)| (*number, **item)).eq((1..=1_000).zip(0..1_000)));
    }
}
