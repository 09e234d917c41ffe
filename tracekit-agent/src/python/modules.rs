//! What a process has imported: `sys.modules`, looked through once for all who ask.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Duration;

use super::kernel::main_interpreter;
use super::memory::MemorySource as _;
use super::object::Decoder;
use super::object::Limits;
use super::object::access::{Attribute, Container, Objects};
use super::object::budget::{AccessError, Budget};
use super::reader::{ReadError, Reader, flags};
use super::runtime::Target;
use super::{actors, sdk};

/// What looking through `sys.modules` may cost.
const STEPS: u32 = 200_000;
const TIME: Duration = Duration::from_secs(1);
/// Characters of a module's name at most.
const MAX_NAME: usize = 64;
/// Items of a container that are looked at.
const MAX_ITEMS: usize = 1024;

/// Tells whether modules were imported since: it differs then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    keys: u64,
    used: u64,
}

/// Cheap: three words are read. `None` if they can't be.
#[must_use]
pub fn mark(target: &Target) -> Option<Mark> {
    target.memory.forget();
    let (memory, offsets) = (&target.memory, &target.layout.object);
    let modules = modules_dict(target)?;
    let keys = memory.u64(modules.wrapping_add(offsets.dict_keys)).ok()?;
    let used = memory.u64(modules.wrapping_add(offsets.dict_used)).ok()?;
    Some(Mark { keys, used })
}

fn modules_dict(target: &Target) -> Option<u64> {
    let interpreter = main_interpreter(target)?;
    target.memory.u64(interpreter.wrapping_add(target.layout.task.modules)).ok()
}

/// The modules that somebody here wants to look into, as far as they are imported.
pub struct Modules<'t, 'r, 'm> {
    /// Looks into them.
    pub objects: Objects<'r, 'm>,
    /// Whose they are.
    pub target: &'t Target,
    /// The addresses of their dicts.
    dicts: HashMap<&'static str, u64>,
    failed: Cell<bool>,
}

/// Looks through `sys.modules` and gives `look` what is wanted of it. `None` if it is not known how this
/// interpreter lays that out, or it could not be read.
pub fn read<T>(target: &Target, look: impl FnOnce(&Modules<'_, '_, '_>) -> Option<T>) -> Option<T> {
    // Objects of builds without a GIL differ in more than their header.
    if target.layout.free_threaded {
        return None;
    }
    target.memory.forget();
    let reader = Reader::new(&target.memory, target.layout);
    let budget = Budget::new(STEPS, TIME);
    let started = std::time::Instant::now();
    let objects = Objects::new(&reader, &budget);
    let wanted: HashMap<usize, Vec<&'static str>> =
        actors::MODULES.iter().chain(sdk::modules()).fold(HashMap::new(), |mut wanted, name| {
            wanted.entry(name.len()).or_insert_with(Vec::new).push(*name);
            wanted
        });
    let mut dicts = HashMap::new();
    let (memory, layout) = (&target.memory, &target.layout);
    let looked = objects.each_entry::<(), AccessError>(modules_dict(target)?, |key, module| {
        if let Some(name) = one_of(&objects, key, &wanted)? {
            dicts.insert(name, memory.u64(module.wrapping_add(layout.object.module_dict))?);
        }
        Ok(ControlFlow::Continue(()))
    });
    if let Err(error) = looked {
        tracing::debug!(pid = target.pid, %error, "sys.modules");
        return None;
    }
    let found = look(&Modules { objects, target, dicts, failed: Cell::new(false) });
    tracing::debug!(pid = target.pid, took = ?started.elapsed(), "sys.modules");
    found
}

/// Which of these a key is, if it is a `str`. They are given by their length.
fn one_of(
    objects: &Objects<'_, '_>,
    key: u64,
    wanted: &HashMap<usize, Vec<&'static str>>,
) -> Result<Option<&'static str>, AccessError> {
    objects.budget.take(1)?;
    let reader = objects.reader;
    let length = reader.memory.u64(key.wrapping_add(reader.layout.object.str_length))?;
    let Some(names) = usize::try_from(length).ok().and_then(|length| wanted.get(&length)) else {
        return Ok(None);
    };
    if !reader.type_of(key)?.has(flags::STR) {
        return Ok(None);
    }
    let text = reader.text(key, MAX_NAME)?.text;
    Ok(names.iter().find(|name| **name == text).copied())
}

