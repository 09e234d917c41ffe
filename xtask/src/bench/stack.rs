//! `cargo xtask bench stack`: what a Python stack that the kernel side reads costs the traced thread.

use std::process::Command;

use anyhow::{Context as _, Result};
use tracekit_tests::interpreters::installed;
use tracekit_tests::paths;

use super::build_example;
use crate::setup::checked;

/// How deep, how often, in which interpreters.
#[derive(Debug, clap::Args)]
pub struct Stack {
    /// Frames of the stack: at most 64 are read.
    #[arg(long, default_value_t = 30)]
    frames: usize,
    /// Rounds of 500 sends untraced, traced, and with stacks.
    #[arg(long, default_value_t = 400)]
    rounds: usize,
    /// Interpreters, by their names in `cargo xtask interpreters --list`.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "3.8-pyenv,3.10-pyenv,3.11-pyenv,3.12-pyenv,3.13-pyenv"
    )]
    interpreters: Vec<String>,
}

/// Sends from a known depth with stacks and without, in turn, and prints the difference of the medians.
///
/// # Errors
/// An interpreter is not installed, or stacks are missing.
pub fn run(arguments: &Stack) -> Result<()> {
    let all = installed()?;
    let stacks = build_example("stacks")?;
    for id in &arguments.interpreters {
        let found = all.iter().find(|row| row.id == *id);
        let interpreter =
            found.with_context(|| format!("no interpreter {id}: see cargo xtask interpreters --list"))?;
        println!("Python {} ({id})", interpreter.version);
        let mut command = Command::new(&stacks);
        command.arg(paths::workspace().join(&interpreter.python));
        checked(command.args([arguments.frames.to_string(), arguments.rounds.to_string()]))?;
    }
    Ok(())
}
