//! Every code object of a process: its memory is searched for words that are the address of `PyCode_Type`,
//! and what they are the type of is checked.
//!
//! This finds functions that no module leads to (closures, decorated functions, frozen garbage collector
//! generations), and needs to know nothing but code objects. Only writable private memory that is present is
//! searched: reading must not bring swapped or untouched pages into the process.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use super::memory::{MemoryError, PAGE};
use super::reader::{Code, Reader};
use super::runtime::Target;

/// Bytes read at once.
const CHUNK: u64 = 4 << 20;
/// Code objects of one process at most.
const MAX_CODES: usize = 1 << 20;
/// `/proc/PID/pagemap`: the page is in memory (kernel `Documentation/admin-guide/mm/pagemap.rst`).
const PRESENT: u64 = 1 << 63;
/// The page is swapped out.
const SWAPPED: u64 = 1 << 62;

/// Why code objects could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// No thread of the process runs Python code, so the type of code objects is not known.
    #[error("no thread of process {0} runs Python code now; try again")]
    NoFrames(u32),
    /// A file of `/proc` could not be read.
    #[error("cannot read /proc/{pid}/{what}: {error}")]
    Proc {
        /// The process.
        pid: u32,
        /// The file.
        what: &'static str,
        /// The error of the system.
        error: io::Error,
    },
    /// The process ended, or may not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// What a search found.
#[derive(Debug, Default)]
pub struct Found {
    /// Code objects in the order of their addresses.
    pub codes: Vec<Rc<Code>>,
    /// Bytes that were searched.
    pub searched: u64,
    /// Bytes that are swapped out and were not searched.
    pub swapped: u64,
}

