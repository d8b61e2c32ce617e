//! The rayon pool that all worlds tick on.

use crate::{clock, raw};
use anyhow::Context as _;
use everworld_engine::Pool;
use parking_lot::Mutex;
use rustix::thread::Pid;
use std::{
    cell::RefCell,
    sync::{Arc, OnceLock},
};

/// How far the work beside ticks stands back behind them and HTTP.
const BESIDE_NICE: i32 = 10;

/// A pool of so many threads, 0 for one per core. `served`: others than ticks are waited for, too, as in a server.
pub fn start(threads: usize, served: bool) -> anyhow::Result<Arc<Pool>> {
    let threads =
        if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads };
    let on_start = move |_| {
        if served {
            TICKING.lock().push(rustix::thread::gettid());
            tick_here();
        }
    };
    Pool::start(threads, "tick", on_start)
        .map(Arc::new)
        .context("could not start the threads of the tick pool")
}

/// The threads of the pool that serves; others come and go, and what they do is no tick that is waited for.
static TICKING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// CPU time of the threads that a tick may run on, from an instant on.
pub(crate) struct TickClocks {
    own: u64,
    threads: Vec<(Pid, u64)>,
}

impl TickClocks {
    pub(crate) fn start() -> Self {
        let threads = TICKING.lock().clone();
        let read = |thread: Pid| Some((thread, raw::cpu_nanos_of(thread)?));
        Self { own: clock::thread_cpu_nanos(), threads: threads.into_iter().filter_map(read).collect() }
    }

    /// What the busiest of them has had since; the caller is the thread that started. What a tick has had takes as long again
    /// where nothing else wants the CPU. 0 where the system does not tell.
    pub(crate) fn busiest_nanos(&self) -> u64 {
        if self.threads.is_empty() {
            return 0;
        }
        let of =
            |(thread, before): &(Pid, u64)| raw::cpu_nanos_of(*thread).map(|now| now.saturating_sub(*before));
        let own = clock::thread_cpu_nanos().saturating_sub(self.own);
        self.threads.iter().filter_map(of).fold(own, u64::max)
    }
}

/// The turns of a thread that ticks: long beside those of who answers, but shorter than what others get unasked, so that
/// it does not wait for the end of theirs.
const TICK_SLICE: std::time::Duration = std::time::Duration::from_millis(1);

/// Somewhat nice: of a core that a thread which ticks shares with two that answer and their client, those get enough to keep
/// up. Less nice, and a queue grows until the scheduler moves one; much nicer, and whoever is nicer still takes too much.
const TICK_NICE: i32 = 3;

/// Makes the calling thread one that ticks.
pub fn tick_here() {
    // As with the slice; and a thread that is nicer already stays so, as the process was told to be.
    let own = rustix::thread::gettid();
    if rustix::process::getpriority_process(Some(own)).is_ok_and(|nice| nice < TICK_NICE) {
        let _ = rustix::process::setpriority_process(Some(own), TICK_NICE);
    }
    // Where the system does not let us, ticks and answers wait somewhat longer for each other.
    let _ = raw::set_slice(TICK_SLICE);
}

/// How nice the calling thread is.
fn nice_here() -> i32 {
    rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap_or(0)
}

/// For work that nobody waits for. On Linux each thread has a nice value of its own.
pub fn stand_back() {
    // Not being allowed to is no reason to stop: the server then answers somewhat later under load.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), BESIDE_NICE);
}

/// How much of the CPU work beside ticks takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Haste {
    /// Only what nobody else wants. A tick waits for the end of a turn that another thread was given, however nice that one
    /// is, and each of a tick's steps may meet one: an idle thread's turn it ends at once.
    Idle,
    /// Works for a while and sleeps as long, behind the ticks.
    Paced,
    /// Works on, behind the ticks.
    Steady,
    /// Works on, before the threads that tick: what it keeps waiting they have to do again.
    Urgent,
}

