//! Memory of a target: of a live process, or an image captured from one.
//!
//! Everything that is read belongs to the target and may change or be nonsense: a read fails with an error,
//! it never panics, and it never reads more than was asked for in one page of 4 KiB granularity.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;

/// Bytes of a page of the cache; a divisor of every page size Linux has.
pub const PAGE: u64 = 4096;
/// Pages the cache holds at most (64 MiB); more start it afresh.
const MAX_PAGES: usize = 16 * 1024;
/// Ranges in one `process_vm_readv` (`IOV_MAX`).
const MAX_RANGES: usize = 1024;
/// Ranges of an image that overlap at most.
const OVERLAPS: usize = 4;
/// The highest address of user space that is looked at (5-level page tables end below).
const END_OF_USER_SPACE: u64 = 1 << 56;

/// Why memory could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Nothing is mapped there, or the address cannot be one.
    #[error("no readable memory at {address:#x}")]
    Unmapped {
        /// The first address of the read.
        address: u64,
    },
    /// The process has ended.
    #[error("the process has ended")]
    Gone,
    /// The agent may not read the process.
    #[error("not permitted to read the process's memory; run tracekit as root, or with CAP_SYS_PTRACE")]
    Denied,
}

/// A source of the target's memory.
pub trait MemorySource {
    /// Fills `buf` with the bytes from `address`.
    ///
    /// # Errors
    /// If not all of them can be read; `buf` then holds anything.
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), MemoryError>;

    /// Says which addresses are about to be read, so that a source may fetch them at once.
    fn prefetch(&self, _addresses: &[u64]) {}

    /// `length` bytes from `address`. The caller bounds the length.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn bytes(&self, address: u64, length: usize) -> Result<Vec<u8>, MemoryError> {
        let mut buf = vec![0; length];
        self.read(address, &mut buf)?;
        Ok(buf)
    }

    /// One byte.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn u8(&self, address: u64) -> Result<u8, MemoryError> {
        let mut buf = [0; 1];
        self.read(address, &mut buf)?;
        Ok(buf[0])
    }

    /// A little-endian word of 4 bytes.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn u32(&self, address: u64) -> Result<u32, MemoryError> {
        let mut buf = [0; 4];
        self.read(address, &mut buf)?;
        Ok(u32::from_le_bytes(buf))
    }

    /// A signed word of 4 bytes.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn i32(&self, address: u64) -> Result<i32, MemoryError> {
        Ok(self.u32(address)?.cast_signed())
    }

    /// A little-endian word of 8 bytes: a pointer.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn u64(&self, address: u64) -> Result<u64, MemoryError> {
        let mut buf = [0; 8];
        self.read(address, &mut buf)?;
        Ok(u64::from_le_bytes(buf))
    }

    /// A signed word of 8 bytes: a `Py_ssize_t`.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn i64(&self, address: u64) -> Result<i64, MemoryError> {
        Ok(self.u64(address)?.cast_signed())
    }

    /// `count` words of 8 bytes. The caller bounds the count.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn words(&self, address: u64, count: usize) -> Result<Vec<u64>, MemoryError> {
        let length = count.checked_mul(8).ok_or(MemoryError::Unmapped { address })?;
        let bytes = self.bytes(address, length)?;
        Ok(bytes
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
            .collect())
    }

    /// The bytes before the first NUL, at most `limit`; read byte-wise at a page's end.
    ///
    /// # Errors
    /// As [`Self::read`]; also if there is no NUL within `limit`.
    fn c_string(&self, address: u64, limit: usize) -> Result<Vec<u8>, MemoryError> {
        let mut text = Vec::new();
        let mut at = address;
        while text.len() < limit {
            let step = usize::try_from(PAGE - at % PAGE).unwrap_or(1).min(64).min(limit - text.len());
            let chunk = self.bytes(at, step)?;
            match chunk.iter().position(|byte| *byte == 0) {
                Some(end) => {
                    text.extend(chunk.iter().take(end));
                    return Ok(text);
                }
                None => text.extend(chunk),
            }
            at = at.wrapping_add(step as u64);
        }
        Err(MemoryError::Unmapped { address })
    }
}

