//! Benchmarks against named baselines in the same run, and the harnesses that kill and compare.
//!
//! `cargo run --release -p everworld-bench -- NAME [--json]`. A figure is a ratio: both sides are measured in turn, in
//! blocks, and medians are compared. A canary voids a run on a machine whose second core is not free.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "benchmarks read clocks and start processes; no tick does"
)]

mod baseline;
mod canary;
mod columns;
mod det;
mod kill;
mod measure;
mod report;
mod schedule;

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
    /// One hash: threads, seeds, registration orders, shuffled rows
    Det(det::DetArgs),
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
    let cli = Cli::parse();
    let result = match &cli.name {
        Name::Server { args } => {
            let args = std::iter::once("everworld".into()).chain(args.iter().cloned());
            return everworld::cli::main(args, everworld::PLUGINS);
        }
        Name::Schedule => schedule::run(),
        Name::Columns => columns::run(),
        Name::Det(args) => det::run(args),
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

/// What every benchmark returns.
type Outcome = anyhow::Result<Report>;