/// Makes the calling thread work as `wish` says: asked at once, and by [`pace`] on this thread after each piece of work.
pub fn stand_aside(wish: impl Fn() -> Haste + 'static) {
    let mut aside = Aside { wish: Box::new(wish), settled: None, nice: nice_here() };
    aside.settle();
    ASIDE.with(|of_thread| *of_thread.borrow_mut() = Some(aside));
}

/// Asks the calling thread's wish at once.
pub fn settle() {
    ASIDE.with(|aside| aside.borrow_mut().as_mut().map(Aside::settle));
}

/// How a thread stands aside.
struct Aside {
    wish: Box<dyn Fn() -> Haste>,
    /// How the system was asked to treat it.
    settled: Option<Haste>,
    /// How nice it was before, as the process was told to be: it is never less.
    nice: i32,
}

impl Aside {
    fn settle(&mut self) -> Haste {
        let haste = (self.wish)();
        let haste = if can_come_back() { haste } else { haste.max(Haste::Paced) };
        // To the system these two are one.
        let settled = if haste == Haste::Steady { Haste::Paced } else { haste };
        if self.settled.replace(settled) != Some(settled) {
            match settled {
                Haste::Idle => idle(),
                // Who may not be as little nice as that still is no idle thread any more.
                Haste::Urgent => {
                    if raw::be_normal(self.nice).is_err() {
                        let _ = raw::be_normal(BESIDE_NICE);
                    }
                }
                // It was tried before: see `can_come_back`.
                Haste::Paced | Haste::Steady => _ = raw::be_normal(BESIDE_NICE),
            }
        }
        haste
    }
}

/// Whether a thread that takes only idle CPU may ask for more again. Linux lets it with CAP_SYS_NICE, or where RLIMIT_NICE
/// allows the nice value: without, work that must not wait for ever never goes there.
fn can_come_back() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    let tried = || {
        idle();
        raw::be_normal(BESIDE_NICE).is_ok()
    };
    *CAN.get_or_init(|| {
        let thread = std::thread::Builder::new().name("tries idle".into()).spawn(tried);
        thread.is_ok_and(|thread| thread.join().unwrap_or(false))
    })
}

thread_local! {
    static ASIDE: RefCell<Option<Aside>> = const { RefCell::new(None) };
}

/// The shortest turn on the CPU that Linux grants. For who answers only: with ticks in short turns, too, the 99th
/// percentile of acknowledgements was twice as long.
const SHORT_SLICE: std::time::Duration = std::time::Duration::from_micros(100);

/// Lets the calling thread have the CPU as soon as it wakes, for a little: for who stands between a client and his answer.
pub fn answer_soon() {
    // As with ticking.
    let _ = raw::set_slice(SHORT_SLICE);
}

/// Lets the calling thread have the CPU only when nobody else wants it (T4). Cannot be taken back without privileges.
pub fn idle() {
    use thread_priority::{
        NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
        thread_native_id,
    };
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    // Where the system does not let us, a high nice value is the next best.
    if set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy).is_err() {
        stand_back();
    }
}

/// A pool of so many threads for bulk work (T4).
pub fn start_idle(threads: usize) -> anyhow::Result<Arc<Pool>> {
    let pool = Pool::start(threads, "history", |_| idle());
    pool.map(Arc::new).context("could not start the threads of the history pool")
}

/// Works so long, then stands aside: what the tick feels of a busy neighbour is its CPU, not its data.
const WORK_NANOS: u64 = 500_000;
/// What was longer was more than a piece.
const WORKED_NANOS_MAX: u64 = 20_000_000;

/// What bulk work beside a tick calls after each piece: after half a millisecond on the CPU it sleeps as long, unless
/// its thread said otherwise, see [`stand_aside`].
pub fn pace() -> impl FnMut() + Send {
    let mut begun = clock::thread_nanos();
    move || {
        let now = clock::thread_nanos();
        // Another thread has another clock.
        let worked = now.saturating_sub(begun);
        if worked >= WORK_NANOS || now < begun {
            let haste = ASIDE.with(|aside| aside.borrow_mut().as_mut().map_or(Haste::Paced, Aside::settle));
            if haste == Haste::Paced {
                std::thread::sleep(std::time::Duration::from_nanos(worked.min(WORKED_NANOS_MAX)));
            }
            begun = clock::thread_nanos();
        }
    }
}

