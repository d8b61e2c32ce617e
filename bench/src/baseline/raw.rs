//! The one thing that bare arrays do without asking: several threads write one array, each at places of its own.
#![allow(unsafe_code, reason = "the bound is what arrays can do, and the others are measured by it")]

/// An array that several threads write.
pub(super) struct Places<T>(*mut T);

// SAFETY: whoever writes through it writes places of its own, by the contract of `Places::write`.
unsafe impl<T: Send> Sync for Places<T> {}

impl<T> Places<T> {
    /// The array is not to be used until the last write.
    pub(super) fn of(rows: &mut [T]) -> Self {
        Self(rows.as_mut_ptr())
    }
}

/// Writes one. The place is one of the array, which still lives, and nobody else writes it: a counting sort gives each
/// place once. Nothing checks it here, as nothing would in the arrays that we compare with.
#[inline]
pub(super) fn put<T>(to: &Places<T>, place: u32, value: T) {
    // SAFETY: as said; the only caller is the counting sort of `flock.rs`.
    unsafe { to.0.add(place as usize).write(value) }
}
