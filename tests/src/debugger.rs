//! Breakpoints of a running agent, through its command line.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value as Json;

use crate::agent::{Agent, command};
use crate::debug_registers::with_debug_registers;
use crate::interpreters::Running;
use crate::paths;
use crate::process::wait_for;
use crate::stage::Stage;

/// Long, for machines with much else to do.
pub const SOON: Duration = Duration::from_secs(60);

/// Runs a test with breakpoints on an empty stage, as [`with_debug_registers`] does.
///
/// # Errors
/// Those of the test.
pub fn debugged(name: &str, mut test: impl FnMut(Stage) -> Result<()>) -> Result<()> {
    with_debug_registers(|| Stage::run(name, &mut test))
}

/// Number of the line with the comment `# break: MARK`.
///
/// # Errors
/// There is no such file or mark.
pub fn line_of(file: &Path, mark: &str) -> Result<usize> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let mark = format!("# break: {mark}");
    let line = text.lines().position(|line| line.ends_with(&mark));
    Ok(line.with_context(|| format!("no {mark:?} in {}", file.display()))? + 1)
}

/// `FILE:LINE` of the line with that mark in a file of `tests/apps`.
///
/// # Errors
/// As of [`line_of`].
pub fn place(file: &str, mark: &str) -> Result<String> {
    Ok(format!("{file}:{}", line_of(&paths::apps().join(file), mark)?))
}

impl Agent {
    /// Exit code, standard output and standard error of a verb.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn verb(&self, arguments: &[&str]) -> Result<(i32, String, String)> {
        let output = command(arguments)?.env("TRACEKIT_AGENT", self.socket()).output()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr)))
    }

    /// What a verb prints as JSON.
    ///
    /// # Errors
    /// It fails, or prints none.
    pub fn json(&self, arguments: &[&str]) -> Result<Json> {
        let (code, out, said) = self.verb(&[arguments, &["-o", "json"]].concat())?;
        ensure!(code == 0, "{arguments:?}: exit code {code}:\n{said}");
        serde_json::from_str(&out).with_context(|| format!("{arguments:?} printed no JSON: {out}"))
    }

    /// Adds a breakpoint with these arguments of `break add` or `log add`; its id.
    ///
    /// # Errors
    /// It is refused.
    pub fn add(&self, arguments: &[&str]) -> Result<String> {
        let added = self.json(arguments)?;
        Ok(added["id"].as_str().context("no id")?.to_owned())
    }

    /// Adds a breakpoint and waits until it is armed in so many processes, and nothing else of it is pending.
    ///
    /// # Errors
    /// It is refused, or not armed in time.
    pub fn arm(&self, arguments: &[&str], processes: usize) -> Result<String> {
        let id = self.add(arguments)?;
        self.armed(&id, processes)?;
        Ok(id)
    }

    /// Waits until a breakpoint is armed in so many processes.
    ///
    /// # Errors
    /// It is not in time.
    pub fn armed(&self, id: &str, processes: usize) -> Result<Json> {
        self.when(id, &format!("armed in {processes} processes"), |view| {
            let all = view["processes"].as_array().into_iter().flatten();
            let is_armed = |process: &Json| process["state"] == "ACTIVE" || process["reason"] == "rate";
            all.filter(|process| is_armed(process)).count() == processes
        })
    }

    /// State and counters of a breakpoint.
    ///
    /// # Errors
    /// There is none.
    pub fn breakpoint(&self, id: &str) -> Result<Json> {
        self.json(&["break", "get", id])
    }

    /// Waits until a breakpoint is like that.
    ///
    /// # Errors
    /// It is not in time; the message has how it is.
    pub fn when(&self, id: &str, what: &str, is: impl Fn(&Json) -> bool) -> Result<Json> {
        let mut last = Json::Null;
        let found = wait_for(what, SOON, || {
            last = self.breakpoint(id)?;
            Ok(is(&last).then(|| last.clone()))
        });
        found.with_context(|| format!("{id} is {last:#}"))
    }

    /// Waits until so many hits are counted, and a moment more for those that are too many.
    ///
    /// # Errors
    /// There are fewer in time, or more.
    pub fn hits(&self, id: &str, expected: u64) -> Result<Json> {
        let hits = |view: &Json| view["counters"]["hits"].as_u64().unwrap_or(0);
        self.when(id, &format!("{expected} hits"), |view| hits(view) >= expected)?;
        // Counters are looked at twenty times a second.
        std::thread::sleep(Duration::from_millis(200));
        let view = self.breakpoint(id)?;
        ensure!(hits(&view) == expected, "{} hits instead of {expected}: {view:#}", hits(&view));
        Ok(view)
    }

    /// The snapshots of a breakpoint as far as they are kept.
    ///
    /// # Errors
    /// The agent does not give them.
    pub fn snapshots(&self, id: &str) -> Result<Vec<Json>> {
        let list = self.json(&["snapshots", "ls", "--breakpoint", id, "--limit", "1000"])?;
        let ids = list.as_array().context("no list")?.iter().filter_map(|listed| listed["id"].as_str());
        ids.map(|id| self.json(&["snapshots", "get", id])).collect()
    }
}

/// `driven.py`: a program that does what it is told.
#[derive(Debug)]
pub struct Driven(Running);

impl Driven {
    /// Starts it, with modules from these folders.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(folders: &[&Path]) -> Result<Self> {
        Self::start_with("/usr/bin/python3".as_ref(), folders)
    }

    /// As [`Driven::start`], with this interpreter.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_with(python: &Path, folders: &[&Path]) -> Result<Self> {
        let mut command = std::process::Command::new(python);
        command.arg("-u").arg(paths::apps().join("driven.py")).args(folders);
        Ok(Self(Running::start(command, Stdio::piped())?))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// What an expression is there.
    ///
    /// # Errors
    /// It has ended, perhaps because of the expression.
    pub fn ask(&mut self, expression: &str) -> Result<Json> {
        let answer = self.0.ask(expression).with_context(|| format!("evaluate {expression}"))?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// As [`Driven::ask`], of a whole number.
    ///
    /// # Errors
    /// It is none.
    pub fn number(&mut self, expression: &str) -> Result<u64> {
        let answer = self.ask(expression)?;
        answer.as_u64().with_context(|| format!("{expression} is {answer}"))
    }
}
