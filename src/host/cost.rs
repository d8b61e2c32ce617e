//! What computing ticks costs a recovery, and of that how much a world may let come together.

use std::ops::RangeInclusive;

/// Of the time in which a world has to be back, what may be for ticks after the newest snapshot: less where reading and
/// restoring the state takes more than the rest, but not less than this, or snapshots would take all of the CPU;
const REPLAY_SHARES: RangeInclusive<f64> = 0.2..=0.5;
/// and what is for ticks of which the log only says that they may have been shown.
pub(super) const LEASE_SHARE: f64 = 0.1;

/// Ticks beside snapshots say so long nothing of those without; longer, and these may have become others.
const ALONE_TICKS: u32 = 64;

/// How long a tick takes that has the threads for itself, as those of a recovery have, smoothed.
#[derive(Default)]
pub(super) struct TickCost {
    secs: f64,
    /// Since the last one that ran beside no snapshot.
    crowded: u32,
}

impl TickCost {
    /// `is_alone`: no snapshot was made meanwhile.
    pub(super) fn note(&mut self, secs: f64, is_alone: bool) {
        self.crowded = if is_alone { 0 } else { self.crowded.saturating_add(1) };
        if self.secs == 0.0 {
            self.secs = secs;
        }
        // Whatever is beside them, ticks that are shorter were not held up.
        if is_alone || secs < self.secs || self.crowded > ALONE_TICKS {
            self.secs += (secs - self.secs) / 16.0;
        }
    }

    /// How many ticks are computed in that time.
    pub(super) fn ticks_in(&self, secs: f64) -> f64 {
        secs / self.secs.max(1e-9)
    }
}

/// How long a recovery may compute the ticks after the newest snapshot, when all else that it does takes so long.
pub(super) fn replay_secs(target_secs: f64, rest_secs: f64) -> f64 {
    let left = 1.0 - LEASE_SHARE - rest_secs / target_secs;
    left.clamp(*REPLAY_SHARES.start(), *REPLAY_SHARES.end()) * target_secs
}

/// How many ticks a lease allows to be shown: for twice its time, so that it is renewed at half, but no more than a recovery
/// may spend on it, which computes all of them.
pub(super) fn lease_ticks(ticks_per_sec: f64, lease_secs: f64, ticks_max: f64) -> u64 {
    ((ticks_per_sec.max(1.0) * lease_secs * 2.0).min(ticks_max).ceil() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reading_takes_is_not_for_ticks() {
        let about = |target, rest, expected: f64| {
            let found = replay_secs(target, rest);
            assert!((found - expected).abs() < 1e-9, "{target} {rest}: {found}");
        };
        about(5.0, 0.01, 2.5);
        about(5.0, 2.5, 2.0);
        // It will be late whatever is done: not for the price of the world's own CPU.
        about(5.0, 100.0, 1.0);
        about(60.0, 2.5, 30.0);
    }

    #[test]
    fn a_lease_is_no_longer_than_a_recovery_may_compute() {
        assert_eq!(lease_ticks(20.0, 1.0, 1e9), 40, "ticks that take next to nothing");
        assert_eq!(lease_ticks(24.0, 1.0, 12.5), 13, "ticks of 40 ms");
        assert_eq!(lease_ticks(0.3, 1.0, 0.1), 1, "one at the least, or nothing would ever be shown");
    }

    /// A recovery writes no snapshots.
    #[test]
    fn ticks_beside_a_snapshot_do_not_count_unless_there_are_no_others() {
        let mut cost = TickCost::default();
        let of_one = |cost: &TickCost| 1.0 / cost.ticks_in(1.0);
        for round in 0..20 {
            (0..20).for_each(|_| cost.note(0.06, true));
            (0..20).for_each(|_| cost.note(0.1, false));
            assert!(round < 5 || (of_one(&cost) - 0.06).abs() < 0.001, "{}", of_one(&cost));
        }
        (0..500).for_each(|_| cost.note(0.1, false));
        assert!((of_one(&cost) - 0.1).abs() < 0.001, "always crowded: {}", of_one(&cost));
        (0..100).for_each(|_| cost.note(0.05, false));
        assert!((of_one(&cost) - 0.05).abs() < 0.001, "less also beside one: {}", of_one(&cost));
    }
}
