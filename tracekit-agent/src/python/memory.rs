//! Memory of a target: of a live process, or an image captured from one.
//!
//! Everything that is read belongs to the target and may change or be nonsense: a read fails with an error,
//! it never panics, and it never reads more than was asked for in one page of 4 KiB granularity.
//!
//! A live process runs on while it is read. A *pass* ([`LiveProcess::begin`]) records what is read, and at its
//! end all of it is read again and compared ([`LiveProcess::recheck`]). Every first read is before every second
//! one, so bytes that are equal in both were there at one moment, the one between, unless they changed and
//! changed back around it: all values of a pass whose bytes did not change belong together.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;

use hashbrown::{HashMap, HashSet};

/// Bytes of a page of the cache; a divisor of every page size Linux has.
pub const PAGE: u64 = 4096;
/// Pages the cache holds at most (64 MiB); more start it afresh.
const MAX_PAGES: usize = 16 * 1024;
/// Reads that a pass records at most (32 MiB); with more, nothing of it can be compared.
const MAX_RECORD: usize = 2 << 20;
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

/// What bytes are read for, which decides what it means if they change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A value or a stack is made from them.
    Value,
    /// Many values are: they describe a type or a code object.
    Shared,
    /// They say something of the moment only, such as who runs, and may change.
    Passing,
}

/// A source of the target's memory.
pub trait MemorySource {
    /// Fills `buf` with the bytes from `address`.
    ///
    /// # Errors
    /// If not all of them can be read; `buf` then holds anything.
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), MemoryError>;

    /// As [`Self::read`], and says what for.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn read_as(&self, address: u64, buf: &mut [u8], _purpose: Use) -> Result<(), MemoryError> {
        self.read(address, buf)
    }

    /// The number of the current pass: within one, the same address reads the same.
    fn pass(&self) -> u64 {
        0
    }

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

/// A page of the cache.
#[derive(Debug)]
struct Page {
    /// `None`: it cannot be read.
    bytes: Option<Box<[u8]>>,
    /// Something on it was read for a value since [`LiveProcess::begin`].
    used: Cell<bool>,
}

impl Page {
    fn new(bytes: Option<Box<[u8]>>) -> Self {
        Self { bytes, used: Cell::new(false) }
    }
}

/// Address and length of something that was read.
type Extent = (u64, usize);

/// The memory of a running process, read by `process_vm_readv`: the process is not stopped, and nothing is
/// written. Pages are kept until [`Self::forget`]: one pass sees each page at one moment.
#[derive(Debug)]
pub struct LiveProcess {
    pid: libc::pid_t,
    pages: RefCell<HashMap<u64, Page>>,
    pass: Cell<u64>,
    /// What was read since [`Self::begin`], while somebody will ask.
    record: RefCell<Option<Record>>,
    /// Pages that the last whole pass needed: the next one fetches them at once.
    usual: RefCell<Vec<u64>>,
}

#[derive(Debug, Default)]
struct Record {
    values: Vec<Extent>,
    /// How many of them were there when the position was asked for: these grow no more.
    sealed: usize,
    shared: Vec<Extent>,
    /// The cache had no room for all pages: what was read cannot be compared.
    overflowed: bool,
}

impl Record {
    fn add(&mut self, extent: Extent, purpose: Use) {
        let (extents, sealed) = match purpose {
            Use::Value => (&mut self.values, self.sealed),
            Use::Shared => (&mut self.shared, 0),
            Use::Passing => return,
        };
        let count = extents.len();
        match extents.last_mut().filter(|last| count > sealed && last.0 + last.1 as u64 == extent.0) {
            // Tables are read word by word.
            Some((_, length)) => *length += extent.1,
            None if count < MAX_RECORD => extents.push(extent),
            None => self.overflowed = true,
        }
    }
}

/// What changed between the two reads of a pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Positions in the record, ascending.
    changed: Vec<usize>,
    /// What many values were made from changed.
    all: bool,
}

impl Changes {
    /// Something changed that was read between these positions of [`LiveProcess::position`].
    #[must_use]
    pub fn in_range(&self, range: &Range<usize>) -> bool {
        let next = self.changed.partition_point(|at| *at < range.start);
        self.all || self.changed.get(next).is_some_and(|at| *at < range.end)
    }

