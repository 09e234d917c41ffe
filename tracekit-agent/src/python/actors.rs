//! What the kernel side is told of asyncio and of executors, so that it can tell who acts.
//!
//! Their C modules export no symbols, but their types say where their functions are: `tp_init` of
//! `_asyncio.Task`, and the method `put` of the queue that executors use. All of that is in `sys.modules`.

use tracekit_common::ABSENT;
use tracekit_common::actor::{Actors, GREENLETS, SIZED_KEYS};

use super::greenlets;
use super::kernel::small;
use super::layout::DictLayout;
use super::memory::MemorySource as _;
use super::modules::Modules;
use super::runtime::Target;

/// Methods of a type at most.
const MAX_METHODS: u64 = 64;
/// Characters of a name of one at most.
const MAX_NAME: usize = 256;
/// `sizeof(PyMethodDef)`
const DEFINITION: u64 = 32;
/// `METH_FASTCALL`: Include/methodobject.h
const METH_FASTCALL: u32 = 0x80;
/// Bytes from `ob_type` to `tp_dealloc`: `ob_size`, `tp_name`, `tp_basicsize` and `tp_itemsize` are between (`PyTypeObject`).
const TP_DEALLOC: u64 = 40;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handles {
    /// Where the kernel side reads.
    pub actors: Actors,
    /// The function that initialises tasks, once `_asyncio` is loaded.
    pub task_init: Option<u64>,
    /// The function that puts an item into a queue, once `concurrent.futures.thread` is loaded.
    pub queue_put: Option<u64>,
    /// The function that puts an item into a queue that is written in Python, once there is one.
    pub deque_append: Option<u64>,
    /// The function that initialises greenlets, once it is known where threads keep theirs.
    pub greenlet_init: Option<u64>,
    /// The function that frees them.
    pub greenlet_dealloc: Option<u64>,
}

/// What a process has loaded so far; `None` if it is not known how its interpreter lays that out.
#[must_use]
pub fn find(modules: &Modules<'_, '_, '_>) -> Option<Handles> {
    let mut handles = Handles {
        actors: offsets(modules.target)?,
        task_init: None,
        queue_put: None,
        deque_append: None,
        greenlet_init: None,
        greenlet_dealloc: None,
    };
    Loaded(modules).fill(&mut handles);
    Some(handles)
}

fn offsets(target: &Target) -> Option<Actors> {
    let layout = &target.layout;
    let task = &layout.task;
    let optional = |offset: Option<u64>| offset.map_or(Some(ABSENT), small);
    Some(Actors {
        current_tasks: 0,
        item_type: 0,
        worker_code: 0,
        channel_type: 0,
        greenlet_type: 0,
        future_type: 0,
        context: small(task.context)?,
        chunk: optional(task.chunk)?,
        running_task: optional(task.running_task)?,
        task_context: small(task.task_context)?,
        dict_keys: small(layout.object.dict_keys)?,
        flags: if layout.dict == DictLayout::Sized { SIZED_KEYS } else { 0 },
        object_type: small(layout.object_type)?,
        code_name: small(layout.code.name)?,
        code_qualname: small(layout.code.qualname)?,
        str_ascii: small(layout.object.str_ascii)?,
        frame_locals: small(layout.frame.locals)?,
        future_callback: small(task.future_callback)?,
        greenlet_module: 0,
        greenlet_slot: 0,
    })
}

/// Modules that are looked for.
pub(super) const MODULES: [&str; 8] = [
    "_asyncio",
    "concurrent.futures.thread",
    "queue",
    "anyio._backends._asyncio",
    "_collections",
    "waitress.channel",
    // Before 1.0 all of it.
    "greenlet",
    "greenlet._greenlet",
];

struct Loaded<'a, 't, 'r, 'm>(&'a Modules<'t, 'r, 'm>);

