//! Line breakpoints: what is armed, what a hit copies, and what it reports.

use crate::actor::Identity;
use crate::python::MAX_FRAMES;

/// Breakpoints of the host at most: entries of the maps that are indexed by [`Armed::index`].
pub const MAX_BREAKPOINTS: u32 = 1024;
/// Their addresses at most.
pub const MAX_ARMED: u32 = 4 * MAX_BREAKPOINTS;
/// Interpreter layouts of the host at most.
pub const MAX_LAYOUTS: u32 = 256;
/// Slots of local variables of a frame that are looked at.
pub const MAX_SLOTS: u32 = 128;
/// Items of a container that are followed at most, whatever the limit says.
pub const MAX_ITEMS: u32 = 128;
/// Bytes of one copied piece at most.
pub const MAX_COPY: u32 = 4095;
/// Bytes of an image at most.
pub const MAX_IMAGE: u32 = 32 * 1024;
/// Objects of one image at most.
pub const MAX_OBJECTS: u32 = 768;
/// Pointers in an object that are followed at most.
pub const MAX_CHILDREN: usize = 24;

/// Conditions that the kernel side decides at most; those of more breakpoints are decided on images.
pub const MAX_CONDITIONS: u32 = 256;
/// Steps of one condition at most: a power of two.
pub const MAX_STEPS: usize = 16;
/// Words of text of one condition: a power of two.
pub const MAX_WORDS: usize = 32;
/// Bytes of one text of a condition at most.
pub const MAX_LITERAL: usize = 64;

/// Key of [`Armed`]: what is at an address in one process is not what is there in another, but forks share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ArmedKey {
    /// The watched address.
    pub address: u64,
    /// The process in which it was armed: one has its own, and those of its `Python::family`. [`NO_FAMILY`] for where
    /// accesses by all others are counted.
    pub family: u32,
    /// Zero.
    pub reserved: u32,
}

/// No process's.
pub const NO_FAMILY: u32 = 0;

/// What is at a watched address: value of `BREAKPOINTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Armed {
    /// `PyCodeObject *`: a hit counts only if it is the running frame's.
    pub code: u64,
    /// Of the breakpoint, in `HITS` and of its bucket.
    pub index: u32,
    /// [`CAPTURE`], [`LOCALS_IN_DICT`]
    pub flags: u32,
    /// Of the interpreter, in `LAYOUTS`.
    pub layout: u32,
    /// Slots of local variables in its frames, at most [`MAX_SLOTS`].
    pub slots: u32,
    /// Levels of containers and instances.
    pub depth: u32,
    /// Items of one container.
    pub items: u32,
    /// Characters of a string, bytes of a `bytes`.
    pub text: u32,
    /// Bytes of the image, at most [`MAX_IMAGE`].
    pub bytes: u32,
    /// Of the condition that a hit must meet, in `CONDITIONS`, plus 1; 0 for none.
    pub condition: u32,
    /// Zero.
    pub reserved: u32,
}

/// Flag of [`Armed`]: copy stack and variables, not only count.
pub const CAPTURE: u32 = 1;
/// Flag of [`Armed`]: the frame has its variables in a dict (module and class bodies).
pub const LOCALS_IN_DICT: u32 = 2;

/// Counters of a breakpoint: value of `HITS`, for each processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Hits {
    /// Executions of the line.
    pub hits: u64,
    /// Of these, reported with stack and variables.
    pub captured: u64,
    /// Of these, not captured because the condition is false.
    pub unmet: u64,
    /// Of these, those whose condition is left to the user side.
    pub undecided: u64,
    /// Of these, not captured because of the rate limit or the number that was asked for.
    pub limited: u64,
    /// Of these, not captured because the kill switch is on.
    pub killed: u64,
    /// Of these, lost because there was no room in the ring buffer.
    pub lost: u64,
    /// Accesses by processes that have no breakpoint there.
    pub foreign: u64,
    /// Accesses while the code that runs is another: the interpreter looked at its own instructions.
    pub spurious: u64,
    /// Accesses by threads whose thread state was not found.
    pub unknown: u64,
    /// Nanoseconds that the kernel side took for all of these.
    pub nanoseconds: u64,
    /// When the last execution was: nanoseconds of `CLOCK_MONOTONIC`.
    pub last: u64,
}

