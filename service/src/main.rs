//! `larderd`.

use std::process::ExitCode;

fn main() -> ExitCode {
    larder_service::cli::run()
}
