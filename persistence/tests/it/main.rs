//! Bytes on disk, tested at the crate's boundary: what comes back after crashes, faults and damage.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of bytes on disk; no tick runs here"
)]

mod golden;
mod images;
mod log_damage;
mod log_faults;
mod log_format;
mod log_roundtrip;
mod log_writer;
mod sizes;
mod store;
mod store_faults;
mod support;
