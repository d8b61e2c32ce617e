//! The command line: one file per command.

mod backup;
mod config_command;
mod diff;
mod entity;
pub mod exit;
mod inspect;
mod past;
mod plan;
mod retention;
mod rewind;
mod run;
mod serve;
mod snapshot;
mod source;
mod story;
mod timeline;
mod token;
mod top;
pub mod upgrade;
mod verify;
mod why;
mod worlds;

pub use exit::Failed;

use clap::{CommandFactory as _, Parser, Subcommand};
use everworld_systems::Plugin;
use std::{ffi::OsString, process::ExitCode};

/// A headless world server: millions of NPCs, deterministic, durable, inspectable
#[derive(Parser, Debug)]
#[command(name = "everworld", version, max_term_width = 100, after_help = exit_codes())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Serve(serve::ServeArgs),
    Run(run::RunArgs),
    Plan(plan::PlanArgs),
    Inspect(inspect::InspectArgs),
    Top(top::TopArgs),
    Entity(entity::EntityArgs),
    Input(entity::InputArgs),
    Chronicle(story::ChronicleArgs),
    Npc(story::NpcArgs),
    Why(why::WhyArgs),
    History(timeline::HistoryArgs),
    Diff(diff::DiffArgs),
    Verify(verify::VerifyArgs),
    Snapshot(snapshot::SnapshotArgs),
    Branches(timeline::BranchesArgs),
    Retention(retention::RetentionArgs),
    Rewind(rewind::RewindArgs),
    Fork(rewind::ForkArgs),
    Backup(backup::BackupArgs),
    Restore(backup::RestoreArgs),
    Worlds(worlds::WorldsArgs),
    Upgrade(upgrade::UpgradeArgs),
    Token(token::TokenArgs),
    Config(config_command::ConfigArgs),
    /// Print the completion script for a shell
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

fn exit_codes() -> String {
    let lines: Vec<_> =
        exit::EXIT_CODES.iter().map(|(code, meaning)| format!("  {code:>2}  {meaning}")).collect();
    format!("Exit codes:\n{}", lines.join("\n"))
}

/// A library's panic on damaged bytes is caught and told as an error: the hook would tell it a second time, as a
/// crash that it is not. And `println!` panics when nobody reads any more: `everworld ... | head` ends as other
/// programs do.
fn quiet_guarded_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if exit::is_broken_pipe(panic.payload()) {
            std::process::exit(i32::from(exit::BROKEN_PIPE));
        }
        if !everworld_persistence::panic_is_guarded() {
            report(panic);
        }
    }));
}

/// Parses and runs a command line.
pub fn main(args: impl IntoIterator<Item = OsString>, plugins: &'static [Plugin]) -> ExitCode {
    quiet_guarded_panics();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // clap's own: help and version go to stdout with 0, the rest to stderr with 2.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let result = match &cli.command {
        Command::Serve(args) => serve::run(args, plugins),
        Command::Run(args) => run::run(args, plugins),
        Command::Plan(args) => plan::run(args, plugins),
        Command::Worlds(args) => worlds::run(args, plugins),
        Command::Upgrade(args) => upgrade::run(args, plugins),
        Command::Inspect(args) => inspect::run(args, plugins),
        Command::Top(args) => top::run(args),
        Command::Entity(args) => entity::entity(args),
        Command::Input(args) => entity::input(args),
        Command::Chronicle(args) => story::chronicle(args, plugins),
        Command::Npc(args) => story::npc(args, plugins),
        Command::Why(args) => why::run(args, plugins),
        Command::History(args) => timeline::history(args, plugins),
        Command::Diff(args) => diff::run(args, plugins),
        Command::Verify(args) => verify::run(args, plugins),
        Command::Snapshot(args) => snapshot::run(args, plugins),
        Command::Branches(args) => timeline::branches(args, plugins),
        Command::Retention(args) => retention::run(args, plugins),
        Command::Rewind(args) => rewind::rewind(args, plugins),
        Command::Fork(args) => rewind::fork(args, plugins),
        Command::Backup(args) => backup::backup(args, plugins),
        Command::Restore(args) => backup::restore(args, plugins),
        Command::Token(args) => token::run(args),
        Command::Config(args) => config_command::run(args, plugins),
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "everworld", &mut std::io::stdout());
            Ok(())
        }
    };
    result.map_or_else(|failed| failed.report(), |()| ExitCode::SUCCESS)
}
