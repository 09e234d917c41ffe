//! Which Python interpreter a process runs, and how it was built.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::elf::{BinaryFacts, Evidence, read_facts};
use super::error::InspectError;
use super::maps::{MappedFile, Mappings};
use super::proc_fs::ProcFs;
use super::process::Process;
use super::version::{PythonVersion, VersionSource, abi_flags};

/// The oldest CPython that is traced.
pub const OLDEST: (u8, u8) = (3, 8);
/// The newest CPython whose threads and objects can be read (`python::layout`).
pub const NEWEST_READ: (u8, u8) = (3, 15);
/// Binaries whose facts are remembered.
const MAX_CACHED: usize = 1024;

/// Which Python it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Implementation {
    /// The reference implementation: the one that is traced.
    CPython,
    /// PyPy.
    PyPy,
    /// GraalPy.
    GraalPy,
}

impl fmt::Display for Implementation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CPython => "CPython",
            Self::PyPy => "PyPy",
            Self::GraalPy => "GraalPy",
        })
    }
}

/// Where the interpreter's code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linkage {
    /// In the executable.
    Static,
    /// In a shared `libpythonX.Y.so`.
    Shared,
}

/// The C library of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Libc {
    /// GNU.
    Glibc,
    /// musl (Alpine).
    Musl,
    /// None is mapped: linked statically.
    Static,
}

/// A Python interpreter in a process.
#[derive(Debug, Clone, PartialEq)]
pub struct Interpreter {
    /// Which Python it is.
    pub implementation: Implementation,
    /// Its version, and where that was found; `None` if nothing tells it.
    pub version: Option<(PythonVersion, VersionSource)>,
    /// Where its code is.
    pub linkage: Linkage,
    /// The mapped file that contains it: the executable or the library, as the kernel names it.
    pub binary: MappedFile,
    /// No symbol table beyond the dynamic one; `None` if the file could not be read.
    pub stripped: Option<bool>,
    /// 64, or 32.
    pub bits: u8,
    /// Built without the GIL.
    pub free_threaded: bool,
    /// Built with `Py_DEBUG`.
    pub debug: bool,
    /// The just-in-time compiler is compiled in.
    pub jit: bool,
    /// The C library.
    pub libc: Libc,
    /// The program is not `python` itself but has the interpreter inside (uWSGI, PyInstaller, GDB).
    pub embedded: bool,
    /// Who built it, where its path tells.
    pub distribution: Option<&'static str>,
    /// GNU build id, hexadecimal.
    pub build_id: Option<String>,
}

impl Interpreter {
    /// `3.11.2`, `3.13.0t`; `?` if unknown.
    #[must_use]
    pub fn version_text(&self) -> String {
        let version =
            self.version.as_ref().map_or_else(|| "?".to_owned(), |(version, _)| version.to_string());
        if self.free_threaded { version + "t" } else { version }
    }

    /// `static, stripped`
    #[must_use]
    pub fn build_text(&self) -> String {
        let mut words = vec![match self.linkage {
            Linkage::Static => "static",
            Linkage::Shared => "shared",
        }];
        let flags = [
            (self.stripped == Some(true), "stripped"),
            (self.debug, "debug"),
            (self.jit, "jit"),
            (self.libc == Libc::Musl, "musl"),
            (self.embedded, "embedded"),
            (self.binary.deleted, "deleted"),
        ];
        words.extend(flags.iter().filter(|(set, _)| *set).map(|(_, word)| *word));
        words.extend(self.distribution);
        words.join(", ")
    }

    /// Why it cannot be traced, if so.
    #[must_use]
    pub fn unsupported(&self) -> Option<String> {
        if self.implementation != Implementation::CPython {
            return Some(format!("{} is not CPython", self.implementation));
        }
        if self.bits == 32 {
            return Some("it is a 32-bit process".into());
        }
        match &self.version {
            Some((version, _)) if (version.major, version.minor) < OLDEST => {
                Some(format!("Python {version} is older than {}.{}", OLDEST.0, OLDEST.1))
            }
            _ => None,
        }
    }

