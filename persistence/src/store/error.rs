//! Why the store could not do something.

use everworld_engine::Tick;
use std::{
    io,
    path::{Path, PathBuf},
};

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
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
    /// Another server has the store open.
    #[error("store \"{}\" is in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// What was read does not verify (D5).
    #[error("store \"{}\" is damaged: {detail}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        detail: String,
    },
    /// The file is of a later format than this build knows.
    #[error("store \"{}\" has {what} version {found}, this build reads up to {known}", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Of what the version is.
        what: &'static str,
        /// The version in the file.
        found: u32,
        /// The newest one that this build reads.
        known: u32,
    },
    /// The file is of a format that no released build wrote.
    #[error("store \"{}\" has store format {found}, this build reads format {known} only", path.display())]
    OlderFormat {
        /// The file.
        path: PathBuf,
        /// The format in the file.
        found: u32,
        /// The one that this build reads.
        known: u32,
    },
    /// There is no such snapshot.
    #[error("store \"{}\" has no snapshot of tick {tick} on branch {branch}", path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
        /// The branch that was asked for.
        branch: u32,
        /// The tick that was asked for.
        tick: Tick,
    },
    /// A part of the state is larger than a record may be.
    #[error("{what} is {bytes} bytes large, a record holds at most {max}")]
    TooLarge {
        /// Which part.
        what: String,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// What is read would take more memory than the caller allows.
    #[error("store \"{}\" unpacks to more than {bytes_max} bytes, the limit for it", path.display())]
    OverLimit {
        /// The file.
        path: PathBuf,
        /// The limit.
        bytes_max: u64,
    },
    /// The image to be written contradicts itself or its description: a bug of the caller.
    #[error("refused to store a malformed image: {0}")]
    Malformed(String),
    /// The store was opened for reading only.
    #[error("store \"{}\" is open for reading only", path.display())]
    ReadOnly {
        /// The directory.
        path: PathBuf,
    },
    /// An earlier write or sync failed: nothing is written until the store is opened again (D6).
    #[error("store \"{}\" has failed and takes no more snapshots", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
    },
}

impl StoreError {
    /// Puts the action and the file to what the system said.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.into(), source }
    }

    pub(super) fn damaged(path: &Path, detail: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), detail: detail.into() }
    }
}

/// Puts the action and the file to an error of redb.
pub(super) trait OrFail<T> {
    fn or_fail(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T, E: Into<redb::Error>> OrFail<T> for Result<T, E> {
    fn or_fail(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|error| match error.into() {
            redb::Error::DatabaseAlreadyOpen => StoreError::InUse { path: path.into() },
            // That is how redb refuses a file that is none of its own.
            redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
                StoreError::damaged(path, source.to_string())
            }
            redb::Error::Io(source) => StoreError::Io { action, path: path.into(), source },
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => StoreError::Failed { path: path.into() },
            other => StoreError::damaged(path, other.to_string()),
        })
    }
}
