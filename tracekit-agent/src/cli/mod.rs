//! The command line.

mod agent;
mod breakpoints;
mod code;
mod control;
mod dump;
mod redact;
mod redaction;
mod safety;
mod snapshots;
mod trace;
mod value;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::{
    discovery::ps::{self, PsArgs},
    doctor::{self, DoctorArgs},
    exit::{ExitCode, code_of},
};

/// Zero-code tracing for running Python processes: HTTP, SQL and Redis spans by eBPF. The process is not
/// edited, restarted, stopped or written to.
#[derive(Debug, Parser)]
#[command(name = "tracekit", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Trace processes that run now, and their children, until Ctrl-C
    Attach(trace::AttachArgs),
    /// Trace every matching process of the host, also those that start later
    Run(trace::RunArgs),
    /// List the Python processes of the host
    Ps(PsArgs),
    /// Check what tracing needs of this host, and of a process
    Doctor(DoctorArgs),
    /// Print the Python stacks of a process, with local variables
    Dump(dump::DumpArgs),
    /// List the files, functions and breakable lines that a process has loaded
    Code(code::CodeArgs),
    /// Show what redaction hides of a text: `tracekit redact < app.log`
    Redact(redact::RedactArgs),
    /// Capture stack and variables when a line runs
    Break(breakpoints::BreakArgs),
    /// Log a text with values when a line runs
    Log(breakpoints::LogArgs),
    /// Show what breakpoints have captured
    Snapshots(snapshots::SnapshotsArgs),
    /// Stop all captures at once
    KillSwitch(safety::KillSwitchArgs),
    /// Show the limits of captures
    Limits(safety::LimitsArgs),
}

/// Runs the command line; errors are printed.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; if nobody reads them any more there is nobody to tell.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::Usage } else { ExitCode::Ok };
        }
    };
    let filter = EnvFilter::try_from_env("TRACEKIT_LOG")
        .unwrap_or_else(|_| EnvFilter::new("tracekit=warn,tracekit_agent=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();

    let result = match cli.verb {
        Verb::Attach(args) => trace::attach(&args),
        Verb::Run(args) => trace::run(&args),
        Verb::Ps(args) => ps::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Dump(args) => dump::run(&args),
        Verb::Code(args) => code::run(&args),
        Verb::Redact(args) => redact::run(&args),
        Verb::Break(args) => breakpoints::run_break(&args),
        Verb::Log(args) => breakpoints::run_log(&args),
        Verb::Snapshots(args) => snapshots::run(&args),
        Verb::KillSwitch(args) => safety::kill_switch(&args),
        Verb::Limits(args) => safety::limits(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("tracekit: {error:#}");
        code_of(&error)
    })
}