    /// Why its threads, frames and objects cannot be read, if so. Whether its memory is laid out as its version and
    /// build say shows only when it is read (`python::runtime`).
    #[must_use]
    pub fn unreadable(&self) -> Option<String> {
        if let Some(reason) = self.unsupported() {
            return Some(reason);
        }
        match &self.version {
            None => Some("its version is not known".into()),
            Some((version, _)) if (version.major, version.minor) > NEWEST_READ => Some(format!(
                "the memory layout of Python {version} is not known, {}.{} is the newest",
                NEWEST_READ.0, NEWEST_READ.1
            )),
            Some(_) => None,
        }
    }
}

/// Facts about binaries, by what identifies a file's content: parsed once for all processes that run it.
#[derive(Debug, Default)]
pub struct BinaryCache(Mutex<HashMap<FileKey, Arc<BinaryFacts>>>);

/// Device, inode, size, modification time in seconds and nanoseconds, and whether it is named like Python.
type FileKey = (u64, u64, u64, i64, i64, bool);

impl BinaryCache {
    fn facts(&self, file: &File, named_python: bool) -> std::io::Result<Arc<BinaryFacts>> {
        let meta = file.metadata()?;
        let key = (meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec(), named_python);
        if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(known.clone());
        }
        let facts = Arc::new(read_facts(file, named_python));
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= MAX_CACHED {
            cache.clear();
        }
        cache.insert(key, facts.clone());
        Ok(facts)
    }
}

/// Finds the interpreter of a process.
///
/// # Errors
/// [`InspectError::NotPython`]; [`InspectError::NotReady`] for a Python whose library is not mapped yet;
/// [`InspectError::Denied`], [`InspectError::NotFound`].
pub fn find(
    proc: &ProcFs,
    cache: &BinaryCache,
    process: &Process,
    mappings: &Mappings,
) -> Result<Interpreter, InspectError> {
    let pid = process.pid;
    let exe_name = process.exe_name();
    let named_python = is_python_name(exe_name);
    let exe = exe_mapping(process, mappings);

    if let Some(other) = other_implementation(exe_name, mappings) {
        let binary = exe.ok_or(InspectError::NotReady { pid })?;
        let mut interpreter = describe(process, mappings, &binary, None, Linkage::Static);
        interpreter.implementation = other;
        interpreter.version = None;
        return Ok(interpreter);
    }

    // The library first: an executable that is linked to it holds only `main`.
    if let Some(library) = mappings.find(is_libpython) {
        let facts = open_and_read(proc, cache, pid, library, true);
        return Ok(describe(process, mappings, library, facts.as_deref(), Linkage::Shared));
    }

    let Some(exe) = exe else {
        // Between exec and the first mapping, or a process that is just exiting.
        return Err(if mappings.files.is_empty() {
            InspectError::NotPython { pid, exe: Some(process.exe.clone()) }
        } else {
            InspectError::NotReady { pid }
        });
    };
    let not_python = InspectError::NotPython { pid, exe: Some(process.exe.clone()) };
    let Some(facts) = open_and_read(proc, cache, pid, &exe, named_python) else {
        // Its name is the only thing known.
        return if named_python && PythonVersion::from_file_name(exe_name).is_some() {
            Ok(describe(process, mappings, &exe, None, Linkage::Static))
        } else {
            Err(not_python)
        };
    };
    let text_version = facts.version.as_ref().is_some_and(|(_, source)| *source == VersionSource::Text);
    match facts.evidence {
        Some(Evidence::RuntimeSymbol | Evidence::RuntimeSection | Evidence::ApiSymbol) => {}
        None if facts.needs_libpython => return Err(InspectError::NotReady { pid }),
        None if named_python && (facts.bits == 32 || text_version) => {}
        None => return Err(not_python),
    }
    Ok(describe(process, mappings, &exe, Some(&facts), Linkage::Static))
}

fn open_and_read(
    proc: &ProcFs,
    cache: &BinaryCache,
    pid: u32,
    file: &MappedFile,
    named_python: bool,
) -> Option<Arc<BinaryFacts>> {
    let opened = proc.open_mapped(pid, file);
    match opened.and_then(|opened| cache.facts(&opened, named_python)) {
        Ok(facts) => Some(facts),
        Err(error) => {
            tracing::debug!(pid, path = %file.path.display(), %error, "cannot read a mapped binary");
            None
        }
    }
}

