//! Redis: RESP2 and RESP3 (redis.io, "Redis serialization protocol specification").
//!
//! Commands sent in one go (one write, or several of a client that cuts long pipelines) are one exchange.

mod command;
mod group;
mod resp;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::{Begin, Close, Detection, Direction, Event, Limits, Moment, Outcome, Parser, Role, Segment};
use command::{Answer, Command, Setup};
pub use command::{sanitize, sanitize_batch};
use group::Group;
use resp::{Decoder, Keep, Progress, Value};

/// Arguments kept of one command, its name included.
const KEPT_ARGUMENTS: usize = 513;

/// redis-py cuts a pipeline into writes of more than 6 000 bytes (`Connection._buffer_cutoff`): after a
/// shorter write the pipeline was over.
const CUT_PIPELINE: u64 = 4096;

/// Bytes of commands held for one connection, as a multiple of [`Limits::buffer`]; beyond it arguments
/// aren't kept.
const RETAINED: usize = 4;

/// What the first bytes of one direction say: `*N CRLF $len CRLF NAME CRLF` with the name of a command
/// that is known. Answers have no shape that proves anything, so they are `No`.
///
/// An answer may look like a command (a list that starts with `GET`), so [`Role::Server`] needs
/// [`is_answer`] of the other direction as its second witness.
#[must_use]
pub fn detect(direction: Direction, bytes: &[u8]) -> Detection {
    let role = Role::requesting(direction);
    command_start(bytes).map_or(Detection::No, |complete| {
        if complete { Detection::Match(role) } else { Detection::Undecided }
    })
}

/// Can these first bytes of a system call be an answer, and not a command?
#[must_use]
pub fn is_answer(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|b| resp::is_type(*b)) && command_start(bytes).is_none()
}

/// `Some(true)`: a command at least up to the end of its name; `Some(false)`: as far as it goes; `None`: no.
fn command_start(bytes: &[u8]) -> Option<bool> {
    /// The number after `marker`: `None` no such line, `Some(None)` the line isn't complete.
    #[allow(clippy::option_option, reason = "invalid, incomplete and complete are three things")]
    fn number(bytes: &[u8], marker: u8) -> Option<Option<(usize, &[u8])>> {
        let Some((first, rest)) = bytes.split_first() else { return Some(None) };
        if *first != marker {
            return None;
        }
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits > 7 {
            return None;
        }
        match rest.get(digits..) {
            None | Some([] | [b'\r']) => Some(None),
            Some([b'\r', b'\n', rest @ ..]) => {
                let text = bytes.get(1..=digits)?;
                Some(Some((std::str::from_utf8(text).ok()?.parse().ok()?, rest)))
            }
            Some(_) => None,
        }
    }
    let Some((count, rest)) = number(bytes, b'*')? else { return Some(false) };
    if count == 0 {
        return None;
    }
    let Some((length, rest)) = number(rest, b'$')? else { return Some(false) };
    if length == 0 || length > command::MAX_NAME {
        return None;
    }
    let name = rest.get(..length.min(rest.len()))?;
    if !name.is_empty() && !command::is_name(name) {
        return None;
    }
    let mut rest = match rest.get(length..) {
        None | Some([] | [b'\r']) => return Some(false),
        Some([b'\r', b'\n', rest @ ..]) if command::is_known(name) => rest,
        Some(_) => return None,
    };
    // As far as they are here, its arguments must be strings too. The confirmation of SUBSCRIBE has a number
    // last, so that it takes all.
    let enough = Some(!name.to_ascii_uppercase().ends_with(b"SUBSCRIBE"));
    for _ in 1..count {
        let Some((length, argument)) = number(rest, b'$')? else { return enough };
        rest = match argument.get(length..) {
            None | Some([] | [b'\r']) => return enough,
            Some([b'\r', b'\n', rest @ ..]) => rest,
            Some(_) => return None,
        };
    }
    Some(true)
}

