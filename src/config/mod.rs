//! The server's configuration.
//!
//! Every key is one entry of the list in `keys.rs`; the rest follows from it. Layers, the later wins:
//! defaults, a TOML file, the environment (`EVERWORLD_SECTION__KEY`), `--set section.key=value`, flags.
//! Promises: an unknown key or a value out of its range in any layer is a fault, even where a later layer
//! overrides it; all faults are found at once, each with its place; a fault never yields a configuration.
//! Deliberately absent: reloading, and any reading of the environment (the caller hands it in).

mod keys;
mod value;

mod load;
mod render;

pub use keys::{
    Config, DataConfig, HistoryConfig, HttpConfig, KEYS, Key, LogConfig, LoggingConfig, MirrorConfig, Scope,
    SnapshotConfig, ThreadsConfig, TickConfig, WorldConfig,
};
pub use load::{ConfigFault, ConfigFaults, Loaded, Source, Sourced};
pub use render::default_file;
pub use value::{LogFilter, LogFormat};
