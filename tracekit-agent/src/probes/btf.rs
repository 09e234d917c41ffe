//! Offsets of members of kernel structures, from the BTF of the running kernel.
//!
//! Walks the raw type section instead of building a model of it: `/sys/kernel/btf/vmlinux` has about
//! 150 000 types, of which tracekit asks for a dozen.
//!
//! Source: Documentation/bpf/btf.rst, include/uapi/linux/btf.h.

use std::collections::HashMap;

use thiserror::Error;

/// Why the kernel's type information can't be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    /// Not BTF, or cut.
    #[error("the kernel's BTF is malformed at byte {0}")]
    Malformed(usize),
    /// A kind that this parser doesn't know, so that the size of its entry isn't known.
    #[error("the kernel's BTF has a type of unknown kind {0}; update tracekit")]
    UnknownKind(u32),
}

const MAGIC: u16 = 0xeb9f;
/// Anonymous structures within structures within …: as deep as we look.
const MAX_DEPTH: u32 = 16;

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// A parsed BTF image: where each type begins.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Offset of each type in `types`; type ids start at 1.
    index: Vec<u32>,
    /// Ids of the structures that were asked for.
    wanted: HashMap<&'a str, u32>,
}

struct Type<'a> {
    kind: u32,
    vlen: usize,
    bitfields: bool,
    size_or_type: u32,
    rest: &'a [u8],
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    Some(u32::from_le_bytes(bytes.get(at..end)?.try_into().ok()?))
}

