//! HTTP/1.0 and HTTP/1.1, both sides (RFC 9110, RFC 9112).

mod body;
mod half;
mod head;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::exchange::Http;
use crate::{
    Begin, Close, Detection, Direction, End, Event, Limits, Moment, Outcome, Parser, Request, Role, Segment,
};
use body::{Body, GapProgress, Progress};
use half::{Collected, Half, Lost, State};

/// Bytes that a request's head may occupy in memory beyond its buffer, as a multiple of
/// [`Limits::buffer`] for all requests in flight together. Beyond it header fields are not kept.
const RETAINED_HEADS: usize = 4;

/// What the first bytes of one direction say.
#[must_use]
pub fn detect(direction: Direction, bytes: &[u8]) -> Detection {
    let requester = Role::requesting(direction);
    match (head::request_line(bytes), head::status_line(bytes)) {
        (Some(true), _) => Detection::Match(requester),
        (_, Some(true)) => Detection::Match(requester.reverse()),
        (None, None) => Detection::No,
        _ => Detection::Undecided,
    }
}

/// Follows one connection.
pub struct Connection {
    role: Role,
    limits: Limits,
    requests: Half,
    responses: Half,
    /// Requests whose response isn't complete, oldest first.
    queue: VecDeque<Exchange>,
    next_id: u64,
    /// Bytes of heads kept in `queue`.
    retained: usize,
    /// The peer has closed its side; only a server may still finish then.
    peer_closed: bool,
    /// Nothing more can be learnt.
    opaque: bool,
}

struct Exchange {
    id: u64,
    start: u64,
    http: Http,
    retained: usize,
    request_size: Option<u64>,
    response_size: Option<u64>,
    first_response_byte: Option<u64>,
    last_response_byte: u64,
    /// The final response's head was seen.
    answering: bool,
    /// Bytes were missed that may have been the response.
    answer_lost: bool,
    /// Bytes were missed that may have been the next request.
    next_lost: bool,
}

impl Connection {
    /// A connection of which the first segment starts a message or is in the middle of one.
    #[must_use]
    pub fn new(role: Role, limits: Limits) -> Self {
        Self {
            role,
            limits,
            requests: Half::default(),
            responses: Half::default(),
            queue: VecDeque::new(),
            next_id: 0,
            retained: 0,
            peer_closed: false,
            opaque: false,
        }
    }

    fn is_request(&self, direction: Direction) -> bool {
        direction == self.role.request_direction()
    }

    // ---- requests ------------------------------------------------------------------------------

    fn request_data(&mut self, mut bytes: &[u8], at: &Moment, events: &mut Vec<Event>) {
        let mut first = at.first_of_call;
        while !bytes.is_empty() && !self.opaque {
            match &mut self.requests.state {
                State::Seek | State::Adrift { .. } => {
                    if first && self.admits_request() && head::request_line(bytes).is_some() {
                        self.requests.begin_head();
                        continue;
                    }
                    if self.requests.state == State::Seek {
                        self.miss_requests(at, events);
                    } else if self.requests.drift(bytes) {
                        self.requests.state = State::Seek;
                    }
                    return;
                }
                State::Boundary => {
                    // An empty line before a request line is ignored (RFC 9112, 2.2).
                    let skip = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
                    bytes = bytes.get(skip..).unwrap_or_default();
                    if !bytes.is_empty() {
                        self.requests.begin_head();
                    }
                }
                State::Head { before } => {
                    let before = *before;
                    match self.requests.collect_head(bytes, at, &self.limits, head::request_line) {
                        Collected::More => return,
                        Collected::Complete { taken } => {
                            let (head, moment) = self.requests.take_head(at);
                            match head::request(&head, self.limits.headers) {
                                Ok(parsed) => {
                                    self.begin(parsed, head.len(), &moment, at, events);
                                    bytes = bytes.get(taken..).unwrap_or_default();
                                }
                                Err(_) => {
                                    self.requests.state = before.into();
                                    self.miss_requests(at, events);
                                    return;
                                }
                            }
                        }
                        Collected::TooLong => {
                            self.cut_request(at, events);
                            return;
                        }
                        Collected::NotAHead => {
                            self.requests.state = before.into();
                            if self.requests.restart(at) && first {
                                continue;
                            }
                            self.miss_requests(at, events);
                            return;
                        }
                    }
                }
                State::Body(body) => {
                    let mut size = 0;
                    let progress = body.data(bytes, &mut size);
                    self.count_request(size);
                    match progress {
                        Progress::More => return,
                        Progress::Done(taken) => {
                            self.requests.state = State::Boundary;
                            bytes = bytes.get(taken..).unwrap_or_default();
                        }
                        Progress::Broken => {
                            self.lose_request_size();
                            self.requests.state = State::Adrift { chunked: false };
                            return;
                        }
                    }
                }
            }
            first = false;
        }
    }