impl Modules<'_, '_, '_> {
    /// Something could not be read, so that what was not found may be there all the same.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.failed.get()
    }

    fn sure<T, E>(&self, result: Result<T, E>) -> Option<T> {
        if result.is_err() {
            self.failed.set(true);
        }
        result.ok()
    }

    /// The module is imported.
    #[must_use]
    pub fn has(&self, module: &str) -> bool {
        self.dicts.contains_key(module)
    }

    /// What a module has under this name.
    #[must_use]
    pub fn member(&self, module: &str, name: &str) -> Option<u64> {
        self.sure(self.objects.dict_entry(*self.dicts.get(module)?, name))?
    }

    /// What a class has itself under this name, not what it inherits.
    #[must_use]
    pub fn of_class(&self, class: u64, name: &str) -> Option<u64> {
        let reader = self.objects.reader;
        if !self.sure(reader.type_of(class))?.has(flags::TYPE) {
            return None;
        }
        let dict = self.sure(reader.memory.u64(class.wrapping_add(reader.layout.object.tp_dict)))?;
        self.entry(dict, name)
    }

    /// The value of a key of a dict.
    #[must_use]
    pub fn entry(&self, dict: u64, name: &str) -> Option<u64> {
        self.sure(self.objects.dict_entry(dict, name))?
    }

    /// An attribute of an instance.
    #[must_use]
    pub fn attribute(&self, object: u64, name: &str) -> Option<u64> {
        match self.sure(self.objects.attribute(object, name))? {
            Attribute::Object(value) | Attribute::Lasting(value) => Some(value),
            _ => None,
        }
    }

    /// The object is `True`.
    #[must_use]
    pub fn is_true(&self, object: u64) -> bool {
        let reader = self.objects.reader;
        let is_bool = self.sure(reader.type_of(object)).is_some_and(|kind| kind.full_name == "bool");
        let decoder = Decoder::new(reader, Limits::default(), false);
        is_bool && self.sure(decoder.integer(object)).flatten().is_some_and(|digits| digits == "1")
    }

    /// The object is `None`.
    #[must_use]
    pub fn is_none(&self, object: u64) -> bool {
        self.sure(self.objects.reader.type_of(object)).is_some_and(|kind| kind.full_name == "NoneType")
    }

    /// The object is an instance of this class, or of one that inherits from it.
    #[must_use]
    pub fn is_instance(&self, object: u64, class: u64) -> bool {
        let kind = self.objects.reader.type_address(object);
        let bases = kind.map_err(AccessError::from).and_then(|kind| self.objects.classes().bases(kind));
        self.sure(bases).is_some_and(|bases| bases.contains(&class))
    }

    /// How many items a tuple, list, set or dict has.
    #[must_use]
    pub fn length(&self, object: u64) -> Option<u64> {
        self.sure(self.objects.length(object, self.container(object)?))
    }

    /// The texts in a list, tuple or set; empty if it is none.
    #[must_use]
    pub fn texts(&self, object: u64) -> Vec<String> {
        let reader = self.objects.reader;
        let items = self.container(object).filter(|kind| *kind != Container::Dict).and_then(|container| {
            let (items, _) = self.sure(self.objects.items(object, container, MAX_ITEMS))?;
            Some(items)
        });
        let text = |item: u64| -> Result<Option<String>, ReadError> {
            let is_text = reader.type_of(item)?.has(flags::STR);
            if is_text { reader.text(item, MAX_NAME).map(|text| Some(text.text)) } else { Ok(None) }
        };
        items.unwrap_or_default().into_iter().filter_map(|item| self.sure(text(item)).flatten()).collect()
    }

    fn container(&self, object: u64) -> Option<Container> {
        let kind = self.sure(self.objects.reader.type_of(object))?;
        Some(match kind.full_name.as_str() {
            "list" => Container::List,
            "tuple" => Container::Tuple,
            "set" | "frozenset" => Container::Set,
            "dict" => Container::Dict,
            _ => return None,
        })
    }
}
