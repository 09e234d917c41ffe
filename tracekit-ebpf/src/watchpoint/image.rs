//! The image of a hit: ranges of memory, found breadth first from the frame's variables.
//!
//! Everything that is known on the way is kept in memory, and every step is a global function of numbers: so the
//! verifier judges each once, and all turns of a loop look the same to it (see [`crate::stack::walk_whole`]).

use tracekit_common::watchpoint::{
    Armed, HIT_HEAD, IMAGE_FULL, LOCALS_IN_DICT, MAX_COPY, MAX_IMAGE, MAX_ITEMS, MAX_OBJECTS, MAX_SLOTS,
    ObjectLayout, QUEUE_FULL, RangeHead, Recipe, UNREADABLE,
};

use super::{breakpoint, objects::copy_object, scratch};
use crate::{
    bounds::{advanced, bounded},
    maps::LAYOUTS,
    read::{copy_user, user},
};

/// Of offsets in an image: of words.
const WORD_MASK: i32 = MAX_IMAGE as i32 - 8;
/// Of a piece that is copied.
const COPY_MASK: i32 = MAX_COPY as i32;
/// Of a whole record.
pub const RECORD_MASK: i32 = 0xffff;
/// Objects that wait: a power of two.
const QUEUE: usize = 1024;
const QUEUE_MASK: i32 = (QUEUE as i32 - 1) * 8;
/// Addresses that are remembered: a power of two.
const SEEN: usize = 2048;
const SEEN_MASK: i32 = (SEEN as i32 - 1) * 8;
/// Places at which an address is remembered.
const PROBES: u64 = 4;
/// Objects that are looked at next: a power of two.
const NEXT: usize = 4;
const NEXT_MASK: i32 = (NEXT as i32 - 1) * 8;

const IMAGE_AT: usize = HIT_HEAD;
const IMAGE_ROOM: usize = MAX_IMAGE as usize + size_of::<RangeHead>() + MAX_COPY as usize + 1;
const WORK_AT: usize = IMAGE_AT + IMAGE_ROOM;
const NEXT_AT: usize = WORK_AT + size_of::<Work>();
const QUEUE_AT: usize = NEXT_AT + NEXT * 8;
const SEEN_AT: usize = QUEUE_AT + QUEUE * 8;
const END: usize = SEEN_AT + SEEN * 8;

/// Bytes of a processor's room: for a record, and for the work on it.
pub const SCRATCH: usize = RECORD_MASK as usize + 1;

const _: () = assert!(END <= SCRATCH && HIT_HEAD + MAX_IMAGE as usize <= RECORD_MASK as usize);
const _: () = assert!(WORK_AT % 8 == 0 && size_of::<Work>() % 8 == 0);

/// Bits of an address in the queue; the level is above.
const ADDRESS: u64 = (1 << 56) - 1;
const LEVEL_SHIFT: u32 = 56;

/// State of the work on one image.
#[repr(C)]
pub struct Work {
    /// Bytes of the image.
    used: u64,
    /// Where the last range is.
    last: u64,
    /// Bytes of the image at most.
    limit: u64,
    /// Of what is in the queue: the first, and behind the last.
    first: u64,
    end: u64,
    /// Objects that are looked at before the queue.
    next: u64,
    /// Sets what was seen in this image apart from what was seen in earlier ones. Never set back.
    generation: u64,
    /// Objects that were copied.
    objects: u64,
    flags: u64,
    /// Thread group (process).
    pub tgid: u64,
    /// Of the interpreter, in `LAYOUTS`.
    layout: u64,
    /// Levels of containers that are followed.
    pub depth: u64,
    /// Items of a container.
    pub items: u64,
    /// Characters of a string.
    pub text: u64,
    /// Of the object that is copied.
    pub recipe: Recipe,
}