/// A condition of one process's objects: value of `CONDITIONS`. It begins with the first step, and each says which is the
/// next: one behind it, or an end. What a step does not know ends as [`UNDECIDED`], so that the kernel side may answer less
/// than the user side, but never differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Condition {
    /// Singletons and types.
    pub known: Known,
    /// What is compared.
    pub steps: [Step; MAX_STEPS],
    /// Texts, each from a word on and filled with zeros.
    pub words: [u64; MAX_WORDS],
}

/// Addresses of objects that an interpreter has once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Known {
    /// `Py_None`
    pub none: u64,
    /// `Py_True`
    pub truth: u64,
    /// `Py_False`
    pub falsehood: u64,
    /// `PyLong_Type`
    pub int: u64,
    /// `PyFloat_Type`
    pub float: u64,
    /// `PyUnicode_Type`
    pub text: u64,
}

/// A comparison of a local variable with a literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Step {
    /// Which outcomes are true: [`LESS`], [`EQUAL`], [`GREATER`], [`OTHER`]
    pub accepted: u8,
    /// [`IDENTITY`] …
    pub operand: u8,
    /// The next step if it is true, and if it is not.
    pub then: u8,
    /// See `then`.
    pub otherwise: u8,
    /// Of the variable, less than [`MAX_SLOTS`].
    pub slot: u32,
    /// Of a text: the word with which it begins.
    pub text: u32,
    /// Of a text: its bytes. Of a number: not 0 if it is more than `integer`, and less than the next.
    pub length: u32,
    /// The object; or the integer, less than 2^60 either side of 0.
    pub integer: u64,
    /// The float as [`float_order`] has it; [`NO_FLOAT`] if floats are not compared with it.
    pub float: u64,
}

/// Outcome of a [`Step`]: the variable is less.
pub const LESS: u8 = 1;
/// Outcome of a [`Step`]: they are equal.
pub const EQUAL: u8 = 2;
/// Outcome of a [`Step`]: the variable is greater.
pub const GREATER: u8 = 4;
/// Outcome of a [`Step`]: they are unequal, and none is greater.
pub const OTHER: u8 = 8;

/// Operand of a [`Step`]: the object itself; `is`.
pub const IDENTITY: u8 = 0;
/// Operand of a [`Step`]: a number.
pub const NUMBER: u8 = 1;
/// Operand of a [`Step`]: a text in ASCII.
pub const TEXT: u8 = 2;
/// Operand of a [`Step`]: None, with which others are compared by `==`.
pub const NONE: u8 = 3;
/// Operand of a [`Step`]: nothing; equal is what is false.
pub const TRUTH: u8 = 4;

/// End of a [`Condition`]: it is not known.
pub const UNDECIDED: u8 = 0xfd;
/// End of a [`Condition`]: it is false.
pub const UNMET: u8 = 0xfe;
/// End of a [`Condition`]: it is true.
pub const MET: u8 = 0xff;

/// No float: the bits of one that is not a number.
pub const NO_FLOAT: u64 = i64::MAX as u64;
/// Floats beyond this, either side of 0, are not numbers.
pub const INFINITY: u64 = 0x7ff << 52;

/// The bits of a float, as a signed integer whose order is that of the floats. Both zeros are 0.
#[must_use]
#[inline(always)]
pub const fn float_order(bits: u64) -> i64 {
    let magnitude = (bits & i64::MAX as u64) as i64;
    if bits >> 63 != 0 { -magnitude } else { magnitude }
}

/// A rate limit (a virtual schedule: ITU-T I.371, GCRA): value of `BUCKETS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Bucket {
    /// Nanoseconds that one takes.
    pub interval: u64,
    /// Nanoseconds that may be borrowed: `interval * (burst - 1)`.
    pub tolerance: u64,
    /// When the next one is due; set by the kernel side, 0 at first.
    pub due: u64,
    /// How many are left in all; `u64::MAX` for no such limit.
    pub left: u64,
}

/// Key of the bucket of the whole agent.
pub const BUCKET_OF_AGENT: u64 = 0;

/// Key of a process's bucket.
#[must_use]
pub const fn bucket_of_process(tgid: u32) -> u64 {
    1 << 32 | tgid as u64
}

/// Key of a breakpoint's bucket.
#[must_use]
pub const fn bucket_of_breakpoint(index: u32) -> u64 {
    2 << 32 | index as u64
}

/// Index in `SWITCHES`: not 0 while captures are off.
pub const KILL_SWITCH: u32 = 0;
/// Entries of `SWITCHES`.
pub const SWITCHES: u32 = 1;

