use std::process::ExitCode;

use clap::Parser as _;
use operator::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("olla-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}
