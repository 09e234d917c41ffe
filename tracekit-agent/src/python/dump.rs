//! The stacks of a process with their variables, and which of them hold.
//!
//! The process runs on while it is read, so what is read may be of different moments. A pass (see
//! [`super::memory`]) reads everything twice; what is not marked `changing` was so, all of it together, at one
//! moment between the two readings. Threads with something that is marked are read again by themselves, which
//! takes less time, so their moment may be another one than the other threads'.
//!
//! What this cannot notice: memory that changed and changed back within the pass, which takes some hundred
//! microseconds for a thread. Python objects that are made anew are almost always elsewhere or different; a
//! flag that is toggled all the time may be combined with a neighbour's state of a moment earlier. What a
//! breakpoint captures has no such limits: the thread itself stands still there.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use super::frame::{Frame, Stack, each_local, locals_dict, still_there, walk};
use super::object::{Content, Decoder, Limits, Value};
use super::reader::Reader;
use super::runtime::{AttachError, Target};
use super::thread::{ThreadState, newest_frame, thread_states};

/// Readings of what changes meanwhile.
const ATTEMPTS: usize = 4;

/// A thread and what it runs.
#[derive(Debug, Clone)]
pub struct ThreadStack {
    /// The thread state.
    pub state: ThreadState,
    /// Thread id in the agent's pid namespace.
    pub tid: Option<u32>,
    /// The thread's name as the kernel knows it.
    pub name: Option<String>,
    /// Its stack.
    pub stack: Stack,
    /// The stack changed in every attempt to read it: frames may be of different moments.
    pub changing: bool,
    /// What is known of each of the frames.
    pub frames: Vec<FrameState>,
}

/// What is known of a frame beyond its place.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FrameState {
    /// It returned while it was read: its variables may be those of nobody any more.
    pub changing: bool,
    /// Its variables; `None` if they were not asked for.
    pub variables: Option<Vec<Variable>>,
}

/// A variable of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Value,
    /// It, or something that it contains, changed while it was read: its parts may be of different moments,
    /// or never have been.
    pub changing: bool,
}

/// How variables are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variables {
    /// What bounds them, for all threads together.
    pub limits: Limits,
    /// Hide what looks like a secret.
    pub redact: bool,
}

/// A thread as it was read first: what follows says whether it holds.
struct Draft {
    thread: ThreadStack,
    /// What its stack was read from.
    stack: Range<usize>,
    /// What each variable was read from.
    variables: Vec<Vec<Range<usize>>>,
}

impl Target {
    /// The threads that have a thread state and their stacks, in the order in which they were started; or
    /// only those of them that are wanted. With `variables`, also those of every frame.
    ///
    /// # Errors
    /// [`AttachError`] if the list of threads cannot be read. A stack that cannot says so itself.
    pub fn stacks(
        &self,
        reader: &Reader<'_>,
        variables: Option<Variables>,
        wanted: impl Fn(&ThreadState, Option<u32>) -> bool,
    ) -> Result<Vec<ThreadStack>, AttachError> {
        let start = Instant::now();
        let tids = self.thread_ids();
        let mut states = self.states(reader, &tids)?;
        states.reverse();
        self.memory.begin(true);
        let mut decoder =
            variables.map(|variables| Decoder::new(reader, variables.limits, variables.redact));
        let mut drafts: Vec<Draft> = states
            .into_iter()
            .filter_map(|state| {
                let tid = state.native_id.and_then(|id| tids.get(&id)).copied();
                wanted(&state, tid).then(|| self.draft(reader, state, tid, decoder.as_mut()))
            })
            .collect();
        let changed = self.settle(reader, &mut drafts, true)?;
        for (draft, mut is_changed) in drafts.iter_mut().zip(changed) {
            let limit = variables.map_or(Limits::default().time, |variables| variables.limits.time);
            for _ in 1..ATTEMPTS {
                if !is_changed || start.elapsed() > limit {
                    break;
                }
                self.memory.begin(false);
                let mut decoder =
                    variables.map(|variables| Decoder::new(reader, variables.limits, variables.redact));
                let (state, tid) = (draft.thread.state.clone(), draft.thread.tid);
                let mut again = [self.draft(reader, state, tid, decoder.as_mut())];
                is_changed = self.settle(reader, &mut again, false)?.contains(&true);
                let [again] = again;
                *draft = again;
            }
        }
        let mut threads: Vec<ThreadStack> = drafts.into_iter().map(|draft| draft.thread).collect();
        for thread in &mut threads {
            thread.name = thread.tid.and_then(|tid| self.thread_name(tid));
        }
        Ok(threads)
    }