/// [`pace`] for who is called from behind a shared reference; one thread works at a time.
pub fn shared_pace() -> Arc<dyn Fn() + Send + Sync> {
    let pace = Mutex::new(pace());
    Arc::new(move || (pace.lock())())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, rc::Rc};

    #[test]
    fn who_ticks_is_somewhat_nice_and_stays_nicer_if_it_was() {
        let nice_after = |before: i32| {
            let thread = std::thread::spawn(move || {
                let own = Some(rustix::thread::gettid());
                rustix::process::setpriority_process(own, before).unwrap();
                tick_here();
                rustix::process::getpriority_process(own).unwrap()
            });
            thread.join().unwrap()
        };
        // Whoever runs this may be nice already, and may not be allowed to be less so.
        let own = rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
        assert_eq!(nice_after(own), own.max(TICK_NICE));
        assert_eq!(nice_after(own.max(15)), own.max(15));
    }

    /// Its scheduling policy: 0 is the usual one, 5 takes idle CPU only.
    #[cfg(target_os = "linux")]
    fn policy() -> Option<u32> {
        let text = std::fs::read_to_string("/proc/thread-self/sched").ok()?;
        let line = text.lines().find(|line| line.starts_with("policy"))?;
        line.rsplit(':').next()?.trim().parse().ok()
    }

    /// However long others keep it from the CPU.
    #[test]
    #[cfg(target_os = "linux")]
    fn the_clocks_of_ticks_count_what_the_busiest_thread_ran() {
        let pool = start(1, true).unwrap();
        let spin = |nanos: u64| {
            let until = clock::thread_cpu_nanos() + nanos;
            while clock::thread_cpu_nanos() < until {}
        };
        // It has registered once it runs something.
        pool.install(|| spin(1_000_000));
        let clocks = TickClocks::start();
        pool.install(|| spin(30_000_000));
        std::thread::sleep(std::time::Duration::from_millis(30));
        let found = clocks.busiest_nanos();
        // Threads of other tests' pools may be busier.
        assert!(found >= 30_000_000, "{found}");
        let clocks = TickClocks::start();
        spin(5_000_000);
        assert!(clocks.busiest_nanos() >= 5_000_000, "the thread's own");
        // Not one that has just ended: its number is there for a moment still, or another's already.
        assert_eq!(raw::cpu_nanos_of(Pid::INIT), None, "a thread of another process");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn who_stands_aside_comes_back() {
        let own = nice_here();
        let thread = std::thread::spawn(|| {
            let wish = Rc::new(Cell::new(Haste::Idle));
            let asked = wish.clone();
            stand_aside(move || asked.get());
            let mut pace = pace();
            let mut seen = vec![(policy(), None)];
            for haste in [Haste::Idle, Haste::Paced, Haste::Idle, Haste::Steady, Haste::Urgent, Haste::Idle] {
                wish.set(haste);
                let begun = clock::thread_nanos();
                while clock::thread_nanos() < begun + 2 * WORK_NANOS {}
                pace();
                seen.push((policy(), (haste > Haste::Idle).then(nice_here)));
            }
            seen
        });
        let seen = thread.join().unwrap();
        if seen[0].0.is_none() {
            return;
        }
        if can_come_back() {
            let (idle, beside) = ((Some(5), None), (Some(0), Some(BESIDE_NICE)));
            assert_eq!(seen, [idle, idle, beside, idle, beside, (Some(0), Some(own)), idle]);
        } else {
            assert!(seen.iter().all(|(policy, _)| *policy == Some(0)));
        }
    }
}
