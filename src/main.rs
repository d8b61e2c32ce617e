//! The `everworld` program: the command line with the worlds that come with it.

use std::process::ExitCode;

fn main() -> ExitCode {
    everworld::main(everworld::PLUGINS)
}
