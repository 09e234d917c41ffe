//! The interpreters that `cargo xtask interpreters` installs: reads their manifest and starts them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::paths;

/// Interpreters, by their ids: one of each layout of memory.
pub const LAYOUTS: &[&str] = &[
    "3.8-pyenv",
    "3.9-pyenv",
    "3.10-pyenv",
    "3.11-pyenv",
    "3.12-pyenv",
    "3.13-pyenv",
    "3.13t-source",
    "3.14-debian-sid",
    "3.15-debian-sid",
];

/// One row of the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interpreter {
    /// Its name, and that of its directory: `3.8-pyenv-stripped`.
    pub id: String,
    /// What it says of itself: `3.8.18`, release candidates and the like as `3.15.0rc1`.
    pub version: String,
    /// How it was built and by whom: `static` or `shared`; `stripped` or `symbols`; `debian`, `pyenv` or `source`;
    /// `musl`, `whole` (no loader, no shared object), `freethreaded`, `debug`.
    pub build: Vec<String>,
    /// The executable, relative to the repository if it is below it; seen from outside of [`Self::root`].
    pub python: PathBuf,
    /// The tree that it lives in, for those that bring their own C library; relative as [`Self::python`] is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// Where it comes from and what was done to it.
    pub how: String,
}

impl Interpreter {
    /// Whether it was built so.
    #[must_use]
    pub fn is(&self, build: &str) -> bool {
        self.build.iter().any(|word| word == build)
    }

    /// Major and minor version, as `3.8`.
    #[must_use]
    pub fn minor(&self) -> &str {
        let end = self.version.match_indices('.').nth(1).map_or(self.version.len(), |(at, _)| at);
        self.version.get(..end).unwrap_or_default()
    }

    /// A command that becomes the interpreter, with the same process id: arguments are the interpreter's.
    ///
    /// One with a [`Self::root`] is started with chroot(8), and with a user namespace if that needs it. Of the host's
    /// files it sees none but those put below the root; `/tmp` is there.
    #[must_use]
    pub fn command(&self) -> Command {
        let python = paths::workspace().join(&self.python);
        let Some(root) = &self.root else {
            let mut command = Command::new(python);
            clean(&mut command);
            return command;
        };
        let root = paths::workspace().join(root);
        let inside = Path::new("/").join(python.strip_prefix(&root).unwrap_or(&python));
        // SAFETY: geteuid has no arguments and always succeeds.
        let mut command = if unsafe { libc::geteuid() } == 0 {
            Command::new("chroot")
        } else {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "chroot"]);
            command
        };
        command.arg(root).arg(inside);
        clean(&mut command);
        command
    }
}

/// A process of an interpreter that has said its first line. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
    /// What it printed, to the end of the first line.
    pub said: String,
}

impl Running {
    /// Starts a command that becomes an interpreter, and waits until it prints a line.
    ///
    /// # Errors
    /// It cannot be started, or ends before it has printed a line.
    pub fn start(mut command: Command, input: Stdio) -> Result<Self> {
        command.stdin(input).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
        let output = BufReader::new(child.stdout.take().context("its standard output is a pipe")?);
        let mut running = Self { child, output, said: String::new() };
        running.said = running.line()?;
        Ok(running)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it prints.
    ///
    /// # Errors
    /// It ends before it has printed one.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("read what it prints")?;
        ensure!(line.ends_with('\n'), "it ended before it said anything more");
        Ok(line)
    }

    /// Writes a line to its standard input, if that is a pipe, and gives the line that it answers.
    ///
    /// # Errors
    /// It has ended, or reads no pipe.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        let input = self.child.stdin.as_mut().context("its standard input is no pipe")?;
        writeln!(input, "{line}").context("write to it")?;
        self.line()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended; all there is to do is to reap it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes away what would point the interpreter to another installation.
fn clean(command: &mut Command) {
    for name in ["PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "LD_LIBRARY_PATH", "VIRTUAL_ENV"] {
        command.env_remove(name);
    }
}

/// Where they are installed.
#[must_use]
pub fn directory() -> PathBuf {
    paths::target().join("interpreters")
}

/// All that are installed.
///
/// # Errors
/// There is no manifest, or it cannot be read: run `cargo xtask interpreters`.
pub fn installed() -> Result<Vec<Interpreter>> {
    let path = directory().join("manifest.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("read {}: run `cargo xtask interpreters`", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not a manifest: run `cargo xtask interpreters`", path.display()))
}

/// The first of this version (`3.12`) that needs no file system of its own.
///
/// # Errors
/// There is none, or those of [`installed`].
pub fn python(minor: &str) -> Result<Interpreter> {
    let found = installed()?.into_iter().find(|row| row.minor() == minor && row.root.is_none());
    found.with_context(|| format!("no Python {minor} is installed"))
}
