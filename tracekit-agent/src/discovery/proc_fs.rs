//! `/proc`, read so that nothing a target does can hurt: bounded, never following its links out of its
//! root, and a process that vanishes in the middle is an ordinary answer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::error::InspectError;
use super::maps::{MappedFile, Mappings, mapping_at};

/// Bytes of `cmdline` that are read; the kernel itself allows more.
const MAX_CMDLINE: u64 = 128 << 10;
/// Bytes of `environ` that are read.
const MAX_ENVIRON: u64 = 1 << 20;
/// Bytes of `maps` that are read: about 100 000 mappings, above the kernel's default limit of 65 530.
const MAX_MAPS: u64 = 16 << 20;
/// Bytes of the small files (`stat`, `status`, `cgroup`).
const MAX_SMALL: u64 = 64 << 10;
/// How far up the process tree is looked.
const MAX_ANCESTORS: usize = 64;

/// The variables of a target that the agent uses. All others are dropped as they are read: an environment
/// is full of secrets, and what is not kept cannot leak.
const KEPT_VARIABLES: &[&str] = &[
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
    "TRACEKIT_SERVICE_NAME",
    "DJANGO_SETTINGS_MODULE",
    "FLASK_APP",
    "FLASK_DEBUG",
    "GUNICORN_CMD_ARGS",
    "UVICORN_APP",
    "UWSGI_MODULE",
    "UWSGI_WSGI_FILE",
    "RUN_MAIN",
    "WERKZEUG_RUN_MAIN",
    "CELERY_APP",
];

/// A mounted proc file system.
#[derive(Debug, Clone)]
pub struct ProcFs {
    root: PathBuf,
}

impl Default for ProcFs {
    fn default() -> Self {
        Self::new("/proc")
    }
}

/// The kept part of a target's initial environment (`/proc/PID/environ`: as it was at `exec`).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Keeps the variables that the agent uses of a NUL-separated block.
    #[must_use]
    pub fn parse(block: &[u8]) -> Self {
        let mut kept = BTreeMap::new();
        for entry in block.split(|byte| *byte == 0) {
            let Some(equals) = entry.iter().position(|byte| *byte == b'=') else { continue };
            let (name, value) = entry.split_at(equals);
            let name = String::from_utf8_lossy(name);
            if KEPT_VARIABLES.contains(&name.as_ref()) {
                let value = String::from_utf8_lossy(value.get(1..).unwrap_or_default());
                // As getenv(3): the first of two equal names counts.
                kept.entry(name.into_owned()).or_insert_with(|| value.into_owned());
            }
        }
        Self(kept)
    }

    /// The value, if the variable is set, not empty, and one of those kept.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The fields of `/proc/PID/status` that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Parent, as the agent's pid namespace numbers it; 0 if it has none there.
    pub parent: u32,
    /// Effective user id, as the agent's user namespace numbers it.
    pub uid: u32,
    /// The pid in every namespace from the agent's to the innermost (`NSpid`); empty before Linux 4.1.
    pub namespace_pids: Vec<u32>,
    /// Effective capabilities.
    pub capabilities: u64,
    /// 0 none, 1 strict, 2 filter.
    pub seccomp: u32,
    /// The thread group that the task belongs to; differs from the pid asked for if that was a thread.
    pub thread_group: u32,
}

impl Status {
    /// Whether `CAP_SYS_PTRACE` is effective: other users' processes may be read.
    #[must_use]
    pub fn may_read_processes(&self) -> bool {
        const CAP_SYS_PTRACE: u32 = 19;
        self.capabilities & (1 << CAP_SYS_PTRACE) != 0
    }

