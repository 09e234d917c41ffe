//! The items of containers and the attributes of instances: addresses, not yet values.

use std::collections::HashMap;

use super::decode::Decoder;
use crate::python::layout::{DictLayout, Layout, ManagedDict};
use crate::python::memory::MemorySource;
use crate::python::reader::{ReadError, Reader, Type, flags};

/// Slots of a hash table that are looked at for one container.
const MAX_SLOTS: u64 = 1 << 16;
/// A container with more items than this is nonsense.
const MAX_LENGTH: u64 = 1 << 40;

/// Addresses of the items up to the limit, and how many there are in all.
pub(super) type Items = (Vec<u64>, u64);
/// Keys and values, and how many there are in all.
type Pairs = (Vec<(u64, u64)>, u64);
/// Attributes, and how many there are in all.
type Attributes = (Vec<(String, u64)>, u64);

impl Decoder<'_, '_> {
    fn items_at(&self, start: u64, length: u64) -> Result<Items, ReadError> {
        if length > MAX_LENGTH {
            return Err(ReadError::Invalid("sequence"));
        }
        let count = usize::try_from(length).unwrap_or(usize::MAX).min(self.limits.items);
        let memory = self.reader.memory;
        let items = match memory.words(start, count) {
            // Of a long sequence an image has a part.
            Err(_) if self.reader.is_image() => {
                (0..count).map_while(|at| memory.u64(start.wrapping_add(8 * at as u64)).ok()).collect()
            }
            items => items?,
        };
        memory.prefetch(&items);
        Ok((items, length))
    }

    pub(super) fn list(&self, object: u64) -> Result<Items, ReadError> {
        let offsets = &self.reader.layout.object;
        let length = self.reader.memory.u64(object.wrapping_add(offsets.ob_size))?;
        let start = self.reader.memory.u64(object.wrapping_add(offsets.list_items))?;
        self.items_at(start, length)
    }

    pub(super) fn tuple(&self, object: u64) -> Result<Items, ReadError> {
        let offsets = &self.reader.layout.object;
        let length = self.reader.memory.u64(object.wrapping_add(offsets.ob_size))?;
        self.items_at(object.wrapping_add(offsets.tuple_items), length)
    }

    /// Entries of `PySetObject.table` are `{PyObject *key; Py_hash_t hash;}`; a removed one has hash -1.
    pub(super) fn set(&self, object: u64) -> Result<Items, ReadError> {
        let (memory, offsets) = (self.reader.memory, &self.reader.layout.object);
        let used = memory.u64(object.wrapping_add(offsets.set_used))?;
        let mask = memory.u64(object.wrapping_add(offsets.set_mask))?;
        let table = memory.u64(object.wrapping_add(offsets.set_table))?;
        if used > mask || mask > MAX_LENGTH {
            return Err(ReadError::Invalid("set"));
        }
        let mut items = Vec::new();
        for slot in 0..(mask + 1).min(MAX_SLOTS) {
            if items.len() as u64 >= used.min(self.limits.items as u64) {
                break;
            }
            let entry = table.wrapping_add(slot * 16);
            let key = match memory.u64(entry) {
                // Of a large table an image has a part.
                Err(_) if self.reader.is_image() && slot > 0 => break,
                key => key?,
            };
            if key != 0 && memory.i64(entry.wrapping_add(8))? != -1 {
                items.push(key);
            }
        }
        Ok((items, used))
    }

    /// `dequeobject`: a chain of `{leftlink; PyObject *data[64]; rightlink;}`.
    pub(super) fn deque(&self, object: u64) -> Result<Items, ReadError> {
        let (memory, offsets) = (self.reader.memory, &self.reader.layout.object);
        let length = memory.u64(object.wrapping_add(offsets.ob_size))?;
        let mut block = memory.u64(object.wrapping_add(offsets.deque_left_block))?;
        let mut at = memory.u64(object.wrapping_add(offsets.deque_left_index))?;
        if length > MAX_LENGTH || at > 64 {
            return Err(ReadError::Invalid("deque"));
        }
        let mut items = Vec::new();
        while (items.len() as u64) < length.min(self.limits.items as u64) {
            if at >= 64 {
                block = memory.u64(block.wrapping_add(8 + 64 * 8))?;
                at = 0;
            }
            let item = match memory.u64(block.wrapping_add(8 + at * 8)) {
                // An image has the first blocks.
                Err(_) if self.reader.is_image() && !items.is_empty() => break,
                item => item?,
            };
            items.push(item);
            at += 1;
        }
        Ok((items, length))
    }

    /// Keys and values of a dict in their order, at most `limit`.
    pub(super) fn dict_pairs(&self, object: u64, limit: usize) -> Result<Pairs, ReadError> {
        let (memory, offsets) = (self.reader.memory, &self.reader.layout.object);
        let used = memory.u64(object.wrapping_add(offsets.dict_used))?;
        let keys = memory.u64(object.wrapping_add(offsets.dict_keys))?;
        let values = memory.u64(object.wrapping_add(offsets.dict_values))?;
        if used > MAX_LENGTH {
            return Err(ReadError::Invalid("dict"));
        }
        let values = match values {
            0 => None,
            values if self.reader.layout.minor >= 13 => Some(values.wrapping_add(8)),
            values => Some(values),
        };
        let limit = limit.min(usize::try_from(used).unwrap_or(usize::MAX));
        Ok((self.key_pairs(memory, keys, values, limit)?, used))
    }