/// Where an interpreter keeps what is copied: offsets in bytes. Names are CPython's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ObjectLayout {
    /// Bits of a slot of a local variable that are no tag.
    pub slot_mask: u64,
    /// `PyObject.ob_type`
    pub object_type: u32,
    /// `sizeof(PyObject)`
    pub object_size: u32,
    /// Of the first slot in a frame.
    pub frame_locals: u32,
    /// `f_locals`
    pub frame_locals_dict: u32,
    /// `f_builtins`
    pub frame_builtins: u32,
    /// Zero.
    pub reserved: u32,
    /// `tp_basicsize`, which `tp_itemsize` follows.
    pub tp_basicsize: u32,
    /// `tp_flags`
    pub tp_flags: u32,
    /// `tp_dictoffset`
    pub tp_dictoffset: u32,
    /// `ht_cached_keys`
    pub ht_cached_keys: u32,
    /// `ob_size`
    pub ob_size: u32,
    /// `PyASCIIObject.length`
    pub str_length: u32,
    /// `PyASCIIObject.state`
    pub str_state: u32,
    /// First bit of `kind` in it.
    pub str_kind_shift: u32,
    /// `sizeof(PyASCIIObject)`
    pub str_ascii: u32,
    /// `sizeof(PyCompactUnicodeObject)`
    pub str_data: u32,
    /// `ob_size` or `lv_tag`
    pub long_tag: u32,
    /// `ob_digit`
    pub long_digits: u32,
    /// The tag has the number of digits above three other bits (3.12+), else it is `ob_size`.
    pub long_tagged: u32,
    /// `ob_sval`
    pub bytes_data: u32,
    /// `PyTupleObject.ob_item`
    pub tuple_items: u32,
    /// `PyListObject.ob_item`
    pub list_items: u32,
    /// `ma_keys`
    pub dict_keys: u32,
    /// `ma_values`
    pub dict_values: u32,
    /// Bytes in front of the values of a split table (3.13+).
    pub dict_values_head: u32,
    /// Keys have `dk_log2_size` (3.11+), else `dk_size`.
    pub dict_logarithmic: u32,
    /// `args` of an exception; `cause`, which `context` is in front of.
    pub exception_args: u32,
    /// See `exception_args`.
    pub exception_cause: u32,
    /// [`MANAGED_NONE`] …
    pub managed: u32,
    /// Bytes in front of an object at which its dict is.
    pub managed_dict: u32,
}

/// Instances have no managed dict.
pub const MANAGED_NONE: u32 = 0;
/// 3.11: a dict, and the values of a split table in front of it.
pub const MANAGED_PAIR: u32 = 1;
/// 3.12: one or the other, told apart by a bit.
pub const MANAGED_TAGGED: u32 = 2;
/// 3.13+: a dict, or values behind the object.
pub const MANAGED_INLINE: u32 = 3;

/// Key of [`Recipe`]: a type object of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct TypeKey {
    /// `PyTypeObject *`
    pub address: u64,
    /// Thread group (process).
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
}

/// How objects of a type are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Recipe {
    /// `ht_cached_keys`: names of attributes whose values the instance has (`managed`), else 0.
    pub keys: u64,
    /// [`PLAIN`] …
    pub kind: u32,
    /// Bytes of the object that are always copied, and in front of it.
    pub size: u32,
    /// See `size`.
    pub front: u32,
    /// Bytes of an item of what is variable.
    pub item: u32,
    /// Where the number of items is.
    pub count: u32,
    /// Where the pointer to items is that are not in the object.
    pub pointer: u32,
    /// Where the pointer to the instance's dict is, 0 if there is none.
    pub dict: u32,
    /// [`MANAGED_NONE`] …
    pub managed: u32,
    /// Where pointers to objects are that are followed: multiples of 8, with [`SAME_LEVEL`]; up to the first 0.
    pub children: [u16; MAX_CHILDREN],
}

/// Bit of [`Recipe::children`]: what is there is on the same level, not one deeper.
pub const SAME_LEVEL: u16 = 1;

