//! Every chore of this repository: `cargo xtask help`.

mod apt;
mod bench;
mod build_ebpf;
mod demo;
mod interpreters;
mod setup;
mod sink;
mod test;
mod vm;

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
    /// Install what all chores need: Debian packages, virtual environments, interpreters, bpf-linker.
    Setup(setup::Arguments),
    /// Install the interpreters that the reader of CPython is tested on.
    Interpreters(interpreters::Arguments),
    /// Set up, build, and run all tests.
    Test(test::Arguments),
    /// Run an unmodified Flask shop with PostgreSQL and Redis, attach to it, and print its traces live.
    Demo(demo::Arguments),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Build the kernel object, or check the committed one.
    BuildEbpf(build_ebpf::BuildEbpfArgs),
    /// Boot Debian's kernels in QEMU and check that the agent works in each.
    Vm(vm::VmArgs),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().chore {
        Chore::Setup(arguments) => setup::run(&arguments),
        Chore::Interpreters(arguments) => interpreters::run(&arguments),
        Chore::Test(arguments) => test::run(&arguments),
        Chore::Demo(arguments) => demo::run(&arguments),
        Chore::Bench(bench) => bench::run(&bench),
        Chore::BuildEbpf(arguments) => build_ebpf::run(&arguments),
        Chore::Vm(arguments) => vm::run(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