    /// The list of threads, read until it is the same twice: threads come and go.
    fn states(
        &self,
        reader: &Reader<'_>,
        tids: &BTreeMap<u32, u32>,
    ) -> Result<Vec<ThreadState>, AttachError> {
        let read = || {
            self.memory.forget();
            thread_states(reader, self.runtime, tids)
        };
        let mut last = read();
        for _ in 0..ATTEMPTS {
            let now = read();
            let is_same = match (&last, &now) {
                (Ok(last), Ok(now)) => last.iter().map(place).eq(now.iter().map(place)),
                _ => false,
            };
            last = now;
            if is_same {
                break;
            }
        }
        last.map_err(|error| self.mismatch(&error))
    }

    fn draft(
        &self,
        reader: &Reader<'_>,
        state: ThreadState,
        tid: Option<u32>,
        mut decoder: Option<&mut Decoder<'_, '_>>,
    ) -> Draft {
        let start = self.memory.position();
        let stack = match newest_frame(reader, &state) {
            Ok(newest) => walk(reader, newest),
            Err(_) => Stack { broken: Some("the thread has ended".into()), ..Stack::default() },
        };
        let walked = start..self.memory.position();
        let mut variables = Vec::new();
        let mut frames = Vec::new();
        for frame in &stack.frames {
            let (found, read) = match &mut decoder {
                Some(decoder) => {
                    let (found, read) = self.variables(reader, frame, decoder);
                    (Some(found), read)
                }
                None => (None, Vec::new()),
            };
            frames.push(FrameState { changing: false, variables: found });
            variables.push(read);
        }
        let thread = ThreadStack { state, tid, name: None, stack, changing: false, frames };
        Draft { thread, stack: walked, variables }
    }

    /// The variables of a frame and what each was read from. Of modules' and classes' bodies, names with two
    /// underscores are left out.
    fn variables(
        &self,
        reader: &Reader<'_>,
        frame: &Frame,
        decoder: &mut Decoder<'_, '_>,
    ) -> (Vec<Variable>, Vec<Range<usize>>) {
        let start = self.memory.position();
        let variable = |name: String, value: Value| Variable { name, value, changing: false };
        if let Ok(Some(dict)) = locals_dict(reader, frame) {
            let Content::Entries(entries) = decoder.value(dict).content else { return Default::default() };
            let named = entries.into_iter().filter_map(|(key, value)| match key.content {
                Content::Str(name) if !name.starts_with("__") => Some(variable(name, value)),
                _ => None,
            });
            let found: Vec<Variable> = named.collect();
            let read = vec![start..self.memory.position(); found.len()];
            return (found, read);
        }
        let (mut found, mut read) = (Vec::new(), Vec::new());
        let mut from = start;
        // What cannot be read is not there.
        let _ = each_local(reader, frame, |name, object| {
            found.push(variable(name.to_owned(), decoder.named(name, object)));
            let to = self.memory.position();
            read.push(from..to);
            from = to;
        });
        (found, read)
    }

    /// Ends the pass and marks what does not hold. Returns which threads have something that does not.
    fn settle(
        &self,
        reader: &Reader<'_>,
        drafts: &mut [Draft],
        whole: bool,
    ) -> Result<Vec<bool>, AttachError> {
        let changes = self.memory.recheck(whole);
        let changes = changes.map_err(|error| AttachError::Memory { pid: self.pid, error })?;
        let settled = drafts.iter_mut().map(|Draft { thread, stack: read, variables }| {
            let (confirmed, is_still) = if changes.shared() {
                (0, false)
            } else if changes.in_range(read) {
                newest_frame(reader, &thread.state)
                    .map_or((0, false), |newest| still_there(reader, newest, &thread.stack))
            } else {
                (thread.frames.len(), true)
            };
            thread.changing = !is_still;
            let returned = thread.frames.len() - confirmed.min(thread.frames.len());
            let mut is_changed = !is_still || thread.stack.broken.is_some();
            for (at, (frame, read)) in thread.frames.iter_mut().zip(variables).enumerate() {
                frame.changing = at < returned;
                for (variable, read) in frame.variables.iter_mut().flatten().zip(read) {
                    variable.changing = frame.changing || changes.in_range(read);
                    is_changed |= variable.changing;
                }
            }
            is_changed
        });
        Ok(settled.collect())
    }
}

/// A thread state but for what it does at the moment.
fn place(state: &ThreadState) -> ThreadState {
    ThreadState { holds_gil: None, ..state.clone() }
}