/// Follows one connection.
pub struct Connection {
    role: Role,
    limits: Limits,
    requests: Requests,
    replies: Replies,
    /// Exchanges whose answers aren't complete, oldest first.
    groups: VecDeque<Group>,
    /// Commands may still join the youngest.
    group_open: bool,
    next_id: u64,
    /// Bytes of commands kept in `groups`.
    retained: usize,
    database: Option<u32>,
    /// A command was seen, and one that isn't connection set-up.
    any_command: bool,
    any_work: bool,
    /// RESP2: messages of channels may come at any time.
    subscribed: bool,
    peer_closed: bool,
    opaque: bool,
}

struct Requests {
    decoder: Decoder,
    /// The decoder is at a known place of the stream.
    synced: bool,
    /// When the first byte of the current command was transferred.
    first: Option<Moment>,
    /// Bytes transferred by the current system call, and its thread.
    call_bytes: u64,
    call_tid: u32,
}

struct Replies {
    decoder: Decoder,
    state: Sync,
    first: Option<Moment>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sync {
    /// An answer is looked for at the start of a system call.
    Seek,
    /// The decoder is at a known place of the stream.
    Synced,
    /// Inside the answers to the oldest exchange, their end unknown.
    Adrift,
}

impl Connection {
    /// A connection of which the first segment starts a command or is in the middle of anything.
    #[must_use]
    pub fn new(role: Role, limits: Limits) -> Self {
        let command = Keep { items: KEPT_ARGUMENTS, item_bytes: limits.text, total_bytes: limits.text };
        // An answer's first string tells messages and confirmations of channels from others.
        let reply = Keep { items: 1, item_bytes: 16, total_bytes: 16 };
        Self {
            role,
            limits,
            requests: Requests {
                decoder: Decoder::new(true, command),
                synced: false,
                first: None,
                call_bytes: 0,
                call_tid: 0,
            },
            replies: Replies { decoder: Decoder::new(false, reply), state: Sync::Seek, first: None },
            groups: VecDeque::new(),
            group_open: false,
            next_id: 0,
            retained: 0,
            database: None,
            any_command: false,
            any_work: false,
            subscribed: false,
            peer_closed: false,
            opaque: false,
        }
    }

    // ---- commands ------------------------------------------------------------------------------

    fn request(&mut self, segment: Segment<'_>, at: &Moment, events: &mut Vec<Event>) {
        if at.first_of_call {
            let in_command = self.requests.synced && !self.requests.decoder.is_idle();
            let cut = in_command || self.requests.call_bytes >= CUT_PIPELINE;
            self.group_open &= cut && self.requests.call_tid == at.tid;
            self.requests.call_bytes = 0;
            self.requests.call_tid = at.tid;
        }
        match segment {
            Segment::Data(bytes) => {
                self.requests.call_bytes = self.requests.call_bytes.saturating_add(bytes.len() as u64);
                self.request_data(bytes, at, events);
            }
            Segment::Gap(0) => {}
            Segment::Gap(n) => {
                self.requests.call_bytes = self.requests.call_bytes.saturating_add(n);
                if !self.requests.synced {
                    self.miss_commands(at, events);
                    return;
                }
                match self.requests.decoder.gap(n) {
                    Progress::More => {}
                    Progress::Done { value, .. } => self.command(&value, at, events),
                    Progress::Broken => self.lose_requests(at, events),
                }
            }
            Segment::Lost => self.lose_requests(at, events),
        }
    }

