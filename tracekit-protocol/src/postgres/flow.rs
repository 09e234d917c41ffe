//! Which answer belongs to which request (PostgreSQL documentation, "Message Flow").
//!
//! The server answers strictly in order, so a queue of what the client sent is enough. Simple queries
//! are one exchange each, however many statements they hold. In the extended protocol the exchange is
//! the execution of a portal; the `Parse` and `Bind` sent for it in the same flight belong to it. A
//! `Parse` or `Bind` that fails without an execution behind it is an exchange too: the statement failed.

use std::collections::VecDeque;
use std::sync::Arc;

use super::message::{self, Rows};
use crate::exchange::SqlSystem;
use crate::framing::Frame;
use crate::statement::{Exchange, Peer, Statement, Statements, ended_by};
use crate::{Close, Event, Limits, Moment, Outcome, Role};

/// Messages of one execution that may wait for their answers: Parse, Bind, Describe, Execute, Close, Sync.
const MESSAGES_PER_EXECUTION: usize = 6;

/// The messages that prepare one execution.
#[derive(Debug, Clone)]
struct Group {
    number: u64,
    start: u64,
    tid: u32,
    statement: Option<Arc<Statement>>,
    /// Name of the statement that was parsed and not yet bound.
    parsed: Option<Vec<u8>>,
    /// Name of the portal that was bound and not yet executed.
    portal: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Parse,
    Bind,
    Describe,
    Close,
}

/// A message of the client that has an answer.
#[derive(Debug)]
enum Op {
    Query(Exchange),
    Step { step: Step, group: Group, replaced: Option<(Vec<u8>, Option<Arc<Statement>>)> },
    Execute { group: u64, exchange: Exchange, copy_out: bool },
    FunctionCall,
    Sync,
}

impl Op {
    fn ends_with_ready(&self) -> bool {
        matches!(self, Self::Query(_) | Self::FunctionCall | Self::Sync)
    }

    fn exchange(&mut self) -> Option<&mut Exchange> {
        match self {
            Self::Query(exchange) | Self::Execute { exchange, .. } => Some(exchange),
            _ => None,
        }
    }
}

/// An answer does not fit what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mismatch;

/// The conversation on one connection.
#[derive(Debug)]
pub(super) struct Flow {
    pub peer: Peer,
    limits: Limits,
    queue: VecDeque<Op>,
    /// The last execution before a `Sync`: its command is complete, its transaction may still fail.
    held: Option<(Exchange, u64)>,
    /// An error came: the server discards what was sent until `Sync`.
    aborted: bool,
    /// The simple query in progress sends the rows of a COPY.
    copy_out: bool,
    groups: u64,
    open: Option<Group>,
    statements: Statements<Vec<u8>>,
    portals: Statements<Vec<u8>>,
    /// More than one `Sync` or query waited at the same time: the client pipelines.
    pub pipelined: bool,
}

impl Flow {
    pub fn new(role: Role, limits: Limits) -> Self {
        Self {
            peer: Peer::new(role, SqlSystem::PostgreSql),
            limits,
            queue: VecDeque::new(),
            held: None,
            aborted: false,
            copy_out: false,
            groups: 0,
            open: None,
            statements: Statements::new(limits.statements),
            portals: Statements::new(limits.statements),
            pipelined: false,
        }
    }

    pub fn idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// The client sent a message.
    pub fn request(&mut self, frame: &Frame, events: &mut Vec<Event>) {
        let kind = frame.header.first().copied().unwrap_or(0);
        if self.queue.is_empty() && kind != b'S' {
            self.release(events);
        }
        if self.queue.len() >= self.limits.in_flight.saturating_mul(MESSAGES_PER_EXECUTION) {
            self.give_up(frame.started.entered, events);
        }
        match kind {
            b'Q' => {
                let text = frame.body.strip_suffix(b"\0").filter(|_| frame.whole());
                let statement = self.statement(None, text.unwrap_or(&frame.body), text.is_some());
                self.open = None;
                let start = self.peer.role.request_start(&frame.started);
                let exchange =
                    Exchange::begin(&mut self.peer, start, frame.started.tid, Some(statement), false, events);
                self.copy_out = false;
                self.push(Op::Query(exchange));
            }
            b'P' => self.parse(frame),
            b'B' => self.bind(frame),
            b'D' => {
                let mut group = self.open.clone().unwrap_or_else(|| self.group(frame, None));
                if group.statement.is_none()
                    && let Some((b'S', name)) = named(&frame.body)
                {
                    group.statement = self.statements.get(name);
                }
                self.push(Op::Step { step: Step::Describe, group, replaced: None });
            }
            b'E' => self.execute(frame, events),
            b'C' => {
                match named(&frame.body) {
                    Some((b'S', name)) => {
                        self.statements.remove(&name.to_vec());
                    }
                    Some((b'P', name)) => {
                        self.portals.remove(&name.to_vec());
                    }
                    _ => {}
                }
                let group = self.group(frame, None);
                self.push(Op::Step { step: Step::Close, group, replaced: None });
            }
            b'F' => self.push(Op::FunctionCall),
            b'S' => {
                self.open = None;
                self.push(Op::Sync);
            }
            b'H' => self.open = None,
            // Terminate, passwords and the data of COPY have no answer of their own.
            _ => {}
        }
    }