    /// As [`Self::dict_pairs`], of an `OrderedDict`, whose order is that of a list beside the dict. CPython
    /// `Objects/odictobject.c`: the dict, then `od_first`; a node is `{PyObject *key; Py_hash_t hash; next; prev}`.
    pub(super) fn ordered_pairs(&self, object: u64, limit: usize) -> Result<Pairs, ReadError> {
        let memory = self.reader.memory;
        let (mut pairs, length) = self.dict_pairs(object, MAX_SLOTS as usize)?;
        let first = self.reader.layout.object.dict_values + 8;
        let mut node = memory.u64(object.wrapping_add(first))?;
        let mut places = HashMap::new();
        // Counted: what is read may be a circle.
        for place in 0..MAX_SLOTS {
            if node == 0 {
                break;
            }
            let (key, next) = (memory.u64(node), memory.u64(node.wrapping_add(16)));
            let (key, next) = match (key, next) {
                // The list is not in images: the order is then the dict's, in which items were added.
                (Err(_), _) | (_, Err(_)) if self.reader.is_image() => break,
                (key, next) => (key?, next?),
            };
            places.insert(key, place);
            node = next;
        }
        // What is not in the list keeps its place behind those that are.
        pairs.sort_by_key(|(key, _)| places.get(key).copied().unwrap_or(u64::MAX));
        pairs.truncate(limit);
        Ok((pairs, length))
    }

    /// Pairs of a `PyDictKeysObject` in this memory; with a table of values if the keys are shared.
    fn key_pairs(
        &self,
        memory: &dyn MemorySource,
        keys: u64,
        values: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, u64)>, ReadError> {
        let KeyTable { entries, count, size, key_at } = key_table(memory, &self.reader.layout, keys)?;
        let mut pairs = Vec::new();
        for at in 0..count.min(MAX_SLOTS.max(limit as u64)) {
            if pairs.len() >= limit {
                break;
            }
            let entry = entries.wrapping_add(at * size);
            let key = memory.u64(entry.wrapping_add(key_at));
            let value = match values {
                Some(values) => self.reader.memory.u64(values.wrapping_add(at * 8)),
                None => memory.u64(entry.wrapping_add(key_at + 8)),
            };
            let (key, value) = match (key, value) {
                // An image has as many as it was to have.
                (Err(_), _) | (_, Err(_)) if self.reader.is_image() => break,
                (key, value) => (key?, value?),
            };
            // Removed, or not set in this instance.
            if key != 0 && value != 0 {
                pairs.push((key, value));
            }
        }
        Ok(pairs)
    }

    /// Attributes of an instance: those in its dict or inline, those in slots, then those of types written in C.
    pub(super) fn attributes(
        &self,
        object: u64,
        found: &Type,
        limit: usize,
    ) -> Result<Attributes, ReadError> {
        let (pairs, mut length) = self.instance_dict(object, found, limit)?;
        let mut fields = Vec::new();
        for (key, value) in pairs {
            fields.push((self.reader.name(key)?, value));
        }
        for (name, offset) in &found.slots {
            let value = self.reader.memory.u64(object.wrapping_add(*offset))?;
            if value == 0 || matches!(name.as_str(), "__dict__" | "__weakref__") {
                continue;
            }
            length += 1;
            if fields.len() < limit {
                fields.push((name.clone(), value));
            }
        }
        for (name, offset) in self.reader.members(found)?.iter() {
            let value = self.reader.memory.u64(object.wrapping_add(*offset))?;
            // One that was never set reads as None in Python.
            if value == 0 || self.reader.type_of(value).is_ok_and(|found| found.full_name == "NoneType") {
                continue;
            }
            length += 1;
            if fields.len() < limit {
                fields.push((name.clone(), value));
            }
        }
        Ok((fields, length))
    }

    /// One attribute.
    pub(super) fn attribute(&self, object: u64, found: &Type, name: &str) -> Result<Option<u64>, ReadError> {
        let (fields, _) = self.attributes(object, found, 64)?;
        Ok(fields.into_iter().find(|(field, _)| field == name).map(|(_, value)| value))
    }

    fn instance_dict(&self, object: u64, found: &Type, limit: usize) -> Result<Pairs, ReadError> {
        match attributes_of(self.reader, object, found)? {
            AttributesAt::Nowhere => Ok((Vec::new(), 0)),
            AttributesAt::Dict(dict) => self.dict_pairs(dict, limit),
            AttributesAt::Inline { keys, values } => {
                // A little more than the limit tells whether there is more.
                let lasting = self.reader.lasting();
                let mut pairs = self.key_pairs(lasting, keys, Some(values), limit.saturating_add(256))?;
                let length = pairs.len() as u64;
                pairs.truncate(limit);
                Ok((pairs, length))
            }
        }
    }
}