    fn request_data(&mut self, mut bytes: &[u8], at: &Moment, events: &mut Vec<Event>) {
        let mut first = at.first_of_call;
        while !bytes.is_empty() && !self.opaque {
            if !self.requests.synced {
                if !first || bytes.first() != Some(&b'*') {
                    self.miss_commands(at, events);
                    return;
                }
                self.requests.decoder.reset();
                self.requests.synced = true;
            }
            let begun_before = !self.requests.decoder.is_idle();
            if !begun_before {
                self.requests.first = Some(*at);
            }
            match self.requests.decoder.data(bytes) {
                Progress::More => return,
                Progress::Done { value, taken } => {
                    self.command(&value, at, events);
                    bytes = bytes.get(taken..).unwrap_or_default();
                    first = false;
                }
                Progress::Broken => {
                    self.requests.synced = false;
                    // What was begun by an earlier call was none; this call may start a command.
                    if !begun_before {
                        self.miss_commands(at, events);
                        return;
                    }
                }
            }
        }
    }

    fn command(&mut self, value: &Value, at: &Moment, events: &mut Vec<Event>) {
        if value.count == 0 {
            return; // Redis ignores an empty array.
        }
        match Command::new(value) {
            Some(command) => self.take_command(command, at, events),
            None => {
                self.requests.synced = false;
                self.miss_commands(at, events);
            }
        }
    }

    fn take_command(&mut self, command: Command, at: &Moment, events: &mut Vec<Event>) {
        if command.answer == Answer::Stream {
            self.give_up(at, events);
            return;
        }
        if command.setup == Setup::Start && !self.any_command {
            self.database = Some(0);
        }
        let setup = match command.setup {
            Setup::Start => true,
            Setup::Perhaps => !self.any_work,
            Setup::No => false,
        };
        self.any_command = true;
        self.any_work |= !setup;
        match command.shown.command.as_str() {
            "RESET" => {
                self.database = Some(0);
                self.subscribed = false;
            }
            "PING" | "QUIT" => {}
            // Nothing else is valid while RESP2 messages may come.
            _ if !matches!(command.answer, Answer::Subscription(_)) => self.subscribed = false,
            _ => {}
        }
        if !self.group_open {
            self.open_group(at, events);
            if self.opaque {
                return;
            }
        }
        let room = self.limits.buffer.saturating_mul(RETAINED).saturating_sub(self.retained);
        let Some(group) = self.groups.back_mut() else { return };
        let before = group.retained();
        group.push(command, setup, &self.limits, room);
        self.retained += group.retained() - before;
        if group.special_answers() > self.limits.buffer / 16 {
            self.give_up(at, events);
        }
    }

    fn open_group(&mut self, at: &Moment, events: &mut Vec<Event>) {
        self.finish_overtaken(at.entered, events);
        if self.groups.len() >= self.limits.in_flight {
            self.give_up(at, events);
            return;
        }
        let first = self.requests.first.unwrap_or(*at);
        let id = self.next_id;
        self.next_id += 1;
        let start = self.role.request_start(&first);
        events.push(Event::Begin(Begin {
            id,
            role: self.role,
            start,
            tid: first.tid,
            traceparent: None,
            tracestate: None,
        }));
        self.groups.push_back(Group::new(id, start));
        self.group_open = true;
    }

    /// Bytes of the request direction are missing.
    fn lose_requests(&mut self, at: &Moment, events: &mut Vec<Event>) {
        if self.requests.synced {
            // A command whose name is known counts, with the arguments seen.
            if let Some(value) = self.requests.decoder.take_cut()
                && let Some(command) = Command::new(&value)
            {
                self.take_command(command, at, events);
            }
            if self.group_open
                && let Some(group) = self.groups.back_mut()
            {
                group.incomplete = true;
            }
        }
        self.requests.synced = false;
        self.requests.decoder.reset();
        self.miss_commands(at, events);
    }

    /// Bytes are missing or make no sense that may have been commands.
    fn miss_commands(&mut self, at: &Moment, events: &mut Vec<Event>) {
        if !self.group_open {
            self.finish_overtaken(at.entered, events);
        }
        if let Some(group) = self.groups.back_mut() {
            group.next_lost = true;
        }
    }

    // ---- answers -------------------------------------------------------------------------------