    fn push(&mut self, op: Op) {
        if op.ends_with_ready() && self.queue.iter().any(Op::ends_with_ready) {
            self.pipelined = true;
        }
        self.queue.push_back(op);
    }

    fn statement(&self, name: Option<&[u8]>, text: &[u8], whole: bool) -> Arc<Statement> {
        let cut = text.get(..self.limits.text).unwrap_or(text);
        let name =
            name.filter(|name| !name.is_empty()).map(|name| String::from_utf8_lossy(name).into_owned());
        Arc::new(Statement::new(name, cut, whole && cut.len() == text.len()))
    }

    fn group(&mut self, frame: &Frame, statement: Option<Arc<Statement>>) -> Group {
        self.groups += 1;
        Group {
            number: self.groups,
            start: self.peer.role.request_start(&frame.started),
            tid: frame.started.tid,
            statement,
            parsed: None,
            portal: None,
        }
    }

    fn parse(&mut self, frame: &Frame) {
        let Some((name, rest)) = message::c_string(&frame.body) else {
            // A name that long is not remembered.
            let group = self.group(frame, None);
            self.push(Op::Step { step: Step::Parse, group, replaced: None });
            return;
        };
        let (text, whole) = message::c_string(rest).map_or((rest, false), |(text, _)| (text, true));
        let statement = self.statement(Some(name), text, whole);
        let previous = self.statements.insert(name.to_vec(), Arc::clone(&statement));
        let mut group = self.group(frame, Some(statement));
        group.parsed = Some(name.to_vec());
        self.open = Some(group.clone());
        self.push(Op::Step { step: Step::Parse, group, replaced: Some((name.to_vec(), previous)) });
    }

    fn bind(&mut self, frame: &Frame) {
        let names = message::c_string(&frame.body)
            .and_then(|(portal, rest)| Some((portal, message::c_string(rest)?.0)))
            .map(|(portal, statement)| (portal.to_vec(), statement.to_vec()));
        let mut group = match (self.open.take(), &names) {
            (Some(open), Some((_, name))) if open.parsed.as_ref() == Some(name) => open,
            _ => {
                let statement = names.as_ref().and_then(|(_, name)| self.statements.get(name));
                self.group(frame, statement)
            }
        };
        group.parsed = None;
        if let Some((portal, _)) = names {
            match &group.statement {
                Some(statement) => {
                    self.portals.insert(portal.clone(), Arc::clone(statement));
                }
                None => {
                    self.portals.remove(&portal);
                }
            }
            group.portal = Some(portal);
            self.open = Some(group.clone());
        }
        self.push(Op::Step { step: Step::Bind, group, replaced: None });
    }

    fn execute(&mut self, frame: &Frame, events: &mut Vec<Event>) {
        let portal = message::c_string(&frame.body).map(|(portal, _)| portal.to_vec());
        let group = match self.open.take() {
            Some(open) if portal.is_some() && open.portal == portal => open,
            _ => {
                let statement = portal.and_then(|portal| self.portals.get(&portal));
                self.group(frame, statement)
            }
        };
        let exchange = Exchange::begin(&mut self.peer, group.start, group.tid, group.statement, true, events);
        self.push(Op::Execute { group: group.number, exchange, copy_out: false });
    }