impl Loaded<'_, '_, '_, '_> {
    fn fill(&self, handles: &mut Handles) {
        let actors = &mut handles.actors;
        if let Some(task) = self.0.member("_asyncio", "Task") {
            actors.future_type = self.0.member("_asyncio", "Future").unwrap_or(0);
            handles.task_init = self.function(task, self.0.target.layout.task.tp_init);
            if actors.running_task == ABSENT {
                actors.current_tasks = self.0.member("_asyncio", "_current_tasks").unwrap_or(0);
            }
        }
        // Libraries of greenlets put other queues there: gevent one of Cython, eventlet one of Python.
        if let Some(item) = self.0.member("concurrent.futures.thread", "_WorkItem")
            && let Some(queue) = self.0.member("queue", "SimpleQueue")
        {
            handles.queue_put = self.method(queue, "put");
            if handles.queue_put.is_none() {
                handles.deque_append = self.deque_append();
            }
            if handles.queue_put.is_some() || handles.deque_append.is_some() {
                actors.item_type = item;
            }
        }
        if let Some(channel) = self.0.member("waitress.channel", "HTTPChannel") {
            handles.deque_append = self.deque_append();
            actors.channel_type = if handles.deque_append.is_some() { channel } else { 0 };
        }
        if self.0.has("greenlet") || self.0.has("greenlet._greenlet") {
            actors.flags |= GREENLETS;
        }
        if let Some(greenlet) = self.0.member("greenlet._greenlet", "greenlet")
            && let Some(place) = greenlets::place(self.0.objects.reader, self.0.target, greenlet)
        {
            let layout = &self.0.target.layout;
            handles.greenlet_init = self.function(greenlet, layout.task.tp_init);
            handles.greenlet_dealloc = self.function(greenlet, layout.object_type + TP_DEALLOC);
            actors.greenlet_type = greenlet;
            (actors.greenlet_module, actors.greenlet_slot) = place;
        }
        actors.worker_code = self.worker().unwrap_or(0);
    }

    /// The function in a slot of a type.
    fn function(&self, kind: u64, slot: u64) -> Option<u64> {
        self.0.target.memory.u64(kind.wrapping_add(slot)).ok().filter(|function| *function != 0)
    }

    fn deque_append(&self) -> Option<u64> {
        self.method(self.0.member("_collections", "deque")?, "append")
    }

    /// The function of a method.
    fn method(&self, kind: u64, wanted: &str) -> Option<u64> {
        let Target { memory, layout, .. } = self.0.target;
        let table = memory.u64(kind.wrapping_add(layout.object.tp_methods)).ok()?;
        for index in 0..if table == 0 { 0 } else { MAX_METHODS } {
            let Some(definition) = self.definition(table.wrapping_add(index * DEFINITION)) else { break };
            if definition.0 == wanted.as_bytes() {
                return Some(definition.1);
            }
        }
        // Methods of Cython are functions, each with a definition of its own (`PyCFunctionObject.m_ml`).
        let dict = memory.u64(kind.wrapping_add(layout.object.tp_dict)).ok().filter(|dict| *dict != 0)?;
        let function = self.0.objects.dict_entry(dict, wanted).ok()??;
        let row = memory.u64(function.wrapping_add(layout.object_type + 8)).ok()?;
        let (name, address) = self.definition(row)?;
        let flags = memory.u32(row.wrapping_add(16)).ok()?;
        (name == wanted.as_bytes() && flags & METH_FASTCALL != 0).then_some(address)
    }

    /// Name and function of a `PyMethodDef`, of which flags and documentation follow.
    fn definition(&self, row: u64) -> Option<(Vec<u8>, u64)> {
        let memory = &self.0.target.memory;
        let name = memory.u64(row).ok().filter(|name| *name != 0)?;
        Some((memory.c_string(name, MAX_NAME).ok()?, memory.u64(row.wrapping_add(8)).ok()?))
    }

    /// The code of `WorkerThread.run` of anyio.
    fn worker(&self) -> Option<u64> {
        let Target { memory, layout, .. } = self.0.target;
        let worker = self.0.member("anyio._backends._asyncio", "WorkerThread")?;
        let dict = memory.u64(worker.wrapping_add(layout.object.tp_dict)).ok()?;
        let run = self.0.objects.dict_entry(dict, "run").ok()??;
        memory.u64(run.wrapping_add(layout.object.function_code)).ok().filter(|code| *code != 0)
    }
}
