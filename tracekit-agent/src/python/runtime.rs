//! Finds the interpreter in a process, and makes sure that its layout is the one expected.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::frame::walk;
use super::layout::{Layout, LayoutError, LineTable};
use super::memory::{LiveProcess, MemoryError, MemorySource as _};
use super::reader::{MemberDef, ReadError, Reader};
use super::thread::{newest_frame, thread_states};
use crate::discovery::elf;
use crate::discovery::proc_fs::ProcFs;
use crate::discovery::{InspectError, Inspected};

/// Members of a type that are compared at most.
const MAX_MEMBERS: u64 = 64;
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

    pub(super) fn mismatch(&self, error: &ReadError) -> AttachError {
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

    /// `tp_members`, up to one without a name.
    fn members(&self, reader: &Reader<'_>, address: u64) -> Result<Vec<(String, u64)>, ReadError> {
        let memory = reader.memory;
        let table = memory.u64(address.wrapping_add(self.layout.object.tp_members))?;
        let mut members = Vec::new();
        for at in 0..if table == 0 { 0 } else { MAX_MEMBERS } {
            let MemberDef { name, offset, .. } = reader.member_def(table, at)?;
            if name == 0 {
                break;
            }
            let name = String::from_utf8_lossy(&memory.c_string(name, 256)?).into_owned();
            members.push((name, offset));
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
        let tids = tids.take(MAX_THREADS);
        let in_same_namespace = self.proc.status(self.pid).is_ok_and(|of| of.namespace_pids.len() == 1);
        if in_same_namespace {
            return tids.map(|tid| (tid, tid)).collect();
        }
        tids.map(|tid| {
            // `/proc/TID` names any thread, though only processes are listed there.
            let status = self.proc.status(tid).ok();
            (status.and_then(|status| status.namespace_pids.last().copied()).unwrap_or(tid), tid)
        })
        .collect()
    }

    /// A file of the process below `/proc`.
    /// Minor page faults of the process so far: while there are no more, it has loaded no code.
    #[must_use]
    pub fn minor_faults(&self) -> Option<u64> {
        self.proc.stat(self.pid).ok().map(|stat| stat.minor_faults)
    }

    pub(super) fn proc_path(&self, name: &str) -> PathBuf {
        self.proc.path(format!("{}/{name}", self.pid))
    }

    pub(super) fn thread_name(&self, tid: u32) -> Option<String> {
        let path = self.proc_path(&format!("task/{tid}/comm"));
        Some(std::fs::read_to_string(path).ok()?.trim_end_matches('\n').to_owned())
    }
}