    /// The server sent a message.
    pub fn answer(&mut self, frame: &Frame, at: &Moment, events: &mut Vec<Event>) -> Result<(), Mismatch> {
        let kind = frame.header.first().copied().unwrap_or(0);
        if b"NASKvRV".contains(&kind) {
            // Notices, parameters and notifications come at any time.
            return Ok(());
        }
        if self.held.is_some() && !b"EZ".contains(&kind) {
            self.release(events);
        }
        if kind == b'Z' {
            self.ready(at.returned, events);
            return Ok(());
        }
        if self.aborted {
            return Ok(());
        }
        self.note_first_byte(&frame.started);
        match (kind, self.queue.front_mut()) {
            (b'E', _) => self.error(message::error(&frame.body), events),
            // The answer to something that was sent before the connection was followed.
            (_, None) => {}
            (b'1', Some(Op::Step { step: Step::Parse, .. }))
            | (b'2', Some(Op::Step { step: Step::Bind, .. }))
            | (b'3', Some(Op::Step { step: Step::Close, .. }))
            | (b'T' | b'n', Some(Op::Step { step: Step::Describe, .. })) => {
                self.queue.pop_front();
            }
            (b't', Some(Op::Step { step: Step::Describe, .. })) => {}
            (b'T' | b'I' | b'd' | b'c' | b'G' | b'W', Some(Op::Query(_)))
            | (b'd' | b'c' | b'G' | b'W', Some(Op::Execute { .. })) => {}
            (b'H', Some(Op::Query(_))) => self.copy_out = true,
            (b'H', Some(Op::Execute { copy_out, .. })) => *copy_out = true,
            (b'D', Some(Op::Query(exchange) | Op::Execute { exchange, .. })) => exchange.counted += 1,
            (b'C', Some(Op::Query(exchange))) => {
                count(exchange, &message::command_tag(&frame.body), std::mem::take(&mut self.copy_out));
            }
            (b'C', Some(Op::Execute { exchange, copy_out, .. })) => {
                count(exchange, &message::command_tag(&frame.body), *copy_out);
                self.executed(at, events);
            }
            (b's', Some(Op::Execute { exchange, .. })) => {
                // More rows wait in the portal; how many came is not said.
                if !exchange.uncounted {
                    exchange.returned(exchange.counted);
                }
                self.executed(at, events);
            }
            (b'I', Some(Op::Execute { .. })) => self.executed(at, events),
            _ => return Err(Mismatch),
        }
        Ok(())
    }

    /// Bytes of the answer to the first request in flight came.
    pub fn note_first_byte(&mut self, at: &Moment) {
        let role = self.peer.role;
        let number = match self.queue.front_mut() {
            Some(Op::Query(exchange) | Op::Execute { exchange, .. }) => {
                exchange.answered(role, at);
                return;
            }
            Some(Op::Step { group, .. }) => group.number,
            _ => return,
        };
        if let Some(exchange) = self.execution_of(number) {
            exchange.answered(role, at);
        }
    }

    /// The execution that a step before the next `Sync` belongs to.
    fn execution_of(&mut self, number: u64) -> Option<&mut Exchange> {
        self.queue.iter_mut().take_while(|op| !op.ends_with_ready()).find_map(|op| match op {
            Op::Execute { group, exchange, .. } if *group == number => Some(exchange),
            _ => None,
        })
    }

    fn error(&mut self, error: crate::exchange::SqlError, events: &mut Vec<Event>) {
        let cancelled = error.code == message::QUERY_CANCELED;
        match self.queue.front_mut() {
            Some(Op::Query(exchange)) => exchange.fail(error, cancelled),
            Some(Op::Execute { exchange, .. }) => {
                exchange.fail(error, cancelled);
                self.aborted = true;
            }
            Some(Op::Step { step, group, .. }) => {
                let (step, group) = (*step, group.clone());
                self.aborted = true;
                self.forget_parsed();
                if let Some(exchange) = self.execution_of(group.number) {
                    exchange.fail(error, cancelled);
                } else if step != Step::Close && group.statement.is_some() {
                    let Group { number, start, tid, statement, .. } = group;
                    let mut exchange = Exchange::begin(&mut self.peer, start, tid, statement, true, events);
                    exchange.fail(error, cancelled);
                    if let Some(front) = self.queue.front_mut() {
                        *front = Op::Execute { group: number, exchange, copy_out: false };
                    }
                }
            }
            // At `Sync`: the implicit transaction could not be committed.
            Some(Op::Sync) | None => {
                if let Some((exchange, _)) = &mut self.held {
                    exchange.fail(error, cancelled);
                }
            }
            Some(Op::FunctionCall) => {}
        }
    }

    /// The statements that the server will not parse are not prepared.
    fn forget_parsed(&mut self) {
        let mut undo = Vec::new();
        for op in self.queue.iter_mut().take_while(|op| !op.ends_with_ready()) {
            if let Op::Step { replaced, .. } = op {
                undo.extend(replaced.take());
            }
        }
        for (name, previous) in undo.into_iter().rev() {
            match previous {
                Some(previous) => {
                    self.statements.insert(name, previous);
                }
                None => {
                    self.statements.remove(&name);
                }
            }
        }
    }