    fn request_gap(&mut self, n: u64, at: &Moment, events: &mut Vec<Event>) {
        match &mut self.requests.state {
            State::Body(body) => {
                let mut size = 0;
                let chunked = matches!(body, Body::Chunked(_));
                let progress = body.gap(n, &mut size);
                self.count_request(size);
                match progress {
                    GapProgress::More => {}
                    GapProgress::Done { left_over: 0 } => self.requests.state = State::Boundary,
                    GapProgress::Done { .. } => {
                        self.requests.state = State::Seek;
                        self.miss_requests(at, events);
                    }
                    GapProgress::Broken => {
                        self.lose_request_size();
                        self.requests.state = State::Adrift { chunked };
                    }
                }
            }
            State::Head { .. } => self.cut_request(at, events),
            State::Boundary | State::Seek => {
                self.requests.state = State::Seek;
                self.miss_requests(at, events);
            }
            // A call of its own may as well be the next request.
            State::Adrift { .. } if at.first_of_call => self.miss_requests(at, events),
            State::Adrift { .. } => {}
        }
        self.requests.tail.clear();
    }

    fn request_lost(&mut self, at: &Moment, events: &mut Vec<Event>) {
        match &self.requests.state {
            State::Head { .. } => self.cut_request(at, events),
            State::Body(body) => {
                let chunked = matches!(body, Body::Chunked(_));
                self.lose_request_size();
                self.requests.state = State::Adrift { chunked };
            }
            _ => self.requests.state = State::Seek,
        }
        self.requests.tail.clear();
        self.miss_requests(at, events);
    }

    /// Bytes are missing, or make no sense, that may have been requests.
    fn miss_requests(&mut self, at: &Moment, events: &mut Vec<Event>) {
        self.finish_overtaken(at, events);
        if let Some(last) = self.queue.back_mut() {
            last.next_lost = true;
        }
    }

    /// May bytes that look like a request be one? While a request whose end is unknown has no answer,
    /// they are rather its body.
    fn admits_request(&self) -> bool {
        self.queue.back().is_none_or(|last| last.answering || last.answer_lost)
    }

    /// The head of a request can't be completed: counts it with what was captured of it.
    fn cut_request(&mut self, at: &Moment, events: &mut Vec<Event>) {
        let State::Head { before } = self.requests.state else { return };
        let (head, moment) = self.requests.take_head(at);
        let parsed =
            head::close_cut_head(&head).and_then(|cut| head::request(&cut, self.limits.headers).ok());
        let Some(parsed) = parsed else {
            self.requests.state = before.into();
            self.miss_requests(at, events);
            return;
        };
        let chunked = matches!(parsed.body, Body::Chunked(_));
        self.begin(parsed, head.len(), &moment, at, events);
        self.lose_request_size();
        self.requests.state = State::Adrift { chunked };
    }

