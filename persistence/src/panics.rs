//! Panics of libraries on damaged bytes: caught, and turned into text.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// True while this thread runs code whose panic is caught and reported as an error: a panic hook that says nothing
/// then spares the reader a scare.
pub fn panic_is_guarded() -> bool {
    IS_GUARDED.get()
}

/// Runs code that may panic on damaged bytes; what the panic said is the error.
pub(crate) fn guarded<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    let before = IS_GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(body));
    IS_GUARDED.set(before);
    result.map_err(|panic| panic_text(&*panic))
}

/// The message of a panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "no message".into())
}
