//! A process as `/proc` shows it.

use std::path::PathBuf;

use super::container::Container;
use super::error::InspectError;
use super::launch::{Launch, Program};
use super::proc_fs::{Environment, ProcFs};

/// A process as `/proc` shows it.
#[derive(Debug, Clone)]
pub struct Process {
    /// Process id in the agent's pid namespace.
    pub pid: u32,
    /// Process id in the innermost namespace: what the process itself sees.
    pub namespace_pid: u32,
    /// Parents up to the first process, nearest first.
    pub ancestors: Vec<u32>,
    /// Effective user id.
    pub uid: u32,
    /// Clock ticks from boot to the start of the process.
    pub start_ticks: u64,
    /// Name of the main thread.
    pub comm: String,
    /// Executable, as the kernel names it.
    pub exe: PathBuf,
    /// The executable was removed or replaced while it runs.
    pub exe_deleted: bool,
    /// Command line, as the process shows it (`setproctitle` changes it).
    pub argv: Vec<String>,
    /// The part of its environment that the agent uses; `None` if it may not be read.
    pub environment: Option<Environment>,
    /// Working directory; `None` if it may not be read.
    pub cwd: Option<PathBuf>,
    /// The container it is in.
    pub container: Option<Container>,
    /// It lives in another mount namespace than the agent.
    pub foreign_mount_namespace: bool,
}

impl Process {
    /// Reads the process.
    ///
    /// # Errors
    /// [`InspectError::NotFound`], [`InspectError::NotPython`] for kernel threads and zombies,
    /// [`InspectError::Denied`].
    pub fn read(proc: &ProcFs, pid: u32) -> Result<Self, InspectError> {
        let stat = proc.stat(pid)?;
        if stat.zombie {
            return Err(InspectError::NotPython { pid, exe: None });
        }
        let status = proc.status(pid)?;
        // /proc/TID works for any thread, but only processes are listed, selected and traced.
        if status.thread_group != 0 && status.thread_group != pid {
            return Err(InspectError::NotFound { pid });
        }
        let (exe, exe_deleted) = proc.exe(pid)?;
        let container = proc
            .cgroup(pid)
            .ok()
            .and_then(|text| Container::from_cgroup(&text))
            .or_else(|| proc.mountinfo(pid).ok().and_then(|text| Container::from_mountinfo(&text)));
        Ok(Self {
            pid,
            namespace_pid: status.namespace_pids.last().copied().unwrap_or(pid),
            ancestors: proc.ancestors(pid),
            uid: status.uid,
            start_ticks: stat.start_ticks,
            comm: stat.comm,
            exe,
            exe_deleted,
            argv: proc.argv(pid)?,
            environment: proc.environment(pid).ok(),
            cwd: proc.cwd(pid),
            container,
            foreign_mount_namespace: proc.foreign_mount_namespace(pid).unwrap_or(false),
        })
    }

    /// The parent's pid.
    #[must_use]
    pub fn parent(&self) -> Option<u32> {
        self.ancestors.first().copied()
    }

    /// A variable of its environment, if it is set, not empty, readable, and one of those that are kept.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.as_ref()?.get(name)
    }

    /// It has replaced its command line by a title.
    #[must_use]
    pub fn has_title(&self) -> bool {
        matches!(Launch::parse(&self.argv).program, Program::Title(_))
    }

    /// Last component of the executable.
    #[must_use]
    pub fn exe_name(&self) -> &str {
        self.exe.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default()
    }
}
