//! The unsafe part of the host: what it asks of the system and of its allocator, which no library offers.
#![allow(unsafe_code, reason = "the one module of this crate that may; each block says why it is sound")]

#[cfg(target_os = "linux")]
pub use huge::HugePages;

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

/// CPU time of a thread of this process in nanoseconds; `None` when there is none of that number (any more).
#[cfg(target_os = "linux")]
pub(crate) fn cpu_nanos_of(thread: rustix::thread::Pid) -> Option<u64> {
    // As pthread_getcpuclockid(3) makes it: the number's complement, and that it is a thread's and counts what it ran.
    let clock = !thread.as_raw_nonzero().get() << 3 | 0b110;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes the time into the struct that the pointer is to, and reads nothing.
    let done = unsafe { libc::clock_gettime(clock, &raw mut time) };
    (done == 0).then(|| time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Only Linux has it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn cpu_nanos_of(_: rustix::thread::Pid) -> Option<u64> {
    None
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

/// Large pieces of memory in huge pages.
#[cfg(target_os = "linux")]
mod huge {
    use std::{
        alloc::{GlobalAlloc, Layout, System},
        ptr,
        sync::atomic::{AtomicBool, Ordering::Relaxed},
    };

    /// The size of a huge page, on most machines. Where it is another one, or the system has none, memory is as always.
    const HUGE_BYTES: usize = 2 << 20;
    /// A multiple of the pages of any machine.
    const PAGE_BYTES: usize = 64 << 10;

    /// Whether mappings are moved rather than copied where they grow: until that fails once, as it may where a process has
    /// nearly as many mappings as it may have. What the target of that was is never used again.
    pub(super) static MOVES: AtomicBool = AtomicBool::new(true);

    /// An allocator that asks the system for huge pages (transparent ones, madvise(2)) for whatever has 2 MiB or more, and
    /// leaves the rest to the system's allocator. The columns of a million NPCs are read and written in each tick, at
    /// places that lie far apart: with pages of 4 KiB much of that is waiting for addresses to be translated.
    ///
    /// A program makes it its own with `#[global_allocator] static ALLOCATOR: HugePages = HugePages;`, as `everworld` does.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct HugePages;

    // SAFETY: what is large is mapped, moved and unmapped by this alone, and the rest by the system's allocator alone: which
    // of the two it is depends on the layout, which is the same at both ends. Mappings begin at a multiple of a huge page,
    // which is a multiple of any alignment that `is_large` lets through, and are at least as long as asked for. Nothing
    // here unwinds or allocates.
    unsafe impl GlobalAlloc for HugePages {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            if is_large(layout) {
                map(layout.size())
            } else {
                // SAFETY: the contract is the same.
                unsafe { System.alloc(layout) }
            }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            if is_large(layout) {
                // What the system maps is zero.
                map(layout.size())
            } else {
                // SAFETY: the contract is the same.
                unsafe { System.alloc_zeroed(layout) }
            }
        }

        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            if is_large(layout) {
                // SAFETY: by the contract `alloc` gave it for that layout, so that it is a mapping of that length, and
                // nobody uses it any more.
                unsafe { unmap(at, mapped(layout.size())) }
            } else {
                // SAFETY: the contract is the same.
                unsafe { System.dealloc(at, layout) }
            }
        }

        unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            // SAFETY: by the contract the size fits with that alignment.
            let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
            match (is_large(layout), is_large(new)) {
                // SAFETY: the contract is the same.
                (false, false) => unsafe { System.realloc(at, layout, size) },
                // SAFETY: as in `dealloc`: it is a mapping of that length.
                (true, true) => unsafe { resize(at, mapped(layout.size()), mapped(size)) },
                _ => {
                    // SAFETY: both are of that many bytes at least, the new one is nobody's yet, and by the contract the
                    // old one is given up.
                    unsafe {
                        let to = self.alloc(new);
                        if !to.is_null() {
                            ptr::copy_nonoverlapping(at, to, layout.size().min(size));
                            self.dealloc(at, layout);
                        }
                        to
                    }
                }
            }
        }
    }

    fn is_large(layout: Layout) -> bool {
        layout.size() >= HUGE_BYTES && layout.align() <= HUGE_BYTES
    }

    /// The length of the mapping for so many bytes. A layout's size is at most `isize::MAX`.
    fn mapped(size: usize) -> usize {
        size.next_multiple_of(PAGE_BYTES)
    }

    /// New memory, zero, from a multiple of a huge page on; null where there is none left.
    fn map(size: usize) -> *mut u8 {
        let (len, more) = (mapped(size), mapped(size).saturating_add(HUGE_BYTES));
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a mapping at a place that the system chooses takes nothing from anybody.
        let begin = unsafe { libc::mmap(ptr::null_mut(), more, access, kind, -1, 0) };
        if begin == libc::MAP_FAILED {
            return ptr::null_mut();
        }
        let begin = begin.cast::<u8>();
        let before = begin.align_offset(HUGE_BYTES);
        // SAFETY: the parts before and behind what is used are in the mapping that was just made, and nobody knows of them.
        // What is advised lies within it, and stays what it is.
        unsafe {
            let at = begin.add(before);
            unmap(begin, before);
            unmap(at.add(len), HUGE_BYTES - before);
            // An error means that the system has no huge pages.
            libc::madvise(at.cast(), len, libc::MADV_HUGEPAGE);
            at
        }
    }

    /// # Safety
    /// Nobody uses the memory, of whole pages that are mapped.
    unsafe fn unmap(at: *mut u8, len: usize) {
        if len > 0 {
            // SAFETY: the contract. It fails where the process has too many mappings to cut one in two: then the
            // addresses stay, and the memory goes all the same.
            unsafe {
                if libc::munmap(at.cast(), len) != 0 {
                    libc::madvise(at.cast(), len, libc::MADV_DONTNEED);
                }
            }
        }
    }

    /// Makes a mapping longer or shorter; null, and the old one as it was, where there is no memory left.
    ///
    /// # Safety
    /// `at` is a mapping of length `old` from `map` or from here, and nobody uses what goes.
    unsafe fn resize(at: *mut u8, old: usize, new: usize) -> *mut u8 {
        if new <= old {
            // SAFETY: the end of the mapping, which nobody uses by the contract.
            unsafe { unmap(at.add(new), old - new) };
            return at;
        }
        // SAFETY: without MREMAP_MAYMOVE the mapping only becomes longer where nothing is, or stays as it is.
        if unsafe { libc::mremap(at.cast(), old, new, 0) } != libc::MAP_FAILED {
            return at;
        }
        let mut to = map(new);
        if to.is_null() {
            return to;
        }
        if MOVES.load(Relaxed) {
            let moving = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            // SAFETY: the old mapping moves to where the new one is, which is as long as it becomes and which nobody uses
            // yet; it takes its place as a whole, as a mapping in two parts could not be moved again.
            let moved = unsafe { libc::mremap(at.cast(), old, new, moving, to.cast::<libc::c_void>()) };
            if moved != libc::MAP_FAILED {
                return to;
            }
            // The system may have unmapped the target before it failed: these addresses may be another's by now.
            MOVES.store(false, Relaxed);
            to = map(new);
            if to.is_null() {
                return to;
            }
        }
        // SAFETY: both are mapped, the new one is the longer one and nobody's yet, and the old one is given up.
        unsafe {
            ptr::copy_nonoverlapping(at, to, old);
            unmap(at, old);
        }
        to
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_os = "linux")]
    use std::{
        alloc::{GlobalAlloc, Layout},
        sync::atomic::Ordering::Relaxed,
    };

    /// Whatever the sizes on the way, also across the limit: the bytes stay, what is asked for as zeros is zero, and large
    /// pieces begin at a huge page.
    #[test]
    #[cfg(target_os = "linux")]
    fn memory_in_huge_pages_is_memory() {
        let sizes =
            [1, 4 << 20, (2 << 20) - 1, 2 << 20, (2 << 20) + 1, 9 << 20, 64 << 20, 5 << 20, 3, 7 << 20, 700];
        for align in [1, 8, 4096, 2 << 20, 4 << 20] {
            for (zeroed, moves) in [(false, true), (true, true), (false, false)] {
                huge::MOVES.store(moves, Relaxed);
                let mut layout = Layout::from_size_align(sizes[0], align).unwrap();
                // SAFETY: layouts are those with which the pointer was last given; all bytes were written before they are
                // read, or are zeros.
                unsafe {
                    let mut at =
                        if zeroed { HugePages.alloc_zeroed(layout) } else { HugePages.alloc(layout) };
                    // A second one beside it, which others must not touch.
                    let other = HugePages.alloc_zeroed(Layout::from_size_align(3 << 20, 8).unwrap());
                    at.write(1);
                    for size in &sizes[1..] {
                        let kept = layout.size().min(*size);
                        at = HugePages.realloc(at, layout, *size);
                        layout = Layout::from_size_align(*size, align).unwrap();
                        assert!(at.addr().is_multiple_of(align), "{at:?} for {align}");
                        let bytes = std::slice::from_raw_parts_mut(at, *size);
                        for i in (0..kept).step_by(4093).chain([kept - 1]) {
                            assert_eq!(bytes[i], (i % 251 + 1) as u8, "{i} of {kept} of {size}");
                        }
                        bytes.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i % 251 + 1) as u8);
                    }
                    HugePages.dealloc(at, layout);
                    assert!((0..3 << 20).step_by(4096).all(|i| other.add(i).read() == 0));
                    HugePages.dealloc(other, Layout::from_size_align(3 << 20, 8).unwrap());
                }
            }
        }
        huge::MOVES.store(true, Relaxed);
        // More than there can be.
        let all = Layout::from_size_align(isize::MAX as usize - (4 << 20), 8).unwrap();
        // SAFETY: null is not used.
        assert!(unsafe { HugePages.alloc(all) }.is_null());
    }

    /// The system was asked: the mapping has the flag, where there are huge pages.
    #[test]
    #[cfg(target_os = "linux")]
    fn large_memory_is_in_huge_pages() {
        let layout = Layout::from_size_align(8 << 20, 8).unwrap();
        // SAFETY: given back with the layout it was given with, and written only within.
        unsafe {
            let at = HugePages.alloc(layout);
            at.write_bytes(1, layout.size());
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
            // Mappings that are alike and side by side are one: it need not begin here.
            let is_here = |line: &&str| {
                let (begin, end) = line.split(' ').next()?.split_once('-')?;
                let number = |text: &str| usize::from_str_radix(text, 16).ok();
                Some((number(begin)?..number(end)?).contains(&at.addr()))
            };
            let flags = maps
                .lines()
                .skip_while(|line| is_here(line) != Some(true))
                .find(|line| line.starts_with("VmFlags"));
            let has_them = std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
            if has_them && !maps.is_empty() {
                let flags = flags.unwrap();
                assert!(flags.split_whitespace().any(|flag| flag == "hg"), "{flags}");
            }
            HugePages.dealloc(at, layout);
        }
    }

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