/// Finds every code object of a process.
///
/// # Errors
/// [`ScanError`]
pub fn scan(target: &Target, reader: &Reader<'_>) -> Result<Found, ScanError> {
    let pid = target.pid;
    let code_type = reader.code_type().ok_or(ScanError::NoFrames(pid))?;
    let open = |what: &'static str| {
        File::open(target.proc_path(what)).map_err(|error| ScanError::Proc { pid, what, error })
    };
    let maps = io::read_to_string(open("maps")?);
    let maps = maps.map_err(|error| ScanError::Proc { pid, what: "maps", error })?;
    let pagemap = open("pagemap")?;
    target.memory.forget();

    let mut found = Found::default();
    let mut candidates = Vec::new();
    let mut buf = vec![0; CHUNK as usize];
    for (start, end) in maps.lines().filter_map(private_writable) {
        let mut chunk = start;
        while chunk < end {
            let size = CHUNK.min(end - chunk);
            for (from, to) in present(&pagemap, chunk, chunk + size, &mut found.swapped) {
                let Some(bytes) = buf.get_mut(..usize::try_from(to - from).unwrap_or(0)) else { continue };
                match target.memory.read_now(from, bytes) {
                    Ok(()) => search(bytes, from, code_type, &mut candidates),
                    // Unmapped meanwhile.
                    Err(MemoryError::Unmapped { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
                found.searched += to - from;
            }
            chunk += size;
        }
    }
    for address in candidates.into_iter().take(MAX_CODES) {
        let Some(object) = address.checked_sub(reader.layout.object_type) else { continue };
        if let Ok(code) = reader.code(object)
            && is_plausible(&code)
        {
            found.codes.push(code);
        }
    }
    Ok(found)
}

/// Memory of a freed object keeps its type; what is left of its fields rarely agrees.
fn is_plausible(code: &Code) -> bool {
    let [positional, positional_only, keyword_only] = code.argument_counts;
    let covered = code.lines.last().map_or(0, |range| range.end);
    !code.name.is_empty()
        && positional_only <= positional
        && (positional + keyword_only) as usize <= code.locals.len()
        && code.length >= 2
        && code.length.is_multiple_of(2)
        && covered <= code.length
}

/// The range of a mapping that is private and writable, from a line of `proc_pid_maps(5)`.
fn private_writable(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    if words.next()? != "rw-p" || words.nth(3) == Some("[stack]") {
        return None;
    }
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    (start < end && start.is_multiple_of(PAGE)).then_some((start, end))
}

/// The parts of a range that are in memory.
fn present(pagemap: &File, start: u64, end: u64, swapped: &mut u64) -> Vec<(u64, u64)> {
    let pages = usize::try_from((end - start) / PAGE).unwrap_or(0);
    let mut entries = vec![0; pages * 8];
    if pagemap.read_exact_at(&mut entries, start / PAGE * 8).is_err() {
        return Vec::new();
    }
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for (at, entry) in entries.chunks_exact(8).enumerate() {
        let entry = u64::from_le_bytes(entry.try_into().unwrap_or_default());
        let page = start + at as u64 * PAGE;
        if entry & SWAPPED != 0 {
            *swapped += PAGE;
        }
        if entry & PRESENT == 0 {
            continue;
        }
        match parts.last_mut() {
            Some((_, to)) if *to == page => *to = page + PAGE,
            _ => parts.push((page, page + PAGE)),
        }
    }
    parts
}

/// Addresses of the words that equal the wanted one.
fn search(bytes: &[u8], start: u64, wanted: u64, found: &mut Vec<u64>) {
    let wanted = wanted.to_le_bytes();
    for (at, word) in bytes.chunks_exact(8).enumerate() {
        if word == wanted && found.len() < MAX_CODES {
            found.push(start + at as u64 * 8);
        }
    }
}

/// The code is Python's own or an installed package's, not the application's.
#[must_use]
pub fn is_library(filename: &str) -> bool {
    if filename.starts_with('<') {
        return true;
    }
    let mut parts = filename.split('/').peekable();
    while let Some(part) = parts.next() {
        // `lib/python3.11/…`, `lib64/python3.13t/…`; an environment's `site-packages` anywhere.
        let of_python = |name: &str| {
            name.strip_prefix("python").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        // The script that starts a package's program: `bin/gunicorn`.
        let launcher = part == "bin"
            && parts.clone().count() == 1
            && parts.peek().is_some_and(|name| !name.contains('.'));
        if launcher
            || matches!(part, "site-packages" | "dist-packages")
            || (matches!(part, "lib" | "lib64") && parts.peek().is_some_and(|next| of_python(next)))
            || part.ends_with(".zip")
        {
            return true;
        }
    }
    false
}

/// The code runs an event loop: who is below it on the stack started the loop and asked for nothing.
#[must_use]
pub fn is_event_loop(filename: &str, function: &str) -> bool {
    let loops = [
        "/asyncio/base_events.py",
        "/asyncio/events.py",
        "/asyncio/runners.py",
        "/site-packages/uvloop/__init__.py",
        "/site-packages/trio/_core/_run.py",
        "/site-packages/twisted/internet/base.py",
    ];
    // In the same files are functions that applications call.
    let functions = [
        "run",
        "_run",
        "_run_once",
        "run_forever",
        "run_until_complete",
        "unrolled_run",
        "mainLoop",
        "runUntilCurrent",
    ];
    let name = function.rsplit('.').next().unwrap_or(function);
    loops.iter().any(|end| filename.ends_with(end)) && functions.contains(&name)
}

/// Runs a function of the application on another stack, in a greenlet, so that the application's frames below are not
/// the innermost ones: SQLAlchemy's `AsyncSession.run_sync` and the like.
#[must_use]
pub fn runs_on_another_stack(filename: &str, function: &str) -> bool {
    filename.contains("-packages/sqlalchemy/ext/asyncio/") && function.ends_with("run_sync")
}

/// Hands work to a thread and waits for it, so that the work is for its caller: asgiref's `sync_to_async`, through which
/// Django does what its asynchronous methods ask for.
#[must_use]
pub fn waits_for_work(filename: &str) -> bool {
    filename.contains("-packages/asgiref/")
}

/// Makes tasks, or hands work over, only for who calls it: the standard library, and anyio.
#[must_use]
pub fn acts_for_its_caller(filename: &str) -> bool {
    let packages = ["/site-packages/", "/dist-packages/"];
    match packages.iter().find_map(|name| filename.split_once(name)) {
        Some((_, path)) => path.starts_with("anyio/"),
        None => is_library(filename),
    }
}

/// The qualified name of each code object, by its address. Before 3.11 code objects do not have them:
/// they are made from which code object has which in its constants.
#[must_use]
pub fn qualified_names(reader: &Reader<'_>, codes: &[Rc<Code>]) -> HashMap<u64, String> {
    if reader.layout.code.qualname != reader.layout.code.name {
        return codes.iter().map(|code| (code.address, code.qualname.clone())).collect();
    }
    let by_address: HashMap<u64, &Rc<Code>> = codes.iter().map(|code| (code.address, code)).collect();
    let mut parents: HashMap<u64, u64> = HashMap::new();
    for code in codes {
        let consts = reader.memory.u64(code.address.wrapping_add(reader.layout.code.consts));
        let Some(items) = consts.ok().and_then(|consts| reader.tuple(consts, 65_536).ok()) else { continue };
        for item in items {
            if by_address.contains_key(&item) {
                parents.entry(item).or_insert(code.address);
            }
        }
    }
    let mut names = HashMap::new();
    for code in codes {
        let mut name = code.name.clone();
        let mut at = code.address;
        // CPython's limit on nesting is 100 blocks.
        for _ in 0..100 {
            let Some(parent) = parents.get(&at).and_then(|parent| by_address.get(parent)) else { break };
            if parent.name == "<module>" {
                break;
            }
            let separator = if parent.is_function() { ".<locals>." } else { "." };
            name = format!("{}{separator}{name}", parent.name);
            at = parent.address;
        }
        names.insert(code.address, name);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries() {
        for path in [
            "/usr/lib/python3.11/threading.py",
            "/srv/venv/lib/python3.13t/site-packages/flask/app.py",
            "/usr/lib/python3/dist-packages/x.py",
            "/app/.pkgs/site-packages/y.py",
            "<frozen importlib._bootstrap>",
            "/usr/lib/python311.zip/os.py",
            "/srv/venv/bin/gunicorn",
        ] {
            assert!(is_library(path), "{path}");
        }
        for path in [
            "/srv/app/lib/models.py",
            "/srv/bin/app.py",
            "/srv/bin/app/main",
            "app.py",
            "/srv/python3.11/app.py",
            "",
        ] {
            assert!(!is_library(path), "{path}");
        }
    }

    #[test]
    fn what_runs_event_loops() {
        let asyncio = "/usr/lib/python3.11/asyncio";
        assert!(is_event_loop(&format!("{asyncio}/events.py"), "Handle._run"));
        assert!(is_event_loop(&format!("{asyncio}/base_events.py"), "BaseEventLoop.run_forever"));
        assert!(is_event_loop("/srv/venv/lib/python3.12/site-packages/uvloop/__init__.py", "run"));
        assert!(!is_event_loop(&format!("{asyncio}/base_events.py"), "BaseEventLoop.run_in_executor"));
        for path in ["/usr/lib/python3.11/asyncio/tasks.py", "/srv/app/events.py", "/srv/uvloop/__init__.py"]
        {
            assert!(!is_event_loop(path, "run"), "{path}");
        }
    }

    #[test]
    fn greenlets_and_threads_of_libraries() {
        let packages = "/v/lib/python3.11/site-packages";
        let session = format!("{packages}/sqlalchemy/ext/asyncio/session.py");
        assert!(runs_on_another_stack(&session, "AsyncSession.run_sync"));
        assert!(!runs_on_another_stack(&session, "AsyncSession.execute"));
        assert!(!runs_on_another_stack("/srv/app.py", "run_sync"));
        assert!(waits_for_work(&format!("{packages}/asgiref/sync.py")));
        assert!(!waits_for_work(&format!("{packages}/django/db/models/query.py")));
    }

    #[test]
    fn who_makes_tasks_for_others() {
        for path in ["/usr/lib/python3.11/asyncio/tasks.py", "/v/site-packages/anyio/_core/_tasks.py"] {
            assert!(acts_for_its_caller(path), "{path}");
        }
        for path in ["/v/lib/python3.11/site-packages/redis/asyncio/connection.py", "/srv/app.py"] {
            assert!(!acts_for_its_caller(path), "{path}");
        }
    }

    #[test]
    fn mappings_that_are_searched() {
        assert_eq!(private_writable("1000-3000 rw-p 00000000 00:00 0 "), Some((0x1000, 0x3000)));
        for line in [
            "1000-3000 r-xp 00000000 00:00 0",
            "1000-3000 rw-s 00000000 00:00 0 /dev/shm/x",
            "3000-1000 rw-p 00000000 00:00 0",
            "7ff000000000-7ff000021000 rw-p 00000000 00:00 0 [stack]",
            "x",
            "",
        ] {
            assert_eq!(private_writable(line), None, "{line}");
        }
    }

    #[test]
    fn words_are_found() {
        let bytes: Vec<u8> = [1_u64, 7, 2, 7].iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut found = Vec::new();
        search(&bytes, 4096, 7, &mut found);
        assert_eq!(found, [4104, 4120]);
    }
}
