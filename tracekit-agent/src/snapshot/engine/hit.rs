//! Records of hits, checked; and the values in them.

use tracekit_common::actor::Identity;
use tracekit_common::event::Kind;
use tracekit_common::python::{Frame, MAX_FRAMES};
use tracekit_common::watchpoint::{HIT_HEAD, HitRecord, MAX_IMAGE, RangeHead};

use crate::python::frame::{self, Frame as LiveFrame};
use crate::python::memory::Image;
use crate::python::object::{Decoder, Limits, Value};
use crate::python::reader::{ReadError, Reader};

/// A hit as the kernel side reported it.
#[derive(Debug, Clone)]
pub struct RawHit {
    /// Head of the record.
    pub record: HitRecord,
    /// The stack, the newest frame first.
    pub frames: Vec<Frame>,
    /// Memory of that moment.
    pub image: Image,
}

impl RawHit {
    /// The frame that runs the line, in the image.
    ///
    /// # Errors
    /// The code object is none any more.
    pub fn frame(&self, live: &Reader<'_>) -> Result<LiveFrame, ReadError> {
        let code = live.code(self.record.code)?;
        Ok(LiveFrame { address: self.record.frame, code, line: None, offset: None })
    }

    /// The local variables, decoded.
    ///
    /// # Errors
    /// The code object is none any more, or not even the frame is in the image.
    pub fn variables(
        &self,
        live: &Reader<'_>,
        limits: Limits,
        redact: bool,
    ) -> Result<Vec<(String, Value)>, ReadError> {
        let reader = Reader::of_image(&self.image, live);
        let frame = self.frame(live)?;
        let mut decoder = Decoder::new(&reader, limits, redact);
        if let Some(dict) = frame::locals_dict(&reader, &frame)? {
            return decoder.names_in(dict);
        }
        let locals = frame::locals(&reader, &frame)?;
        Ok(decoder.named_values(locals.into_iter().map(|local| (local.name, local.object)).collect()))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Decodes a record; `None` if it is malformed.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<RawHit> {
    let record = HitRecord {
        kind: half(bytes, 0)?,
        tgid: half(bytes, 4)?,
        tid: half(bytes, 8)?,
        index: half(bytes, 12)?,
        address: word(bytes, 16)?,
        code: word(bytes, 24)?,
        frame: word(bytes, 32)?,
        state: word(bytes, 40)?,
        time: word(bytes, 48)?,
        took: word(bytes, 56)?,
        frames: half(bytes, 64)?,
        end: half(bytes, 68)?,
        image: half(bytes, 72)?,
        flags: half(bytes, 76)?,
        objects: half(bytes, 80)?,
        reserved: half(bytes, 84)?,
        by: Identity {
            actor: word(bytes, 88)?,
            lane: word(bytes, 96)?,
            flags: half(bytes, 104)?,
            losses: half(bytes, 108)?,
        },
    };
    if record.kind != Kind::Hit as u32 || record.frames as usize > MAX_FRAMES || record.image > MAX_IMAGE {
        return None;
    }
    let start = size_of::<HitRecord>();
    let frames = (0..record.frames as usize)
        .map(|at| {
            let at = start + at * size_of::<Frame>();
            Some(Frame { code: word(bytes, at)?, instruction: word(bytes, at + 8)? })
        })
        .collect::<Option<Vec<_>>>()?;
    let image = bytes.get(HIT_HEAD..HIT_HEAD + record.image as usize)?;
    Some(RawHit { frames, image: Image::new(ranges(image)?), record })
}

/// Ranges of an image, each at a multiple of 8.
fn ranges(image: &[u8]) -> Option<Vec<(u64, Vec<u8>)>> {
    let mut ranges = Vec::new();
    let mut at = 0_usize;
    while at < image.len() {
        let (address, length) = (word(image, at)?, usize::try_from(word(image, at + 8)?).ok()?);
        let start = at + size_of::<RangeHead>();
        ranges.push((address, image.get(start..start.checked_add(length)?)?.to_vec()));
        at = start.checked_add(length)?.next_multiple_of(8);
    }
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::python::memory::MemorySource as _;

    #[test]
    fn ranges_at_multiples_of_eight() {
        let mut image = Vec::new();
        for word in [0x1000_u64, 3] {
            image.extend(word.to_ne_bytes());
        }
        image.extend([1, 2, 3, 0, 0, 0, 0, 0]);
        for word in [0x2000_u64, 1] {
            image.extend(word.to_ne_bytes());
        }
        image.push(9);
        let mut record = vec![0; HIT_HEAD];
        record[..4].copy_from_slice(&(Kind::Hit as u32).to_ne_bytes());
        record[72..76].copy_from_slice(&(image.len() as u32).to_ne_bytes());
        record.extend(&image);
        let hit = decode(&record).unwrap();
        assert_eq!(hit.image.bytes(0x1000, 3).unwrap(), [1, 2, 3]);
        assert_eq!(hit.image.u8(0x2000).unwrap(), 9);
        record.pop();
        assert!(decode(&record).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(rest in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let mut record = (Kind::Hit as u32).to_ne_bytes().to_vec();
            record.extend(rest);
            let _ = decode(&record);
        }
    }
}
