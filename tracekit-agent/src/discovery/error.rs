//! Why a process cannot be traced.

use std::io;
use std::path::{Path, PathBuf};

/// Why a process cannot be traced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// There is no such process (any more).
    #[error("no process with pid {pid}; `tracekit ps` lists the Python processes")]
    NotFound {
        /// The pid asked for.
        pid: u32,
    },
    /// It runs no Python; a kernel thread has no executable.
    #[error("process {pid} is not Python: it runs {}", program(exe.as_deref()))]
    NotPython {
        /// The pid asked for.
        pid: u32,
        /// What it runs.
        exe: Option<PathBuf>,
    },
    /// A Python executable that has not mapped its interpreter yet: it was started this moment.
    #[error("process {pid} has not loaded its interpreter yet; try again")]
    NotReady {
        /// The pid asked for.
        pid: u32,
    },
    /// The agent may not look at it.
    #[error("not permitted to read /proc/{pid}/{what}; run tracekit as root, or with {}", needed_for(what))]
    Denied {
        /// The pid asked for.
        pid: u32,
        /// The file below `/proc/PID` that was refused.
        what: &'static str,
    },
    /// Python, but not one that can be traced.
    #[error("process {pid} cannot be traced: {reason}")]
    Unsupported {
        /// The pid asked for.
        pid: u32,
        /// Which property of it rules it out.
        reason: String,
    },
    /// Something of it could not be read or understood.
    #[error("cannot read {what} of process {pid}: {reason}")]
    Unreadable {
        /// The pid asked for.
        pid: u32,
        /// What was read.
        what: &'static str,
        /// The error of the system.
        reason: String,
    },
}

impl InspectError {
    /// The meaning of an I/O error on a file of `/proc/PID`.
    pub(crate) fn from_io(pid: u32, what: &'static str, error: &io::Error) -> Self {
        const ESRCH: i32 = 3;
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound { pid },
            io::ErrorKind::PermissionDenied => Self::Denied { pid, what },
            _ if error.raw_os_error() == Some(ESRCH) => Self::NotFound { pid },
            _ => Self::Unreadable { pid, what, reason: error.to_string() },
        }
    }
}

/// A path of a target for a message: it must not bring control characters to a terminal.
fn program(exe: Option<&Path>) -> String {
    exe.map_or_else(
        || "no executable (a kernel thread, or it is exiting)".to_owned(),
        |exe| exe.to_string_lossy().escape_debug().to_string(),
    )
}

fn needed_for(what: &str) -> &'static str {
    match what {
        "exe" | "maps" | "environ" | "fd" | "root" | "cwd" | "mountinfo" => "CAP_SYS_PTRACE",
        _ => "CAP_DAC_READ_SEARCH and a /proc that is not mounted with hidepid",
    }
}
