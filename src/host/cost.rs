//! What computing ticks costs a recovery, and of that how much a world may let come together.

use std::ops::RangeInclusive;

/// Of the time in which a world has to be back, what may be for ticks after the newest snapshot: less where reading and
/// restoring the state takes more than the rest, but not less than this, or snapshots would take all of the CPU;
const REPLAY_SHARES: RangeInclusive<f64> = 0.2..=0.5;
/// and what is for ticks of which the log only says that they may have been shown.
pub(super) const LEASE_SHARE: f64 = 0.1;

/// How long a tick takes that has the CPU for itself, as those of a recovery have, smoothed.
#[derive(Default)]
pub(super) struct TickCost {
    secs: f64,
    /// So many of the first ones.
    seen: u32,
}

impl TickCost {
    /// The last ones count for so many.
    const TICKS: u32 = 16;
    /// Ticks that take so long are worth a look at the threads' clocks.
    const LONG_SECS: f64 = 0.002;

    /// Whether [`TickCost::note`] wants to know what the busiest thread had of the CPU.
    pub(super) fn wants_cpu(&self) -> bool {
        self.secs >= Self::LONG_SECS
    }

    /// How long it took, and of that the busiest thread had the CPU for `cpu_secs`; what is more was others'.
    pub(super) fn note(&mut self, secs: f64, cpu_secs: Option<f64>) {
        let alone = cpu_secs.filter(|cpu| *cpu > 0.0).map_or(secs, |cpu| cpu.min(secs));
        // The very first one finds nothing in any cache.
        self.seen = (self.seen + 1).min(Self::TICKS);
        self.secs += (alone - self.secs) / f64::from(self.seen);
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

/// CPU time that this process had outside the kernel: what its own work took, whatever its memory cost. In steps of a tick of
/// the system's clock, mostly 10 ms; only Linux tells it.
pub(super) fn user_secs() -> Option<f64> {
    // proc_pid_stat(5): the second field is a name in parentheses, which may hold spaces; utime is the 14th.
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(11)?.parse().ok()?;
    #[cfg(target_os = "linux")]
    let per_sec = rustix::param::clock_ticks_per_second();
    #[cfg(not(target_os = "linux"))]
    let per_sec = 100;
    Some(ticks as f64 / per_sec as f64)
}

/// How long reading a new world's state, building it and making its first view will take, told from the first view alone: it
/// took so long, and the process worked so long on it outside the kernel. The wall tells less: fresh memory made the same
/// view take 0.23 to 0.76 s, of which 0.22 to 0.29 were work.
pub(super) fn rest_of_new(view_secs: f64, worked_secs: Option<f64>, threads: usize) -> f64 {
    // Measured on two threads: 1.8 to 2.2 s for views of 0.25 s of work, and of 0.3 to 0.4 s in all.
    const OF_WORK: f64 = 16.0;
    const OF_VIEW: f64 = 5.0;
    // What other worlds worked beside it is in there, too: of the shortest views it was eight times the time.
    const OF_VIEW_MOST: f64 = 8.0;
    match worked_secs.filter(|worked| *worked > 0.0) {
        Some(worked) => (worked / threads.max(1) as f64 * OF_WORK).min(view_secs * OF_VIEW_MOST),
        None => view_secs * OF_VIEW,
    }
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

    /// Of what a process does, only that counts: neither what it sleeps nor what the kernel does for it.
    #[test]
    #[cfg(target_os = "linux")]
    fn work_is_what_runs_outside_the_kernel() {
        // Other tests of the process work, too: more than this one did is no fault, less is.
        let before = user_secs().unwrap();
        let mut sum = 0_u64;
        let cpu = || {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
        };
        let start = cpu();
        while cpu() - start < 0.2 {
            for number in 0..1_000_000_u64 {
                sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(number));
            }
        }
        let worked = user_secs().unwrap() - before;
        assert!(worked > 0.1, "{worked} s of 0.2");
        let whole = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let whole = whole.tv_sec as f64 + whole.tv_nsec as f64 / 1e9;
        assert!(user_secs().unwrap() <= whole + 0.02, "no more than the process had");
    }

    #[test]
    fn what_the_memory_of_a_first_view_cost_does_not_count() {
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found}");
        close(rest_of_new(0.76, Some(0.25), 2), 2.0);
        close(rest_of_new(0.76, None, 2), 3.8);
        close(rest_of_new(0.76, Some(0.0), 2), 3.8);
        close(rest_of_new(0.2, Some(3.0), 2), 1.6);
    }

    /// A recovery shares the CPU with nobody.
    #[test]
    fn what_others_had_of_a_tick_does_not_count() {
        let mut cost = TickCost::default();
        let of_one = |cost: &TickCost| 1.0 / cost.ticks_in(1.0);
        cost.note(0.001, None);
        assert!(!cost.wants_cpu() && (of_one(&cost) - 0.001).abs() < 1e-9);
        let mut cold = TickCost::default();
        cold.note(1.6, None);
        (0..31).for_each(|_| cold.note(0.001, None));
        assert!(of_one(&cold) < 0.04, "{}", of_one(&cold));
        (0..200).for_each(|_| cost.note(0.1, Some(0.06)));
        assert!(cost.wants_cpu() && (of_one(&cost) - 0.06).abs() < 1e-4, "{}", of_one(&cost));
        (0..200).for_each(|_| cost.note(0.1, Some(0.0)));
        assert!((of_one(&cost) - 0.1).abs() < 1e-4, "where nobody tells: {}", of_one(&cost));
        (0..200).for_each(|_| cost.note(0.05, Some(0.3)));
        assert!((of_one(&cost) - 0.05).abs() < 1e-4, "with another world's ticks: {}", of_one(&cost));
    }
}