/// The entries of a `PyDictKeysObject`.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyTable {
    /// Address of the first.
    pub entries: u64,
    /// How many there are, removed ones included.
    pub count: u64,
    /// Bytes of one.
    pub size: u64,
    /// Offset of the key in one; the value follows it.
    pub key_at: u64,
}

/// Where the entries of a `PyDictKeysObject` are.
pub(super) fn key_table(
    memory: &dyn MemorySource,
    layout: &Layout,
    keys: u64,
) -> Result<KeyTable, ReadError> {
    // CPython `Objects/dict-common.h` to 3.10, `Include/internal/pycore_dict.h` since.
    let (entries, count, wide) = match layout.dict {
        DictLayout::Sized => {
            let size = memory.u64(keys.wrapping_add(8))?;
            let width = match size {
                0..=0xff => 1,
                0x100..=0xffff => 2,
                0x1_0000..=0xffff_ffff => 4,
                _ => return Err(ReadError::Invalid("dict")),
            };
            (keys.wrapping_add(40 + size * width), memory.u64(keys.wrapping_add(32))?, true)
        }
        DictLayout::Logarithmic => {
            // A mutex is in front of `dk_nentries` and behind `dk_kind` in builds without a GIL.
            let index_bytes = memory.u8(keys.wrapping_add(9))?;
            let general = memory.u8(keys.wrapping_add(10))? == 0;
            if index_bytes > 40 {
                return Err(ReadError::Invalid("dict"));
            }
            let count = memory.u64(keys.wrapping_add(24))?;
            (keys.wrapping_add(32).wrapping_add(1 << index_bytes), count, general)
        }
    };
    if count > MAX_LENGTH {
        return Err(ReadError::Invalid("dict"));
    }
    let (size, key_at) = if wide { (24, 8) } else { (16, 0) };
    Ok(KeyTable { entries, count, size, key_at })
}

/// Where an instance has its attributes besides its slots.
#[derive(Debug, Clone, Copy)]
pub(super) enum AttributesAt {
    /// It has none.
    Nowhere,
    /// In a dict.
    Dict(u64),
    /// Keys shared with other instances, and its own values.
    Inline { keys: u64, values: u64 },
}

/// Where an instance of this type has its attributes.
pub(super) fn attributes_of(
    reader: &Reader<'_>,
    object: u64,
    found: &Type,
) -> Result<AttributesAt, ReadError> {
    let (memory, layout) = (reader.memory, &reader.layout);
    let before = |offset: u64| memory.u64(object.wrapping_sub(offset));
    let mut dict = 0;
    if found.has(flags::MANAGED_DICT) {
        let mut inline = 0;
        match layout.managed {
            ManagedDict::None => {}
            ManagedDict::Pair => (inline, dict) = (before(32)?, before(24)?),
            ManagedDict::Tagged => match before(24)? {
                word if word & 1 == 1 => inline = word.wrapping_add(1),
                word => dict = word,
            },
            ManagedDict::Inline(offset) => {
                dict = before(offset)?;
                if dict == 0 && found.has(flags::INLINE_VALUES) {
                    let size = u64::try_from(found.basic_size).unwrap_or(0);
                    // `_dictvalues`: capacity, size, embedded, valid; the values behind.
                    let values = object.wrapping_add(size);
                    inline = if memory.u8(values.wrapping_add(3))? == 1 { values.wrapping_add(8) } else { 0 };
                }
            }
        }
        if dict == 0 && inline != 0 {
            // Of the type, whose keys only grow: they have all that the instance has.
            let keys = reader.lasting().u64(found.address.wrapping_add(layout.object.ht_cached_keys))?;
            return Ok(AttributesAt::Inline { keys, values: inline });
        }
    } else if found.dict_offset > 0 {
        dict = memory.u64(object.wrapping_add(found.dict_offset.cast_unsigned()))?;
    } else if found.dict_offset < 0 {
        // At the end of an object of variable size.
        let items = memory.i64(object.wrapping_add(layout.object.ob_size))?;
        // An `int` has the number of its digits above three bits of its tag since 3.12.
        let items = if found.has(flags::LONG) && layout.minor >= 12 {
            items.cast_unsigned() >> 3
        } else {
            items.unsigned_abs()
        };
        let item_size = u64::try_from(found.item_size).unwrap_or(0);
        let size = u64::try_from(found.basic_size).unwrap_or(0);
        let size = size.wrapping_add(items.wrapping_mul(item_size)).wrapping_add(7) & !7;
        dict = memory.u64(object.wrapping_add(size).wrapping_add_signed(found.dict_offset))?;
    }
    if dict == 0 || !reader.type_of(dict)?.has(flags::DICT) {
        return Ok(AttributesAt::Nowhere);
    }
    Ok(AttributesAt::Dict(dict))
}
