//! Tests that no memory makes the reader panic or run on: objects of every kind with valid types and random
//! contents, and memory that is random altogether.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::frame::{locals, walk};
use super::layout::Layout;
use super::memory::Image;
use super::object::{Decoder, Limits};
use super::reader::{Reader, flags};

const TYPES: u64 = 0x10_0000;
pub(crate) const OBJECTS: u64 = 0x20_0000;
/// Bytes of a type and of an object in the image.
const TYPE_SIZE: u64 = 2048;
pub(crate) const OBJECT_SIZE: u64 = 512;
/// Where a type's slots are described.
const MEMBERS: u64 = 1000;
pub(crate) const OBJECT_COUNT: u64 = 123;

/// Kinds: name and flags.
const KINDS: &[(&str, u64)] = &[
    ("type", flags::TYPE),
    ("tuple", flags::TUPLE),
    ("int", flags::LONG),
    ("str", flags::STR),
    ("bytes", flags::BYTES),
    ("list", flags::LIST),
    ("dict", flags::DICT),
    ("ValueError", flags::EXCEPTION),
    ("set", 0),
    ("float", 0),
    ("complex", 0),
    ("bytearray", 0),
    ("code", 0),
    ("cell", 0),
    ("function", 0),
    ("method", 0),
    ("module", 0),
    ("range", 0),
    ("coroutine", 0),
    ("collections.deque", 0),
    ("collections.OrderedDict", flags::DICT),
    ("dict_items", 0),
    ("mappingproxy", 0),
    ("weakref.ReferenceType", 0),
    ("memoryview", 0),
    ("array.array", 0),
    ("numpy.ndarray", 0),
    ("numpy.dtype", 0),
    ("numpy.int64", 0),
    ("property", 0),
    ("builtin_function_or_method", 0),
    ("method_descriptor", 0),
    ("datetime.timezone", 0),
    ("datetime.datetime", 0),
    ("datetime.timedelta", 0),
    ("decimal.Decimal", flags::HEAP_TYPE),
    ("functools.partial", flags::HEAP_TYPE),
    ("Enum", flags::HEAP_TYPE | flags::MANAGED_DICT | flags::INLINE_VALUES),
    ("UUID", flags::HEAP_TYPE),
    ("PurePath", flags::HEAP_TYPE | flags::MANAGED_DICT),
    ("Plain", flags::HEAP_TYPE | flags::MANAGED_DICT | flags::INLINE_VALUES),
];

