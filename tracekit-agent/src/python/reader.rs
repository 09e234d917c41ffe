//! Strings, types and code objects at addresses of the target.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hashbrown::HashMap;

use super::evidence::{Evidence, Witness};
use super::layout::{Layout, LineTable};
use super::line_table::{self, LineRange, line_at};
use super::memory::{MemoryError, MemorySource, Use};

/// Characters of an identifier, a path or a type's name at most.
const MAX_NAME: usize = 4096;
/// Local names of a code object at most.
const MAX_LOCALS: u64 = 4096;
/// Bytes of a line table, and of bytecode, at most.
const MAX_CODE: u64 = 16 << 20;
/// Types in a method resolution order at most.
const MAX_BASES: u64 = 256;
/// Slots of one class at most.
const MAX_SLOTS: u64 = 256;
/// Copies of one bytecode at most: one for each thread.
const MAX_COPIES: u64 = 4096;
/// Types and code objects that are remembered.
const MAX_CACHED: usize = 100_000;

/// `tp_flags` (CPython `Include/object.h`).
pub mod flags {
    /// `Py_TPFLAGS_INLINE_VALUES` (3.13+)
    pub const INLINE_VALUES: u64 = 1 << 2;
    /// `Py_TPFLAGS_MANAGED_DICT` (3.11+)
    pub const MANAGED_DICT: u64 = 1 << 4;
    /// `Py_TPFLAGS_HEAPTYPE`
    pub const HEAP_TYPE: u64 = 1 << 9;
    /// `Py_TPFLAGS_READY`
    pub const READY: u64 = 1 << 12;
    /// `Py_TPFLAGS_LONG_SUBCLASS`; list, tuple, bytes, str, dict, exceptions and types follow.
    pub const LONG: u64 = 1 << 24;
    /// `Py_TPFLAGS_LIST_SUBCLASS`
    pub const LIST: u64 = 1 << 25;
    /// `Py_TPFLAGS_TUPLE_SUBCLASS`
    pub const TUPLE: u64 = 1 << 26;
    /// `Py_TPFLAGS_BYTES_SUBCLASS`
    pub const BYTES: u64 = 1 << 27;
    /// `Py_TPFLAGS_UNICODE_SUBCLASS`
    pub const STR: u64 = 1 << 28;
    /// `Py_TPFLAGS_DICT_SUBCLASS`
    pub const DICT: u64 = 1 << 29;
    /// `Py_TPFLAGS_BASE_EXC_SUBCLASS`
    pub const EXCEPTION: u64 = 1 << 30;
    /// `Py_TPFLAGS_TYPE_SUBCLASS`
    pub const TYPE: u64 = 1 << 31;
}

/// Why something of the target could not be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It could not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// It is not what it should be: it changed meanwhile, or never was.
    #[error("not a valid {0}")]
    Invalid(&'static str),
}

/// A string of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Its characters, up to the limit; lone surrogates are replaced.
    pub text: String,
    /// How many it has in all.
    pub length: u64,
}

/// A type object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    /// Where it is.
    pub address: u64,
    /// `tp_name`: with the module for types written in C.
    pub full_name: String,
    /// `tp_flags`
    pub flags: u64,
    /// `tp_basicsize`
    pub basic_size: i64,
    /// `tp_itemsize`
    pub item_size: i64,
    /// `tp_dictoffset`
    pub dict_offset: i64,
    /// `__slots__` of it and its bases: name and offset in an instance.
    pub slots: Vec<(String, u64)>,
    /// `tp_name` of those in its `__mro__` that are not classes written in Python.
    pub native_names: Vec<String>,
    /// Where those are.
    pub native_bases: Vec<u64>,
    /// `tp_name` of those in its `__mro__` that are classes written in Python.
    pub class_names: Vec<String>,
}

impl Type {
    /// `__name__`
    #[must_use]
    pub fn name(&self) -> &str {
        self.full_name.rsplit('.').next().unwrap_or_default()
    }