type Page = Option<Box<[u8]>>;

/// The memory of a running process, read by `process_vm_readv`: the process is not stopped, and nothing is
/// written. Pages are kept until [`Self::forget`]: one pass sees each page at one moment.
#[derive(Debug)]
pub struct LiveProcess {
    pid: libc::pid_t,
    pages: RefCell<HashMap<u64, Page>>,
}

impl LiveProcess {
    /// The process with this pid of the agent's pid namespace. Nothing is read yet.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        // A pid that is no pid reads as a process that has ended.
        Self { pid: pid.try_into().unwrap_or(0), pages: RefCell::default() }
    }

    /// Forgets the pages: what is read next is what the process has then.
    pub fn forget(&self) {
        self.pages.borrow_mut().clear();
    }

    /// Reads past the cache: for large ranges, and to see what changed since.
    ///
    /// # Errors
    /// As [`MemorySource::read`].
    pub fn read_now(&self, address: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let wanted = buf.len();
        if vectored(self.pid, &[(address, wanted)], buf)? == wanted {
            Ok(())
        } else {
            Err(MemoryError::Unmapped { address })
        }
    }

    /// A pointer, past the cache.
    ///
    /// # Errors
    /// As [`MemorySource::read`].
    pub fn u64_now(&self, address: u64) -> Result<u64, MemoryError> {
        let mut buf = [0; 8];
        self.read_now(address, &mut buf)?;
        Ok(u64::from_le_bytes(buf))
    }

    /// Brings pages into the cache; those that cannot be read are remembered as such.
    fn fetch(&self, pages: &[u64]) -> Result<(), MemoryError> {
        let mut missing: Vec<u64> = {
            let cached = self.pages.borrow();
            pages.iter().copied().filter(|page| !cached.contains_key(page)).collect()
        };
        missing.sort_unstable();
        missing.dedup();
        if self.pages.borrow().len() + missing.len() > MAX_PAGES {
            self.forget();
        }
        let page_size = PAGE as usize;
        let mut rest = missing.as_slice();
        while !rest.is_empty() {
            let batch = rest.get(..MAX_RANGES).unwrap_or(rest);
            let ranges: Vec<(u64, usize)> = batch.iter().map(|page| (*page, page_size)).collect();
            let mut buf = vec![0; batch.len() * page_size];
            let read = vectored(self.pid, &ranges, &mut buf)?;
            // The call ends at the first range that cannot be read.
            let complete = read / page_size;
            let mut cached = self.pages.borrow_mut();
            for (page, bytes) in batch.iter().zip(buf.chunks_exact(page_size)).take(complete) {
                cached.insert(*page, Some(bytes.into()));
            }
            let mut done = complete;
            if let Some(unreadable) = batch.get(complete) {
                cached.insert(*unreadable, None);
                done += 1;
            }
            rest = rest.get(done..).unwrap_or_default();
        }
        Ok(())
    }
}

impl MemorySource for LiveProcess {
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        if buf.is_empty() {
            return Ok(());
        }
        let unmapped = MemoryError::Unmapped { address };
        let end = address.checked_add(buf.len() as u64).filter(|end| *end < END_OF_USER_SPACE);
        let end = end.ok_or(unmapped)?;
        let first = address - address % PAGE;
        if end - first > 64 * PAGE {
            return self.read_now(address, buf);
        }
        let pages: Vec<u64> = (first..end).step_by(PAGE as usize).collect();
        self.fetch(&pages)?;
        let cached = self.pages.borrow();
        let mut at = address;
        let mut rest = buf;
        for page in pages {
            let bytes = cached.get(&page).and_then(Option::as_deref).ok_or(unmapped)?;
            let from = bytes.get((at - page) as usize..).ok_or(unmapped)?;
            let count = from.len().min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(from.get(..count).ok_or(unmapped)?);
            rest = later;
            at += count as u64;
        }
        Ok(())
    }

    fn prefetch(&self, addresses: &[u64]) {
        let plausible = addresses.iter().filter(|address| (PAGE..END_OF_USER_SPACE).contains(address));
        let pages: Vec<u64> = plausible.map(|address| address - address % PAGE).collect();
        // What cannot be read is an error when it is needed.
        let _ = self.fetch(&pages);
    }
}

