//! The environment of a process that has overwritten the block that `/proc/PID/environ` shows.
//!
//! `setproctitle` (gunicorn and Celery use it where it is installed) writes the title over the command line
//! and the environment behind it, after it has moved the environment to the heap and pointed the C library's
//! `environ` there. So `environ` is followed, in the memory of the process, read-only and bounded: what is
//! found there is as little to be trusted as any input.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::elf::run_time_address;
use super::maps::{MappedFile, Mappings};
use super::proc_fs::{Environment, ProcFs};
use super::process::Process;

/// Variables that are looked at.
const MAX_VARIABLES: usize = 4096;
/// Bytes of one variable, its name included; a longer one is skipped.
const MAX_VARIABLE: usize = 8192;
/// Bytes of all variables together.
const MAX_TOTAL: usize = 1 << 20;

/// Reads the environment from memory. `None` if `environ` cannot be found or read.
#[must_use]
pub fn read(proc: &ProcFs, process: &Process, mappings: &Mappings) -> Option<Environment> {
    let memory = File::open(proc.path(format!("{}/mem", process.pid))).ok()?;
    // A program that uses `environ` itself may have it in its own data (a copy relocation), and then the
    // library uses that one.
    let exe = mappings.files.iter().find(|file| file.path == process.exe);
    let libc = mappings.find(|name| {
        name.starts_with("libc.so") || name.starts_with("libc-2.") || name.starts_with("ld-musl-")
    });
    [exe, libc].into_iter().flatten().find_map(|file| {
        let array = word(&memory, address_of_environ(proc, process.pid, file)?)?;
        let block = block(&memory, array)?;
        (!block.is_empty()).then(|| Environment::parse(&block))
    })
}

fn address_of_environ(proc: &ProcFs, pid: u32, file: &MappedFile) -> Option<u64> {
    let opened = proc.open_mapped(pid, file).ok()?;
    run_time_address(&opened, &[b"environ", b"__environ"], file.start, file.offset)
}

fn word(memory: &File, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    memory.read_exact_at(&mut bytes, address).ok()?;
    Some(u64::from_ne_bytes(bytes))
}

/// The strings of a NULL-terminated array of pointers, each with its NUL.
fn block(memory: &File, array: u64) -> Option<Vec<u8>> {
    let mut block = Vec::new();
    let mut variable = vec![0; MAX_VARIABLE];
    for index in 0..MAX_VARIABLES as u64 {
        let pointer = word(memory, array.checked_add(index * 8)?)?;
        if pointer == 0 {
            break;
        }
        let Ok(length) = memory.read_at(&mut variable, pointer) else { continue };
        let text = variable.get(..length).unwrap_or_default();
        let Some(end) = text.iter().position(|byte| *byte == 0) else { continue };
        if block.len() + end >= MAX_TOTAL {
            break;
        }
        block.extend(text.iter().take(end + 1));
    }
    Some(block)
}
