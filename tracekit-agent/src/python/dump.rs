//! The stacks of a process with their variables, and which of them hold.
//!
//! The process runs on while it is read, so what is read may be of different moments. Two things tell:
//!
//! - The kernel says which threads did not run meanwhile ([`super::rest`]). The stack of such a thread, and all
//!   that it refers to and that cannot change (numbers, strings, tuples of them), is exact: it holds references,
//!   so nothing of it was freed.
//! - Everything is read twice and compared ([`super::memory`]). What is equal was so at the moment between
//!   the two readings, all of it together, unless it changed and changed back around that moment.
//!
//! A thread is marked `changing` if it may have run, and a variable if something that its value was made from
//! was not the same in both readings. A value with neither mark is one that the variable had, whole: it can
//! be wrong only if it is a container that *another* thread changed and changed back meanwhile. In a thread
//! that is marked, a variable without a mark was the same in two readings; memory that is freed and used
//! again all the time can look so, which is why the mark of the thread stays.
//!
//! Threads with any mark are read again by themselves, which takes less time, so their moment may be another
//! one than the other threads'. What a breakpoint captures has no such limits: the thread stands still there.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use super::frame::{Frame, Stack, each_local, locals_dict, still_there, walk};
use super::object::{Content, Decoder, Limits, Value};
use super::reader::Reader;
use super::rest::Rest;
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
    /// It ran, or may have, in every attempt to read it: frames and variables may be of different moments.
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
    /// How much of it is marked.
    marks: usize,
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
        let wanted = states.into_iter().filter_map(|state| {
            let tid = state.native_id.and_then(|id| tids.get(&id)).copied();
            wanted(&state, tid).then_some((state, tid))
        });
        let mut drafts = self.attempt(reader, variables, true, wanted.collect())?;
        let limit = variables.map_or(Limits::default().time, |variables| variables.limits.time);
        for draft in &mut drafts {
            for _ in 1..ATTEMPTS {
                if draft.marks == 0 || start.elapsed() > limit {
                    break;
                }
                let thread = vec![(draft.thread.state.clone(), draft.thread.tid)];
                for again in self.attempt(reader, variables, false, thread)? {
                    if again.marks <= draft.marks {
                        *draft = again;
                    }
                }
            }
        }
        let mut threads: Vec<ThreadStack> = drafts.into_iter().map(|draft| draft.thread).collect();
        for thread in &mut threads {
            thread.name = thread.tid.and_then(|tid| self.thread_name(tid));
        }
        Ok(threads)
    }

    /// Reads threads in one pass.
    fn attempt(
        &self,
        reader: &Reader<'_>,
        variables: Option<Variables>,
        whole: bool,
        threads: Vec<(ThreadState, Option<u32>)>,
    ) -> Result<Vec<Draft>, AttachError> {
        let rests: Vec<Option<Rest>> = threads.iter().map(|(_, tid)| self.rest(*tid)).collect();
        self.memory.begin(whole);
        let mut decoder = variables.map(|variables| Decoder::new(reader, variables.limits, variables.redact));
        let drafts = threads.into_iter().map(|(state, tid)| self.draft(reader, state, tid, decoder.as_mut()));
        let mut drafts: Vec<Draft> = drafts.collect();
        self.settle(reader, &mut drafts, whole)?;
        for (draft, rest) in drafts.iter_mut().zip(rests) {
            let rested = rest.is_some() && rest == self.rest(draft.thread.tid);
            if !rested {
                draft.marks += usize::from(!draft.thread.changing);
                draft.thread.changing = true;
            }
        }
        Ok(drafts)
    }

    /// The thread does not run now.
    fn rest(&self, tid: Option<u32>) -> Option<Rest> {
        Rest::now(&self.proc_path(&format!("task/{}/status", tid?)))
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
        Draft { thread, stack: walked, variables, marks: 0 }
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

    /// Ends the pass and marks what is not the same in the second reading.
    fn settle(&self, reader: &Reader<'_>, drafts: &mut [Draft], whole: bool) -> Result<(), AttachError> {
        let changes = self.memory.recheck(whole);
        let changes = changes.map_err(|error| AttachError::Memory { pid: self.pid, error })?;
        for Draft { thread, stack: read, variables, marks } in drafts {
            let all = thread.frames.len();
            let (confirmed, is_still) = if changes.shared() {
                (0, false)
            } else if changes.in_range(read) {
                newest_frame(reader, &thread.state)
                    .map_or((0, false), |newest| still_there(reader, newest, &thread.stack))
            } else {
                (all, true)
            };
            thread.changing = !is_still || thread.stack.broken.is_some();
            *marks += usize::from(thread.changing);
            for (at, (frame, read)) in thread.frames.iter_mut().zip(variables).enumerate() {
                frame.changing = at < all.saturating_sub(confirmed);
                for (variable, read) in frame.variables.iter_mut().flatten().zip(read) {
                    variable.changing = frame.changing || changes.in_range(read);
                    *marks += usize::from(variable.changing);
                }
            }
        }
        Ok(())
    }
}

/// A thread state but for what it does at the moment.
fn place(state: &ThreadState) -> ThreadState {
    ThreadState { holds_gil: None, ..state.clone() }
}
