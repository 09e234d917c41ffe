//! The agent as a child process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use tempfile::TempDir;

use crate::paths;
use crate::process::{Process, wait_for};
use crate::span::Span;
use crate::stage::Stage;

/// A running `tracekit attach` or `tracekit run` that prints its spans as JSON lines.
#[derive(Debug)]
pub struct Agent {
    /// The agent's process.
    pub process: Process,
    /// Its socket and state directory: below the stage's path a socket's name could be too long.
    runtime: TempDir,
}

/// `tracekit` with `arguments`, without any OTLP settings of the caller's environment.
///
/// # Errors
/// The agent has not been built.
pub fn command(arguments: &[&str]) -> Result<Command> {
    Ok(command_of(&paths::agent()?, arguments))
}

/// As [`command`], of this build.
#[must_use]
pub fn command_of(agent: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(agent);
    for (key, _) in std::env::vars_os() {
        if key.to_str().is_some_and(|name| name.starts_with("OTEL_")) {
            command.env_remove(key);
        }
    }
    command.args(arguments);
    command
}

impl Agent {
    /// Attaches to `pids` and waits until the agent says that it has.
    ///
    /// # Errors
    /// The agent ends or is not ready after 20 s.
    pub fn attach(stage: &Stage, pids: &[u32]) -> Result<Self> {
        Self::start(stage, "agent", &["attach"], pids, &[])
    }

    /// Starts `tracekit <verb> --pid … --print jsonl` with further environment variables and waits for it.
    ///
    /// # Errors
    /// As [`Agent::attach`].
    pub fn start(
        stage: &Stage,
        name: &str,
        verb: &[&str],
        pids: &[u32],
        environment: &[(&str, String)],
    ) -> Result<Self> {
        let runtime = tempfile::Builder::new().prefix("tracekit-").tempdir()?;
        Self::start_in(runtime, stage, name, verb, pids, environment)
    }

    /// Kills it and starts another, which has its state.
    ///
    /// # Errors
    /// As [`Agent::attach`].
    pub fn replace(self, stage: &Stage, name: &str, verb: &[&str], pids: &[u32]) -> Result<Self> {
        let Self { mut process, runtime } = self;
        process.signal(libc::SIGKILL);
        process.wait(Duration::from_secs(10))?;
        Self::start_in(runtime, stage, name, verb, pids, &[])
    }

    fn start_in(
        runtime: TempDir,
        stage: &Stage,
        name: &str,
        verb: &[&str],
        pids: &[u32],
        environment: &[(&str, String)],
    ) -> Result<Self> {
        let ready: PathBuf = stage.logs().join(format!("{name}.ready"));
        if ready.exists() {
            std::fs::remove_file(&ready)?;
        }
        let mut command = command(verb)?;
        for pid in pids {
            command.args(["--pid", &pid.to_string()]);
        }
        command.args(["--print", "jsonl", "--ready-file"]).arg(&ready);
        command.arg("--control-socket").arg(runtime.path().join("agent.sock"));
        command.arg("--state-dir").arg(runtime.path().join("state"));
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        let mut process = Process::start(name, stage.logs(), command)?;
        process.ready(Duration::from_secs(20), || Ok(ready.exists().then_some(())))?;
        Ok(Self { process, runtime })
    }

    /// Where it is controlled: what `tracekit break` takes as `TRACEKIT_AGENT`.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime.path().join("agent.sock")
    }

    /// The spans that it has printed so far.
    ///
    /// # Errors
    /// A line is not a span.
    pub fn spans(&self) -> Result<Vec<Span>> {
        Span::read_lines(self.process.stdout_path())
    }

    /// Waits until `enough` says that the spans are all there.
    ///
    /// # Errors
    /// `limit` has passed; says how many spans there are.
    pub fn spans_when(&self, limit: Duration, enough: impl Fn(&[Span]) -> bool) -> Result<Vec<Span>> {
        let result = wait_for("spans of the agent", limit, || {
            let spans = self.spans()?;
            Ok(enough(&spans).then_some(spans))
        });
        match result {
            Ok(spans) => Ok(spans),
            Err(error) => bail!("{error:#}; there are {}:\n{}", self.spans()?.len(), listing(&self.spans()?)),
        }
    }

    /// Asks it to end and gives all spans that it printed.
    ///
    /// # Errors
    /// It does not end with status 0 in time.
    pub fn finish(mut self) -> Result<Vec<Span>> {
        let status = self.process.stop(Duration::from_secs(15))?;
        if !status.success() {
            bail!("the agent ended with {status}:\n{}", self.process.log_tail());
        }
        self.spans()
    }
}

/// The last spans, one a line, for messages.
#[must_use]
pub fn listing(spans: &[Span]) -> String {
    let lines: Vec<String> = spans.iter().rev().take(40).rev().map(ToString::to_string).collect();
    lines.join("\n")
}
