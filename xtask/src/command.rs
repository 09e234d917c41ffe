//! Running other programs, with errors that say which one and what it wrote.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a command to its end; on failure the error has what it wrote.
pub fn run(command: &mut Command) -> Result<()> {
    finish(command).map(drop)
}

/// Runs a command and returns its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let out = finish(command)?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn finish(command: &mut Command) -> Result<Output> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    if out.status.success() {
        return Ok(out);
    }
    let stderr = String::from_utf8_lossy(&out.stderr);
    bail!("{} {}: {}", command.get_program().display(), out.status, stderr.trim())
}
