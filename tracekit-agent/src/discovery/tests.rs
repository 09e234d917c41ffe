//! Constructed and real processes through the whole of discovery.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::interpreter::Linkage;
use super::testing::Constructed;
use super::*;

/// A Python that has said that it is up, killed at the end.
struct Running(Child);

impl Running {
    fn start(python: &Path, code: &str, env: &[(&str, &str)]) -> Self {
        let code =
            format!("import sys\n{code}\nsys.stdout.write('up\\n'); sys.stdout.flush()\nsys.stdin.read()");
        let mut child = Command::new(python)
            .args(["-c", &code])
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", python.display()));
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "up");
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const SYSTEM_PYTHON: &str = "/usr/bin/python3";

fn reported_version(python: &Path) -> String {
    let code = "import platform; print(platform.python_version())";
    let output = Command::new(python).args(["-c", code]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// `(directory name, executable)` of every interpreter of pyenv.
fn pyenv() -> Vec<(String, PathBuf)> {
    let root = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".pyenv")));
    let Some(entries) = root.and_then(|root| std::fs::read_dir(root.join("versions")).ok()) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_str()?.to_owned();
            let mut numbers = name.split('.');
            let (major, minor) = (numbers.next()?, numbers.next()?);
            let python = entry.path().join(format!("bin/python{major}.{minor}"));
            python.exists().then_some((name, python))
        })
        .collect()
}

#[test]
fn the_systems_python() {
    let env = [("OTEL_SERVICE_NAME", "shop"), ("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=a%20b")];
    let running = Running::start(Path::new(SYSTEM_PYTHON), "", &env);
    let inspected = Inspector::default().inspect(running.pid()).unwrap();
    assert_eq!(inspected.interpreter.version_text(), reported_version(Path::new(SYSTEM_PYTHON)));
    assert_eq!(inspected.interpreter.linkage, Linkage::Static);
    assert_eq!(inspected.interpreter.stripped, Some(true));
    assert_eq!(inspected.service.name, "shop");
    assert_eq!(inspected.process.parent(), Some(std::process::id()));

    let resource = resource_for(&inspected, None);
    let text = |key: &str| {
        let value =
            resource.attributes.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone());
        match value {
            Some(crate::trace::span::Value::String(text)) => text,
            other => panic!("{key}: {other:?}"),
        }
    };
    assert_eq!(text("service.name"), "shop");
    assert_eq!(text("service.namespace"), "a b");
    assert_eq!(text("process.runtime.name"), "cpython");
    assert_eq!(text("process.runtime.version"), inspected.interpreter.version_text());
    assert_eq!(resource_for(&inspected, Some("flag")).service_name(), "flag");
    let mut keys: Vec<&String> = resource.attributes.iter().map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), resource.attributes.len(), "keys are unique");
}

#[test]
fn every_interpreter_of_pyenv() {
    for (name, python) in pyenv() {
        let running = Running::start(&python, "", &[]);
        let inspector = Inspector::default();
        let inspected = inspector.examine(running.pid()).unwrap();
        assert_eq!(inspected.interpreter.version_text(), name);
        assert_eq!(inspected.interpreter.linkage, Linkage::Shared, "{name}");
        assert_eq!(inspected.interpreter.distribution, Some("pyenv"));
        assert!(!inspected.interpreter.embedded);
        let (version, _) = inspected.interpreter.version.clone().unwrap();
        let supported = (version.major, version.minor) >= interpreter::OLDEST;
        assert_eq!(inspector.inspect(running.pid()).is_ok(), supported, "{name}");
    }
}