    /// Something changed that many values were made from: none of them holds.
    #[must_use]
    pub fn shared(&self) -> bool {
        self.all
    }
}

impl LiveProcess {
    /// The process with this pid of the agent's pid namespace. Nothing is read yet.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        Self {
            // A pid that is no pid reads as a process that has ended.
            pid: pid.try_into().unwrap_or(0),
            pages: RefCell::default(),
            pass: Cell::new(0),
            record: RefCell::default(),
            usual: RefCell::default(),
        }
    }

    /// Forgets the pages: what is read next is what the process has then.
    pub fn forget(&self) {
        self.pages.borrow_mut().clear();
        self.pass.set(self.pass.get() + 1);
    }

    /// Begins a pass: forgets the pages and records what is read. A `whole` pass is one over everything that
    /// is of interest, and usually reads what the last one did.
    pub fn begin(&self, whole: bool) {
        self.forget();
        *self.record.borrow_mut() = Some(Record::default());
        if whole {
            // What cannot be read any more is an error when it is needed.
            let _ = self.fetch(&self.usual.borrow());
        }
    }

    /// The position in the record: what is read between two positions is asked for with both.
    #[must_use]
    pub fn position(&self) -> usize {
        self.record.borrow_mut().as_mut().map_or(0, |record| {
            record.sealed = record.values.len();
            record.sealed
        })
    }

    /// Ends a pass: reads everything again that was read in it, and compares. What is read next is of the
    /// second reading.
    ///
    /// # Errors
    /// If the process ended or may not be read.
    pub fn recheck(&self, whole: bool) -> Result<Changes, MemoryError> {
        let Some(record) = self.record.take() else { return Ok(Changes::default()) };
        let before = self.pages.take();
        self.pass.set(self.pass.get() + 1);
        let used = before.iter().filter(|(_, page)| page.used.get());
        let mut pages: Vec<u64> = used.map(|(address, _)| *address).collect();
        pages.sort_unstable();
        self.fetch(&pages)?;
        let now = self.pages.borrow();
        let is_other =
            |page: &u64, part: Range<usize>| part_of(&before, *page, &part) != part_of(&now, *page, &part);
        let whole_page = 0..PAGE as usize;
        let other: HashSet<u64> =
            pages.iter().copied().filter(|page| is_other(page, whole_page.clone())).collect();
        let differs = |extent: &Extent| {
            pages_of(*extent).any(|page| other.contains(&page) && is_other(&page, part_on(page, *extent)))
        };
        let mut changes = Changes { changed: Vec::new(), all: record.overflowed };
        if !other.is_empty() {
            let values = record.values.iter().enumerate();
            changes.changed = values.filter(|(_, extent)| differs(extent)).map(|(at, _)| at).collect();
            changes.all |= record.shared.iter().any(differs);
        }
        if whole {
            *self.usual.borrow_mut() = pages;
        }
        Ok(changes)
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

    /// Brings pages into the cache; those that cannot be read are remembered as such.
    fn fetch(&self, pages: &[u64]) -> Result<(), MemoryError> {
        let mut missing: Vec<u64> = {
            let cached = self.pages.borrow();
            pages.iter().copied().filter(|page| !cached.contains_key(page)).collect()
        };
        missing.sort_unstable();
        missing.dedup();
        let mut cached = self.pages.borrow_mut();
        if cached.len() + missing.len() > MAX_PAGES {
            cached.clear();
            if let Some(record) = self.record.borrow_mut().as_mut() {
                record.overflowed = true;
            }
        }
        let page_size = PAGE as usize;
        let mut rest = missing.as_slice();
        while !rest.is_empty() {
            let batch = rest.get(..MAX_RANGES).unwrap_or(rest);
            let ranges: Vec<Extent> = batch.iter().map(|page| (*page, page_size)).collect();
            let mut buf = vec![0; batch.len() * page_size];
            let read = vectored(self.pid, &ranges, &mut buf)?;
            // The call ends at the first range that cannot be read.
            let complete = read / page_size;
            for (page, bytes) in batch.iter().zip(buf.chunks_exact(page_size)).take(complete) {
                cached.insert(*page, Page::new(Some(bytes.into())));
            }
            let mut done = complete;
            if let Some(unreadable) = batch.get(complete) {
                cached.insert(*unreadable, Page::new(None));
                done += 1;
            }
            rest = rest.get(done..).unwrap_or_default();
        }
        Ok(())
    }

    fn note(&self, extent: Extent, purpose: Use) {
        if let Some(record) = self.record.borrow_mut().as_mut() {
            record.add(extent, purpose);
        }
    }
}