    /// Parses `proc_pid_status(5)`; a missing or malformed field is left at its default.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut status = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let mut words = value.split_whitespace();
            let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or_default();
            match key {
                "PPid" => status.parent = number(),
                "Tgid" => status.thread_group = number(),
                "Seccomp" => status.seccomp = number(),
                "Uid" => {
                    status.uid = value.split_whitespace().nth(1).and_then(|w| w.parse().ok()).unwrap_or(0)
                }
                "NSpid" => {
                    status.namespace_pids =
                        value.split_whitespace().take(33).filter_map(|word| word.parse().ok()).collect();
                }
                "CapEff" => status.capabilities = u64::from_str_radix(value.trim(), 16).unwrap_or_default(),
                _ => {}
            }
        }
        status
    }
}

/// What `/proc/PID/stat` says of identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Name of the main thread, at most 15 bytes.
    pub comm: String,
    /// Start of the process, in clock ticks since boot: with the pid it identifies a process for good.
    pub start_ticks: u64,
    /// Page faults that needed no reading from disk, of all its threads so far.
    pub minor_faults: u64,
    /// It has exited and waits to be reaped.
    pub zombie: bool,
}

impl Stat {
    /// Parses `proc_pid_stat(5)`. The name stands in parentheses and may contain some itself.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.rsplit_once(')')?;
        let (_, comm) = before.split_once('(')?;
        let mut fields = after.split_ascii_whitespace();
        let state = fields.next()?;
        // Fields 10 and 22; the state is field 3.
        let minor_faults = fields.nth(6)?.parse().ok()?;
        let start_ticks = fields.nth(11)?.parse().ok()?;
        let zombie = matches!(state, "Z" | "X");
        Some(Self { comm: comm.to_owned(), start_ticks, minor_faults, zombie })
    }
}