#[test]
fn a_port_and_a_child() {
    let code = "import socket, os, time\ns = socket.create_server(('127.0.0.1', 0))\n\
                open(os.environ['OUT'], 'w').write(str(s.getsockname()[1]))\n\
                pid = os.fork()\nif pid == 0: time.sleep(60)";
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("port");
    let running = Running::start(Path::new(SYSTEM_PYTHON), code, &[("OUT", out.to_str().unwrap())]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let port: u16 = loop {
        if let Ok(text) = std::fs::read_to_string(&out)
            && let Ok(port) = text.parse()
        {
            break port;
        }
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    let selector = Selector::pids([running.pid()]);
    let found = loop {
        let found = Inspector::default().select(&selector).unwrap();
        if found.len() == 2 {
            break found;
        }
        assert!(std::time::Instant::now() < deadline, "{found:?}");
    };
    let child = found.iter().find(|inspected| inspected.pid() != running.pid()).unwrap().pid();
    let by_port = SelectorArgs { port: Some(port.to_string()), ..SelectorArgs::default() };
    let mut pids: Vec<u32> =
        Inspector::default().scan(&by_port.compile_required().unwrap()).iter().map(Inspected::pid).collect();
    pids.sort_unstable();
    let mut expected = vec![running.pid(), child];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(child.try_into().unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}

#[test]
fn an_executable_that_was_deleted_under_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("python3");
    std::fs::copy(SYSTEM_PYTHON, &copy).unwrap();
    let running = Running::start(&copy, "", &[("PYTHONHOME", "/usr")]);
    std::fs::remove_file(&copy).unwrap();
    std::fs::write(&copy, "something else").unwrap();
    let inspected = Inspector::default().inspect(running.pid()).unwrap();
    assert!(inspected.process.exe_deleted && inspected.interpreter.binary.deleted);
    assert_eq!(inspected.interpreter.version_text(), reported_version(Path::new(SYSTEM_PYTHON)));
}

/// What `setproctitle` does, without the package: the environment is moved by `putenv`-like means of the C
/// library, and the block of the kernel is overwritten.
#[test]
fn the_environment_behind_a_title() {
    let code = "\
import ctypes, os
libc = ctypes.CDLL(None)
environ = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, 'environ')
count = 0
while environ[count] is not None: count += 1
kept = (ctypes.c_char_p * (count + 1))(*[ctypes.create_string_buffer(environ[i]).value for i in range(count)], None)
ctypes.c_void_p.in_dll(libc, 'environ').value = ctypes.addressof(kept)
start, end, _, env_end = [int(f) for f in open('/proc/self/stat').read().rsplit(')', 1)[1].split()[45:49]]
title = b'gunicorn: master [app:wsgi]'
ctypes.memset(start, 0, env_end - start)
ctypes.memmove(start, title, len(title))";
    let env = [("OTEL_SERVICE_NAME", "behind"), ("PADDING", "x")];
    for python in std::iter::once(PathBuf::from(SYSTEM_PYTHON))
        .chain(pyenv().into_iter().filter(|(name, _)| name.starts_with("3.")).map(|(_, path)| path))
    {
        let running = Running::start(&python, code, &env);
        let inspected = Inspector::default().examine(running.pid()).unwrap();
        assert_eq!(inspected.process.argv, ["gunicorn: master [app:wsgi]"], "{}", python.display());
        assert_eq!(inspected.service.name, "behind", "{}", python.display());
    }
}

#[test]
fn a_process_that_starts_and_ends_is_followed() {
    let pythons: Vec<PathBuf> = std::iter::once(PathBuf::from(SYSTEM_PYTHON))
        .chain(pyenv().into_iter().map(|(_, path)| path))
        .collect();
    let mut followed = 0;
    for python in pythons {
        // Looked at the moment exec returns: a shared interpreter is not mapped yet.
        let mut child = Command::new(&python)
            .args(["-c", "import time; time.sleep(60)"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut tracker = Tracker::new(Inspector::default(), Selector::all());
        let mut changes = tracker.on_exec(child.id(), std::time::Instant::now());
        while let Some(due) = tracker.pending().filter(|_| changes.is_empty()) {
            std::thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
            changes.extend(tracker.poll(std::time::Instant::now()));
        }
        let supported = Inspector::default().inspect(child.id()).is_ok();
        assert_eq!(changes.len(), usize::from(supported), "{}", python.display());
        child.kill().unwrap();
        child.wait().unwrap();
        if supported {
            followed += 1;
            assert!(
                matches!(tracker.on_exit(child.id()).as_slice(), [Change::Deselected(pid)] if *pid == child.id())
            );
        }
    }
    assert!(followed > 0);
}

#[test]
fn what_is_not_there_or_not_python() {
    assert!(matches!(Inspector::default().inspect(u32::MAX), Err(InspectError::NotFound { .. })));
    let own = std::process::id();
    assert!(matches!(Inspector::default().inspect(own), Err(InspectError::NotPython { exe: Some(_), .. })));
    assert!(matches!(
        Inspector::default().inspect(2),
        Err(InspectError::NotPython { .. } | InspectError::NotFound { .. })
    ));
    // This test process itself will not do here: it has Python children.
    let mut other = Command::new("/bin/sleep").arg("60").spawn().unwrap();
    let selected = Inspector::default().select(&Selector::pids([other.id()]));
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(matches!(selected, Err(SelectError::Process(InspectError::NotPython { .. }))), "{selected:?}");
    let nothing = SelectorArgs { name: Some("no-such-*".into()), ..SelectorArgs::default() };
    let selected = Inspector::default().select(&nothing.compile_required().unwrap());
    assert!(matches!(selected, Err(SelectError::NoMatch { .. })));
}

#[test]
fn a_constructed_tree() {
    let tree = Constructed::new();
    tree.process(10, 1, SYSTEM_PYTHON_FILE, "python3 -m gunicorn app:wsgi");
    tree.process(11, 10, SYSTEM_PYTHON_FILE, "python3 -m gunicorn app:wsgi");
    tree.process(12, 1, "/bin/sh", "sh -c x");
    tree.write("11/environ", b"OTEL_SERVICE_NAME=shop\0");
    tree.write("10/cgroup", format!("0::/system.slice/docker-{}.scope\n", "a".repeat(64)).as_bytes());
    tree.write("13/stat", b"garbage");
    tree.link("14/exe", "/nonexistent");
    let inspector = Inspector::new(tree.proc.clone());
    let found = inspector.scan(&Selector::all());
    assert_eq!(found.iter().map(Inspected::pid).collect::<Vec<_>>(), [10, 11]);
    assert_eq!(found[0].service.name, "app");
    assert_eq!(found[1].service.name, "shop");
    assert_eq!(found[0].process.container.as_ref().unwrap().id, "a".repeat(64));
    let roles: Vec<String> = found.iter().map(|i| i.server.as_ref().unwrap().to_string()).collect();
    assert_eq!(roles, ["gunicorn/sync (master)", "gunicorn/sync (worker)"]);
    assert_eq!(found[1].process.start_ticks, 777);
}

/// Constructed trees need the file itself, not the link to it.
const SYSTEM_PYTHON_FILE: &str = SYSTEM_PYTHON;
