//! Benchmarks against named baselines in the same run, and the harnesses that kill and compare.
//!
//! `cargo run --release -p everworld-bench -- NAME [--json]`. A figure is a ratio: both sides are measured in turn, in
//! blocks, and medians are compared. A canary voids a run on a machine whose second core is not free.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "benchmarks read clocks and start processes; no tick does"
)]

/// As `everworld` itself has it.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: everworld::HugePages = everworld::HugePages;

mod ack;
mod baseline;
mod bitrot;
mod canaries;
mod canary;
mod capture;
mod columns;
mod crash;
mod det;
mod events;
mod harness;
mod heavy;
mod hostile;
mod http;
mod iofault;
mod kill;
mod measure;
mod models;
mod npcs;
mod peers;
mod persist;
mod plots;
mod publish;
mod recover;
mod reliability;
mod report;
mod rivals;
mod scenarios;
mod schedule;
mod serving;
mod sizes;

use clap::{Parser, Subcommand};
use report::Report;
use std::process::ExitCode;

/// Benchmarks of Everworld
#[derive(Parser)]
#[command(name = "everworld-bench")]
struct Cli {
    #[command(subcommand)]
    name: Name,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Name {
    /// The scheduler beside bevy's executors
    Schedule,
    /// Rows with change marks beside raw arrays and bevy's par_iter
    Columns,
    /// The standard models against reference figures
    Models(models::ModelsArgs),
    /// What a tick costs by the number of NPCs and of threads; beside an earlier run
    Npcs(npcs::NpcsArgs),
    /// A process to be measured
    #[command(hide = true)]
    NpcsChild(npcs::ChildArgs),
    /// A step of Flocking beside bare arrays and other entity systems
    Peers(peers::PeersArgs),
    /// The rivals' own loads, beside their published figures
    Rivals(rivals::RivalsArgs),
    /// What all benchmarks found, as docs/BENCHMARKS.md and as one page with plots
    Report(publish::ReportArgs),
    /// What systems emit, in the tick and to a subscriber
    Events(events::EventsArgs),
    /// How long the tick stands still for a capture
    Capture(capture::CaptureArgs),
    /// What the tick feels of persistence
    Persist(persist::PersistArgs),
    /// What the tick feels of readers over HTTP, and what they get
    Http(http::HttpArgs),
    /// Durable acknowledgements over HTTP beside bare syncs
    Ack(ack::AckArgs),
    /// What the town costs on disk
    Sizes(sizes::SizesArgs),
    /// How soon a killed server is back, and what memory it needs
    Recover(recover::RecoverArgs),
    /// One hash: threads, seeds, registration orders, shuffled rows
    Det(det::DetArgs),
    /// Restored at every tick: one hash with a world that is left alone
    Heavy(heavy::HeavyArgs),
    /// Kills, losses of power, crashes while coming back from a crash
    Crash(crash::CrashArgs),
    /// Each write and each sync fails, once and for good
    Iofault(iofault::IofaultArgs),
    /// Bits of a world's files are turned over
    Bitrot(bitrot::BitrotArgs),
    /// A process to be killed
    #[command(hide = true)]
    CrashChild(crash::ChildArgs),
    /// All harnesses, as docs/RELIABILITY.md
    Reliability(reliability::ReliabilityArgs),
    /// The log of an image that `crash --keep` kept
    #[command(hide = true)]
    Look {
        /// The image
        dir: std::path::PathBuf,
    },
    /// Planted bugs that the harnesses must catch
    Canaries(canaries::CanaryArgs),
    /// The server itself, for the harnesses: `server serve ...`
    #[command(hide = true)]
    Server {
        /// Its command line
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
    /// Kill -9 of a server at random times while inputs are posted
    Kill(kill::KillArgs),
}

fn main() -> ExitCode {
    report::begin();
    let cli = Cli::parse();
    let result = match &cli.name {
        Name::Server { args } => {
            let args = std::iter::once("everworld".into()).chain(args.iter().cloned());
            return everworld::cli::main(args, scenarios::plugins());
        }
        Name::Look { dir } => {
            crash::look(dir);
            return ExitCode::SUCCESS;
        }
        Name::Reliability(args) => {
            return match reliability::run(args) {
                Ok(ok) => ExitCode::from(u8::from(!ok)),
                Err(error) => ended(Err(error)),
            };
        }
        Name::CrashChild(args) => return ended(crash::child(args)),
        Name::Schedule => schedule::run(),
        Name::Columns => columns::run(),
        Name::Models(args) => models::run(args),
        Name::Report(args) => return ended(publish::run(args)),
        Name::NpcsChild(args) => return ended(npcs::run_child(args)),
        Name::Npcs(args) => npcs::run(args),
        Name::Peers(args) => peers::run(args),
        Name::Rivals(args) => rivals::run(args),
        Name::Events(args) => events::run(args),
        Name::Capture(args) => capture::run(args),
        Name::Persist(args) => persist::run(args),
        Name::Sizes(args) => sizes::run(args),
        Name::Http(args) => http::run(args),
        Name::Ack(args) => ack::run(args),
        Name::Recover(args) => recover::run(args),
        Name::Det(args) => det::run(args),
        Name::Heavy(args) => heavy::run(args),
        Name::Crash(args) => crash::run(args),
        Name::Iofault(args) => iofault::run(args),
        Name::Bitrot(args) => bitrot::run(args),
        Name::Canaries(args) => canaries::run(args),
        Name::Kill(args) => kill::run(args),
    };
    match result.and_then(|report| report.print(cli.json)) {
        Ok(ok) => ExitCode::from(u8::from(!ok)),
        Err(error) => {
            eprintln!("everworld-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("everworld-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What every benchmark returns.
type Outcome = anyhow::Result<Report>;
