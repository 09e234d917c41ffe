//! Constructed `/proc` trees and processes for tests.

use std::path::PathBuf;

use super::interpreter::{Implementation, Interpreter, Libc, Linkage};
use super::proc_fs::{Environment, ProcFs};
use super::process::Process;
use super::version::{PythonVersion, VersionSource};

/// A `/proc` in a temporary directory.
pub struct Constructed {
    dir: tempfile::TempDir,
    pub proc: ProcFs,
}

impl Constructed {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let proc = ProcFs::new(dir.path());
        Self { dir, proc }
    }

    pub fn write(&self, path: &str, content: &[u8]) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub fn link(&self, path: &str, target: &str) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
    }

    /// A process with `stat`, `status`, `cmdline` and `maps` of its executable.
    pub fn process(&self, pid: u32, parent: u32, exe: &str, line: &str) {
        let numbers = "0 ".repeat(45);
        let stat =
            format!("{pid} (python3) S {parent} 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 777 {numbers}");
        self.write(&format!("{pid}/stat"), stat.as_bytes());
        let status = format!("Tgid:\t{pid}\nPPid:\t{parent}\nUid:\t0\t0\t0\t0\nNSpid:\t{pid}\n");
        self.write(&format!("{pid}/status"), status.as_bytes());
        self.write(&format!("{pid}/cmdline"), line.replace(' ', "\0").as_bytes());
        self.link(&format!("{pid}/exe"), exe);
        let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(exe).unwrap());
        self.write(&format!("{pid}/maps"), format!("1000-2000 r--p 0 fe:01 {inode} {exe}\n").as_bytes());
        std::fs::create_dir_all(self.dir.path().join(format!("{pid}/fd"))).unwrap();
    }
}

/// A process with that command line and nothing else.
pub fn process(pid: u32, line: &str) -> Process {
    Process {
        pid,
        namespace_pid: pid,
        ancestors: Vec::new(),
        uid: 0,
        start_ticks: 1,
        comm: "python3".into(),
        exe: PathBuf::from("/usr/bin/python3"),
        exe_deleted: false,
        argv: line.split_whitespace().map(str::to_owned).collect(),
        environment: Some(Environment::default()),
        cwd: Some(PathBuf::from("/srv/shop")),
        container: None,
        foreign_mount_namespace: false,
    }
}

/// A static CPython of that version, found by the version in its text.
pub fn interpreter(version: &str) -> Interpreter {
    let maps = super::maps::Mappings::parse(b"1000-2000 r--p 00000000 fe:01 5 /usr/bin/python3.11\n");
    Interpreter {
        implementation: Implementation::CPython,
        version: PythonVersion::parse(version).map(|version| (version, VersionSource::Text)),
        linkage: Linkage::Static,
        binary: maps.files[0].clone(),
        stripped: Some(true),
        bits: 64,
        free_threaded: false,
        debug: false,
        jit: false,
        libc: Libc::Glibc,
        embedded: false,
        distribution: None,
        build_id: None,
    }
}

/// A traced process with that command line.
pub fn inspected(pid: u32, line: &str) -> super::Inspected {
    let process = process(pid, line);
    let launch = super::Launch::parse(&process.argv);
    super::Inspected {
        service: super::service_name::service_name(&process, &launch, None),
        launch,
        process,
        interpreter: interpreter("3.11.2"),
        server: None,
        framework: None,
        listeners: Vec::new(),
    }
}
