//! The last so many of something, numbered, for who reads them late: neither who adds nor the tick waits for a reader.

use parking_lot::Mutex;
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::Notify;

/// A bounded ring. Its members are numbered from 1.
pub struct Ring<T> {
    inner: Mutex<Inner<T>>,
    capacity: usize,
    told: Notify,
}

struct Inner<T> {
    /// The number of the next member.
    next: u64,
    kept: VecDeque<Arc<T>>,
}

/// What a reader gets at once.
pub struct Batch<T> {
    /// The members with their numbers, in order.
    pub items: Vec<(u64, Arc<T>)>,
    /// What is not kept any more of what comes after the reader's place: first and last number.
    pub missed: Option<(u64, u64)>,
}

impl<T> Ring<T> {
    /// An empty one that keeps so many.
    pub fn new(capacity: usize) -> Self {
        let inner = Inner { next: 1, kept: VecDeque::new() };
        Self { inner: Mutex::new(inner), capacity, told: Notify::new() }
    }

    /// Adds one; the oldest goes if it is full.
    pub fn push(&self, item: T) {
        let item = Arc::new(item);
        // Freed after the lock is given back.
        let _gone = {
            let mut inner = self.inner.lock();
            inner.next += 1;
            inner.kept.push_back(item);
            if inner.kept.len() > self.capacity { inner.kept.pop_front() } else { None }
        };
        self.told.notify_waiters();
    }

    /// The number of the newest; 0 before the first.
    pub fn newest(&self) -> u64 {
        self.inner.lock().next - 1
    }

    /// At most so many of those that come after a number.
    pub fn after(&self, number: u64, limit: usize) -> Batch<T> {
        let inner = self.inner.lock();
        let oldest = inner.next - inner.kept.len() as u64;
        let first = number.saturating_add(1).max(oldest);
        let skipped = (first - oldest) as usize;
        let items = inner.kept.iter().skip(skipped).take(limit).cloned();
        Batch {
            items: (first..).zip(items).collect(),
            missed: (number + 1 < oldest).then(|| (number + 1, oldest - 1)),
        }
    }

    /// Waits until there is one that comes after a number.
    pub async fn wait(&self, number: u64) {
        loop {
            let told = self.told.notified();
            tokio::pin!(told);
            // From here on none is missed.
            told.as_mut().enable();
            if self.newest() > number {
                return;
            }
            told.await;
        }
    }
}

impl Default for Ring<crate::events::Event> {
    fn default() -> Self {
        Self::new(crate::events::EVENTS_KEPT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_late_is_told_what_is_missing() {
        let ring = Ring::new(3);
        let seen = |after: u64, limit| {
            let batch = ring.after(after, limit);
            (batch.items.iter().map(|(number, item)| (*number, **item)).collect::<Vec<_>>(), batch.missed)
        };
        assert_eq!(seen(0, 9), (vec![], None));
        (10..15).for_each(|item| ring.push(item));
        assert_eq!(seen(0, 9), (vec![(3, 12), (4, 13), (5, 14)], Some((1, 2))));
        assert_eq!(seen(2, 2), (vec![(3, 12), (4, 13)], None));
        assert_eq!(seen(5, 9), (vec![], None));
        assert_eq!(seen(99, 9), (vec![], None));
        assert_eq!(ring.newest(), 5);
    }
}