/// Kind of [`Recipe`]: no more than `size`, and `children`.
pub const PLAIN: u32 = 0;
/// `count` items follow `size`.
pub const VARIABLE: u32 = 1;
/// An `int`.
pub const LONG: u32 = 2;
/// A `str`.
pub const STR: u32 = 3;
/// A `tuple`: items follow `size`, and are objects.
pub const TUPLE: u32 = 4;
/// A `list`: there are `count` objects at `pointer`.
pub const LIST: u32 = 5;
/// A `dict`.
pub const DICT: u32 = 6;
/// A `set`: one entry more than `count` at `pointer`, each an object and its hash.
pub const SET: u32 = 7;
/// There are `count` items at `pointer`.
pub const BUFFER: u32 = 8;
/// A `deque`: `pointer` leads to a block of a link, 64 objects and a link; `count` are in all.
pub const DEQUE: u32 = 9;
/// Only the header: what is there is read from the process.
pub const HEADER: u32 = 10;

/// Head of the record of a hit. Room for [`MAX_FRAMES`] frames follows, of which `frames` are used, and then
/// `image` bytes: ranges of memory, each a [`RangeHead`] and its bytes, at multiples of 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct HitRecord {
    /// `event::Kind::Hit`
    pub kind: u32,
    /// Thread group (process).
    pub tgid: u32,
    /// Thread.
    pub tid: u32,
    /// [`Armed::index`]
    pub index: u32,
    /// The address that was watched.
    pub address: u64,
    /// `PyCodeObject *`
    pub code: u64,
    /// The running frame.
    pub frame: u64,
    /// `PyThreadState *`
    pub state: u64,
    /// When: nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// Nanoseconds that the capture took.
    pub took: u64,
    /// Frames that follow.
    pub frames: u32,
    /// How the walk ended: `python::END_OLDEST` …
    pub end: u32,
    /// Bytes of the image.
    pub image: u32,
    /// [`IMAGE_FULL`], [`QUEUE_FULL`], [`UNREADABLE`]
    pub flags: u32,
    /// Objects that were copied.
    pub objects: u32,
    /// Zero.
    pub reserved: u32,
    /// Who runs the line.
    pub by: Identity,
}

/// Flag of [`HitRecord`]: not all found room in the image.
pub const IMAGE_FULL: u32 = 1;
/// Flag of [`HitRecord`]: there were more objects than are looked at.
pub const QUEUE_FULL: u32 = 2;
/// Flag of [`HitRecord`]: some memory could not be read.
pub const UNREADABLE: u32 = 4;

/// Head of a range of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct RangeHead {
    /// Address of its first byte.
    pub address: u64,
    /// Bytes.
    pub length: u64,
}

/// Bytes of a [`HitRecord`] and its room for frames.
pub const HIT_HEAD: usize = size_of::<HitRecord>() + MAX_FRAMES * 16;

const _: () = assert!(size_of::<ArmedKey>() == 16);
const _: () = assert!(size_of::<Armed>() == 48);
const _: () = assert!(size_of::<Hits>() == 96);
const _: () = assert!(size_of::<Known>() == 48);
const _: () = assert!(size_of::<Step>() == 32);
const _: () = assert!(size_of::<Condition>() == 48 + 32 * MAX_STEPS + 8 * MAX_WORDS);
const _: () = assert!(MAX_STEPS.is_power_of_two() && MAX_WORDS.is_power_of_two());
const _: () = assert!(size_of::<ObjectLayout>() == 8 + 30 * 4);
const _: () = assert!(size_of::<TypeKey>() == 16);
const _: () = assert!(size_of::<Recipe>() == 8 + 8 * 4 + 2 * MAX_CHILDREN);
const _: () = assert!(size_of::<HitRecord>() == 112);
const _: () = assert!(HIT_HEAD.is_multiple_of(8));

// SAFETY: `repr(C)`, integers only, no padding (asserted above).
#[cfg(feature = "user")]
unsafe impl aya::Pod for ArmedKey {}
// SAFETY: `repr(C)`, integers only, no padding (asserted above).
#[cfg(feature = "user")]
unsafe impl aya::Pod for Armed {}
// SAFETY: `repr(C)`, integers of one size only.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Hits {}
// SAFETY: `repr(C)`, integers only, no padding (asserted above).
#[cfg(feature = "user")]
unsafe impl aya::Pod for Condition {}
// SAFETY: `repr(C)`, integers of one size only.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Bucket {}
// SAFETY: `repr(C)`, integers only, no padding (asserted above).
#[cfg(feature = "user")]
unsafe impl aya::Pod for ObjectLayout {}
// SAFETY: `repr(C)`, integers only, no padding (asserted above).
#[cfg(feature = "user")]
unsafe impl aya::Pod for TypeKey {}
// SAFETY: `repr(C)`, integers only, no padding (asserted above).
#[cfg(feature = "user")]
unsafe impl aya::Pod for Recipe {}