impl Work {
    /// The work on the image in `record`, at its start.
    #[inline(always)]
    pub fn begin(record: *mut u8, armed: &Armed, tgid: u32) -> &'static mut Self {
        let work = of(record);
        let limit = if armed.bytes < MAX_IMAGE { armed.bytes } else { MAX_IMAGE };
        let items = if armed.items < MAX_ITEMS { armed.items } else { MAX_ITEMS };
        work.used = 0;
        work.last = 0;
        work.limit = limit.into();
        work.first = 0;
        work.end = 0;
        work.next = 0;
        work.generation += 1;
        work.objects = 0;
        work.flags = 0;
        work.tgid = tgid.into();
        work.layout = armed.layout.into();
        work.depth = armed.depth.into();
        work.items = items.into();
        work.text = armed.text.into();
        work
    }

    /// Bytes, flags, objects.
    #[inline(always)]
    pub fn outcome(&self) -> (u32, u32, u32) {
        // SAFETY: references; volatile, because functions that were called have changed them.
        unsafe {
            (
                (&raw const self.used).read_volatile() as u32,
                (&raw const self.flags).read_volatile() as u32,
                (&raw const self.objects).read_volatile() as u32,
            )
        }
    }

    /// The interpreter's layout.
    #[inline(always)]
    pub fn layout(&self) -> Option<&'static ObjectLayout> {
        LAYOUTS.get(self.layout as u32)
    }
}

/// The state in a processor's room.
#[inline(always)]
fn of(record: *mut u8) -> &'static mut Work {
    // SAFETY: the room is larger, the place is aligned, and only this program uses it on this processor.
    unsafe { &mut *record.add(WORK_AT).cast::<Work>() }
}

/// The state of the work in progress.
#[inline(always)]
pub fn work() -> Option<&'static mut Work> {
    Some(of(scratch()?))
}

/// A word of the image.
#[inline(always)]
pub fn word(offset: u64) -> u64 {
    let Some(record) = scratch() else { return 0 };
    // SAFETY: the image begins within the room, and the offset is masked to it and to multiples of 8.
    unsafe { *advanced::<WORD_MASK>(record.add(IMAGE_AT), offset).cast::<u64>() }
}

/// Copies a range of the process's memory into the image. Gives the offset of its bytes there, 0 if it is not there.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn copy_range(address: u64, length: u64) -> u64 {
    let Some(record) = scratch() else { return 0 };
    let work = of(record);
    let used = (work.used + 7) & !7;
    let bytes = used + size_of::<RangeHead>() as u64;
    if length == 0 || length > MAX_COPY.into() || bytes + length > work.limit {
        work.flags |= if length == 0 { 0 } else { u64::from(IMAGE_FULL) };
        return 0;
    }
    // SAFETY: the image begins within the room.
    let place = advanced::<WORD_MASK>(unsafe { record.add(IMAGE_AT) }, used);
    // SAFETY: behind any masked offset there is room for a head and any masked length.
    if !unsafe { copy_user(place.add(size_of::<RangeHead>()), bounded::<COPY_MASK>(length), address) } {
        work.flags |= u64::from(UNREADABLE);
        return 0;
    }
    // SAFETY: as above; aligned.
    unsafe { *place.cast::<RangeHead>() = RangeHead { address, length } };
    work.last = used;
    work.used = bytes + length;
    bytes
}

/// Copies what follows the last range. 0 if it is not there.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn extend_range(address: u64, length: u64) -> u64 {
    let Some(record) = scratch() else { return 0 };
    let work = of(record);
    let used = work.used;
    if length == 0 || length > MAX_COPY.into() || used + length > work.limit {
        work.flags |= if length == 0 { 0 } else { u64::from(IMAGE_FULL) };
        return 0;
    }
    // SAFETY: as in `copy_range`.
    let image = unsafe { record.add(IMAGE_AT) };
    let place = advanced::<{ MAX_IMAGE as i32 - 1 }>(image, used);
    // SAFETY: as in `copy_range`.
    if !unsafe { copy_user(place, bounded::<COPY_MASK>(length), address) } {
        work.flags |= u64::from(UNREADABLE);
        return 0;
    }
    let head = advanced::<WORD_MASK>(image, work.last).cast::<RangeHead>();
    // SAFETY: as in `copy_range`.
    unsafe { (*head).length += length };
    work.used = used + length;
    1
}

/// An object is to be copied, unless it was already; on which level.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn push(address: u64, level: u64) -> u32 {
    if !is_new(address) {
        return 0;
    }
    let Some(record) = scratch() else { return 0 };
    let work = of(record);
    if work.end >= QUEUE as u64 {
        work.flags |= u64::from(QUEUE_FULL);
        return 0;
    }
    // SAFETY: the queue is within the room, and the offset masked to it.
    let place = advanced::<QUEUE_MASK>(unsafe { record.add(QUEUE_AT) }, work.end * 8);
    // SAFETY: as above; aligned.
    unsafe { *place.cast::<u64>() = address | level << LEVEL_SHIFT };
    work.end += 1;
    1
}

