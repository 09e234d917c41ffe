//! `cargo xtask test`: everything that can be tested on this machine.

use anyhow::Result;

use crate::setup::{self, Profile, build_agent, cargo, checked, step};

/// Which tests to run.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only tests whose name contains this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Only the end-to-end tests.
    #[arg(long)]
    e2e: bool,
}

/// Sets up, builds the agent, runs the unit tests and then the end-to-end tests, one at a time: they share the
/// kernel and two of them would measure each other.
///
/// # Errors
/// A step failed.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::install(setup::Extent::Tests)?;
    let agent = build_agent(Profile::Release)?;
    let filter = arguments.filter.as_deref();
    if !arguments.e2e {
        step("unit tests");
        let mut unit = cargo(&["test", "--workspace", "--exclude", "tracekit-tests", "--quiet", "--"]);
        checked(unit.args(filter))?;
    }
    step("end-to-end tests");
    let mut e2e = cargo(&["test", "--package", "tracekit-tests", "--no-fail-fast", "--"]);
    e2e.arg("--test-threads=1").args(filter).env("TRACEKIT_BIN", agent);
    // Backtraces of anyhow errors hide the logs that the tests print.
    checked(e2e.env("RUST_BACKTRACE", "0"))
}
