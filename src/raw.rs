//! The unsafe part of the host: one system call that no library offers.
#![allow(unsafe_code, reason = "the one module of this crate that may; each block says why it is sound")]

use std::{io, mem::size_of, time::Duration};

/// Asks for turns of that length on the CPU for the calling thread (Linux 6.12 and later; see sched_setattr(2)). Who asks
/// for short turns is let in as soon as it wakes, before who asked for long ones has ended his.
#[cfg(target_os = "linux")]
pub(crate) fn set_slice(slice: Duration) -> io::Result<()> {
    // SAFETY: all zeros is a value of that struct of integers.
    let mut attr: libc::sched_attr = unsafe { std::mem::zeroed() };
    attr.size = size_of::<libc::sched_attr>() as u32;
    attr.sched_policy = libc::SCHED_OTHER as u32;
    attr.sched_runtime = slice.as_nanos() as u64;
    // SAFETY: the call reads `size` bytes from the pointer, which is to a struct of that size, and writes nothing.
    // 0 is the calling thread.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Only Linux has it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn set_slice(_: Duration) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_takes_the_slice_or_says_why_not() {
        // Older kernels take the call and ignore the length.
        let set = std::thread::spawn(|| set_slice(Duration::from_micros(100))).join().unwrap();
        assert!(set.is_ok(), "{set:?}");
    }
}
