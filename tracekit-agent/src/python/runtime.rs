//! Finds the interpreter in a process, and makes sure that its layout is the one expected.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::frame::{Stack, walk};
use super::layout::{Layout, LayoutError, LineTable};
use super::memory::{LiveProcess, MemoryError, MemorySource as _};
use super::reader::{ReadError, Reader};
use super::thread::{ThreadState, newest_frame, thread_states};
use crate::discovery::elf;
use crate::discovery::proc_fs::ProcFs;
use crate::discovery::{InspectError, Inspected};

/// Members of a type that are compared at most.
const MAX_MEMBERS: u64 = 64;
/// Walks of a stack that changes meanwhile.
const ATTEMPTS: usize = 4;
/// Threads of a process that are listed at most.
const MAX_THREADS: usize = 65_536;

/// Why an interpreter cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The process cannot be looked at, or is not traceable.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// Its version is not known.
    #[error("cannot tell which version of Python process {0} runs")]
    NoVersion(u32),
    /// The file with the interpreter could not be opened.
    #[error("cannot open the interpreter of process {pid}: {error}")]
    Binary {
        /// The process.
        pid: u32,
        /// The error of the system.
        error: std::io::Error,
    },
    /// Neither symbols nor sections say where its data is.
    #[error(
        "cannot find _PyRuntime in the interpreter of process {0}: no symbol and no section .PyRuntime \
         (a static build without section headers cannot be read)"
    )]
    NoRuntime(u32),
    /// Its layout is not known.
    #[error("cannot read the interpreter of process {pid}: {error}")]
    Layout {
        /// The process.
        pid: u32,
        /// The reason.
        error: LayoutError,
    },
    /// Its memory is not laid out as its version says.
    #[error("the interpreter of process {pid} is not laid out as Python 3.{minor} is: {reason}")]
    Mismatch {
        /// The process.
        pid: u32,
        /// Its minor version.
        minor: u8,
        /// What differs.
        reason: String,
    },
    /// Its memory cannot be read.
    #[error("cannot read the memory of process {pid}: {error}")]
    Memory {
        /// The process.
        pid: u32,
        /// The reason.
        error: MemoryError,
    },
}

/// The interpreter of a running process.
pub struct Target {
    /// The process.
    pub pid: u32,
    /// Its memory.
    pub memory: LiveProcess,
    /// Where its interpreter keeps what.
    pub layout: Layout,
    /// Address of `_PyRuntime`.
    pub runtime: u64,
    proc: ProcFs,
}

/// A thread and what it runs.
#[derive(Debug, Clone)]
pub struct ThreadStack {
    /// The thread state.
    pub state: ThreadState,
    /// Thread id in the agent's pid namespace.
    pub tid: Option<u32>,
    /// The thread's name as the kernel knows it.
    pub name: Option<String>,
    /// Its stack.
    pub stack: Stack,
    /// The stack changed in every attempt to read it: frames may be of different moments.
    pub changing: bool,
}

impl Target {
    /// Finds the interpreter of an inspected process.
    ///
    /// # Errors
    /// [`AttachError`]
    pub fn open(proc: &ProcFs, inspected: &Inspected) -> Result<Self, AttachError> {
        let pid = inspected.pid();
        let (version, _) = inspected.interpreter.version.as_ref().ok_or(AttachError::NoVersion(pid))?;
        let binary = &inspected.interpreter.binary;
        let file = proc.open_mapped(pid, binary).map_err(|error| AttachError::Binary { pid, error })?;
        let runtime = elf::runtime_address(&file, binary.start, binary.offset);
        let runtime = runtime.ok_or(AttachError::NoRuntime(pid))?;
        let memory = LiveProcess::new(pid);
        let layout = Layout::of(version.minor, &memory, runtime).map_err(|error| match error {
            LayoutError::Memory(error) => AttachError::Memory { pid, error },
            error => AttachError::Layout { pid, error },
        })?;
        let target = Self { pid, memory, layout, runtime, proc: proc.clone() };
        // Any read tells whether it is permitted.
        target.memory.u64(runtime).map_err(|error| AttachError::Memory { pid, error })?;
        Ok(target)
    }

