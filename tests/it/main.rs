//! The integration tests of the product, one binary.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files and start processes; no tick does"
)]

mod tidy;
