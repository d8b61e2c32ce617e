//! The list of configuration keys, the only place that names them.
//!
//! From it come the typed [`Config`], its defaults, every layer's checks, `configs/server.toml` and
//! `config show`. A new key is one entry here (and `UPDATE_EXPECT=1 cargo test config`). What a type of
//! value accepts is in `value.rs`, how layers are read in `load.rs`.

use std::{net::SocketAddr, path::PathBuf};

use toml::de::DeValue;

use super::value::{LogFilter, LogFormat, Setting};
use crate::history::OnPanic;

/// When a key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A property of this process: may change between any two starts.
    Host,
    /// As [`Scope::Host`], and may change while it runs.
    Live,
    /// Part of the world record: used only when a world is created.
    World,
}

impl Scope {
    /// `host`, `live` or `world`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Live => "live",
            Self::World => "world",
        }
    }
}

/// One row of the list.
#[derive(Debug)]
pub struct Key {
    /// The section, `http`.
    pub section: &'static str,
    /// The key within its section, `bind`.
    pub name: &'static str,
    /// Section and key, `http.bind`.
    pub path: &'static str,
    /// When it takes effect.
    pub scope: Scope,
    /// The default as it stands in the list, which is valid TOML.
    pub default: &'static str,
    /// The limits of a number, `1 to 64`.
    pub range: Option<&'static str>,
    /// What it means, one to two lines.
    pub doc: &'static [&'static str],
    /// What is accepted, for messages.
    pub(super) expected: fn() -> String,
    /// Takes a value over if it is accepted.
    pub(super) set: fn(&mut Config, &DeValue<'_>) -> bool,
    /// The value in force.
    pub(super) get: fn(&Config) -> serde_json::Value,
}

impl Key {
    /// The variable that overrides it, `EVERWORLD_HTTP__BIND`.
    pub fn env_name(&self) -> String {
        format!("EVERWORLD_{}__{}", self.section, self.name).to_uppercase()
    }
}

/// A section of the list.
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) doc: &'static str,
}

/// The limits of a key: a range, or nothing.
macro_rules! limit {
    () => {
        ()
    };
    ($low:literal, $high:literal) => {
        $low..=$high
    };
}

/// The same as text.
macro_rules! limit_text {
    () => {
        None
    };
    ($low:literal, $high:literal) => {
        Some(concat!(stringify!($low), " to ", stringify!($high)))
    };
}

