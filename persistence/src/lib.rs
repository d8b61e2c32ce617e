//! Bytes on disk: the input log (append-only segments) and the snapshot store (redb).
//!
//! Promises: what [`Log::commit`] or [`LogHandle::wait_durable`] reported is found again after any crash, or
//! its damage is named (D1, D5); a failed write or sync is never retried (D6); no byte from disk is used
//! before its version and checksum were checked (D5). Deliberately absent: any knowledge of components,
//! clocks, and of what records mean for a world. The bytes are described in docs/FORMAT.md.
//!
//! Reading order: [`Record`] is what goes into a log, [`Log`] the log itself, [`LogHandle`] the same behind a
//! thread; [`Store`] keeps snapshots. [`Disk`] is what a test replaces to break things.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this crate is bytes on disk; no tick runs here"
)]

mod disk;
mod log;
mod panics;
pub mod sim;
mod store;

pub use disk::{Disk, DiskFile, RealDisk};
pub use log::{
    Control, DurablePoint, FRAME_HEADER_BYTES, IdempotencyKey, InputRecord, LOG_FORMAT, Log, LogDone,
    LogError, LogFault, LogHandle, LogOptions, LogReader, LogStats, LogWriter, OpenReport, Record, Records,
    SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES,
};
pub use panics::panic_is_guarded;
pub use store::{
    BackupError, BackupReport, Loaded, Note, Pruned, RECORD_BYTES_MAX, Retention, STORE_FORMAT, Scrubbed,
    Snapshot, SnapshotMeta, Snapshots, Store, StoreError, StoreOptions, StoreReport, WriteStats, backup,
};
