use std::process::ExitCode;

use clap::Parser as _;
use operator::cli::Cli;

// The image is linked against musl, whose own allocator has one lock for all threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("olla-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}