impl ProcFs {
    /// A proc file system mounted at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A path below the mount point.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root.join(below)
    }

    fn of(&self, pid: u32, file: &str) -> PathBuf {
        self.root.join(pid.to_string()).join(file)
    }

    /// Every process id, ascending. Empty if the directory cannot be read.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let Ok(entries) = std::fs::read_dir(&self.root) else { return Vec::new() };
        let mut pids: Vec<u32> =
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        pids.sort_unstable();
        pids
    }

    /// Whether the process is there (a zombie counts).
    #[must_use]
    pub fn exists(&self, pid: u32) -> bool {
        self.root.join(pid.to_string()).exists()
    }

    fn read(&self, pid: u32, file: &'static str, limit: u64) -> Result<Vec<u8>, InspectError> {
        read_bounded(&self.of(pid, file), limit).map_err(|error| InspectError::from_io(pid, file, &error))
    }

    /// `/proc/PID/stat`.
    ///
    /// # Errors
    /// [`InspectError::NotFound`] for a process that is gone; else what the kernel refused.
    pub fn stat(&self, pid: u32) -> Result<Stat, InspectError> {
        let bytes = self.read(pid, "stat", MAX_SMALL)?;
        Stat::parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| InspectError::Unreadable {
            pid,
            what: "stat",
            reason: "it has too few fields".into(),
        })
    }

    /// `/proc/PID/status`.
    ///
    /// # Errors
    /// As [`Self::stat`].
    pub fn status(&self, pid: u32) -> Result<Status, InspectError> {
        Ok(Status::parse(&String::from_utf8_lossy(&self.read(pid, "status", MAX_SMALL)?)))
    }

    /// The command line. One element with spaces in it is what `setproctitle` leaves.
    ///
    /// # Errors
    /// As [`Self::stat`].
    pub fn argv(&self, pid: u32) -> Result<Vec<String>, InspectError> {
        Ok(parse_argv(&self.read(pid, "cmdline", MAX_CMDLINE)?))
    }

    /// The environment at `exec`.
    ///
    /// # Errors
    /// As [`Self::stat`]; [`InspectError::Denied`] without `CAP_SYS_PTRACE` for another user's process.
    pub fn environment(&self, pid: u32) -> Result<Environment, InspectError> {
        Ok(Environment::parse(&self.read(pid, "environ", MAX_ENVIRON)?))
    }

    /// Mapped files.
    ///
    /// # Errors
    /// As [`Self::environment`].
    pub fn mappings(&self, pid: u32) -> Result<Mappings, InspectError> {
        Ok(Mappings::parse(&self.read(pid, "maps", MAX_MAPS)?))
    }

    /// The mapping of a file that has this address.
    ///
    /// # Errors
    /// As [`Self::environment`].
    pub fn mapping_at(&self, pid: u32, address: u64) -> Result<Option<MappedFile>, InspectError> {
        Ok(mapping_at(&self.read(pid, "maps", MAX_MAPS)?, address))
    }

    /// The text of `/proc/PID/cgroup`.
    ///
    /// # Errors
    /// As [`Self::stat`].
    pub fn cgroup(&self, pid: u32) -> Result<String, InspectError> {
        Ok(String::from_utf8_lossy(&self.read(pid, "cgroup", MAX_SMALL)?).into_owned())
    }

    /// The text of `/proc/PID/mountinfo`.
    ///
    /// # Errors
    /// As [`Self::environment`].
    pub fn mountinfo(&self, pid: u32) -> Result<String, InspectError> {
        Ok(String::from_utf8_lossy(&self.read(pid, "mountinfo", MAX_ENVIRON)?).into_owned())
    }

    /// The executable, without the kernel's ` (deleted)`, and whether it had that.
    ///
    /// # Errors
    /// As [`Self::environment`]; [`InspectError::NotPython`] for a kernel thread, which has none.
    pub fn exe(&self, pid: u32) -> Result<(PathBuf, bool), InspectError> {
        match std::fs::read_link(self.of(pid, "exe")) {
            Ok(path) => Ok(super::maps::without_deleted(&path)),
            // A kernel thread has no executable: ENOENT while its directory stands. So has a zombie.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.exists(pid) => {
                Err(InspectError::NotPython { pid, exe: None })
            }
            Err(error) => Err(InspectError::from_io(pid, "exe", &error)),
        }
    }

    /// The working directory, if it may be read.
    #[must_use]
    pub fn cwd(&self, pid: u32) -> Option<PathBuf> {
        std::fs::read_link(self.of(pid, "cwd")).ok()
    }

    /// Whether the process lives in another mount namespace than the agent; `None` if that may not be read.
    #[must_use]
    pub fn foreign_mount_namespace(&self, pid: u32) -> Option<bool> {
        let theirs = std::fs::read_link(self.of(pid, "ns/mnt")).ok()?;
        let ours = std::fs::read_link(self.path("self/ns/mnt")).ok()?;
        Some(theirs != ours)
    }

    /// Parents up to the first process of the namespace, nearest first.
    #[must_use]
    pub fn ancestors(&self, pid: u32) -> Vec<u32> {
        let mut ancestors = Vec::new();
        let mut at = pid;
        while ancestors.len() < MAX_ANCESTORS {
            let Ok(status) = self.status(at) else { break };
            if status.parent == 0 || status.parent == pid || ancestors.contains(&status.parent) {
                break;
            }
            ancestors.push(status.parent);
            at = status.parent;
        }
        ancestors
    }

    /// Opens a mapped file: through `map_files` if that is allowed (exact, even when the file was deleted or
    /// replaced), through `exe` if it is the executable, else by its path in the target's root.
    ///
    /// # Errors
    /// What the last attempt said; a file that was replaced meanwhile is refused.
    pub fn open_mapped(&self, pid: u32, file: &MappedFile) -> io::Result<File> {
        let by_range = self.of(pid, "map_files").join(format!("{:x}-{:x}", file.start, file.end));
        if let Ok(opened) = open_regular(rustix::fs::CWD, &by_range, None) {
            return Ok(opened);
        }
        let exe = self.of(pid, "exe");
        if std::fs::metadata(&exe).is_ok_and(|meta| meta.ino() == file.inode)
            && let Ok(opened) = open_regular(rustix::fs::CWD, &exe, None)
        {
            return Ok(opened);
        }
        let opened = self.open_in_target(pid, &file.path)?;
        // Device numbers differ on overlay and btrfs, inode numbers agree.
        if opened.metadata()?.ino() != file.inode {
            return Err(io::Error::other("the file was replaced since the process mapped it"));
        }
        Ok(opened)
    }

    /// Opens a regular file by an absolute path as the kernel reports it (`maps`, `exe`, `cwd`). Links in it
    /// are resolved inside the target's root, never in the agent's.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open_in_target(&self, pid: u32, path: &Path) -> io::Result<File> {
        // In the agent's own mount namespace the kernel reports paths from the agent's root, also for a
        // chrooted process; from another namespace, paths are below that namespace's root.
        match self.foreign_mount_namespace(pid) {
            Some(true) => self.open_in_root(pid, path),
            _ => open_below(Path::new("/"), path, ResolveFlags::IN_ROOT),
        }
    }

    /// Opens a regular file by an absolute path as the target itself names it (an argument).
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open_in_root(&self, pid: u32, path: &Path) -> io::Result<File> {
        open_below(&self.of(pid, "root"), path, ResolveFlags::IN_ROOT)
    }

    /// Opens a regular file below the target's working directory.
    ///
    /// # Errors
    /// As `open(2)`; a path that leaves the directory is refused.
    pub fn open_below_cwd(&self, pid: u32, path: &Path) -> io::Result<File> {
        open_below(&self.of(pid, "cwd"), path, ResolveFlags::BENEATH)
    }

    /// What the process's descriptors lead to: paths, `socket:[4711]`, `anon_inode:[eventpoll]`. At most
    /// `limit` are looked at.
    ///
    /// # Errors
    /// As [`Self::environment`].
    pub fn descriptors(
        &self,
        pid: u32,
        limit: usize,
    ) -> Result<impl Iterator<Item = PathBuf> + use<>, InspectError> {
        let entries = std::fs::read_dir(self.of(pid, "fd"))
            .map_err(|error| InspectError::from_io(pid, "fd", &error))?;
        Ok(entries.take(limit).flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok()))
    }

    /// Inodes of the sockets that the process has open, at most `limit` descriptors looked at.
    ///
    /// # Errors
    /// As [`Self::environment`].
    pub fn socket_inodes(&self, pid: u32, limit: usize) -> Result<Vec<u64>, InspectError> {
        let inode = |target: PathBuf| -> Option<u64> {
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        };
        Ok(self.descriptors(pid, limit)?.filter_map(inode).collect())
    }

    /// A file of `/proc/PID/net`, opened: the tables of the target's network namespace.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open_net(&self, pid: u32, table: &str) -> io::Result<File> {
        File::open(self.of(pid, "net").join(table))
    }
}