    fn begin(
        &mut self,
        head: head::RequestHead,
        length: usize,
        first: &Moment,
        now: &Moment,
        events: &mut Vec<Event>,
    ) {
        self.finish_overtaken(now, events);
        if self.queue.len() >= self.limits.in_flight {
            self.give_up(now, events);
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        let traceparent = head::single_field(&head.fields, "traceparent");
        let tracestate = head::joined_field(&head.fields, "tracestate");
        let start = self.role.request_start(first);
        events.push(Event::Begin(Begin {
            id,
            role: self.role,
            start,
            tid: first.tid,
            traceparent,
            tracestate,
        }));
        let keep = self.retained.saturating_add(length) <= self.limits.buffer.saturating_mul(RETAINED_HEADS);
        let retained = if keep { length } else { 0 };
        self.retained += retained;
        self.queue.push_back(Exchange {
            id,
            start,
            http: Http {
                minor_version: head.minor_version,
                method: head.method,
                target: if keep { head.target } else { String::new() },
                request_headers: if keep { head.fields } else { Vec::new() },
                ..Http::default()
            },
            retained,
            request_size: Some(0),
            response_size: Some(0),
            first_response_byte: None,
            last_response_byte: 0,
            answering: false,
            answer_lost: false,
            next_lost: false,
        });
        self.requests.exchange = Some(id);
        self.requests.state = match head.body {
            Body::Empty => State::Boundary,
            body => State::Body(body),
        };
    }

    /// A new request was sent, or may have been: answers whose end was not seen are over.
    fn finish_overtaken(&mut self, now: &Moment, events: &mut Vec<Event>) {
        while let Some(front) = self.queue.front() {
            if front.answering && self.responses.adrift() {
                self.finish(Outcome::Complete, None, events);
                self.responses.state = State::Seek;
            } else if front.answer_lost && !front.answering {
                self.finish(Outcome::Unknown, Some(now.entered), events);
            } else {
                return;
            }
        }
    }

    fn current_request(&mut self) -> Option<&mut Exchange> {
        let id = self.requests.exchange?;
        self.queue.back_mut().filter(|e| e.id == id)
    }

    fn count_request(&mut self, n: u64) {
        if let Some(exchange) = self.current_request() {
            exchange.request_size = exchange.request_size.map(|size| size.saturating_add(n));
        }
    }

    fn lose_request_size(&mut self) {
        if let Some(exchange) = self.current_request() {
            exchange.request_size = None;
        }
    }

    // ---- responses -----------------------------------------------------------------------------

    fn response_data(&mut self, mut bytes: &[u8], at: &Moment, events: &mut Vec<Event>) {
        let mut first = at.first_of_call;
        let now = at.returned;
        while !bytes.is_empty() && !self.opaque {
            match &mut self.responses.state {
                State::Seek | State::Adrift { .. } => {
                    if first && self.admits_response() && head::status_line(bytes).is_some() {
                        self.responses.begin_head();
                        continue;
                    }
                    if self.responses.adrift() {
                        self.touch_response(now, None);
                        if self.responses.drift(bytes) {
                            self.responses.state = State::Seek;
                            self.finish(Outcome::Complete, Some(now), events);
                        }
                    } else {
                        self.lose_response(at, events);
                    }
                    return;
                }
                State::Boundary => {
                    if self.queue.is_empty() {
                        // An answer to nothing (a time-out notice, mostly): its framing can't be known.
                        self.responses.state = State::Seek;
                        return;
                    }
                    self.responses.begin_head();
                }
                State::Head { before } => {
                    let before = *before;
                    match self.responses.collect_head(bytes, at, &self.limits, head::status_line) {
                        Collected::More => return,
                        Collected::Complete { taken } => {
                            let (head, moment) = self.responses.take_head(at);
                            match head::response(&head, self.limits.headers) {
                                Ok(parsed) => {
                                    self.response_head(parsed, before, &moment, at, events);
                                    bytes = bytes.get(taken..).unwrap_or_default();
                                }
                                Err(_) => {
                                    self.responses.state = before.into();
                                    self.lose_response(at, events);
                                    return;
                                }
                            }
                        }
                        Collected::TooLong => {
                            self.cut_response(at, events);
                            return;
                        }
                        Collected::NotAHead => {
                            self.responses.state = before.into();
                            if self.responses.restart(at) && first {
                                continue;
                            }
                            self.lose_response(at, events);
                            return;
                        }
                    }
                }
                State::Body(body) => {
                    let mut size = 0;
                    let progress = body.data(bytes, &mut size);
                    self.touch_response(now, Some(size));
                    match progress {
                        Progress::More => return,
                        Progress::Done(taken) => {
                            self.responses.state = State::Boundary;
                            self.finish(Outcome::Complete, Some(now), events);
                            bytes = bytes.get(taken..).unwrap_or_default();
                        }
                        Progress::Broken => {
                            self.lose_response_size();
                            self.responses.state = State::Adrift { chunked: false };
                            return;
                        }
                    }
                }
            }
            first = false;
        }
    }

    fn response_gap(&mut self, n: u64, at: &Moment, events: &mut Vec<Event>) {
        let now = at.returned;
        match &mut self.responses.state {
            State::Body(body) => {
                let mut size = 0;
                let chunked = matches!(body, Body::Chunked(_));
                let progress = body.gap(n, &mut size);
                self.touch_response(now, Some(size));
                match progress {
                    GapProgress::More => {}
                    GapProgress::Done { left_over } => {
                        self.responses.state = State::Boundary;
                        self.finish(Outcome::Complete, Some(now), events);
                        if left_over > 0 {
                            self.lose_response(at, events);
                        }
                    }
                    GapProgress::Broken => {
                        self.lose_response_size();
                        self.responses.state = State::Adrift { chunked };
                    }
                }
            }
            State::Head { .. } => self.cut_response(at, events),
            State::Boundary | State::Seek => self.lose_response(at, events),
            State::Adrift { .. } => self.touch_response(now, None),
        }
        self.responses.tail.clear();
    }

    fn response_lost(&mut self, at: &Moment, events: &mut Vec<Event>) {
        match &self.responses.state {
            State::Head { .. } => self.cut_response(at, events),
            State::Body(Body::UntilClose) => self.lose_response_size(),
            State::Body(body) => {
                let chunked = matches!(body, Body::Chunked(_));
                self.lose_response_size();
                self.responses.state = State::Adrift { chunked };
            }
            State::Adrift { .. } => {}
            State::Seek | State::Boundary => {}
        }
        self.responses.tail.clear();
        // More than the current answer may be gone.
        self.lose_response(at, events);
    }

    /// May bytes that look like a response be one?
    fn admits_response(&self) -> bool {
        match self.queue.front() {
            None => false,
            // The rest of an answer; unless another one is due.
            Some(front) if front.answering => self.queue.len() > 1,
            Some(_) => true,
        }
    }

    /// Bytes of the response direction are missing or make no sense.
    fn lose_response(&mut self, at: &Moment, events: &mut Vec<Event>) {
        if self.queue.len() > 1 {
            // Which answer belongs to which request can't be told any more.
            self.give_up(at, events);
            return;
        }
        if let Some(front) = self.queue.front_mut()
            && !front.answering
        {
            front.answer_lost = true;
            self.responses.state = State::Seek;
            if front.next_lost {
                // The next answer seen may be that to the request that was missed.
                self.finish(Outcome::Unknown, Some(at.entered), events);
            }
        } else if self.queue.is_empty() {
            self.responses.state = State::Seek;
        }
    }

    /// The head of a response can't be completed: takes the status and what else was captured.
    fn cut_response(&mut self, at: &Moment, events: &mut Vec<Event>) {
        let State::Head { before } = self.responses.state else { return };
        let (head, moment) = self.responses.take_head(at);
        let parsed =
            head::close_cut_head(&head).and_then(|cut| head::response(&cut, self.limits.headers).ok());
        let Some(parsed) = parsed else {
            self.responses.state = before.into();
            self.lose_response(at, events);
            return;
        };
        if matches!(parsed.status, 100..=199) {
            self.responses.state = State::Boundary;
            self.lose_response(at, events);
            return;
        }
        let chunked = self
            .queue
            .front()
            .is_some_and(|front| matches!(parsed.body(&front.http.method), Body::Chunked(_)));
        self.start_answer(parsed, before, &moment, events);
        self.touch_response(at.returned, None);
        self.lose_response_size();
        self.responses.state = State::Adrift { chunked };
    }

    fn response_head(
        &mut self,
        head: head::ResponseHead,
        before: Lost,
        first: &Moment,
        at: &Moment,
        events: &mut Vec<Event>,
    ) {
        if matches!(head.status, 100 | 102..=199) {
            // An interim response: the final one follows.
            self.responses.state = State::Boundary;
            return;
        }
        let Some(method) = self.queue.front().map(|front| front.http.method.clone()) else { return };
        let upgraded = head.status == 101 || (method == "CONNECT" && matches!(head.status, 200..=299));
        let body = head.body(&method);
        self.start_answer(head, before, first, events);
        let now = at.returned;
        self.touch_response(now, None);
        if upgraded {
            if let Some(front) = self.queue.front_mut() {
                front.http.upgraded = true;
                front.response_size = None;
            }
            self.finish(Outcome::Complete, Some(now), events);
            self.give_up(at, events);
        } else if body == Body::Empty {
            self.responses.state = State::Boundary;
            self.finish(Outcome::Complete, Some(now), events);
        } else {
            self.responses.state = State::Body(body);
        }
    }

    /// The head of the final response to the oldest request is here.
    fn start_answer(
        &mut self,
        head: head::ResponseHead,
        before: Lost,
        first: &Moment,
        events: &mut Vec<Event>,
    ) {
        if matches!(before, Lost::Adrift { .. }) && self.queue.front().is_some_and(|front| front.answering) {
            // The answer before it ended with the last bytes seen.
            self.finish(Outcome::Complete, None, events);
        }
        let start = self.role.answer_start(first);
        if let Some(front) = self.queue.front_mut() {
            front.answering = true;
            front.first_response_byte = Some(start);
            front.http.status = Some(head.status);
            if front.retained > 0 {
                front.http.response_headers = head.fields;
            }
        }
    }

    /// Counts bytes of the response; `None`: some, but unknown how many belong to the content.
    fn touch_response(&mut self, now: u64, size: Option<u64>) {
        if let Some(front) = self.queue.front_mut() {
            front.last_response_byte = now;
            if let Some(more) = size {
                front.response_size = front.response_size.map(|size| size.saturating_add(more));
            }
        }
    }

    fn lose_response_size(&mut self) {
        if let Some(front) = self.queue.front_mut() {
            front.response_size = None;
        }
    }

    // ---- ends ----------------------------------------------------------------------------------

    /// Ends the oldest exchange; without `end`, with the last byte seen of its response.
    fn finish(&mut self, outcome: Outcome, end: Option<u64>, events: &mut Vec<Event>) {
        let Some(mut exchange) = self.queue.pop_front() else { return };
        self.retained = self.retained.saturating_sub(exchange.retained);
        exchange.http.request_body_size = exchange.request_size;
        exchange.http.response_body_size = exchange.response_size.filter(|_| exchange.answering);
        events.push(Event::End(Box::new(End {
            id: exchange.id,
            role: self.role,
            start: exchange.start,
            first_response_byte: exchange.first_response_byte,
            end: end
                .unwrap_or(exchange.last_response_byte)
                .max(exchange.first_response_byte.unwrap_or(0))
                .max(exchange.start),
            outcome,
            request: Request::Http(exchange.http),
        })));
    }

    /// Ends all exchanges and takes no more.
    fn give_up(&mut self, at: &Moment, events: &mut Vec<Event>) {
        while !self.queue.is_empty() {
            self.finish(Outcome::Unknown, Some(at.entered), events);
        }
        self.opaque = true;
        self.requests = Half::default();
        self.responses = Half::default();
    }

    fn close_all(&mut self, outcome: Outcome, at: &Moment, events: &mut Vec<Event>) {
        while let Some(front) = self.queue.front() {
            // What follows the answer that was being transferred has none.
            let answering = std::mem::take(&mut self.responses.state);
            let complete = front.answering
                && match answering {
                    State::Adrift { .. } => true,
                    // Its reader must see the end of the connection, its writer makes it.
                    State::Body(Body::UntilClose) => match self.role {
                        Role::Client => outcome == Outcome::ClosedByPeer,
                        Role::Server => true,
                    },
                    _ => false,
                };
            let (outcome, end) = match (complete, self.role) {
                (true, Role::Client) if answering == State::Body(Body::UntilClose) => {
                    (Outcome::Complete, Some(at.returned))
                }
                (true, _) => (Outcome::Complete, None),
                (false, _) => (outcome, Some(at.returned)),
            };
            self.finish(outcome, end, events);
        }
        self.opaque = true;
        self.requests = Half::default();
        self.responses = Half::default();
    }
}

impl Parser for Connection {
    fn segment(&mut self, direction: Direction, segment: Segment<'_>, at: &Moment, events: &mut Vec<Event>) {
        if self.opaque {
            return;
        }
        match (self.is_request(direction), segment) {
            (true, Segment::Data(bytes)) => self.request_data(bytes, at, events),
            (true, Segment::Gap(0)) | (false, Segment::Gap(0)) => {}
            (true, Segment::Gap(n)) => self.request_gap(n, at, events),
            (true, Segment::Lost) => self.request_lost(at, events),
            (false, Segment::Data(bytes)) => self.response_data(bytes, at, events),
            (false, Segment::Gap(n)) => self.response_gap(n, at, events),
            (false, Segment::Lost) => self.response_lost(at, events),
        }
    }

