//! Items that lie in memory at regular distances: arrays and views of buffers, of any number of dimensions.

use crate::python::memory::MemorySource;
use crate::python::reader::ReadError;

/// Dimensions at most (`NPY_MAXDIMS` of numpy 2; 32 in numpy 1, 64 in `PyBUF_MAX_NDIM`).
const MAX_DIMENSIONS: u64 = 64;
/// An array with more items than this is nonsense.
const MAX_LENGTH: u64 = 1 << 40;

/// Where the items are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Strided {
    /// Address of the first item.
    pub data: u64,
    /// Items along each dimension.
    pub shape: Vec<u64>,
    /// Bytes from one item to the next along each dimension; negative in reversed views, 0 in broadcast ones.
    pub strides: Vec<i64>,
    /// Items in all.
    pub length: u64,
}

impl Strided {
    /// Reads `count` sizes at `shape` and as many distances at `strides`; without distances the items of `size` bytes
    /// lie next to each other.
    pub(super) fn read(
        memory: &dyn MemorySource,
        data: u64,
        count: u64,
        (shape, strides): (u64, u64),
        size: u64,
    ) -> Result<Self, ReadError> {
        let invalid = ReadError::Invalid("array");
        if count > MAX_DIMENSIONS {
            return Err(invalid);
        }
        let count = usize::try_from(count).unwrap_or(0);
        let shape = if count == 0 { Vec::new() } else { memory.words(shape, count)? };
        let product = |sizes: &[u64]| sizes.iter().try_fold(1_u64, |all, size| all.checked_mul(*size));
        // With an empty dimension the others may be anything that fits a word.
        let empty = shape.contains(&0);
        let length = if empty { Some(0) } else { product(&shape).filter(|length| *length <= MAX_LENGTH) };
        let length = length.ok_or(invalid)?;
        let strides = if count > 0 && strides != 0 {
            memory.words(strides, count)?.into_iter().map(u64::cast_signed).collect()
        } else {
            let after = |at: usize| product(shape.get(at + 1..).unwrap_or_default()).unwrap_or(0);
            (0..count).map(|at| after(at).wrapping_mul(size).cast_signed()).collect()
        };
        Ok(Self { data, shape, strides, length })
    }

    /// Addresses of the first items, the last dimension running fastest.
    pub(super) fn addresses(&self, limit: usize) -> Vec<u64> {
        let count = usize::try_from(self.length).unwrap_or(usize::MAX).min(limit);
        let mut index = vec![0_u64; self.shape.len()];
        let mut at = self.data;
        let mut found = Vec::with_capacity(count);
        while found.len() < count {
            found.push(at);
            for ((index, size), stride) in index.iter_mut().zip(&self.shape).zip(&self.strides).rev() {
                *index += 1;
                at = at.wrapping_add_signed(*stride);
                if *index < *size {
                    break;
                }
                at = at.wrapping_sub(index.wrapping_mul(stride.cast_unsigned()));
                *index = 0;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::memory::Image;
    use super::*;

    fn words(values: &[i64]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn read(shape: &[i64], strides: Option<&[i64]>) -> Result<Strided, ReadError> {
        let memory = Image::new(vec![(1000, words(shape)), (2000, words(strides.unwrap_or_default()))]);
        let count = shape.len() as u64;
        Strided::read(&memory, 5000, count, (1000, if strides.is_some() { 2000 } else { 0 }), 4)
    }

    #[test]
    fn order_of_items() {
        assert_eq!(read(&[2, 3], None).unwrap().addresses(9), [5000, 5004, 5008, 5012, 5016, 5020]);
        assert_eq!(
            read(&[3, 2], Some(&[4, 12])).unwrap().addresses(9),
            [5000, 5012, 5004, 5016, 5008, 5020],
            "a transposed view"
        );
        assert_eq!(read(&[3], Some(&[-4])).unwrap().addresses(2), [5000, 4996]);
        assert_eq!(read(&[1 << 40], Some(&[0])).unwrap().addresses(3), [5000; 3]);
        assert_eq!(read(&[], None).unwrap().addresses(9), [5000], "no dimension: one item");
        assert!(read(&[5, 0, -1], None).unwrap().addresses(9).is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(read(&[1 << 40, 2], None).is_err());
        assert!(read(&[-1], None).is_err());
        assert!(read(&[1; 65], None).is_err());
        // Strides that leave the address space only lead to addresses that can't be read.
        assert_eq!(read(&[2, 2], Some(&[i64::MIN, i64::MAX])).unwrap().addresses(9).len(), 4);
    }
}
