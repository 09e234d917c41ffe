//! Which line an instruction belongs to: the three formats of line tables.
//!
//! Sources: CPython `Objects/lnotab_notes.txt` (3.8 to 3.10), `Objects/locations.md` (3.11+). Offsets are in
//! bytes of bytecode.

use super::layout::LineTable;

/// Ranges of one table at most; the largest modules of generated code have some 100 000.
const MAX_RANGES: usize = 1 << 20;

/// Instructions of one line, as `co_lines()` gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineRange {
    /// Offset of the first instruction.
    pub start: u32,
    /// Offset behind the last.
    pub end: u32,
    /// The line; `None` for instructions that belong to none.
    pub line: Option<i32>,
}

/// Decodes a table; neighbouring ranges of the same line become one. `length` is that of the bytecode.
#[must_use]
pub fn decode(format: LineTable, table: &[u8], first_line: i32, length: u32) -> Vec<LineRange> {
    let mut ranges = Ranges::default();
    match format {
        LineTable::Lnotab => lnotab(table, first_line, length, &mut ranges),
        LineTable::Ranges => {
            let mut line = first_line;
            for pair in table.chunks_exact(2) {
                let &[size, delta] = pair else { break };
                let delta = delta.cast_signed();
                if delta == i8::MIN {
                    ranges.push(u32::from(size), None);
                } else {
                    line = line.saturating_add(i32::from(delta));
                    ranges.push(u32::from(size), Some(line));
                }
            }
        }
        LineTable::Locations => locations(table, first_line, &mut ranges),
    }
    ranges.done
}

#[derive(Default)]
struct Ranges {
    at: u32,
    done: Vec<LineRange>,
}

impl Ranges {
    fn push(&mut self, size: u32, line: Option<i32>) {
        let (start, end) = (self.at, self.at.saturating_add(size));
        self.at = end;
        if start == end {
            return;
        }
        let full = self.done.len() >= MAX_RANGES;
        match self.done.last_mut() {
            Some(last) if last.line == line => last.end = end,
            _ if full => {}
            _ => self.done.push(LineRange { start, end, line }),
        }
    }
}

/// Pairs of unsigned address delta and signed line delta; a delta of lines belongs to what follows.
fn lnotab(table: &[u8], first_line: i32, length: u32, ranges: &mut Ranges) {
    let mut line = first_line;
    for pair in table.chunks_exact(2) {
        let &[size, delta] = pair else { break };
        ranges.push(u32::from(size), Some(line));
        line = line.saturating_add(i32::from(delta.cast_signed()));
    }
    ranges.push(length.saturating_sub(ranges.at), Some(line));
}

fn locations(table: &[u8], first_line: i32, ranges: &mut Ranges) {
    let mut bytes = table.iter().copied().peekable();
    let mut line = first_line;
    while let Some(first) = bytes.next() {
        let size = (u32::from(first & 7) + 1) * 2;
        let kind = (first >> 3) & 15;
        let delta = match kind {
            0..=9 => Some(0),
            10..=12 => Some(i32::from(kind) - 10),
            13 | 14 => Some(signed(varint(&mut bytes))),
            _ => None,
        };
        if let Some(delta) = delta {
            line = line.saturating_add(delta);
        }
        // Columns follow; every entry begins with a byte that has the high bit.
        while bytes.next_if(|byte| byte & 0x80 == 0).is_some() {}
        ranges.push(size, delta.map(|_| line));
    }
}

/// Six bits a byte, least significant first; 0x40 says that more follow.
fn varint(bytes: &mut impl Iterator<Item = u8>) -> u32 {
    let (mut value, mut shift) = (0_u32, 0);
    for byte in bytes {
        if shift < 32 {
            value |= u32::from(byte & 63) << shift;
        }
        shift += 6;
        if byte & 64 == 0 || shift > 36 {
            break;
        }
    }
    value
}

fn signed(value: u32) -> i32 {
    let magnitude = (value >> 1).cast_signed();
    if value & 1 == 1 { -magnitude } else { magnitude }
}

/// The line of the instruction at an offset.
#[must_use]
pub fn line_at(ranges: &[LineRange], offset: u32) -> Option<i32> {
    let after = ranges.partition_point(|range| range.start <= offset);
    let range = ranges.get(after.checked_sub(1)?)?;
    if offset < range.end { range.line } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u32, end: u32, line: impl Into<Option<i32>>) -> LineRange {
        LineRange { start, end, line: line.into() }
    }

    #[test]
    fn the_three_formats() {
        // A line delta of more than 127 takes two pairs.
        let old = decode(LineTable::Lnotab, &[0, 1, 8, 127, 0, 3, 4, 0xff], 10, 16);
        assert_eq!(old, [range(0, 8, 11), range(8, 12, 141), range(12, 16, 140)]);
        let middle = decode(LineTable::Ranges, &[4, 1, 2, 0x80, 6, 0, 0, 5, 2, 1], 10, 0);
        assert_eq!(middle, [range(0, 4, 11), range(4, 6, None), range(6, 12, 11), range(12, 14, 17)]);
        let new = decode(LineTable::Locations, &[0x80, 0x03, 0xd9, 1, 2, 0xe8, 0x0d, 0xf8], 10, 0);
        assert_eq!(new, [range(0, 2, 10), range(2, 6, 11), range(6, 8, 5), range(8, 10, None)]);
        assert_eq!(line_at(&new, 4), Some(11));
        assert_eq!(line_at(&new, 9), None);
        assert_eq!(line_at(&new, 100), None);
        assert_eq!(line_at(&[], 0), None);
    }

    proptest! {
        #[test]
        fn any_bytes(table in proptest::collection::vec(any::<u8>(), 0..300), first in any::<i32>()) {
            for format in [LineTable::Lnotab, LineTable::Ranges, LineTable::Locations] {
                let ranges = decode(format, &table, first, 1000);
                prop_assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
            }
        }
    }
}
