//! What something was made from, so that it can be told later whether it still holds: types and code objects
//! live long but not for ever, and another may be at the same address.

use std::cell::RefCell;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher as _;

use super::memory::{MemoryError, MemorySource, Use};

/// Where the bytes are that something was made from, and their hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    extents: Box<[(u64, usize)]>,
    hash: u64,
}

impl Evidence {
    /// The same bytes are there now.
    #[must_use]
    pub fn holds(&self, memory: &dyn MemorySource) -> bool {
        let mut hasher = DefaultHasher::new();
        let mut small = [0; 256];
        for (address, length) in &self.extents {
            let mut large = Vec::new();
            let buf = match small.get_mut(..*length) {
                Some(buf) => buf,
                None => {
                    large.resize(*length, 0);
                    large.as_mut_slice()
                }
            };
            if memory.read_as(*address, buf, Use::Shared).is_err() {
                return false;
            }
            hasher.write(buf);
        }
        hasher.finish() == self.hash
    }
}

/// A source that remembers what was read from it.
pub struct Witness<'m> {
    memory: &'m dyn MemorySource,
    seen: RefCell<(Vec<(u64, usize)>, DefaultHasher)>,
}

impl<'m> Witness<'m> {
    /// Nothing was read yet.
    #[must_use]
    pub fn new(memory: &'m dyn MemorySource) -> Self {
        Self { memory, seen: RefCell::default() }
    }

    /// What was read.
    #[must_use]
    pub fn evidence(self) -> Evidence {
        let (extents, hasher) = self.seen.into_inner();
        Evidence { extents: extents.into_boxed_slice(), hash: hasher.finish() }
    }
}

impl MemorySource for Witness<'_> {
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read_as(address, buf, Use::Shared)?;
        let (extents, hasher) = &mut *self.seen.borrow_mut();
        extents.push((address, buf.len()));
        hasher.write(buf);
        Ok(())
    }

    fn read_as(&self, address: u64, buf: &mut [u8], purpose: Use) -> Result<(), MemoryError> {
        match purpose {
            Use::Passing => self.memory.read_as(address, buf, purpose),
            Use::Value | Use::Shared => self.read(address, buf),
        }
    }

    fn pass(&self) -> u64 {
        self.memory.pass()
    }

    fn prefetch(&self, addresses: &[u64]) {
        self.memory.prefetch(addresses);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::memory::Image;

    #[test]
    fn evidence_holds_while_the_bytes_are_the_same() {
        let memory = |last: u8| Image::new(vec![(100, vec![1; 400]), (600, vec![1, 2, 3, last])]);
        let first = memory(4);
        let witness = Witness::new(&first);
        witness.bytes(100, 300).unwrap();
        witness.u8(603).unwrap();
        witness.read_as(600, &mut [0; 1], Use::Passing).unwrap();
        assert!(witness.u64(603).is_err());
        let evidence = witness.evidence();
        assert!(evidence.holds(&first) && evidence.holds(&memory(4)));
        assert!(!evidence.holds(&memory(5)));
        assert!(!evidence.holds(&Image::default()));
    }
}
