//! A child process that cannot outlive its owner.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How often conditions are looked at.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` gives a value; an error of it counts as "not yet" and is reported at the end.
///
/// # Errors
/// `limit` has passed; names `what` and the last error.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let last = match condition() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= deadline {
            let why = last.map(|error| format!(": {error:#}")).unwrap_or_default();
            bail!("{what}: not within {} s{why}", limit.as_secs_f32());
        }
        std::thread::sleep(POLL);
    }
}

/// A running child in its own process group. Dropping it ends the group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stop_signal: i32,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `<directory>/<name>.out` and `.err`.
    ///
    /// # Errors
    /// The files cannot be made or the program cannot be started.
    pub fn start(name: &str, directory: &Path, command: Command) -> Result<Self> {
        std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        let stdout = directory.join(format!("{name}.out"));
        let out = File::create(&stdout).with_context(|| format!("make {}", stdout.display()))?;
        Self::start_with_stdout(name, directory, command, stdout, Stdio::from(out))
    }

    /// Starts `command` with the caller's standard output; errors go to `<directory>/<name>.err`.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_in_foreground(name: &str, directory: &Path, command: Command) -> Result<Self> {
        std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        let stdout = directory.join(format!("{name}.out"));
        Self::start_with_stdout(name, directory, command, stdout, Stdio::inherit())
    }

    /// Starts `command` with standard output at `output`.
    ///
    /// # Errors
    /// As [`Process::start`].
    fn start_with_stdout(
        name: &str,
        directory: &Path,
        mut command: Command,
        stdout: PathBuf,
        output: Stdio,
    ) -> Result<Self> {
        let stderr = directory.join(format!("{name}.err"));
        let err = File::create(&stderr).with_context(|| format!("make {}", stderr.display()))?;
        command.stdin(Stdio::null()).stdout(output).stderr(err).process_group(0);
        // SAFETY: prctl is async-signal-safe and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().with_context(|| format!("start {name} ({command:?})"))?;
        Ok(Self { name: name.to_owned(), child, stop_signal: libc::SIGTERM, stdout, stderr })
    }

    /// The signal that asks it to end; SIGTERM unless told otherwise.
    #[must_use]
    pub fn stopped_by(mut self, signal: i32) -> Self {
        self.stop_signal = signal;
        self
    }

    /// Its process id, which is also the id of its process group.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// File with its standard output.
    #[must_use]
    pub fn stdout_path(&self) -> &Path {
        &self.stdout
    }

    /// File with what it wrote to standard error.
    #[must_use]
    pub fn stderr_path(&self) -> &Path {
        &self.stderr
    }

    /// What it wrote to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// What it wrote to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// The system cannot say.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for `condition`, and fails at once with the output if the process ends first.
    ///
    /// # Errors
    /// It ended, or `limit` has passed.
    pub fn ready(
        &mut self,
        limit: Duration,
        mut condition: impl FnMut() -> Result<Option<()>>,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let last = match condition() {
                Ok(Some(())) => return Ok(()),
                Ok(None) => None,
                Err(error) => Some(error),
            };
            if let Some(status) = self.exited()? {
                bail!("{} ended before it was ready ({status}):\n{}", self.name, self.log_tail());
            }
            if Instant::now() >= deadline {
                let why = last.map(|error| format!(": {error:#}")).unwrap_or_default();
                let seconds = limit.as_secs_f32();
                bail!("{} is not ready after {seconds} s{why}\n{}", self.name, self.log_tail());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: i32) {
        send(self.child.id().cast_signed(), signal);
    }

    /// Sends a signal to its whole group.
    pub fn signal_group(&self, signal: i32) {
        send(-self.child.id().cast_signed(), signal);
    }

    /// Waits until it ends on its own.
    ///
    /// # Errors
    /// `limit` has passed.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait_for(&format!("end of {name}"), limit, || self.exited())
    }

    /// Asks it to end, waits, and kills the group if it does not.
    ///
    /// # Errors
    /// The system cannot wait for it.
    pub fn stop(&mut self, grace: Duration) -> Result<ExitStatus> {
        if self.exited()?.is_none() {
            self.signal(self.stop_signal);
            if self.wait(grace).is_err() {
                self.signal_group(libc::SIGKILL);
            }
        }
        let status = self.child.wait()?;
        self.signal_group(libc::SIGKILL);
        Ok(status)
    }

    /// The last lines that it wrote.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let mut text = String::new();
        for (stream, path) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            let content = read_lossy(path);
            let lines: Vec<&str> = content.lines().collect();
            let tail = &lines[lines.len().saturating_sub(20)..];
            if !tail.is_empty() {
                text.push_str(&format!(
                    "--- {} {stream} ({})\n{}\n",
                    self.name,
                    path.display(),
                    tail.join("\n")
                ));
            }
        }
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.stop(Duration::from_secs(5)).is_err() {
            self.signal_group(libc::SIGKILL);
        }
    }
}

fn send(pid: i32, signal: i32) {
    // SAFETY: kill takes two integers; the pid is of a child that has not been reaped, or of its group.
    unsafe { libc::kill(pid, signal) };
}

fn read_lossy(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Runs `command` to its end and gives its output.
///
/// # Errors
/// It cannot be started or fails; the message has its standard error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed ({}):\n{}", output.status, stderr.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A TCP port of the loopback that nobody listens on now.
///
/// # Errors
/// No port can be bound.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0)).context("bind a free port")?.local_addr()?.port())
}

/// Children of a process, at the first level.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// CPU time (user and system) that a process has used, in seconds.
#[must_use]
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc(5): the name may hold anything, so fields are counted from its closing bracket; 14 and 15 are ticks.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    // SAFETY: sysconf takes an integer and touches no memory.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Some(ticks / if per_second > 0 { per_second as f64 } else { 100.0 })
}

/// Resident memory of a process, in KiB.
#[must_use]
pub fn resident_kib(pid: u32) -> Option<u64> {
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
}