/// As [`push`], but before what waits: what is a part of the object that is being copied.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn push_part(address: u64, level: u64) -> u32 {
    if !is_new(address) {
        return 0;
    }
    let Some(record) = scratch() else { return 0 };
    let work = of(record);
    if work.next >= NEXT as u64 {
        work.flags |= u64::from(QUEUE_FULL);
        return 0;
    }
    // SAFETY: as in `push`.
    let place = advanced::<NEXT_MASK>(unsafe { record.add(NEXT_AT) }, work.next * 8);
    // SAFETY: as in `push`.
    unsafe { *place.cast::<u64>() = address | level << LEVEL_SHIFT };
    work.next += 1;
    1
}

/// It can be the address of an object, and was not seen in this image. An address that finds its places taken
/// replaces another, which may then be copied twice.
#[inline(always)]
fn is_new(address: u64) -> bool {
    if address & 7 != 0 || address < 4096 || address > ADDRESS {
        return false;
    }
    let Some(record) = scratch() else { return false };
    let mark = address ^ of(record).generation << 48;
    // Fibonacci hashing: Knuth, The Art of Computer Programming, 6.4.
    let hash = (address >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    for probe in 0..PROBES {
        // SAFETY: the table is within the room, and the offset masked to it.
        let place = advanced::<SEEN_MASK>(unsafe { record.add(SEEN_AT) }, (hash + probe) * 8).cast::<u64>();
        // SAFETY: as above; aligned.
        let found = unsafe { place.read_volatile() };
        if found == mark {
            return false;
        }
        if (found ^ mark) >> 48 != 0 || probe == PROBES - 1 {
            // SAFETY: as above.
            unsafe { place.write_volatile(mark) };
            return true;
        }
    }
    true
}

/// Pushes words of the image: `count` of them from `offset` on, each `stride` bytes behind the one before.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn push_words(offset: u64, count: u64, stride: u64, level: u64, mask: u64) -> u32 {
    for at in 0..2 * u64::from(MAX_ITEMS) {
        if at >= count {
            break;
        }
        push(word(offset + at * stride) & mask, level);
    }
    0
}

/// Copies the next object. 0 if there is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn copy_next() -> u32 {
    let Some(record) = scratch() else { return 0 };
    let work = of(record);
    let entry = if work.next != 0 {
        work.next -= 1;
        // SAFETY: as in `push`.
        unsafe { *advanced::<NEXT_MASK>(record.add(NEXT_AT), work.next * 8).cast::<u64>() }
    } else if work.first < work.end {
        let first = work.first;
        work.first += 1;
        // SAFETY: as in `push`.
        unsafe { *advanced::<QUEUE_MASK>(record.add(QUEUE_AT), first * 8).cast::<u64>() }
    } else {
        return 0;
    };
    work.objects += 1;
    copy_object(entry & ADDRESS, entry >> LEVEL_SHIFT);
    1
}

/// Copies a frame and what its variables lead to. Variables are on level 1.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn copy_variables(address: u64, frame: u64, family: u32) -> u32 {
    let Some(armed) = breakpoint(address, family) else { return 0 };
    let Some(layout) = LAYOUTS.get(armed.layout) else { return 0 };
    let slots = u64::from(if armed.slots < MAX_SLOTS { armed.slots } else { MAX_SLOTS });
    let body = copy_range(frame, u64::from(layout.frame_locals) + slots * 8);
    if body == 0 {
        return 0;
    }
    if armed.flags & LOCALS_IN_DICT != 0 {
        // A module has the built-in functions as a variable: they would take the room of all others.
        is_new(user(frame + u64::from(layout.frame_builtins)).unwrap_or(0));
        push(user(frame + u64::from(layout.frame_locals_dict)).unwrap_or(0), 0);
    }
    push_words(body + u64::from(layout.frame_locals), slots, 8, 1, layout.slot_mask);
    for _ in 0..MAX_OBJECTS {
        if copy_next() == 0 {
            return 1;
        }
    }
    if let Some(work) = work() {
        work.flags |= u64::from(QUEUE_FULL);
    }
    1
}