/// One `process_vm_readv` of several ranges into one buffer; returns the bytes read, 0 if the first range
/// is not mapped.
fn vectored(pid: libc::pid_t, ranges: &[(u64, usize)], buf: &mut [u8]) -> Result<usize, MemoryError> {
    if buf.is_empty() {
        return Ok(0);
    }
    let remote: Vec<libc::iovec> = ranges
        .iter()
        .map(|(address, length)| libc::iovec { iov_base: *address as *mut libc::c_void, iov_len: *length })
        .collect();
    let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: the local vector is one exclusively borrowed buffer with its true length, which bounds what the
    // kernel writes; addresses of the other process are only checked and read by the kernel.
    let read =
        unsafe { libc::process_vm_readv(pid, &raw const local, 1, remote.as_ptr(), remote.len() as u64, 0) };
    usize::try_from(read).or_else(|_| match io::Error::last_os_error().raw_os_error() {
        Some(libc::ESRCH) => Err(MemoryError::Gone),
        Some(libc::EPERM) => Err(MemoryError::Denied),
        _ => Ok(0),
    })
}

/// Ranges of a process's memory, captured earlier: what a breakpoint's image is decoded from.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// By first address, ascending.
    ranges: Vec<(u64, Vec<u8>)>,
}

impl Image {
    /// An image of these ranges. Where they overlap, the one that begins last counts; no more than
    /// [`OVERLAPS`] may lie in one another.
    #[must_use]
    pub fn new(mut ranges: Vec<(u64, Vec<u8>)>) -> Self {
        ranges.sort_by_key(|(start, _)| *start);
        Self { ranges }
    }
}

impl MemorySource for Image {
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let unmapped = MemoryError::Unmapped { address };
        let mut at = address;
        let mut rest = buf;
        while !rest.is_empty() {
            let after = self.ranges.partition_point(|(start, _)| *start <= at);
            let before = self.ranges.get(..after).unwrap_or_default().iter().rev().take(OVERLAPS);
            let from = before
                .filter_map(|(start, bytes)| bytes.get(usize::try_from(at - start).ok()?..))
                .find(|from| !from.is_empty())
                .ok_or(unmapped)?;
            let count = from.len().min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(from.get(..count).ok_or(unmapped)?);
            rest = later;
            at = at.checked_add(count as u64).ok_or(unmapped)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_read_and_holes_are_errors() {
        let text: Vec<u8> = (0..20_000_u32).flat_map(u32::to_le_bytes).collect();
        let memory = LiveProcess::new(std::process::id());
        let address = text.as_ptr() as u64;
        assert_eq!(memory.bytes(address + 3, 9000).unwrap(), &text[3..9003]);
        assert_eq!(memory.u32(address + 400).unwrap(), 100);
        assert_eq!(memory.bytes(address, text.len()).unwrap(), text);
        memory.prefetch(&[address, 0, u64::MAX]);
        for hole in [0, 8, u64::MAX, u64::MAX - 7, 1 << 47] {
            assert_eq!(memory.u64(hole), Err(MemoryError::Unmapped { address: hole }), "{hole:#x}");
        }
        assert_eq!(LiveProcess::new(u32::MAX).u8(address), Err(MemoryError::Gone));
    }

    #[test]
    fn an_image_spans_adjacent_ranges() {
        let image = Image::new(vec![(104, vec![5, 6, 7, 8]), (100, vec![1, 2, 3, 4]), (200, vec![0])]);
        assert_eq!(image.bytes(102, 4).unwrap(), [3, 4, 5, 6]);
        assert!(image.bytes(106, 3).is_err());
        assert!(image.u8(99).is_err());
        assert!(image.u8(u64::MAX).is_err());
        assert_eq!(Image::new(vec![(8, b"text\0x".to_vec())]).c_string(8, 4).unwrap_err(), {
            MemoryError::Unmapped { address: 8 }
        });
    }
}