    fn reply(&mut self, segment: Segment<'_>, at: &Moment, events: &mut Vec<Event>) {
        if segment == Segment::Gap(0) {
            return;
        }
        self.group_open = false;
        match self.replies.state {
            Sync::Adrift => {
                if let Some(front) = self.groups.front_mut()
                    && segment != Segment::Lost
                {
                    front.touch(self.role.answer_start(at), at.returned);
                }
                return;
            }
            Sync::Seek => {
                let Segment::Data(bytes) = segment else {
                    self.lose_replies(at, events);
                    return;
                };
                let starts = bytes.first().is_some_and(|b| resp::is_type(*b));
                if self.groups.is_empty() || !at.first_of_call || !starts {
                    self.lose_replies(at, events);
                    return;
                }
                self.replies.decoder.reset();
                self.replies.state = Sync::Synced;
            }
            Sync::Synced => {}
        }
        match segment {
            Segment::Data(bytes) => self.reply_data(bytes, at, events),
            Segment::Gap(n) => match self.replies.decoder.gap(n) {
                Progress::More => {}
                Progress::Done { value, .. } => self.answer(value, at, events),
                Progress::Broken => {
                    let first = self.replies.first.unwrap_or(*at);
                    let start = self.role.answer_start(&first);
                    if let Some(front) = self.groups.front_mut() {
                        front.touch(start, at.returned);
                    }
                    self.lose_replies(at, events);
                }
            },
            Segment::Lost => self.lose_replies(at, events),
        }
    }

    fn reply_data(&mut self, mut bytes: &[u8], at: &Moment, events: &mut Vec<Event>) {
        while !bytes.is_empty() && !self.opaque {
            if self.replies.decoder.is_idle() {
                self.replies.first = Some(*at);
            }
            match self.replies.decoder.data(bytes) {
                Progress::More => return,
                Progress::Done { value, taken } => {
                    self.answer(value, at, events);
                    bytes = bytes.get(taken..).unwrap_or_default();
                }
                Progress::Broken => {
                    self.lose_replies(at, events);
                    return;
                }
            }
        }
    }

    fn answer(&mut self, value: Value, at: &Moment, events: &mut Vec<Event>) {
        let channel = Channel::of(&value);
        let expected = self.groups.front().and_then(Group::expected);
        let confirmed =
            matches!((channel, expected), (Some(Channel::Confirmation), Some(Answer::Subscription(_))));
        if value.kind == b'>' && !confirmed {
            return; // A push is never an answer.
        }
        if self.subscribed && channel.is_some() && !confirmed {
            return; // RESP2 sends messages as arrays.
        }
        let first = self.role.answer_start(&self.replies.first.unwrap_or(*at));
        let Some(front) = self.groups.front_mut() else { return };
        front.touch(first, at.returned);
        match expected {
            Some(Answer::Select(database)) if value.items.first().is_some_and(|ok| ok == b"OK") => {
                self.database = Some(database);
            }
            Some(Answer::Subscription(_)) if confirmed => self.subscribed |= value.kind == b'*',
            _ => {}
        }
        front.take_answer(value, confirmed);
        if front.is_answered() {
            self.finish(Outcome::Complete, None, events);
        }
    }

    /// Bytes of the answers are missing or make no sense.
    fn lose_replies(&mut self, at: &Moment, events: &mut Vec<Event>) {
        self.replies.decoder.reset();
        let unknown = |group: &Group| group.next_lost && !group.is_begun();
        match self.groups.len() {
            0 => self.replies.state = Sync::Seek,
            // The next answer seen may be that to a command that was missed.
            1 if self.groups.iter().any(unknown) => self.finish_unproven(at.entered, events),
            1 => self.replies.state = Sync::Adrift,
            // Which answers belong to which commands can't be told any more.
            _ => self.give_up(at, events),
        }
    }

    // ---- ends ----------------------------------------------------------------------------------

