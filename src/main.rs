//! The `everworld` program: the command line with the worlds that come with it.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: everworld::HugePages = everworld::HugePages;

fn main() -> ExitCode {
    everworld::main(everworld::PLUGINS)
}
