//! Which processes run Python, what they are, and which of them are selected.
//!
//! `proc_fs` reads; `maps`, `elf`, `container`, `listeners`, `launch`, `application` and `version` are pure
//! parsers; `interpreter`, `framework`, `service_name` and `resource` draw conclusions; `selector` and
//! `tracker` decide.

mod application;
pub mod container;
pub(crate) mod elf;
mod error;
pub mod framework;
pub mod interpreter;
pub mod launch;
pub mod listeners;
mod maps;
mod moved_environment;
pub mod proc_fs;
pub mod process;
pub mod ps;
pub mod resource;
pub mod selector;
pub mod service_name;
#[cfg(test)]
mod testing;
pub mod tracker;
pub mod version;

pub use error::InspectError;
pub use maps::MappedFile;
pub use resource::resource_for;
pub use selector::{SelectError, Selector, SelectorArgs};
pub use tracker::{Change, Tracker};

use framework::{Framework, Server, recognise};
use interpreter::{BinaryCache, Interpreter};
use launch::Launch;
use listeners::Listener;
use proc_fs::ProcFs;
use process::Process;
use service_name::ServiceName;

/// A Python process and what is known of it.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// The process.
    pub process: Process,
    /// Its interpreter.
    pub interpreter: Interpreter,
    /// What its command line starts.
    pub launch: Launch,
    /// What runs the application.
    pub server: Option<Server>,
    /// The framework it is written with.
    pub framework: Option<Framework>,
    /// What it listens on; empty if that may not be read.
    pub listeners: Vec<Listener>,
    /// What the service is called if the agent's user does not say otherwise.
    pub service: ServiceName,
}

impl Inspected {
    /// Process id in the agent's pid namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid
    }
}

/// Looks at processes of one `/proc`, and remembers the binaries it has parsed.
#[derive(Debug, Default)]
pub struct Inspector {
    /// Where it looks.
    pub proc: ProcFs,
    binaries: BinaryCache,
}

impl Inspector {
    /// Looks at another `/proc` than the agent's own.
    #[must_use]
    pub fn new(proc: ProcFs) -> Self {
        Self { proc, binaries: BinaryCache::default() }
    }

    /// Looks at a process, whether or not its Python is one that can be traced.
    ///
    /// # Errors
    /// All of [`InspectError`] but [`InspectError::Unsupported`].
    pub fn examine(&self, pid: u32) -> Result<Inspected, InspectError> {
        let mut process = Process::read(&self.proc, pid)?;
        let mappings = self.proc.mappings(pid)?;
        let interpreter = interpreter::find(&self.proc, &self.binaries, &process, &mappings)?;
        if process.has_title()
            && let Some(moved) = moved_environment::read(&self.proc, &process, &mappings)
        {
            process.environment = Some(moved);
        }
        let launch = Launch::of_process(&self.proc, &process);
        let recognised = recognise(&self.proc, &process, &launch);
        let service = service_name::service_name(&process, &launch, None);
        let listeners = listeners::listeners(&self.proc, pid).unwrap_or_default();
        // The pid may have been given to another process in the middle of all this.
        if self.proc.stat(pid)?.start_ticks != process.start_ticks {
            return Err(InspectError::NotFound { pid });
        }
        Ok(Inspected {
            process,
            interpreter,
            launch,
            server: recognised.server,
            framework: recognised.framework,
            listeners,
            service,
        })
    }

    /// Looks at a process that is to be traced.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn inspect(&self, pid: u32) -> Result<Inspected, InspectError> {
        let inspected = self.examine(pid)?;
        match inspected.interpreter.unsupported() {
            Some(reason) => Err(InspectError::Unsupported { pid, reason }),
            None => Ok(inspected),
        }
    }

    /// Every process that can be traced and is selected, by ascending pid; never the agent itself.
    #[must_use]
    pub fn scan(&self, selector: &Selector) -> Vec<Inspected> {
        self.proc
            .pids()
            .into_iter()
            .filter(|pid| selector.may_match(&self.proc, *pid))
            .filter_map(|pid| self.inspect(pid).ok())
            .filter(|inspected| selector.matches(inspected))
            .collect()
    }

    /// As [`Self::scan`], but a selection that finds nothing is an error, and so is a process asked for by
    /// pid that cannot be traced, unless a child of it can (a shell script that starts a server).
    ///
    /// # Errors
    /// [`SelectError::Process`] or [`SelectError::NoMatch`]
    pub fn select(&self, selector: &Selector) -> Result<Vec<Inspected>, SelectError> {
        let found = self.scan(selector);
        for pid in selector.requested_pids() {
            let covered = found
                .iter()
                .any(|inspected| inspected.pid() == *pid || inspected.process.ancestors.contains(pid));
            if !covered {
                self.inspect(*pid)?;
            }
        }
        if found.is_empty() {
            return Err(SelectError::NoMatch { selector: selector.to_string() });
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