    /// It has this `tp_flags` bit.
    #[must_use]
    pub fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }
}

/// Attributes: name and offset in an instance.
pub type Members = Vec<(String, u64)>;

/// See [`Reader::member_def`].
pub(super) struct MemberDef {
    /// Address of the name; 0 ends a table.
    pub name: u64,
    /// What it holds.
    pub kind: u32,
    /// Where in an instance it is.
    pub offset: u64,
}

/// What a local variable's slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalKind {
    /// The value.
    Fast,
    /// A cell with the value.
    Cell,
    /// Not a variable that the source has (3.12+ comprehensions).
    Hidden,
}

/// A code object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// Where it is.
    pub address: u64,
    /// `co_name`
    pub name: String,
    /// `co_qualname`; before 3.11 `co_name`.
    pub qualname: String,
    /// `co_filename`
    pub filename: String,
    /// `co_firstlineno`
    pub first_line: i32,
    /// `co_flags`
    pub flags: u32,
    /// Positional, positional-only and keyword-only parameters.
    pub argument_counts: [u32; 3],
    /// Local variables in the order of their slots.
    pub locals: Vec<(String, LocalKind)>,
    /// Address of the first instruction.
    pub bytecode: u64,
    /// Bytes of bytecode.
    pub length: u32,
    /// Lines of the instructions.
    pub lines: Vec<LineRange>,
}

impl Code {
    /// The function's kind: `async`, `generator`, `async generator`; empty for others.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        // CPython `Include/cpython/code.h`: CO_GENERATOR, CO_COROUTINE, CO_ITERABLE_COROUTINE,
        // CO_ASYNC_GENERATOR.
        match self.flags {
            flags if flags & 0x200 != 0 => "async generator",
            flags if flags & 0x80 != 0 => "async",
            flags if flags & 0x20 != 0 => "generator",
            _ => "",
        }
    }

    /// Locals are in slots: a function, not a module's or class's body (`CO_OPTIMIZED`).
    #[must_use]
    pub fn is_function(&self) -> bool {
        self.flags & 1 != 0
    }

    /// The line of the instruction at this offset.
    #[must_use]
    pub fn line_at(&self, offset: u32) -> Option<i32> {
        line_at(&self.lines, offset)
    }

    /// The lines that have instructions, ascending.
    #[must_use]
    pub fn breakable_lines(&self) -> Vec<i32> {
        let mut lines: Vec<i32> =
            self.lines.iter().filter_map(|range| range.line).filter(|line| *line > 0).collect();
        lines.sort_unstable();
        lines.dedup();
        lines
    }
}

/// Reads one target. Types and code objects live long; they are remembered until [`Self::forget`], and looked
/// at again in every pass: if the bytes that they were made from are others, they are made anew.
pub struct Reader<'a> {
    /// Where bytes come from.
    pub memory: &'a dyn MemorySource,
    /// Where CPython keeps what.
    pub layout: Layout,
    types: Memo<Type>,
    members: Memo<Members>,
    codes: Memo<Code>,
    code_type: Cell<Option<u64>>,
    /// Of an image: the process, for what lives longer than the image.
    live: Option<&'a Reader<'a>>,
}

/// What was made before, by its address.
struct Memo<T>(RefCell<HashMap<u64, Remembered<T>>>);

struct Remembered<T> {
    value: Rc<T>,
    evidence: Evidence,
    /// The pass in which it was last known to hold.
    pass: Cell<u64>,
}

impl<T> Memo<T> {
    /// What is remembered of an address, if it still holds.
    fn get(&self, address: u64, memory: &dyn MemorySource) -> Option<Rc<T>> {
        let all = self.0.borrow();
        let known = all.get(&address)?;
        if known.pass.get() != memory.pass() {
            if !known.evidence.holds(memory) {
                return None;
            }
            known.pass.set(memory.pass());
        }
        Some(Rc::clone(&known.value))
    }

