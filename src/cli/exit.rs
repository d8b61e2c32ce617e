//! The one list of exit codes, and errors that carry theirs.

use everworld_engine::BuildErrors;
use everworld_systems::ScenarioError;
use std::{fmt, process::ExitCode};

/// What a finished process tells its caller.
pub const EXIT_CODES: &[(u8, &str)] = &[
    (0, "ok"),
    (1, "failed"),
    (2, "wrong usage of the command line"),
    (3, "divergence: two runs that must agree do not"),
    (70, "a world hung and the process stopped itself"),
    (74, "storage fault: a write or sync failed, or data is damaged"),
    (75, "the data directory is in use by another process"),
    (78, "bad configuration or scenario; nothing was started"),
    (141, "nobody reads the output any more"),
];

/// As a shell names the end by SIGPIPE.
pub(super) const BROKEN_PIPE: u8 = 141;

/// Whether a panic is that of `println!` when nobody reads any more. The standard library gives no other sign of it;
/// a test holds its words.
pub(super) fn is_broken_pipe(panic: &(dyn std::any::Any + Send)) -> bool {
    let text = panic.downcast_ref::<String>().map_or("", String::as_str);
    text.starts_with("failed printing to stdout") && text.contains("Broken pipe")
}

/// An error and the exit code that it ends with.
#[derive(Debug)]
pub struct Failed {
    /// One of [`EXIT_CODES`].
    pub code: u8,
    /// What happened.
    pub error: anyhow::Error,
}

impl Failed {
    /// An error that ends with that code.
    pub fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into() }
    }

    pub(super) fn report(&self) -> ExitCode {
        eprintln!("everworld: {self}");
        ExitCode::from(self.code)
    }
}

/// Bad configuration or scenario.
pub(super) fn config(error: impl Into<anyhow::Error>) -> Failed {
    Failed::new(78, error)
}

/// Wrong usage that clap cannot see.
pub(super) fn usage(text: &str) -> Failed {
    Failed::new(2, anyhow::anyhow!("{text}"))
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        // The code travels with the cause, wherever it was met.
        if error.chain().any(|cause| cause.is::<ScenarioError>() || cause.is::<BuildErrors>()) {
            return config(error);
        }
        let code = error
            .chain()
            .find_map(|cause| cause.downcast_ref::<crate::spine::SpineError>())
            .map(super::super::spine::SpineError::exit_code);
        Self { code: code.unwrap_or(1), error }
    }
}

impl From<crate::spine::SpineError> for Failed {
    fn from(error: crate::spine::SpineError) -> Self {
        Self { code: error.exit_code(), error: error.into() }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}
