//! Every chore of this repository: `cargo xtask help`.

mod bench;
mod demo;
mod setup;
mod sink;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the tracekit repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Install what tests, demo and benchmarks need: Debian packages, virtual environments, bpf-linker.
    Setup(setup::Arguments),
    /// Set up, build, and run all tests.
    Test(test::Arguments),
    /// Run an unmodified Flask shop with PostgreSQL and Redis, attach to it, and print its traces live.
    Demo(demo::Arguments),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().chore {
        Chore::Setup(arguments) => setup::run(&arguments),
        Chore::Test(arguments) => test::run(&arguments),
        Chore::Demo(arguments) => demo::run(&arguments),
        Chore::Bench(bench) => bench::run(&bench),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