fn describe(
    process: &Process,
    mappings: &Mappings,
    binary: &MappedFile,
    facts: Option<&BinaryFacts>,
    linkage: Linkage,
) -> Interpreter {
    let soname = facts.and_then(|facts| facts.soname.as_deref()).unwrap_or_default();
    let names = [soname, binary.file_name(), process.exe_name()];
    let flag = |flag: char| names.iter().any(|name| abi_flags(name).contains(flag) && is_python_like(name));
    let version = facts.and_then(|facts| facts.version.clone()).or_else(|| {
        let named = names.iter().find_map(|name| PythonVersion::from_file_name(name));
        named.or_else(|| version_of_extensions(mappings)).map(|version| (version, VersionSource::FileName))
    });
    Interpreter {
        implementation: Implementation::CPython,
        version,
        linkage,
        binary: binary.clone(),
        stripped: facts.filter(|facts| facts.bits == 64).map(|facts| !facts.has_symtab),
        bits: facts.map_or(64, |facts| if facts.bits == 32 { 32 } else { 64 }),
        free_threaded: facts.and_then(|facts| facts.free_threaded).unwrap_or_else(|| flag('t')),
        debug: facts.is_some_and(|facts| facts.debug) || flag('d'),
        jit: facts.is_some_and(|facts| facts.jit),
        libc: libc(mappings),
        embedded: !is_python_name(process.exe_name()),
        distribution: distribution(&process.exe, &binary.path),
        build_id: facts.and_then(|facts| facts.build_id.clone()),
    }
}

/// The mapping of the executable. Its path can differ in text from what `exe` says (a mount over it).
fn exe_mapping(process: &Process, mappings: &Mappings) -> Option<MappedFile> {
    mappings.files.iter().find(|file| file.path == process.exe).cloned()
}

/// The standard library's directory is in the path of every extension module that is loaded from it:
/// `/usr/lib/python3.9/lib-dynload/_ssl.cpython-39-x86_64-linux-gnu.so`.
fn version_of_extensions(mappings: &Mappings) -> Option<PythonVersion> {
    mappings.files.iter().find_map(|file| {
        let mut parts = file.path.components().rev();
        let is_dynload = parts.nth(1).is_some_and(|part| part.as_os_str() == "lib-dynload");
        let library = parts.next()?.as_os_str().to_str()?;
        is_dynload.then(|| PythonVersion::from_file_name(library)).flatten()
    })
}

/// `python`, `python3`, `python3.13t`, `python3.11-dbg`
fn is_python_name(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("python") else { return false };
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    rest.is_empty()
        || matches!(rest, "t" | "d" | "td" | "m" | "dm" | "u" | "mu")
        || matches!(rest, "-dbg" | "-debug" | "-nopie" | "-pie" | "-intel64")
}

fn is_python_like(name: &str) -> bool {
    is_python_name(name) || is_libpython(name)
}

/// `libpython3.11.so.1.0`, `libpython2.7.so`, not the stub `libpython3.so` of the stable ABI.
fn is_libpython(name: &str) -> bool {
    name.starts_with("libpython") && name.contains(".so") && PythonVersion::from_file_name(name).is_some()
}

fn other_implementation(exe_name: &str, mappings: &Mappings) -> Option<Implementation> {
    if exe_name.starts_with("pypy") || mappings.find(|name| name.starts_with("libpypy")).is_some() {
        return Some(Implementation::PyPy);
    }
    let graal = exe_name.starts_with("graalpy") || mappings.find(|name| name == "libpythonvm.so").is_some();
    graal.then_some(Implementation::GraalPy)
}

fn libc(mappings: &Mappings) -> Libc {
    // Alpine has one file `ld-musl-*`; elsewhere that is a link to musl's `libc.so`. glibc's is `libc.so.6`: what it has
    // by the shorter name is a linker script, which no process maps.
    let musl =
        |name: &str| name.starts_with("ld-musl-") || name.starts_with("libc.musl-") || name == "libc.so";
    if mappings.find(musl).is_some() {
        Libc::Musl
    } else if mappings.find(|name| name.starts_with("libc.so") || name.starts_with("libc-2.")).is_some() {
        Libc::Glibc
    } else {
        Libc::Static
    }
}