impl<'a> Btf<'a> {
    /// Indexes a BTF image (`/sys/kernel/btf/vmlinux`) and finds the structures of these names.
    ///
    /// # Errors
    /// The image is malformed or newer than this parser.
    pub fn parse(image: &'a [u8], wanted: &[&'a str]) -> Result<Self, BtfError> {
        let malformed = BtfError::Malformed;
        let magic = image.get(..2).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes);
        if magic != Some(MAGIC) {
            return Err(malformed(0));
        }
        let field = |at: usize| u32_at(image, at).map(|v| v as usize).ok_or(malformed(at));
        let header = field(4)?;
        let section = |offset: usize, length: usize| {
            let start = header.checked_add(offset)?;
            image.get(start..start.checked_add(length)?)
        };
        let types = section(field(8)?, field(12)?).ok_or(malformed(8))?;
        let strings = section(field(16)?, field(20)?).ok_or(malformed(16))?;

        let mut btf = Self { types, strings, index: Vec::new(), wanted: HashMap::new() };
        let mut at = 0;
        while at < types.len() {
            btf.index.push(u32::try_from(at).map_err(|_| malformed(at))?);
            let info = u32_at(types, at + 4).ok_or(malformed(at))?;
            let vlen = (info & 0xffff) as usize;
            let extra = match (info >> 24) & 0x1f {
                1 | 14 | 17 => 4,
                2 | 7..=12 | 16 | 18 => 0,
                3 => 12,
                4 | 5 | 15 | 19 => 12 * vlen,
                6 | 13 => 8 * vlen,
                kind => return Err(BtfError::UnknownKind(kind)),
            };
            if (info >> 24) & 0x1f == KIND_STRUCT && vlen > 0 {
                let name = btf.name(u32_at(types, at).ok_or(malformed(at))?);
                if let Some(name) = wanted.iter().find(|wanted| wanted.as_bytes() == name) {
                    let id = u32::try_from(btf.index.len()).map_err(|_| malformed(at))?;
                    btf.wanted.entry(name).or_insert(id);
                }
            }
            at += 12 + extra;
        }
        Ok(btf)
    }

    fn get(&self, id: u32) -> Option<Type<'a>> {
        let at = *self.index.get(usize::try_from(id.checked_sub(1)?).ok()?)? as usize;
        let info = u32_at(self.types, at + 4)?;
        Some(Type {
            kind: (info >> 24) & 0x1f,
            vlen: (info & 0xffff) as usize,
            bitfields: info >> 31 == 1,
            size_or_type: u32_at(self.types, at + 8)?,
            rest: self.types.get(at + 12..)?,
        })
    }

    fn name(&self, offset: u32) -> &'a [u8] {
        let tail = self.strings.get(offset as usize..).unwrap_or_default();
        tail.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// The offset in bytes of `path` (members joined by dots, anonymous ones left out) in the structure
    /// `name`, one of those asked for; `None` if this kernel has no such structure or member, or it is a
    /// bit field.
    #[must_use]
    pub fn offset(&self, name: &str, path: &str) -> Option<u32> {
        let structure = self.get(*self.wanted.get(name)?)?;
        let mut structure = Some(structure);
        let mut bits = 0;
        for member in path.split('.') {
            let (offset, kind) = self.member(&structure?, member.as_bytes(), 0)?;
            bits += offset;
            structure = self.resolve(kind);
        }
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// Offset in bits and type of a member, looked for in anonymous members, too.
    fn member(&self, structure: &Type<'a>, name: &[u8], depth: u32) -> Option<(u32, u32)> {
        if depth > MAX_DEPTH || !matches!(structure.kind, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        (0..structure.vlen).find_map(|i| {
            let member = |field: usize| u32_at(structure.rest, i * 12 + field * 4);
            let (name_offset, kind, raw) = (member(0)?, member(1)?, member(2)?);
            let offset = if structure.bitfields { raw & 0x00ff_ffff } else { raw };
            let found = self.name(name_offset);
            if found == name {
                return Some((offset, kind));
            }
            if !found.is_empty() {
                return None;
            }
            let (inner, kind) = self.member(&self.resolve(kind)?, name, depth + 1)?;
            Some((offset.checked_add(inner)?, kind))
        })
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<Type<'a>> {
        for _ in 0..MAX_DEPTH {
            let t = self.get(id)?;
            // typedef, volatile, const, restrict, type tag
            if !matches!(t.kind, 8..=11 | 18) {
                return Some(t);
            }
            id = t.size_or_type;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `struct outer { int a; union { struct { long b; }; const inner_t c; }; }; struct inner { char x, y; }`
    fn image() -> Vec<u8> {
        let mut strings = vec![0u8];
        let mut name = |s: &str| {
            let at = strings.len() as u32;
            strings.extend_from_slice(s.as_bytes());
            strings.push(0);
            at
        };
        let (int, outer, inner, inner_t) = (name("int"), name("outer"), name("inner"), name("inner_t"));
        let (a, b, c, x, y) = (name("a"), name("b"), name("c"), name("x"), name("y"));
        let words: Vec<u32> = [
            vec![int, 1 << 24, 4, 32],                       // 1: int
            vec![inner, 4 << 24 | 2, 2, x, 1, 0, y, 1, 8],   // 2: struct inner
            vec![inner_t, 8 << 24, 2],                       // 3: typedef
            vec![0, 10 << 24, 3],                            // 4: const
            vec![0, 4 << 24 | 1, 8, b, 1, 0],                // 5: anonymous struct
            vec![0, 5 << 24 | 2, 8, 0, 5, 0, c, 4, 0],       // 6: anonymous union
            vec![outer, 4 << 24 | 2, 16, a, 1, 0, 0, 6, 64], // 7: struct outer
        ]
        .concat();
        let types: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let mut image = vec![0x9f, 0xeb, 1, 0];
        for word in [24u32, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            image.extend(word.to_le_bytes());
        }
        image.extend(types);
        image.extend(strings);
        image
    }

    #[test]
    fn members_are_found_through_anonymous_ones_and_typedefs() {
        let image = image();
        let btf = Btf::parse(&image, &["outer", "missing"]).unwrap();
        assert_eq!(btf.offset("outer", "a"), Some(0));
        assert_eq!(btf.offset("outer", "b"), Some(8));
        assert_eq!(btf.offset("outer", "c.y"), Some(9));
        assert_eq!(btf.offset("outer", "missing"), None);
        assert_eq!(btf.offset("missing", "a"), None);
        assert_eq!(btf.offset("outer", "a.b"), None);
    }

    #[test]
    fn garbage_is_an_error() {
        assert_eq!(Btf::parse(b"", &[]).err(), Some(BtfError::Malformed(0)));
        let mut image = image();
        image[24 + 7] = 31;
        assert_eq!(Btf::parse(&image, &["outer", "missing"]).err(), Some(BtfError::UnknownKind(31)));
    }

    proptest! {
        #[test]
        fn corrupted_images_never_panic(at in 0usize..400, value: u8, cut in 0usize..400) {
            let mut image = image();
            let length = image.len();
            image[at % length] = value;
            image.truncate(cut.max(1));
            if let Ok(btf) = Btf::parse(&image, &["outer"]) {
                let _ = btf.offset("outer", "c.y");
            }
        }
    }
}
