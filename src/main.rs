//! The command line of unsocket: arguments to configuration to run; no protocol here.

use std::process::ExitCode;

fn main() -> ExitCode {
    unsocket::cli::main()
}