    /// A reader of the process as it is now. What it finds is checked against what the interpreter's own type
    /// objects say of the layout.
    ///
    /// # Errors
    /// [`AttachError::Mismatch`], or what cannot be read.
    pub fn reader(&self) -> Result<Reader<'_>, AttachError> {
        self.memory.forget();
        let reader = Reader::new(&self.memory, self.layout);
        let states =
            thread_states(&reader, self.runtime, &BTreeMap::new()).map_err(|error| self.mismatch(&error))?;
        for state in states {
            let Ok(newest) = newest_frame(&reader, &state) else { continue };
            if let Some(frame) = walk(&reader, newest).frames.first() {
                let code_type =
                    reader.type_address(frame.code.address).map_err(|error| self.mismatch(&error))?;
                self.check_code_type(&reader, code_type)?;
                reader.set_code_type(code_type);
                break;
            }
        }
        Ok(reader)
    }

    fn mismatch(&self, error: &ReadError) -> AttachError {
        match error {
            ReadError::Memory(error @ (MemoryError::Gone | MemoryError::Denied)) => {
                AttachError::Memory { pid: self.pid, error: *error }
            }
            error => {
                AttachError::Mismatch { pid: self.pid, minor: self.layout.minor, reason: error.to_string() }
            }
        }
    }

    /// Compares the layout of code objects with `tp_members` and `tp_basicsize` of their type.
    fn check_code_type(&self, reader: &Reader<'_>, code_type: u64) -> Result<(), AttachError> {
        let offsets = &self.layout.code;
        let mut expected = vec![
            ("co_argcount", offsets.argcount),
            ("co_flags", offsets.flags),
            ("co_firstlineno", offsets.first_line),
            ("co_filename", offsets.filename),
            ("co_name", offsets.name),
            ("co_consts", offsets.consts),
        ];
        if self.layout.lines == LineTable::Locations {
            expected.push(("co_qualname", offsets.qualname));
        }
        let members = self.members(reader, code_type).map_err(|error| self.mismatch(&error))?;
        for (name, offset) in expected {
            let said = members.iter().find(|(member, _)| member == name).map(|(_, offset)| *offset);
            if let Some(said) = said.filter(|said| *said != offset) {
                return Err(AttachError::Mismatch {
                    pid: self.pid,
                    minor: self.layout.minor,
                    reason: format!("it says that {name} is at {said}, not at {offset}"),
                });
            }
        }
        let size = reader.type_at(code_type).map_err(|error| self.mismatch(&error))?.basic_size;
        if self.layout.lines == LineTable::Locations && u64::try_from(size) != Ok(offsets.bytecode) {
            return Err(AttachError::Mismatch {
                pid: self.pid,
                minor: self.layout.minor,
                reason: format!("its code objects have {size} bytes, not {}", offsets.bytecode),
            });
        }
        Ok(())
    }

    /// `tp_members`: `{const char *name; int type; Py_ssize_t offset; int flags; const char *doc;}`
    fn members(&self, reader: &Reader<'_>, address: u64) -> Result<Vec<(String, u64)>, ReadError> {
        let memory = reader.memory;
        let table = memory.u64(address.wrapping_add(self.layout.object.tp_members))?;
        let mut members = Vec::new();
        for at in 0..if table == 0 { 0 } else { MAX_MEMBERS } {
            let member = table.wrapping_add(at * 40);
            let name = memory.u64(member)?;
            if name == 0 {
                break;
            }
            let name = String::from_utf8_lossy(&memory.c_string(name, 256)?).into_owned();
            members.push((name, memory.u64(member.wrapping_add(16))?));
        }
        Ok(members)
    }

    /// The interpreter of a process that was forked from this one.
    #[must_use]
    pub fn forked(&self, pid: u32) -> Self {
        Self { pid, memory: LiveProcess::new(pid), proc: self.proc.clone(), ..*self }
    }

    /// Thread ids of the process: in its own pid namespace, and in the agent's.
    pub(super) fn thread_ids(&self) -> BTreeMap<u32, u32> {
        let Ok(entries) = std::fs::read_dir(self.proc_path("task")) else {
            return BTreeMap::new();
        };
        let tids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        tids.take(MAX_THREADS)
            .map(|tid| {
                // `/proc/TID` names any thread, though only processes are listed there.
                let status = self.proc.status(tid).ok();
                (status.and_then(|status| status.namespace_pids.last().copied()).unwrap_or(tid), tid)
            })
            .collect()
    }

    /// A file of the process below `/proc`.
    pub(super) fn proc_path(&self, name: &str) -> PathBuf {
        self.proc.path(format!("{}/{name}", self.pid))
    }

    fn thread_name(&self, tid: u32) -> Option<String> {
        let path = self.proc_path(&format!("task/{tid}/comm"));
        Some(std::fs::read_to_string(path).ok()?.trim_end_matches('\n').to_owned())
    }

    /// The threads that have a thread state and their stacks, in the order in which they were started; or
    /// only those of them that are wanted.
    ///
    /// # Errors
    /// [`AttachError`] if the list of threads cannot be read. A stack that cannot says so itself.
    pub fn stacks(
        &self,
        reader: &Reader<'_>,
        wanted: impl Fn(&ThreadState, Option<u32>) -> bool,
    ) -> Result<Vec<ThreadStack>, AttachError> {
        let tids = self.thread_ids();
        let mut states = thread_states(reader, self.runtime, &tids).map_err(|error| self.mismatch(&error))?;
        states.reverse();
        Ok(states
            .into_iter()
            .filter_map(|state| {
                let tid = state.native_id.and_then(|id| tids.get(&id)).copied();
                if !wanted(&state, tid) {
                    return None;
                }
                let name = tid.and_then(|tid| self.thread_name(tid));
                let (stack, changing) = self.stack(reader, &state);
                Some(ThreadStack { state, tid, name, stack, changing })
            })
            .collect())
    }

    /// The stack of one thread; read again if the thread ran on meanwhile. The second value says that it did
    /// so every time.
    fn stack(&self, reader: &Reader<'_>, state: &ThreadState) -> (Stack, bool) {
        let mut stack = Stack::default();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                self.memory.forget();
            }
            let Ok(newest) = newest_frame(reader, state) else {
                return (Stack { broken: Some("the thread has ended".into()), ..Stack::default() }, true);
            };
            stack = walk(reader, newest);
            if stack.broken.is_none() && !self.has_moved(reader, state, &stack) {
                return (stack, false);
            }
        }
        (stack, true)
    }

    /// The thread is elsewhere than when its stack was read, so what was read in between may be of different
    /// moments. A thread that came back to the same instruction of the same frames is not noticed.
    #[must_use]
    pub fn has_moved(&self, reader: &Reader<'_>, state: &ThreadState, stack: &Stack) -> bool {
        self.memory.forget();
        let Ok(newest) = newest_frame(reader, state) else { return true };
        let now = walk(reader, newest);
        let places = |stack: &Stack| -> Vec<_> {
            stack.frames.iter().map(|frame| (frame.address, frame.code.address, frame.offset)).collect()
        };
        places(&now) != places(stack)
    }
}
