//! The `doorward` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The demo server stands behind the command line in the order of modules, so it is handed in.
    doorward::cli::main(doorward::demo::run)
}