    fn close(&mut self, close: Close, at: &Moment, events: &mut Vec<Event>) {
        if self.opaque {
            return;
        }
        match (self.role, close) {
            // The response may still come, or still be written.
            (Role::Client, Close::LocalWrite) => {}
            (Role::Server, Close::Remote) => self.peer_closed = true,
            (Role::Client, Close::Remote) => self.close_all(Outcome::ClosedByPeer, at, events),
            (Role::Client, Close::Local) | (Role::Server, Close::Local | Close::LocalWrite) => {
                let outcome = if self.peer_closed { Outcome::ClosedByPeer } else { Outcome::ClosedLocally };
                self.close_all(outcome, at, events);
            }
        }
    }

    fn settle(&mut self, events: &mut Vec<Event>) {
        if self.responses.adrift() && self.queue.front().is_some_and(|front| front.answering) {
            self.responses.state = State::Seek;
            self.finish(Outcome::Complete, None, events);
        }
    }

    fn http(&self, id: u64) -> Option<&Http> {
        self.queue.iter().find(|exchange| exchange.id == id).map(|exchange| &exchange.http)
    }

    fn is_opaque(&self) -> bool {
        self.opaque
    }

    fn buffered(&self) -> usize {
        self.requests.buffered() + self.responses.buffered() + self.retained
    }
}
