//! `larder`: the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    larder_action::cli::run()
}
