//! The unsafe part of the host: one call of the system and one of its allocator, which no library offers.
#![allow(unsafe_code, reason = "the two blocks of this crate; each says why it is sound")]

use std::{io, time::Duration};

/// Asks for turns of that length on the CPU for the calling thread, which keeps its nice value (Linux 6.12 and later; see
/// sched_setattr(2)). Who asks for shorter turns than another is let in when it wakes, before the other has ended his.
#[cfg(target_os = "linux")]
pub(crate) fn set_slice(slice: Duration) -> io::Result<()> {
    // The call sets the nice value, too.
    set_turns(rustix::process::getpriority_process(Some(rustix::thread::gettid()))?, slice)
}

/// Makes the calling thread an ordinary one with that nice value, whatever it was before; turns are as long as usual.
#[cfg(target_os = "linux")]
pub(crate) fn be_normal(nice: i32) -> io::Result<()> {
    set_turns(nice, Duration::ZERO)
}

#[cfg(target_os = "linux")]
fn set_turns(nice: i32, slice: Duration) -> io::Result<()> {
    let attr = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: slice.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads `size` bytes from the pointer, the size of the struct that it points to, which lives until
    // the call returns, and writes nothing. 0 is the calling thread.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Only Linux has it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn be_normal(_: i32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Only Linux has it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn set_slice(_: Duration) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// From so many bytes on memory comes from the system, and goes back to it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BYTES: libc::c_int = 128 << 10;

/// Lets large pieces of memory go back to the system when they are let go of. glibc begins so, but raises the limit up to
/// 32 MiB with each larger piece that is: what a world takes only while it is made would stay with the process for ever.
/// False where the allocator is another one, or does not take it: that only means more memory.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn give_memory_back() -> bool {
    // SAFETY: mallopt takes two numbers, no pointer, and keeps them under its own lock: it may be called at any time, from
    // any thread, beside others that allocate. What was allocated before is let go of as before.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES) == 1 }
}

/// Other allocators do as they do.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_memory_back() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of this process in memory.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn resident() -> Option<u64> {
        let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }

    /// It comes back from below what stays, after larger pieces have gone, and while others allocate; and what was allocated
    /// before the call is what it was.
    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn large_memory_goes_back_to_the_system() {
        let before = vec![7u8; 3 << 20];
        let others = std::thread::spawn(|| (1..2_000usize).map(|i| vec![1u8; i * 64].len()).sum::<usize>());
        assert!(give_memory_back());
        // Without the call, from here on what is smaller than this would stay.
        drop(vec![1u8; 24 << 20]);
        let (mut large, mut small) = (Vec::new(), Vec::new());
        for i in 0..256 {
            large.push(vec![i as u8; 1 << 20]);
            small.push(vec![i as u8; 1 << 10]);
        }
        let full = resident();
        drop(large);
        let Some((full, left)) = full.zip(resident()) else { return };
        assert!(full - left.min(full) > 200 << 20, "{full} bytes, then {left}");
        assert!(small.iter().enumerate().all(|(i, bytes)| bytes.iter().all(|byte| *byte == i as u8)));
        assert!(before.iter().all(|byte| *byte == 7) && others.join().unwrap() > 0);
    }

    /// What the kernel has read is what was said: a struct of another layout would show in each of these.
    #[test]
    #[cfg(target_os = "linux")]
    fn the_calling_thread_gets_the_slice_and_nothing_else_changes() {
        let about = |name: &str| -> Option<i64> {
            let text = std::fs::read_to_string("/proc/thread-self/sched").ok()?;
            let line =
                text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
            line.rsplit(':').next()?.trim().parse().ok()
        };
        let thread = std::thread::spawn(move || {
            crate::pool::stand_back();
            let before = rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
            assert!(before > 0, "it stands back");
            let policy = about("policy");
            set_slice(Duration::from_micros(700)).unwrap();
            let after = rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
            assert_eq!((after, about("policy")), (before, policy));
            about("se.slice")
        });
        // Older kernels take the call and ignore the length, or do not show it.
        if let Some(slice) = thread.join().unwrap() {
            assert_eq!(slice, 700_000);
        }
        // The thread that spawned it has what it had.
        assert_ne!(about("se.slice"), Some(700_000));
    }
}