fn distribution(exe: &Path, binary: &Path) -> Option<&'static str> {
    [binary, exe].into_iter().find_map(|path| {
        let text = path.to_str()?;
        [
            ("/.pyenv/versions/", "pyenv"),
            ("/uv/python/cpython-", "uv"),
            ("/.mount_", "AppImage"),
            ("/_MEI", "PyInstaller"),
            ("conda", "conda"),
            ("miniforge", "conda"),
            ("/nix/store/", "nix"),
        ]
        .iter()
        .find(|(part, _)| text.contains(part))
        .map(|(_, name)| *name)
    })
}

/// The path under which the agent itself can open the interpreter's binary, for tools that need a path
/// (a uprobe's target): exact even if the file was deleted.
#[must_use]
pub fn agent_path(proc: &ProcFs, process: &Process, binary: &MappedFile) -> PathBuf {
    let pid = process.pid;
    let exact = proc.path(format!("{pid}/map_files/{:x}-{:x}", binary.start, binary.end));
    if std::fs::metadata(&exact).is_ok() {
        return exact;
    }
    if binary.path == process.exe {
        return proc.path(format!("{pid}/exe"));
    }
    if process.foreign_mount_namespace {
        let below = binary.path.strip_prefix("/").unwrap_or(&binary.path);
        return proc.path(format!("{pid}/root")).join(below);
    }
    binary.path.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::testing::interpreter;

    #[test]
    fn names() {
        for name in ["python", "python3", "python3.11", "python3.13t", "python3.11-dbg", "python2.7"] {
            assert!(is_python_name(name), "{name}");
        }
        for name in ["pythonista", "python-build", "ipython", "py", "bpython3", ""] {
            assert!(!is_python_name(name), "{name}");
        }
        assert!(is_libpython("libpython3.13t.so.1.0"));
        assert!(!is_libpython("libpython3.so"));
        assert!(!is_libpython("libpythonvm.so"));
    }

    #[test]
    fn what_is_refused() {
        for version in ["3.8.0", "3.11.2", "3.15.0b1"] {
            assert_eq!(interpreter(version).unsupported(), None);
        }
        assert!(interpreter("3.7.16").unsupported().unwrap().contains("older than 3.8"));
        assert!(interpreter("2.7.18").unsupported().is_some());
        let pypy = Interpreter { implementation: Implementation::PyPy, ..interpreter("3.10.1") };
        assert_eq!(pypy.unsupported().unwrap(), "PyPy is not CPython");
        let narrow = Interpreter { bits: 32, ..interpreter("3.11.2") };
        assert!(narrow.unsupported().unwrap().contains("32-bit"));
        assert_eq!(interpreter("3.11.2").build_text(), "static, stripped");
        assert_eq!(narrow.unreadable(), narrow.unsupported());
    }

    #[test]
    fn what_is_traced_but_not_read() {
        let builds = Interpreter { free_threaded: true, debug: true, jit: true, ..interpreter("3.14.0") };
        assert_eq!(builds.unreadable(), None);
        for found in [interpreter("3.16.0a1"), Interpreter { version: None, ..interpreter("3.11.2") }] {
            assert_eq!(found.unsupported(), None);
            assert!(found.unreadable().is_some(), "{:?}", found.version);
        }
    }

    #[test]
    fn c_libraries() {
        for (path, expected) in [
            ("/lib/ld-musl-x86_64.so.1", Libc::Musl),
            ("/usr/lib/x86_64-linux-musl/libc.so", Libc::Musl),
            ("/usr/lib/x86_64-linux-gnu/libc.so.6", Libc::Glibc),
            ("/lib/x86_64-linux-gnu/libc-2.31.so", Libc::Glibc),
            ("/usr/bin/python3.13", Libc::Static),
        ] {
            let maps = Mappings::parse(format!("1000-2000 r-xp 00000000 fe:01 5 {path}\n").as_bytes());
            assert_eq!(libc(&maps), expected, "{path}");
        }
    }

    #[test]
    fn version_from_the_standard_librarys_path() {
        let maps = Mappings::parse(
            b"1000-2000 r--p 00000000 fe:01 5 /usr/lib/python3.9/lib-dynload/_ssl.cpython-39-x86_64-linux-gnu.so\n",
        );
        assert_eq!(version_of_extensions(&maps), Some(PythonVersion::new(3, 9)));
    }
}