/// The first addresses of the pages that an extent touches. It ends in user space.
fn pages_of((address, length): Extent) -> impl Iterator<Item = u64> {
    (address - address % PAGE..address + length as u64).step_by(PAGE as usize)
}

/// The part of an extent that is on a page: offset and length.
fn part_on(page: u64, (address, length): Extent) -> Range<usize> {
    let end = (address + length as u64).min(page + PAGE);
    (address.max(page) - page) as usize..(end - page) as usize
}

/// Part of a page, if it could be read.
fn part_of<'p>(pages: &'p HashMap<u64, Page>, page: u64, part: &Range<usize>) -> Option<&'p [u8]> {
    pages.get(&page)?.bytes.as_deref()?.get(part.clone())
}

impl MemorySource for LiveProcess {
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.read_as(address, buf, Use::Value)
    }

    fn read_as(&self, address: u64, buf: &mut [u8], purpose: Use) -> Result<(), MemoryError> {
        if buf.is_empty() {
            return Ok(());
        }
        let unmapped = MemoryError::Unmapped { address };
        let end = address.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end >= END_OF_USER_SPACE) {
            return Err(unmapped);
        }
        let extent = (address, buf.len());
        self.note(extent, purpose);
        let copy = |buf: &mut [u8]| -> Option<Result<(), MemoryError>> {
            let cached = self.pages.borrow();
            let mut rest = buf;
            for page in pages_of(extent) {
                let from = cached.get(&page)?;
                from.used.set(from.used.get() || purpose != Use::Passing);
                let Some(from) = from.bytes.as_deref().and_then(|bytes| bytes.get(part_on(page, extent)))
                else {
                    return Some(Err(unmapped));
                };
                let (now, later) = rest.split_at_mut_checked(from.len())?;
                now.copy_from_slice(from);
                rest = later;
            }
            Some(Ok(()))
        };
        if let Some(done) = copy(buf) {
            return done;
        }
        self.fetch(&pages_of(extent).collect::<Vec<_>>())?;
        copy(buf).unwrap_or(Err(unmapped))
    }

    fn pass(&self) -> u64 {
        self.pass.get()
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
    fn a_second_reading_finds_what_changed() {
        use std::sync::atomic::{AtomicU64, Ordering};
        let words: Vec<AtomicU64> = (0..2000).map(AtomicU64::new).collect();
        let address = |at: usize| &raw const words[at] as u64;
        let memory = LiveProcess::new(std::process::id());
        for whole in [true, false] {
            memory.begin(whole);
            let before = words[1500].load(Ordering::Relaxed);
            memory.u64(address(1498)).unwrap();
            memory.u64(address(1499)).unwrap();
            let first = memory.position();
            assert_eq!(first, 1);
            memory.u64(address(1500)).unwrap();
            memory.u64(8).unwrap_err();
            let second = memory.position();
            memory.u64(address(101)).unwrap();
            memory.read_as(address(102), &mut [0; 8], Use::Passing).unwrap();
            let third = memory.position();
            words[1500].store(before + 1, Ordering::Relaxed);
            words[102].store(before + 1, Ordering::Relaxed);
            // Until it is asked, the pass sees what it saw.
            assert_eq!(memory.u64(address(1500)).unwrap(), before);
            let changes = memory.recheck(whole).unwrap();
            assert!(changes.in_range(&(first..second)) && changes.in_range(&(0..third)));
            assert!(!changes.in_range(&(0..first)) && !changes.in_range(&(second..third)));
            assert_eq!(memory.u64(address(1500)).unwrap(), before + 1);
        }
        memory.begin(true);
        memory.read_as(address(7), &mut [0; 8], Use::Shared).unwrap();
        assert!(memory.pass() > 0);
        words[7].store(1, Ordering::Relaxed);
        assert!(memory.recheck(true).unwrap().in_range(&(0..1)));
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
