//! What the kernel side is told of asyncio and of executors, so that it can tell who acts.
//!
//! Their C modules export no symbols, but their types say where their functions are: `tp_init` of
//! `_asyncio.Task`, and the method `put` of `_queue.SimpleQueue`. All of that is in `sys.modules`.

use tracekit_common::ABSENT;
use tracekit_common::actor::{Actors, SIZED_KEYS};

use super::kernel::small;
use super::layout::DictLayout;
use super::memory::MemorySource as _;
use super::modules::Modules;
use super::runtime::Target;

/// Methods of a type at most.
const MAX_METHODS: u64 = 64;
/// Characters of a name of one at most.
const MAX_NAME: usize = 256;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handles {
    /// Where the kernel side reads.
    pub actors: Actors,
    /// The function that initialises tasks, once `_asyncio` is loaded.
    pub task_init: Option<u64>,
    /// The function that puts an item into a queue, once `concurrent.futures.thread` is loaded.
    pub queue_put: Option<u64>,
}

/// What a process has loaded so far; `None` if it is not known how its interpreter lays that out.
#[must_use]
pub fn find(modules: &Modules<'_, '_, '_>) -> Option<Handles> {
    let mut handles = Handles { actors: offsets(modules.target)?, task_init: None, queue_put: None };
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
    })
}

/// Modules that are looked for.
pub(super) const MODULES: [&str; 4] =
    ["_asyncio", "concurrent.futures.thread", "_queue", "anyio._backends._asyncio"];

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
        if let Some(item) = self.0.member("concurrent.futures.thread", "_WorkItem")
            && let Some(queue) = self.0.member("_queue", "SimpleQueue")
        {
            handles.queue_put = self.method(queue, b"put");
            actors.item_type = if handles.queue_put.is_some() { item } else { 0 };
        }
        actors.worker_code = self.worker().unwrap_or(0);
    }

    /// The function in a slot of a type.
    fn function(&self, kind: u64, slot: u64) -> Option<u64> {
        self.0.target.memory.u64(kind.wrapping_add(slot)).ok().filter(|function| *function != 0)
    }

    /// The function of a method: `PyMethodDef` has name, function, flags and doc.
    fn method(&self, kind: u64, wanted: &[u8]) -> Option<u64> {
        let Target { memory, layout, .. } = self.0.target;
        let table = memory.u64(kind.wrapping_add(layout.object.tp_methods)).ok()?;
        for index in 0..if table == 0 { 0 } else { MAX_METHODS } {
            let row = table.wrapping_add(index * 32);
            let name = memory.u64(row).ok().filter(|name| *name != 0)?;
            if memory.c_string(name, MAX_NAME).ok()? == wanted {
                return memory.u64(row.wrapping_add(8)).ok();
            }
        }
        None
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