fn put(bytes: &mut [u8], offset: u64, value: u64) {
    let at = usize::try_from(offset).unwrap();
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Types that are valid as far as they are looked at, and objects of them that are random: words that point
/// to objects, small numbers, and anything. `damage` overwrites bytes of the types.
pub(crate) fn image(layout: &Layout, words: &[u64], damage: &[(usize, u8)]) -> Image {
    let word = |at: usize| words[at % words.len()].rotate_left(u32::try_from(at % 7).unwrap());
    let mut at = 0;
    let mut random = || {
        at += 1;
        match word(at) % 8 {
            0..=3 => OBJECTS + word(at + 1) % OBJECT_COUNT * OBJECT_SIZE,
            4 | 5 => word(at + 1) % 40,
            6 => word(at + 1),
            _ => u64::MAX - word(at + 1) % 3,
        }
    };
    let mut types = vec![0; KINDS.len() * usize::try_from(TYPE_SIZE).unwrap()];
    for (kind, (name, bits)) in KINDS.iter().enumerate() {
        let start = kind as u64 * TYPE_SIZE;
        let (name_at, order_at) = (start + 1200, start + 1300);
        put(&mut types, start + layout.object_type, TYPES);
        put(&mut types, start + layout.object.tp_name, TYPES + name_at);
        put(&mut types, start + layout.object.tp_flags, flags::READY | bits);
        put(&mut types, start + layout.object.tp_mro, TYPES + order_at);
        put(&mut types, start + layout.object.tp_basicsize, MEMBERS);
        for member in 0..4 {
            put(&mut types, start + MEMBERS + member * 40, TYPES + name_at);
            // Py_T_OBJECT
            put(&mut types, start + MEMBERS + member * 40 + 8, 6);
            put(&mut types, start + MEMBERS + member * 40 + 16, random() % OBJECT_SIZE);
        }
        put(&mut types, start + layout.object.tp_members, TYPES + start + MEMBERS);
        put(&mut types, start + layout.object.tp_itemsize, random());
        put(&mut types, start + layout.object.tp_dictoffset, random());
        put(&mut types, start + layout.object.ob_size, random() % 5);
        put(&mut types, start + layout.object.ht_cached_keys, random());
        let text = usize::try_from(name_at).unwrap();
        types[text..text + name.len()].copy_from_slice(name.as_bytes());
        put(&mut types, order_at + layout.object_type, TYPES + TYPE_SIZE);
        put(&mut types, order_at + layout.object.ob_size, 1);
        put(&mut types, order_at + layout.object.tuple_items, TYPES + start);
    }
    for (offset, byte) in damage {
        let length = types.len();
        types[offset % length] = *byte;
    }
    let mut objects = vec![0; usize::try_from(OBJECT_COUNT * OBJECT_SIZE).unwrap()];
    for offset in (0..OBJECT_COUNT * OBJECT_SIZE).step_by(8) {
        let value = random();
        put(&mut objects, offset, value);
    }
    for object in 0..OBJECT_COUNT {
        let kind = object % KINDS.len() as u64;
        put(&mut objects, object * OBJECT_SIZE + layout.object_type, TYPES + kind * TYPE_SIZE);
    }
    Image::new(vec![(TYPES, types), (OBJECTS, objects)])
}

pub(crate) fn layouts() -> impl Iterator<Item = Layout> {
    let copies = Some(224);
    let free_threaded = Layout::table(14).map(|table| Layout { copies, free_threaded: true, ..table });
    (8..=15).filter_map(Layout::table).chain(free_threaded)
}

/// Everything that reads, at every object; returns what the values are as text and JSON.
fn read_all(memory: &Image, layout: Layout, addresses: impl Iterator<Item = u64>) -> usize {
    let limits = Limits { values: 2000, time: Duration::from_millis(500), ..Limits::default() };
    let reader = Reader::new(memory, layout);
    let mut decoder = Decoder::new(&reader, limits, true);
    let mut size = 0;
    for address in addresses {
        let value = decoder.value(address);
        size += value.to_string().len() + value.to_json().to_string().len();
        let _ = reader.code(address);
        for frame in walk(&reader, address).frames {
            let _ = locals(&reader, &frame);
        }
    }
    size
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn objects_with_random_contents(
        words in proptest::collection::vec(any::<u64>(), 300..900),
        damage in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..12),
    ) {
        for layout in layouts() {
            let memory = image(&layout, &words, &damage);
            let start = Instant::now();
            let objects = (0..OBJECT_COUNT).map(|object| OBJECTS + object * OBJECT_SIZE);
            let size = read_all(&memory, layout, objects);
            // Bounded by the decoder's time and by 2000 values; the rest is the walks.
            prop_assert!(start.elapsed() < Duration::from_secs(20), "3.{}", layout.minor);
            prop_assert!(size < 64 << 20, "{size} bytes");
        }
    }

    #[test]
    fn random_memory(bytes in proptest::collection::vec(any::<u8>(), 0..4096), at in any::<u64>()) {
        for layout in layouts() {
            let end = at.saturating_add(bytes.len() as u64);
            let memory = Image::new(vec![(at, bytes.clone())]);
            read_all(&memory, layout, (at..end).step_by(64).chain([0, u64::MAX]));
        }
    }
}

#[test]
fn the_image_reaches_the_decoders() {
    // Otherwise the tests above would test little: with all-valid types most kinds decode to something.
    let words: Vec<u64> = (1..700_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    let layout = Layout::table(11).unwrap();
    let memory = image(&layout, &words, &[]);
    let reader = Reader::new(&memory, layout);
    let names: Vec<String> = (0..KINDS.len() as u64)
        .map(|kind| reader.type_of(OBJECTS + kind * OBJECT_SIZE).unwrap().full_name.clone())
        .collect();
    assert_eq!(names, KINDS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
}