    /// What an earlier exchange lacks won't come any more: clients send when they have their answer.
    fn finish_overtaken(&mut self, now: u64, events: &mut Vec<Event>) {
        while let Some(front) = self.groups.front() {
            if self.replies.state != Sync::Adrift && !front.incomplete {
                return;
            }
            self.finish_unproven(now, events);
        }
    }

    /// Ends the oldest exchange although the end of its answers was not recognised.
    fn finish_unproven(&mut self, now: u64, events: &mut Vec<Event>) {
        let begun = self.groups.front().is_some_and(Group::is_begun);
        if begun {
            self.finish(Outcome::Complete, None, events);
        } else {
            self.finish(Outcome::Unknown, Some(now), events);
        }
        self.replies.state = Sync::Seek;
        self.replies.decoder.reset();
    }

    fn finish(&mut self, outcome: Outcome, end: Option<u64>, events: &mut Vec<Event>) {
        let Some(group) = self.groups.pop_front() else { return };
        self.retained = self.retained.saturating_sub(group.retained());
        if self.groups.is_empty() {
            self.group_open = false;
        }
        events.push(Event::End(Box::new(group.end(self.role, outcome, end, self.database))));
    }

    fn give_up(&mut self, at: &Moment, events: &mut Vec<Event>) {
        while !self.groups.is_empty() {
            self.finish(Outcome::Unknown, Some(at.entered), events);
        }
        self.stop();
    }

    fn stop(&mut self) {
        self.opaque = true;
        self.requests.decoder.reset();
        self.replies.decoder.reset();
    }
}

impl Parser for Connection {
    fn segment(&mut self, direction: Direction, segment: Segment<'_>, at: &Moment, events: &mut Vec<Event>) {
        if self.opaque {
            return;
        }
        if direction == self.role.request_direction() {
            self.request(segment, at, events);
        } else {
            self.reply(segment, at, events);
        }
    }

    fn close(&mut self, close: Close, at: &Moment, events: &mut Vec<Event>) {
        if self.opaque {
            return;
        }
        let outcome = match (self.role, close) {
            (Role::Client, Close::LocalWrite) => return,
            (Role::Server, Close::Remote) => {
                self.peer_closed = true;
                return;
            }
            (Role::Client, Close::Remote) => Outcome::ClosedByPeer,
            _ if self.peer_closed => Outcome::ClosedByPeer,
            _ => Outcome::ClosedLocally,
        };
        let mut unproven = self.replies.state == Sync::Adrift;
        while let Some(front) = self.groups.front() {
            if (unproven || front.is_exhausted()) && front.is_begun() {
                self.finish(Outcome::Complete, None, events);
            } else {
                self.finish(outcome, Some(at.returned), events);
            }
            unproven = false;
        }
        self.stop();
    }

    fn settle(&mut self, events: &mut Vec<Event>) {
        let adrift = self.replies.state == Sync::Adrift;
        let idle = self.replies.decoder.is_idle();
        if self.groups.front().is_some_and(|f| f.is_begun() && (adrift || (f.is_exhausted() && idle))) {
            self.finish_unproven(0, events);
        }
    }

    fn is_opaque(&self) -> bool {
        self.opaque
    }

    fn buffered(&self) -> usize {
        self.requests.decoder.buffered() + self.replies.decoder.buffered() + self.retained
    }
}

/// What a value of a pub/sub connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Channel {
    Message,
    Confirmation,
}

impl Channel {
    fn of(value: &Value) -> Option<Self> {
        if !matches!(value.kind, b'*' | b'>') {
            return None;
        }
        match value.items.first()?.as_slice() {
            b"message" | b"pmessage" | b"smessage" => Some(Self::Message),
            b"subscribe" | b"psubscribe" | b"ssubscribe" | b"unsubscribe" | b"punsubscribe"
            | b"sunsubscribe" => Some(Self::Confirmation),
            _ => None,
        }
    }
}
