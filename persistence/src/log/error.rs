//! Why the log could not do something.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Why the log could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// An operation on a file failed.
    #[error("could not {action} \"{}\"", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Bytes that are known to have been durable are damaged or gone (D5). Never a torn tail.
    #[error("log segment \"{}\" is damaged at byte {offset}: {detail}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it the first damage is.
        offset: u64,
        /// What is wrong there, and how it is known.
        detail: String,
    },
    /// The file is of a later format than this build knows.
    #[error("\"{}\" has {what} version {found}, this build reads up to {known}", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Of what the version is.
        what: String,
        /// The version in the file.
        found: u32,
        /// The newest one that this build reads.
        known: u32,
    },
    /// The file belongs to the log of another world.
    #[error("\"{}\" belongs to world {found:016x}, not to {expected:016x}", path.display())]
    ForeignWorld {
        /// The file.
        path: PathBuf,
        /// The world's id in the file.
        found: u64,
        /// The world's id that was asked for.
        expected: u64,
    },
    /// The log begins after the first record that is needed (D7).
    #[error("the log in \"{}\" begins with record {first_lsn}, record {needed} is needed", path.display())]
    Missing {
        /// The log's directory.
        path: PathBuf,
        /// The first record that is there.
        first_lsn: u64,
        /// The first that is needed.
        needed: u64,
    },
    /// The record does not fit in a segment.
    #[error("a record of {bytes} bytes is larger than the log's limit of {max} bytes")]
    RecordTooLarge {
        /// The record's payload.
        bytes: usize,
        /// The largest payload that fits.
        max: usize,
    },
    /// Space for the record could not be reserved. Not a fault: the log goes on, a later try reserves again.
    #[error("could not reserve log space in \"{}\"", path.display())]
    NoSpace {
        /// The segment that could not be reserved.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// As many records wait to become durable as are allowed (L1, L2).
    #[error("the log's queue is full ({queue_len_max} records)")]
    QueueFull {
        /// How many may wait.
        queue_len_max: usize,
    },
    /// An earlier write or sync failed: nothing is written any more (D6).
    #[error("the log has failed and takes no more records")]
    Failed(#[source] Arc<LogError>),
    /// The log's thread panicked; what was not durable by then is not.
    #[error("the log's thread panicked: {0}")]
    Panicked(String),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

impl LogError {
    /// Puts the action and the file to what the system said.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.into(), source }
    }

    pub(super) fn corrupt(path: &Path, offset: usize, detail: impl Into<String>) -> Self {
        Self::Corrupt { path: path.into(), offset: offset as u64, detail: detail.into() }
    }
}