    fn executed(&mut self, at: &Moment, events: &mut Vec<Event>) {
        let Some(Op::Execute { exchange, .. }) = self.queue.pop_front() else { return };
        if matches!(self.queue.front(), None | Some(Op::Sync)) {
            self.held = Some((exchange, at.returned));
        } else {
            exchange.end(&self.peer, at.returned, Outcome::Complete, events);
        }
    }

    /// Concludes what was complete and only waited for the transaction's end.
    pub fn release(&mut self, events: &mut Vec<Event>) {
        if let Some((exchange, end)) = self.held.take() {
            exchange.end(&self.peer, end, Outcome::Complete, events);
        }
    }

    fn ready(&mut self, end: u64, events: &mut Vec<Event>) {
        if let Some((exchange, _)) = self.held.take() {
            exchange.end(&self.peer, end, Outcome::Complete, events);
        }
        while let Some(op) = self.queue.pop_front() {
            let last = op.ends_with_ready();
            match op {
                Op::Query(exchange) => exchange.end(&self.peer, end, Outcome::Complete, events),
                Op::Execute { exchange, .. } => {
                    // Not executed, if an earlier one failed: the server discarded it.
                    let outcome = if exchange.error.is_some() { Outcome::Complete } else { Outcome::Unknown };
                    exchange.end(&self.peer, end, outcome, events);
                }
                Op::Step { .. } | Op::FunctionCall | Op::Sync => {}
            }
            if last {
                break;
            }
        }
        self.aborted = false;
        self.copy_out = false;
    }

    /// Bytes of the answer are missing: rows can't be counted.
    pub fn uncount(&mut self) {
        for exchange in self.queue.iter_mut().filter_map(Op::exchange) {
            exchange.uncounted = true;
        }
    }

    /// The end of an answer was found after missing bytes; `completions` commands and perhaps an error
    /// are in it. Leaves in the queue only what they belong to. False: that can't be known.
    pub fn resume(&mut self, completions: usize, failed: bool, end: u64, events: &mut Vec<Event>) -> bool {
        let concluding = self.queue.iter().filter(|op| op.ends_with_ready()).count();
        let executions = self.queue.iter().filter(|op| matches!(op, Op::Execute { .. })).count();
        if concluding != 1 || (failed && executions > 1) {
            self.give_up(end, events);
            return false;
        }
        if executions == 0 {
            return true;
        }
        self.release(events);
        let mut unseen = executions.saturating_sub(completions + usize::from(failed));
        let queue = std::mem::take(&mut self.queue);
        for op in queue {
            match op {
                Op::Step { .. } => {}
                Op::Execute { exchange, .. } if unseen > 0 => {
                    unseen -= 1;
                    exchange.end(&self.peer, end, Outcome::Unknown, events);
                }
                op => self.queue.push_back(op),
            }
        }
        true
    }

    /// What is in flight can't be followed any more.
    pub fn give_up(&mut self, end: u64, events: &mut Vec<Event>) {
        self.finish(end, Outcome::Unknown, events);
    }

    /// The connection ended.
    pub fn close(&mut self, close: Close, end: u64, events: &mut Vec<Event>) {
        let Some(outcome) = ended_by(close) else { return };
        self.finish(end, outcome, events);
        self.statements.clear();
        self.portals.clear();
    }

    fn finish(&mut self, end: u64, outcome: Outcome, events: &mut Vec<Event>) {
        self.release(events);
        for op in std::mem::take(&mut self.queue) {
            if let Op::Query(exchange) | Op::Execute { exchange, .. } = op {
                exchange.end(&self.peer, end, outcome, events);
            }
        }
        self.open = None;
        self.aborted = false;
        self.copy_out = false;
    }
}

/// `S` or `P` and the name, out of Describe and Close.
fn named(body: &[u8]) -> Option<(u8, &[u8])> {
    let (kind, rest) = body.split_first()?;
    Some((*kind, message::c_string(rest)?.0))
}

fn count(exchange: &mut Exchange, rows: &Rows, copy_out: bool) {
    let counted = std::mem::take(&mut exchange.counted);
    // Earlier statements of the same query may have gone by unseen.
    let alone = !exchange.uncounted
        || exchange.text().is_some_and(|text| !text.trim_end_matches([';', ' ', '\n']).contains(';'));
    match *rows {
        Rows::Returned(rows) if alone => exchange.returned(rows),
        Rows::Copied(rows) if alone && copy_out => exchange.returned(rows),
        Rows::Copied(rows) if alone => exchange.affected(rows),
        Rows::Affected(rows) if alone => {
            exchange.affected(rows);
            if counted > 0 && !exchange.uncounted {
                exchange.returned(counted);
            }
        }
        Rows::Uncounted if counted > 0 && !exchange.uncounted => exchange.returned(counted),
        _ => {}
    }
}