/// Reads at most `limit` bytes of a file.
///
/// # Errors
/// As `open(2)` and `read(2)`.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Splits a NUL-separated command line; padding at its end is dropped.
#[must_use]
pub fn parse_argv(block: &[u8]) -> Vec<String> {
    let end = block.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let block = block.get(..end).unwrap_or_default();
    if block.is_empty() {
        return Vec::new();
    }
    block.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn open_below(directory: &Path, path: &Path, resolve: ResolveFlags) -> io::Result<File> {
    let directory = File::open(directory)?;
    let below = path.strip_prefix("/").unwrap_or(path);
    open_regular(&directory, below, Some(resolve | ResolveFlags::NO_MAGICLINKS))
}

/// Opens a file only if it is a regular one: opening a device or a FIFO can have effects, and a target can
/// put one wherever it likes. So the path is opened as a handle, looked at, and only then opened for reading.
fn open_regular(directory: impl AsFd, path: &Path, resolve: Option<ResolveFlags>) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let handle = match resolve {
        None => rustix::fs::openat(&directory, path, flags, Mode::empty())?,
        Some(resolve) => match rustix::fs::openat2(&directory, path, flags, Mode::empty(), resolve) {
            // Before Linux 5.6, or a seccomp filter: without openat2 no link is followed.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                rustix::fs::openat(&directory, path, flags | OFlags::NOFOLLOW, Mode::empty())?
            }
            other => other?,
        },
    };
    let file = File::from(handle);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let by_handle = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    File::open(by_handle)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn argv_of_titles_and_padding() {
        assert_eq!(parse_argv(b"python3\0-m\0http.server\0"), ["python3", "-m", "http.server"]);
        assert_eq!(parse_argv(b"gunicorn: worker [app:wsgi]\0\0\0\0"), ["gunicorn: worker [app:wsgi]"]);
        assert_eq!(parse_argv(b"a\0\0b\0"), ["a", "", "b"]);
        assert!(parse_argv(b"\0\0").is_empty());
    }

    #[test]
    fn environment_keeps_only_what_is_used() {
        let env = Environment::parse(b"SECRET=x\0OTEL_SERVICE_NAME=shop\0OTEL_SERVICE_NAME=late\0junk\0=\0");
        assert_eq!(env.get("OTEL_SERVICE_NAME"), Some("shop"));
        assert_eq!(env.get("SECRET"), None);
        assert!(!format!("{env:?}").contains("shop"));
    }

    #[test]
    fn stat_with_a_hostile_name() {
        let text = "7 (a) S 1 (b)) Z 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 99";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.comm.as_str(), stat.start_ticks, stat.zombie), ("a) S 1 (b)", 4711, true));
        assert_eq!(Stat::parse("7 (x) S 1"), None);
        assert_eq!(Stat::parse(")("), None);
    }

    #[test]
    fn status_of_a_container_process() {
        let text = "Name:\tpython3\nTgid:\t812\nPPid:\t790\nUid:\t1000\t1001\t1000\t1000\n\
                    NSpid:\t812\t7\nCapEff:\t00000000a80425fb\nSeccomp:\t2\n";
        let status = Status::parse(text);
        assert_eq!((status.parent, status.uid, status.seccomp, status.thread_group), (790, 1001, 2, 812));
        assert_eq!(status.namespace_pids, [812, 7]);
        assert_eq!(status.capabilities, 0xa804_25fb);
    }

    #[test]
    fn links_of_a_target_stay_in_its_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("9/root/etc")).unwrap();
        std::fs::create_dir_all(dir.path().join("9/ns")).unwrap();
        std::fs::create_dir_all(dir.path().join("self/ns")).unwrap();
        std::os::unix::fs::symlink("mnt:[2]", dir.path().join("9/ns/mnt")).unwrap();
        std::os::unix::fs::symlink("mnt:[1]", dir.path().join("self/ns/mnt")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("9/root/link")).unwrap();
        std::fs::write(dir.path().join("9/root/etc/hostname"), "inside").unwrap();
        let proc = ProcFs::new(dir.path());
        let mut text = String::new();
        proc.open_in_target(9, Path::new("/link")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside");
        assert!(proc.open_in_target(9, Path::new("/etc")).is_err(), "a directory is not a regular file");
    }

    #[test]
    fn a_process_that_is_gone() {
        let proc = ProcFs::default();
        assert!(matches!(proc.stat(u32::MAX), Err(InspectError::NotFound { .. })));
        assert!(matches!(proc.exe(u32::MAX), Err(InspectError::NotFound { .. })));
        assert!(proc.ancestors(u32::MAX).is_empty());
    }

    proptest! {
        #[test]
        fn parsers_take_anything(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse_argv(&bytes);
            let _ = Environment::parse(&bytes);
            let _ = Status::parse(&String::from_utf8_lossy(&bytes));
            let _ = Stat::parse(&String::from_utf8_lossy(&bytes));
        }
    }
}