    fn insert(&self, address: u64, value: &Rc<T>, evidence: Evidence, pass: u64) {
        let mut all = self.0.borrow_mut();
        if all.len() >= MAX_CACHED {
            all.clear();
        }
        all.insert(address, Remembered { value: Rc::clone(value), evidence, pass: Cell::new(pass) });
    }
}

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<'a> Reader<'a> {
    /// A reader of this memory.
    #[must_use]
    pub fn new(memory: &'a dyn MemorySource, layout: Layout) -> Self {
        Self {
            memory,
            layout,
            types: Memo::default(),
            members: Memo::default(),
            codes: Memo::default(),
            code_type: Cell::new(None),
            live: None,
        }
    }

    /// A reader of an image that was captured in a process. Values are in the image or not there: they are never read
    /// from the process, which has gone on. Types, code objects and names are, because they live long; `live` reads
    /// and remembers those.
    #[must_use]
    pub fn of_image(image: &'a dyn MemorySource, live: &'a Reader<'a>) -> Self {
        Self { live: Some(live), ..Self::new(image, live.layout) }
    }

    /// It reads an image, which may lack parts of a value.
    #[must_use]
    pub fn is_image(&self) -> bool {
        self.live.is_some()
    }

    /// The reader of what lives longer than an image: of the process that it was captured in, or this one.
    #[must_use]
    pub fn process(&self) -> &Reader<'a> {
        self.live.unwrap_or(self)
    }

    /// Memory of types, and of what belongs to them.
    #[must_use]
    pub fn lasting(&self) -> &'a dyn MemorySource {
        self.live.map_or(self.memory, |live| live.memory)
    }

    /// The types that were read.
    #[must_use]
    pub fn known_types(&self) -> Vec<Rc<Type>> {
        self.types.0.borrow().values().map(|known| Rc::clone(&known.value)).collect()
    }

    /// Forgets what was read before.
    pub fn forget(&self) {
        self.types.0.borrow_mut().clear();
        self.members.0.borrow_mut().clear();
        self.codes.0.borrow_mut().clear();
    }

    /// Makes something and says what it was made from.
    fn witnessed<T>(
        &self,
        make: impl FnOnce(&Reader<'_>) -> Result<T, ReadError>,
    ) -> Result<(Rc<T>, Evidence), ReadError> {
        let witness = Witness::new(self.memory);
        let reader = Reader::new(&witness, self.layout);
        reader.code_type.set(self.code_type.get());
        let made = make(&reader)?;
        drop(reader);
        Ok((Rc::new(made), witness.evidence()))
    }

    /// The address of an object's type.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn type_address(&self, object: u64) -> Result<u64, ReadError> {
        Ok(self.memory.u64(object.wrapping_add(self.layout.object_type))?)
    }

    /// The type of an object.
    ///
    /// # Errors
    /// If what is there is no type.
    pub fn type_of(&self, object: u64) -> Result<Rc<Type>, ReadError> {
        self.type_at(self.type_address(object)?)
    }

    /// The type object at an address.
    ///
    /// # Errors
    /// If what is there is no type.
    pub fn type_at(&self, address: u64) -> Result<Rc<Type>, ReadError> {
        if let Some(live) = self.live {
            return live.type_at(address);
        }
        if let Some(known) = self.types.get(address, self.memory) {
            return Ok(known);
        }
        let (read, evidence) = self.witnessed(|reader| reader.read_type(address))?;
        self.types.insert(address, &read, evidence, self.memory.pass());
        Ok(read)
    }

    /// The bits that matter here stay as they are; others change whenever an attribute of the class does.
    fn type_flags(&self, address: u64) -> Result<u64, ReadError> {
        let mut flags = [0; 8];
        self.lasting().read_as(
            address.wrapping_add(self.layout.object.tp_flags),
            &mut flags,
            Use::Passing,
        )?;
        let flags = u64::from_le_bytes(flags);
        if flags & flags::READY == 0 || !address.is_multiple_of(8) {
            return Err(ReadError::Invalid("type"));
        }
        Ok(flags)
    }

    fn type_name(&self, address: u64) -> Result<String, ReadError> {
        let name = self.memory.u64(address.wrapping_add(self.layout.object.tp_name))?;
        let bytes = self.memory.c_string(name, MAX_NAME)?;
        String::from_utf8(bytes).map_err(|_| ReadError::Invalid("type name"))
    }

    fn read_type(&self, address: u64) -> Result<Type, ReadError> {
        let offsets = &self.layout.object;
        let word = |offset: u64| self.memory.i64(address.wrapping_add(offset));
        let flags = self.type_flags(address)?;
        // Types are instances of a type.
        let meta = self.type_address(address)?;
        if self.type_flags(meta)? & flags::TYPE == 0 {
            return Err(ReadError::Invalid("type"));
        }
        let mut found = Type {
            address,
            full_name: self.type_name(address)?,
            flags,
            basic_size: word(offsets.tp_basicsize)?,
            item_size: word(offsets.tp_itemsize)?,
            dict_offset: word(offsets.tp_dictoffset)?,
            slots: Vec::new(),
            native_names: Vec::new(),
            native_bases: Vec::new(),
            class_names: Vec::new(),
        };
        // A type that is being made has no MRO yet.
        let order = self.memory.u64(address.wrapping_add(offsets.tp_mro))?;
        let order = if order == 0 { vec![address] } else { self.tuple(order, MAX_BASES)? };
        for base in order {
            let flags = self.type_flags(base)?;
            let name = self.type_name(base)?;
            // Classes written in Python have no module in `tp_name`; types made by C modules have.
            if flags & flags::HEAP_TYPE != 0 && !name.contains('.') {
                found.class_names.push(name);
                self.read_slots(base, &mut found.slots)?;
            } else {
                found.native_names.push(name);
                found.native_bases.push(base);
            }
        }
        Ok(found)
    }

    /// An entry of a table of `PyMemberDef`s, of 40 bytes (CPython `Include/descrobject.h`):
    /// `{const char *name; int type; Py_ssize_t offset; int flags; const char *doc;}`
    pub(super) fn member_def(&self, table: u64, index: u64) -> Result<MemberDef, ReadError> {
        let at = table.wrapping_add(index * 40);
        Ok(MemberDef {
            name: self.memory.u64(at)?,
            kind: self.memory.u32(at.wrapping_add(8))?,
            offset: self.memory.u64(at.wrapping_add(16))?,
        })
    }

    /// `PyMemberDef`s of a heap type's slots follow it.
    fn read_slots(&self, address: u64, slots: &mut Vec<(String, u64)>) -> Result<(), ReadError> {
        let count = self.memory.u64(address.wrapping_add(self.layout.object.ob_size))?;
        if count == 0 || count > MAX_SLOTS {
            return Ok(());
        }
        let meta = self.type_address(address)?;
        let size = self.memory.u64(meta.wrapping_add(self.layout.object.tp_basicsize))?;
        if size > MAX_NAME as u64 {
            return Err(ReadError::Invalid("type"));
        }
        for at in 0..count {
            let MemberDef { name, offset, .. } = self.member_def(address.wrapping_add(size), at)?;
            let name = self.memory.c_string(name, MAX_NAME)?;
            if offset < 1 << 20 && slots.len() < MAX_SLOTS as usize {
                slots.push((String::from_utf8_lossy(&name).into_owned(), offset));
            }
        }
        Ok(())
    }

    /// Attributes that are objects, of a type's bases written in C: name and offset in an instance.
    ///
    /// # Errors
    /// If what is there is no table of members.
    pub fn members(&self, found: &Type) -> Result<Rc<Members>, ReadError> {
        if let Some(live) = self.live {
            return live.members(found);
        }
        if let Some(known) = self.members.get(found.address, self.memory) {
            return Ok(known);
        }
        let (read, evidence) = self.witnessed(|reader| {
            let mut read = Vec::new();
            for base in &found.native_bases {
                reader.read_members(*base, &mut read)?;
            }
            Ok(read)
        })?;
        self.members.insert(found.address, &read, evidence, self.memory.pass());
        Ok(read)
    }

    /// `tp_members`, as far as they are objects and have no name with underscores, up to one without a name.
    fn read_members(&self, address: u64, members: &mut Members) -> Result<(), ReadError> {
        // CPython `Include/descrobject.h`: Py_T_OBJECT, Py_T_OBJECT_EX.
        const OBJECTS: [u32; 2] = [6, 16];
        let table = self.memory.u64(address.wrapping_add(self.layout.object.tp_members))?;
        for at in 0..if table == 0 { 0 } else { MAX_SLOTS } {
            let MemberDef { name, kind, offset } = self.member_def(table, at)?;
            if name == 0 || members.len() >= MAX_SLOTS as usize {
                break;
            }
            if OBJECTS.contains(&kind) && offset < 1 << 20 {
                let name = String::from_utf8_lossy(&self.memory.c_string(name, MAX_NAME)?).into_owned();
                if !name.starts_with("__") && members.iter().all(|(known, _)| *known != name) {
                    members.push((name, offset));
                }
            }
        }
        Ok(())
    }

    /// A `str`, at most `limit` characters of it.
    ///
    /// # Errors
    /// If the object is no string.
    pub fn text(&self, object: u64, limit: usize) -> Result<Text, ReadError> {
        self.text_by(object, limit, |data, count| Ok(self.memory.bytes(data, count)?))
    }

    /// A `str`, at most `limit` characters of it; of an image, those that are in it.
    ///
    /// # Errors
    /// If the object is no string.
    pub fn text_there(&self, object: u64, limit: usize) -> Result<Text, ReadError> {
        self.text_by(object, limit, |data, count| self.bytes_there(data, count))
    }

    /// Bytes; of an image, as many of them as are in it.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn bytes_there(&self, start: u64, count: usize) -> Result<Vec<u8>, ReadError> {
        match self.memory.bytes(start, count) {
            Err(_) if self.is_image() => {
                Ok((0..count as u64).map_while(|at| self.memory.u8(start.wrapping_add(at)).ok()).collect())
            }
            bytes => Ok(bytes?),
        }
    }

    fn text_by(
        &self,
        object: u64,
        limit: usize,
        bytes: impl Fn(u64, usize) -> Result<Vec<u8>, ReadError>,
    ) -> Result<Text, ReadError> {
        let offsets = &self.layout.object;
        let meta = self.type_address(object)?;
        if self.type_flags(meta)? & flags::STR == 0 {
            return Err(ReadError::Invalid("str"));
        }
        let length = self.memory.u64(object.wrapping_add(offsets.str_length))?;
        let state = self.memory.u32(object.wrapping_add(offsets.str_state))? >> self.layout.str_kind_shift;
        if length > 1 << 46 {
            return Err(ReadError::Invalid("str"));
        }
        let (width, compact, ascii) = (state & 7, state & 8 != 0, state & 16 != 0);
        let data = if !compact {
            self.memory.u64(object.wrapping_add(offsets.str_data))?
        } else if ascii {
            object.wrapping_add(offsets.str_ascii)
        } else {
            object.wrapping_add(offsets.str_data)
        };
        let count = usize::try_from(length).unwrap_or(usize::MAX).min(limit);
        let any = |code| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        let text = match width {
            1 => bytes(data, count)?.iter().map(|byte| char::from(*byte)).collect(),
            2 => {
                let bytes = bytes(data, count.saturating_mul(2))?;
                let units = bytes.chunks_exact(2);
                units
                    .map(|unit| any(u32::from(u16::from_le_bytes(unit.try_into().unwrap_or_default()))))
                    .collect()
            }
            4 => {
                let bytes = bytes(data, count.saturating_mul(4))?;
                let units = bytes.chunks_exact(4);
                units.map(|unit| any(u32::from_le_bytes(unit.try_into().unwrap_or_default()))).collect()
            }
            _ => return Err(ReadError::Invalid("str")),
        };
        Ok(Text { text, length })
    }

    /// A `str` that is a name or a path.
    ///
    /// # Errors
    /// If the object is no string, or too long for a name.
    pub fn name(&self, object: u64) -> Result<String, ReadError> {
        let text = match (self.text(object, MAX_NAME), self.live) {
            (Err(_), Some(live)) => live.text(object, MAX_NAME)?,
            (text, _) => text?,
        };
        if text.length > MAX_NAME as u64 { Err(ReadError::Invalid("name")) } else { Ok(text.text) }
    }

    /// The data of a `bytes`: its address and length.
    ///
    /// # Errors
    /// If the object is no `bytes`, or is longer than `limit`.
    pub fn bytes_data(&self, object: u64, limit: u64) -> Result<(u64, u64), ReadError> {
        if self.type_flags(self.type_address(object)?)? & flags::BYTES == 0 {
            return Err(ReadError::Invalid("bytes"));
        }
        let size = self.memory.u64(object.wrapping_add(self.layout.object.ob_size))?;
        if size > limit {
            return Err(ReadError::Invalid("bytes"));
        }
        Ok((object.wrapping_add(self.layout.object.bytes_data), size))
    }

    /// The items of a `tuple`.
    ///
    /// # Errors
    /// If the object is no tuple, or has more than `limit` items.
    pub fn tuple(&self, object: u64, limit: u64) -> Result<Vec<u64>, ReadError> {
        if self.type_flags(self.type_address(object)?)? & flags::TUPLE == 0 {
            return Err(ReadError::Invalid("tuple"));
        }
        let size = self.memory.u64(object.wrapping_add(self.layout.object.ob_size))?;
        if size > limit {
            return Err(ReadError::Invalid("tuple"));
        }
        let items = object.wrapping_add(self.layout.object.tuple_items);
        Ok(self.memory.words(items, usize::try_from(size).unwrap_or(0))?)
    }

    /// The address of `PyCode_Type`, once it is known.
    #[must_use]
    pub fn code_type(&self) -> Option<u64> {
        self.code_type.get()
    }

    /// Says where `PyCode_Type` is.
    pub fn set_code_type(&self, address: u64) {
        self.code_type.set(Some(address));
    }

    /// The code object at an address.
    ///
    /// # Errors
    /// If what is there is no code object.
    pub fn code(&self, address: u64) -> Result<Rc<Code>, ReadError> {
        if let Some(live) = self.live {
            return live.code(address);
        }
        if let Some(known) = self.codes.get(address, self.memory) {
            return Ok(known);
        }
        let (read, evidence) = self.code_with_evidence(address)?;
        self.codes.insert(address, &read, evidence, self.memory.pass());
        Ok(read)
    }

    /// The code object at an address, read anew, and what tells whether it is the same later.
    ///
    /// # Errors
    /// If what is there is no code object.
    pub fn code_with_evidence(&self, address: u64) -> Result<(Rc<Code>, Evidence), ReadError> {
        self.witnessed(|reader| reader.read_code(address))
    }

    fn read_code(&self, address: u64) -> Result<Code, ReadError> {
        let meta = self.type_address(address)?;
        match self.code_type.get() {
            Some(known) if known != meta => return Err(ReadError::Invalid("code object")),
            Some(_) => {}
            None if self.type_at(meta)?.full_name != "code" => return Err(ReadError::Invalid("code object")),
            None => {}
        }
        let offsets = &self.layout.code;
        let pointer = |offset: u64| self.memory.u64(address.wrapping_add(offset));
        let name = self.name(pointer(offsets.name)?)?;
        let qualname = self.name(pointer(offsets.qualname)?)?;
        let filename = self.name(pointer(offsets.filename)?)?;
        let first_line = self.memory.i32(address.wrapping_add(offsets.first_line))?;
        let flags = self.memory.u32(address.wrapping_add(offsets.flags))?;
        let mut argument_counts = [0; 3];
        for (at, count) in argument_counts.iter_mut().enumerate() {
            *count = self.memory.u32(address.wrapping_add(offsets.argcount + 4 * at as u64))?;
            if u64::from(*count) > MAX_LOCALS {
                return Err(ReadError::Invalid("code object"));
            }
        }
        let (bytecode, length) = if self.layout.lines == LineTable::Locations {
            let units = self.memory.u64(address.wrapping_add(self.layout.object.ob_size))?;
            (address.wrapping_add(offsets.bytecode), units.saturating_mul(2))
        } else {
            self.bytes_data(pointer(offsets.bytecode)?, MAX_CODE)?
        };
        let length = u32::try_from(length).ok().filter(|length| u64::from(*length) <= MAX_CODE);
        let length = length.ok_or(ReadError::Invalid("code object"))?;
        let (table, size) = self.bytes_data(pointer(offsets.line_table)?, MAX_CODE)?;
        let table = self.memory.bytes(table, usize::try_from(size).unwrap_or(0))?;
        Ok(Code {
            address,
            name,
            qualname,
            filename,
            first_line,
            flags,
            argument_counts,
            locals: self.local_names(address)?,
            bytecode,
            length,
            lines: line_table::decode(self.layout.lines, &table, first_line, length),
        })
    }

    fn local_names(&self, address: u64) -> Result<Vec<(String, LocalKind)>, ReadError> {
        let offsets = &self.layout.code;
        let names = |offset: u64| -> Result<Vec<String>, ReadError> {
            let tuple = self.memory.u64(address.wrapping_add(offset))?;
            let items = self.tuple(tuple, MAX_LOCALS)?;
            items.into_iter().map(|item| self.name(item)).collect()
        };
        let all = names(offsets.local_names)?;
        if self.layout.lines != LineTable::Locations {
            let cells = names(offsets.cell_names)?.into_iter().chain(names(offsets.free_names)?);
            let fast = all.into_iter().map(|name| (name, LocalKind::Fast));
            return Ok(fast.chain(cells.map(|name| (name, LocalKind::Cell))).collect());
        }
        let kinds = self.memory.u64(address.wrapping_add(offsets.local_kinds))?;
        let (kinds, size) = self.bytes_data(kinds, MAX_LOCALS)?;
        let kinds = self.memory.bytes(kinds, usize::try_from(size).unwrap_or(0))?;
        if kinds.len() != all.len() {
            return Err(ReadError::Invalid("code object"));
        }
        // CPython `Include/internal/pycore_code.h`: CO_FAST_HIDDEN, CO_FAST_CELL, CO_FAST_FREE.
        let kind = |byte: u8| match byte {
            byte if byte & 0xc0 != 0 => LocalKind::Cell,
            byte if byte & 0x10 != 0 => LocalKind::Hidden,
            _ => LocalKind::Fast,
        };
        Ok(all.into_iter().zip(kinds).map(|(name, byte)| (name, kind(byte))).collect())
    }
}

/// Where the instructions of a code object are: itself, and in builds without a GIL the copies that threads run, 0 where
/// none was made. Source: CPython 3.14 `Include/cpython/code.h`, `_PyCodeArray`: `{Py_ssize_t size; char *entries[];}`.
///
/// # Errors
/// If the list of copies cannot be read.
pub fn bytecodes(memory: &dyn MemorySource, layout: &Layout, code: &Code) -> Result<Vec<u64>, ReadError> {
    let Some(copies) = layout.copies else { return Ok(vec![code.bytecode]) };
    let array = memory.u64(code.address.wrapping_add(copies))?;
    let count = memory.u64(array)?;
    if count > MAX_COPIES {
        return Err(ReadError::Invalid("list of copies of the bytecode"));
    }
    Ok(memory.words(array.wrapping_add(8), usize::try_from(count).unwrap_or(0))?)
}
