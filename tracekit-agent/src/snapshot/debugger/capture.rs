//! A hit as a snapshot.

use std::cell::OnceCell;
use std::sync::Arc;

use jiff::Timestamp;
use tracekit_common::python::END_LIMIT;
use tracekit_common::watchpoint::{IMAGE_FULL, QUEUE_FULL, UNREADABLE};

use super::Moment;
use super::line::Member;
use crate::python::frame::instruction_offset;
use crate::python::object::{Limits, Value};
use crate::python::reader::{ReadError, Reader};
use crate::redact::Redactor;
use crate::snapshot::engine::Hit;
use crate::snapshot::expression::{Context, Limits as Evaluation, Scope};
use crate::snapshot::record::{Frame, Process, Snapshot, Thread, Truncated, Watch};
use crate::trace::span::Resource;

/// A hit, and what is known beside it.
pub struct Captured<'h> {
    pub hit: Hit<'h>,
    pub moment: Moment,
    pub resource: &'h Arc<Resource>,
    /// `CLOCK_MONOTONIC` to Unix time.
    pub unix_offset: u64,
    pub scope: OnceCell<Option<Scope>>,
}

impl Captured<'_> {
    /// Evaluates something on the image; `None` if not even the frame is in it.
    pub fn context<T>(&self, redactor: &Redactor, evaluate: impl FnOnce(&Context<'_>) -> T) -> Option<T> {
        let reader = Reader::of_image(&self.hit.raw.image, self.hit.live);
        let scope = self.scope.get_or_init(|| {
            let frame = self.hit.raw.frame(self.hit.live).ok()?;
            Scope::of_frame(&reader, &frame).ok()
        });
        let limits = Evaluation { value: self.hit.limits, ..Evaluation::default() };
        Some(evaluate(&Context { reader: &reader, scope: scope.as_ref()?, limits, redactor }))
    }

    /// The snapshot, and how many expressions had no value.
    ///
    /// # Errors
    /// Not even the frame was captured.
    pub fn snapshot(
        &self,
        member: &Member,
        hits: u64,
        redactor: &Redactor,
    ) -> Result<(Snapshot, u64), ReadError> {
        let breakpoint = &member.breakpoint;
        let limits = &breakpoint.limits;
        let record = &self.hit.raw.record;
        let mut undefined = 0;
        let mut truncated = Vec::new();
        let mut cut = |what: &str, by: &'static str| truncated.push(Truncated { what: what.to_owned(), by });

        let locals = if limits.frames > 0 {
            let bounds = limits.of_values();
            let bounds = Limits { items: bounds.items.min(self.hit.limits.items), ..bounds };
            let flags = [(IMAGE_FULL, "bytes"), (QUEUE_FULL, "objects"), (UNREADABLE, "unreadable")];
            flags
                .into_iter()
                .filter(|(flag, _)| record.flags & flag != 0)
                .for_each(|(_, by)| cut("locals", by));
            Some(self.hit.raw.variables(self.hit.live, bounds, true)?)
        } else {
            None
        };
        let mut stack = self.stack(locals)?;
        let most = usize::try_from(limits.stack).unwrap_or(usize::MAX);
        if stack.len() > most || record.end == END_LIMIT {
            cut("stack", "stack");
        }
        stack.truncate(most);

        let watches = member.watches.iter().map(|expression| {
            let outcome = self.context(redactor, |context| expression.evaluate(context));
            let (result, late) = match outcome {
                Some(outcome) => (outcome.value.map_err(|reason| reason.to_string()), outcome.late),
                None => (Err("the frame was not captured".to_owned()), false),
            };
            undefined += u64::from(result.is_err());
            Watch { expression: expression.text().to_owned(), result, late }
        });
        let watches = watches.collect();
        let message = match &member.template {
            Some(template) => {
                let rendered = self.context(redactor, |context| template.render(context));
                let rendered = rendered.ok_or(ReadError::Invalid("frame"))?;
                undefined += rendered.undefined.len() as u64;
                Some(rendered.text)
            }
            None => None,
        };
        let (pid, tid) = (record.tgid, record.tid);
        let time = i128::from(record.time.saturating_add(self.unix_offset));
        let snapshot = Snapshot {
            id: Snapshot::random_id(),
            breakpoint: Arc::clone(breakpoint),
            time: Timestamp::from_nanosecond(time).unwrap_or_default(),
            hit: hits,
            skipped: member.skipped,
            process: Process { pid, resource: Arc::clone(self.resource) },
            thread: Thread { tid, name: thread_name(pid, tid) },
            stack,
            watches,
            message,
            request: self.moment.request.clone(),
            span: self.moment.span,
            truncated,
            redacted: Vec::new(),
        };
        Ok((snapshot, undefined))
    }

    /// Functions and lines, the newest first; these variables are its.
    fn stack(&self, locals: Option<Vec<(String, Value)>>) -> Result<Vec<Frame>, ReadError> {
        let (live, raw) = (self.hit.live, &self.hit.raw);
        let line_of = |line: i32| u32::try_from(line).ok();
        let own = live.code(raw.record.code)?;
        let mut stack = vec![Frame {
            function: own.qualname.clone(),
            file: own.filename.clone(),
            line: line_of(self.hit.line),
            locals,
        }];
        for frame in raw.frames.iter().skip(1) {
            // Its memory is another's since: the others still hold.
            let Ok(code) = live.code(frame.code) else { continue };
            let offset = instruction_offset(live.memory, &live.layout, &code, frame.instruction);
            stack.push(Frame {
                function: code.qualname.clone(),
                file: code.filename.clone(),
                line: offset.and_then(|offset| code.line_at(offset)).and_then(line_of),
                locals: None,
            });
        }
        Ok(stack)
    }
}

/// The name that the kernel has for a thread, which Python 3.14 sets.
fn thread_name(pid: u32, tid: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}