macro_rules! keys {
    ($(
        #[doc = $section_doc:literal]
        $section:ident: $Section:ident {
            $(
                $(#[doc = $doc:literal])+
                $key:ident: $Type:ty $(where $low:literal ..= $high:literal)? = $default:literal, $Scope:ident;
            )+
        }
    )+) => {
        /// The configuration in force, by section.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $(#[doc = $section_doc] pub $section: $Section,)+
        }

        $(
            #[doc = $section_doc]
            #[derive(Clone, Debug, PartialEq)]
            pub struct $Section {
                $($(#[doc = $doc])+ pub $key: $Type,)+
            }
        )+

        impl Default for Config {
            fn default() -> Self {
                Self {
                    $($section: $Section {
                        $($key: default_of(stringify!($default), &limit!($($low, $high)?)),)+
                    },)+
                }
            }
        }

        /// The sections in the order of the file.
        pub(super) const SECTIONS: &[Section] = &[
            $(Section { name: stringify!($section), doc: $section_doc },)+
        ];

        /// The keys in the order of the file.
        pub const KEYS: &[Key] = &[
            $($(Key {
                section: stringify!($section),
                name: stringify!($key),
                path: concat!(stringify!($section), ".", stringify!($key)),
                scope: Scope::$Scope,
                default: stringify!($default),
                range: limit_text!($($low, $high)?),
                doc: &[$($doc),+],
                expected: || <$Type as Setting>::expected(&limit!($($low, $high)?)),
                set: |config, value| {
                    let setting = <$Type as Setting>::read(value, &limit!($($low, $high)?));
                    setting.map(|setting| config.$section.$key = setting).is_some()
                },
                get: |config| config.$section.$key.to_json(),
            },)+)+
        ];
    };
}

keys! {
    /// Where the worlds live.
    data: DataConfig {
        /// The data directory: logs and snapshots of every world. Relative to the working directory.
        dir: PathBuf = "./data", Host;
        /// Worlds that are hosted at the same time; another one is refused with 409.
        worlds_max: usize where 1..=1024 = 16, Host;
    }

    /// The HTTP interface and its bounds. Above a bound: a visible refusal (408, 413, 429, 431 or 503).
    http: HttpConfig {
        /// Address and port to listen on; port 0 takes a free one.
        bind: SocketAddr = "127.0.0.1:7170", Host;
        /// The file with the bearer tokens, see `everworld token`; "" = `tokens` in the data directory.
        token_file: Option<String> = "", Host;
        /// Listen where other machines can reach it without TLS: what is sent, tokens too, can be read on the way. Needs
        /// tokens all the same.
        allow_plaintext: bool = false, Host;
        /// The certificate chain of this server in PEM, for TLS; needs a build with the feature `tls`; "" = no TLS.
        tls_certificate: Option<String> = "", Host;
        /// Its private key in PEM.
        tls_key: Option<String> = "", Host;
        /// Requests per second of each token, or of all together where there are none; 0 = any number.
        rate_per_sec: f64 where 0.0..=1_000_000.0 = 0.0, Live;
        /// Open connections; more of them are closed at once.
        connections_max: usize where 1..=65_536 = 1024, Host;
        /// Requests being answered at the same time.
        in_flight_max: usize where 1..=65_536 = 512, Host;
        /// Streams at the same time, of changes, events, lines and rows.
        streams_max: usize where 1..=65_536 = 256, Host;
        /// Questions that look at more rows are answered by the threads for bulk work.
        bulk_rows: usize where 0..=1_000_000_000 = 20_000, Live;
        /// Time for a request's head to arrive.
        header_timeout_millis: u64 where 1..=3_600_000 = 3000, Host;
        /// Time for a request's body to arrive.
        body_timeout_millis: u64 where 1..=3_600_000 = 10_000, Live;
        /// Time for a request to be answered; streams are exempt.
        request_timeout_millis: u64 where 1..=3_600_000 = 30_000, Host;
        /// The largest request body.
        body_bytes_max: usize where 1024..=16_777_216 = 65_536, Live;
        /// The largest batch of inputs as NDJSON, and the largest import of rows.
        batch_bytes_max: usize where 1024..=268_435_456 = 4_194_304, Live;
        /// Headers in one request.
        headers_max: usize where 1..=1024 = 64, Host;
        /// Time that open requests have to end when the server stops.
        drain_timeout_millis: u64 where 0..=3_600_000 = 3000, Host;
        /// Connections that the kernel holds until they are accepted.
        backlog: u32 where 1..=65_535 = 4096, Host;
    }

    /// The first world, created when the data directory is empty. A world that exists keeps its own record.
    world: WorldConfig {
        /// The name of a built-in scenario, or the path of a scenario file.
        scenario: String = "town", World;
        /// The world to host, of those in the data directory, a fork for instance; "" = the one that is named like the
        /// scenario.
        name: Option<String> = "", Host;
        /// The seed of all chance; "" = the scenario's.
        seed: Option<u64> where 0..=18_446_744_073_709_551_615 = "", World;
        /// How many NPCs to begin with; "" = the scenario's.
        population: Option<u64> where 0..=100_000_000 = "", World;
    }

    /// The pace of the world.
    tick: TickConfig {
        /// Ticks per second; 0 = as fast as possible.
        rate_hz: f64 where 0.0..=1000.0 = 10.0, Host;
        /// Inputs taken into one tick; the rest wait for the next.
        inputs_max: usize where 1..=1_048_576 = 4096, Host;
        /// Logged inputs that may wait for a tick; above: 503.
        pending_inputs_max: usize where 1..=16_777_216 = 65_536, Host;
        /// Events of each kind that a tick tells outside, the first ones; the others are counted only.
        events_max: usize where 0..=1_000_000 = 10_000, Host;
        /// A tick that takes longer makes the world degraded, visibly; 0 = no such limit.
        soft_limit_millis: u64 where 0..=86_400_000 = 5000, Host;
        /// A tick that takes longer ends the process with exit 70, and what hung is left out after the restart
        /// (recovery.on_panic); 0 = no such limit.
        hard_limit_millis: u64 where 0..=86_400_000 = 60_000, Host;
    }

    /// Inputs from outside.
    inputs: InputsConfig {
        /// Idempotency keys that are remembered, the newest; 0 = none.
        idempotency_keys_max: usize where 0..=16_777_216 = 65_536, Host;
        /// How many ticks ahead an input may ask for; further: 422.
        ahead_ticks_max: u64 where 0..=1_000_000_000_000 = 10_000_000, Host;
    }

    /// Threads. Their number never changes a result.
    threads: ThreadsConfig {
        /// Threads that run the systems; 0 = one per core.
        workers: usize where 0..=256 = 0, Host;
    }

    /// The input log, by which inputs are durable.
    log: LogConfig {
        /// Size of one segment file, reserved ahead.
        segment_bytes: u64 where 65_536..=1_073_741_824 = 4_194_304, Host;
        /// Records that may wait for the log's writer; inputs may fill seven eighths of it; above: 503.
        queue_len_max: usize where 16..=1_048_576 = 8192, Host;
        /// How far ahead the log allows ticks to be shown, and so how often an idle world writes; less far where
        /// computing them takes more than a tenth of recovery.target_secs.
        horizon_lease_millis: u64 where 10..=60_000 = 1000, Host;
        /// A hash of the state goes into the log once a second, and sooner after so many ticks.
        checkpoint_ticks: u64 where 1..=1_000_000_000 = 100_000, Host;
    }

    /// What happens when a world fails.
    recovery: RecoveryConfig {
        /// A tick that panics twice, or that hung: "quarantine" leaves out the system or the input that is to blame, from
        /// that tick on; "stop" ends the world.
        on_panic: OnPanic = "quarantine", Host;
        /// A world is to be back after so long: the time between two snapshots keeps to it.
        target_secs: f64 where 0.5..=86_400.0 = 5.0, Host;
        /// And after so long when the newest epoch of snapshots is damaged, from the one before and a longer replay: no epoch
        /// goes on for longer, and a replay takes no longer than the ticks once did.
        fallback_secs: u64 where 10..=86_400 = 600, Host;
        /// Time that a failed world's last view and reason are still served before the process ends.
        linger_secs: f64 where 0.0..=3600.0 = 3.0, Host;
    }

    /// Ticks that are computed a second time beside the world, when the CPU has nothing else to do.
    verify: VerifyConfig {
        /// Compare what comes out with the hashes that were recorded; a difference is a metric, a line in the log, and
        /// `verification` of the world.
        enabled: bool = true, Host;
        /// Time between two stretches of ticks.
        pause_secs: f64 where 0.0..=86_400.0 = 10.0, Host;
        /// Ticks of one stretch, or up to the next recorded hash.
        ticks_max: u64 where 1..=1_000_000_000 = 200, Host;
        /// A second world takes about twice the bytes of the first; one that needs more than this is not verified.
        memory_bytes_max: u64 where 0..=18_446_744_073_709_551_615 = 536_870_912, Host;
    }

    /// What a world keeps on the disk is read again from time to time, when the CPU has nothing else to do.
    scrub: ScrubConfig {
        /// 1,000,000 bytes a second of snapshots and log; 0 = none is read. Damage is a metric, a line in the log, and `scrub`
        /// of the world.
        mb_per_sec: f64 where 0.0..=100_000.0 = 4.0, Host;
        /// Before the first pass, and from the end of one to the beginning of the next.
        every_secs: f64 where 0.01..=31_536_000.0 = 3600.0, Host;
    }

    /// What a world is measured by, where its plugin says so: taken from a view when the CPU has nothing else to do.
    statistics: StatisticsConfig {
        /// Seconds between two samples; 0 = none is taken.
        every_secs: f64 where 0.0..=86_400.0 = 10.0, Host;
    }

    /// The copy of the world that all readers read.
    mirror: MirrorConfig {
        /// Time between two refreshes; 0 = by size: every tick up to 20,000 entities, each second above.
        period_millis: u64 where 0..=3_600_000 = 0, Host;
    }

    /// Snapshots from which a world comes back.
    snapshot: SnapshotConfig {
        /// Time between two snapshots; 0 = by size: 250 ms up to 20,000 entities, each second up to 200,000, 5 s above.
        /// Shorter where a replay would take longer than recovery.target_secs.
        period_millis: u64 where 0..=86_400_000 = 0, Host;
        /// Of so many seconds every snapshot is kept.
        dense_secs: u64 where 0..=31_536_000 = 600, Host;
        /// Of older ones whole states are kept, so many seconds apart.
        sparse_every_secs: u64 where 1..=31_536_000 = 600, Host;
        /// Those are kept for so many seconds, and the log back to the oldest of them.
        keep_secs: u64 where 0..=3_153_600_000 = 86_400, Host;
    }

    /// Work on the past: former ticks, differences, verifying, forks. It takes the CPU that nobody else wants.
    history: HistoryConfig {
        /// Threads.
        workers: usize where 1..=64 = 1, Host;
        /// Questions that may wait for them; above: 503.
        queue_len_max: usize where 1..=65_536 = 16, Host;
    }

    /// What the server says about itself, on standard error.
    logging: LoggingConfig {
        /// A level (error, warn, info, debug, trace), or directives such as "info,everworld::api=debug".
        filter: LogFilter = "info", Live;
        /// pretty for people, json for machines, auto = pretty on a terminal and json elsewhere.
        format: LogFormat = "auto", Host;
        /// One summary line each so many ticks; 0 = none.
        summary_ticks: u64 where 0..=1_000_000_000 = 600, Host;
    }
}

/// Reads a default from the list through the same gate as any other value.
fn default_of<S: Setting>(toml: &str, limit: &S::Limit) -> S {
    let value = DeValue::parse(toml).expect("a literal of the list is TOML");
    S::read(value.get_ref(), limit).expect("a default is within its own limit")
}
