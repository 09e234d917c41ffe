//! Probes on functions of C modules, in one process each.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd as _;

use aya::Ebpf;
use aya::programs::uprobe::{UProbeLink, UProbeScope};
use aya::programs::{ProgramError, UProbe};

use crate::discovery::proc_fs::ProcFs;

/// What a function does that is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Function {
    /// Initialises an asyncio task: its first argument.
    TaskInit,
    /// Puts an item into a queue: the first of an array of arguments, which is its second argument.
    QueuePut,
    /// Puts an item into a queue: its second argument.
    DequeAppend,
    /// Initialises a greenlet: its first argument.
    GreenletInit,
    /// Frees a greenlet: its first argument.
    GreenletDealloc,
}

impl Function {
    #[cfg(target_arch = "x86_64")]
    fn program(self) -> &'static str {
        match self {
            Self::TaskInit => "task_made_x86_64",
            Self::QueuePut => "item_put_x86_64",
            Self::DequeAppend => "item_appended_x86_64",
            Self::GreenletInit => "greenlet_made_x86_64",
            Self::GreenletDealloc => "greenlet_gone_x86_64",
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn program(self) -> &'static str {
        match self {
            Self::TaskInit => "task_made_arm64",
            Self::QueuePut => "item_put_arm64",
            Self::DequeAppend => "item_appended_arm64",
            Self::GreenletInit => "greenlet_made_arm64",
            Self::GreenletDealloc => "greenlet_gone_arm64",
        }
    }
}

/// Why a function can't be probed.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// Nothing is mapped there.
    #[error("nothing is mapped at {0:#x}")]
    NotMapped(u64),
    /// Its file cannot be opened.
    #[error("cannot open {path}: {error}")]
    File {
        /// Which.
        path: String,
        /// The system's error.
        error: std::io::Error,
    },
    /// The kernel refuses.
    #[error("{0}")]
    Program(#[from] ProgramError),
}

/// The probes of all processes. They end with this, or with the agent.
#[derive(Default)]
pub struct Functions {
    links: HashMap<(u32, Function), UProbeLink>,
}

impl Functions {
    /// Probes the function whose first instruction is at this address of a process.
    ///
    /// `start` is what the process has there: some bytes.
    ///
    /// # Errors
    /// [`FunctionError`]
    pub fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        pid: u32,
        function: Function,
        address: u64,
        start: &[u8],
    ) -> Result<(), FunctionError> {
        let proc = ProcFs::default();
        let address = address + probed_at(start);
        let file = proc.mapping_at(pid, address).ok().flatten();
        let file = file.ok_or(FunctionError::NotMapped(address))?;
        let opened = proc
            .open_mapped(pid, &file)
            .map_err(|error| FunctionError::File { path: file.path.display().to_string(), error })?;
        let name = function.program();
        let program = ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?;
        let program: &mut UProbe = program.try_into()?;
        if program.fd().is_err() {
            program.load()?;
        }
        let scope = NonZeroU32::new(pid).map_or(UProbeScope::CallingProcess, UProbeScope::OneProcess);
        // The file that is mapped, wherever it is in the process's root and whether it was removed or not.
        let path = format!("/proc/self/fd/{}", opened.as_raw_fd());
        let link = program.attach(address - file.start + file.offset, path, scope)?;
        self.links.insert((pid, function), program.take_link(link)?);
        Ok(())
    }

    /// The process has this probe.
    #[must_use]
    pub fn has(&self, pid: u32, function: Function) -> bool {
        self.links.contains_key(&(pid, function))
    }

    /// Ends those of a process.
    pub fn detach(&mut self, pid: u32) {
        self.links.retain(|(of, _), _| *of != pid);
    }
}

/// How far behind the first instruction the probe goes: past `endbr64` if a `push` follows, which the kernel
/// emulates instead of stepping over it. Arguments are where they were.
fn probed_at(start: &[u8]) -> u64 {
    match start {
        [0xf3, 0x0f, 0x1e, 0xfa, 0x50..=0x57, ..] | [0xf3, 0x0f, 0x1e, 0xfa, 0x41, 0x50..=0x57, ..] => 4,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_go_where_the_kernel_emulates() {
        assert_eq!(probed_at(&[0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48]), 4);
        assert_eq!(probed_at(&[0xf3, 0x0f, 0x1e, 0xfa, 0x41, 0x57]), 4);
        assert_eq!(probed_at(&[0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x83]), 0);
        assert_eq!(probed_at(&[0x41, 0x57]), 0);
        assert_eq!(probed_at(&[]), 0);
    }
}
