//! What only the harness sets on a host: the disk, how snapshots are kept, and bugs on request for its canaries.
//!
//! Inert unless set: a server always runs on [`Rig::default`]. Not an interface.

use everworld_persistence::{Disk, RealDisk, StoreOptions};
use std::sync::Arc;

/// How a host of the harness differs from one of a server.
#[derive(Clone)]
pub struct Rig {
    /// Where the world's files are.
    pub disk: Arc<dyn Disk>,
    /// How snapshots are kept, instead of as configured.
    pub store: Option<StoreOptions>,
    /// A planted bug: ticks are shown before their Seal is durable.
    pub show_unsealed: bool,
    /// By what the log tells this build from others.
    pub build_id: [u8; 16],
}

impl Default for Rig {
    fn default() -> Self {
        Self {
            disk: Arc::new(RealDisk),
            store: None,
            show_unsealed: false,
            build_id: crate::spine::build_id(),
        }
    }
}
