//! Processes that have a tracer of their own: what that makes spans of is held back here, and what it does not
//! is put into its traces.
//!
//! Whether a process has one is found out by looking into it ([`crate::python::sdk`]). A span waits until the
//! process was looked at after the span's request began, so that the first request counts like any other.
//!
//! A trace is known by its headers: `traceparent` of the request that is served, and of calls that are made for
//! it. Spans of a request whose trace is not known yet wait until it is, or the request is answered. The
//! tracer's own span of the request is in no header: what would be a child of ours has the remote parent of the
//! request, or none.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::{
    context::RemoteParent,
    span::{Span, SpanId, SpanKind, SpanRef},
};
use crate::{
    probes::record::ConnectionId,
    python::{
        library::{Category, Libraries},
        sdk::Sdk,
    },
};

/// Spans that wait for a look at their process, and for the trace of their request, at most.
const MAX_WAITING: usize = 8 * 1024;
/// For how many nanoseconds they do at most.
const WAIT_NANOS: u64 = 60_000_000_000;
/// Requests that are remembered, and for how many nanoseconds after their answer.
const MAX_REQUESTS: usize = 64 * 1024;
/// Connections of which it is remembered from where was sent.
const MAX_CALLS: usize = 64 * 1024;

type ExchangeId = (ConnectionId, u64);

/// A process was looked at.
#[derive(Debug, Clone)]
pub struct Look {
    /// Which.
    pub pid: u32,
    /// When, nanoseconds of `CLOCK_MONOTONIC`; `u64::MAX` if it cannot be read, and never will.
    pub time: u64,
    /// Its tracer, if it has one.
    pub sdk: Option<Arc<Sdk>>,
}

/// A span, and what decides where it goes.
#[derive(Debug)]
pub struct Finished {
    /// The span.
    pub span: Span,
    /// Its request.
    pub exchange: ExchangeId,
    /// The served request that it belongs to, if that is known.
    pub request: Option<ExchangeId>,
    /// When its request began, nanoseconds of `CLOCK_MONOTONIC`.
    pub begin: u64,
    /// What it is.
    pub category: Category,
    /// What was seen of the stack that made the call.
    pub libraries: Libraries,
    /// What the request carried when the process sent it.
    pub header: Option<RemoteParent>,
    /// Its ids are in the headers that the other end gets.
    pub sent: bool,
}

#[derive(Debug, Default)]
struct Process {
    looked: u64,
    sdk: Option<Arc<Sdk>>,
}

/// What is known of the trace of a request that is served.
#[derive(Debug, Default)]
struct Request {
    incoming: Option<RemoteParent>,
    outgoing: Option<RemoteParent>,
    /// Calls that were made for it are in several traces.
    differ: bool,
    /// The other end of a call has been told of the trace that we have begun.
    fixed: bool,
    /// When it was answered, nanoseconds of `CLOCK_MONOTONIC`.
    over: Option<u64>,
}

/// The trace of a request, and the span in it that is the nearest known.
struct Context<'a> {
    of: &'a RemoteParent,
    parent: Option<SpanId>,
}

impl Request {
    /// Where the tracer has made a span of the request.
    fn context(&self) -> Option<Context<'_>> {
        match (&self.incoming, &self.outgoing) {
            (Some(incoming), Some(outgoing)) if incoming.trace_id != outgoing.trace_id => {
                Some(Context { of: outgoing, parent: None })
            }
            (Some(of), _) => Some(Context { of, parent: Some(of.span_id) }),
            (None, Some(of)) if !self.differ => Some(Context { of, parent: None }),
            (None, _) => None,
        }
    }
}

/// See the module. Does nothing for processes that it was not told of.
#[derive(Debug, Default)]
pub struct Existing {
    processes: HashMap<u32, Process>,
    requests: HashMap<ExchangeId, Request>,
    calls: HashMap<ConnectionId, Libraries>,
    /// Until their process was looked at, oldest first.
    undecided: VecDeque<Finished>,
    /// Until the trace of their request is known, oldest first.
    unknown: VecDeque<Finished>,
    /// Requests that were answered in processes without a tracer, which is not known for sure yet.
    answered: Vec<ExchangeId>,
    ready: Vec<Span>,
    held_back: u64,
}

impl Existing {
    /// This process will be looked at.
    pub fn selected(&mut self, pid: u32) {
        self.processes.insert(pid, Process::default());
    }

    /// It has a child, which is what it is until that is looked at.
    pub fn forked(&mut self, parent: u32, child: u32) {
        if let Some(process) = self.processes.get(&parent) {
            let sdk = process.sdk.clone();
            self.processes.insert(child, Process { looked: 0, sdk });
        }
    }

    /// A process was looked at.
    pub fn looked(&mut self, look: Look) {
        let Some(process) = self.processes.get_mut(&look.pid) else { return };
        process.looked = look.time;
        process.sdk = look.sdk;
        if process.sdk.is_none() {
            let requests = &mut self.requests;
            self.answered.retain(|exchange| {
                let same = exchange.0.tgid == look.pid;
                if same {
                    requests.remove(exchange);
                }
                !same
            });
        }
        let (decided, undecided) = std::mem::take(&mut self.undecided)
            .into_iter()
            .partition(|finished| finished.exchange.0.tgid == look.pid && finished.begin <= look.time);
        self.undecided = undecided;
        let decided: VecDeque<Finished> = decided;
        for finished in decided {
            let span = self.decide(finished);
            self.ready.extend(span);
        }
    }

    /// Processes that spans wait for.
    #[must_use]
    pub fn wanted(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self.undecided.iter().map(|finished| finished.exchange.0.tgid).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// What is sent on this connection next is sent through these.
    pub fn sent_through(&mut self, id: ConnectionId, libraries: Libraries) {
        if !self.processes.contains_key(&id.tgid) {
            return;
        }
        if self.calls.len() >= MAX_CALLS {
            self.calls.clear();
        }
        self.calls.insert(id, libraries);
    }

    /// Through what was sent on this connection last.
    #[must_use]
    pub fn call(&self, id: ConnectionId) -> Libraries {
        self.calls.get(&id).copied().unwrap_or_default()
    }

    /// A connection is closed.
    pub fn closed(&mut self, id: ConnectionId) {
        self.calls.remove(&id);
    }

    /// A request was read.
    pub fn began(&mut self, exchange: ExchangeId, incoming: Option<RemoteParent>) {
        if !self.processes.contains_key(&exchange.0.tgid) {
            return;
        }
        if self.requests.len() >= MAX_REQUESTS {
            self.requests.retain(|_, request| request.over.is_none());
            if self.requests.len() >= MAX_REQUESTS {
                return;
            }
        }
        self.requests.insert(exchange, Request { incoming, ..Request::default() });
    }

    /// A call that was made for a request carries this.
    pub fn carries(&mut self, exchange: ExchangeId, header: &RemoteParent) {
        let Some(request) = self.requests.get_mut(&exchange) else { return };
        match &request.outgoing {
            Some(known) => request.differ |= known.trace_id != header.trace_id,
            None => request.outgoing = Some(header.clone()),
        }
        if self.traces_requests(exchange.0.tgid) {
            self.settle(|finished| finished.request == Some(exchange));
        }
    }

    /// The other end of a call that was made for a request has been told of the trace that we have begun.
    pub fn told(&mut self, exchange: ExchangeId) {
        if let Some(request) = self.requests.get_mut(&exchange) {
            request.fixed = true;
        }
    }

    /// A request is answered.
    pub fn ended(&mut self, exchange: ExchangeId, now: u64) {
        let Some(request) = self.requests.get_mut(&exchange) else { return };
        request.over = Some(now);
        if self.processes.get(&exchange.0.tgid).is_some_and(|process| process.sdk.is_none()) {
            self.answered.push(exchange);
        }
        self.settle(|finished| finished.request == Some(exchange));
    }

    /// A span is complete; it is given back if it can be exported at once.
    pub fn finish(&mut self, finished: Finished) -> Option<Span> {
        let Some(process) = self.processes.get(&finished.exchange.0.tgid) else { return Some(finished.span) };
        if finished.begin <= process.looked {
            return self.decide(finished);
        }
        let oldest = if self.undecided.len() < MAX_WAITING { None } else { self.undecided.pop_front() };
        self.undecided.push_back(finished);
        oldest.and_then(|oldest| self.decide(oldest))
    }

    /// This one has waited elsewhere.
    pub fn hand_out(&mut self, span: Option<Span>) {
        self.ready.extend(span);
    }

    /// Spans that have waited and can be exported now.
    pub fn ready(&mut self) -> Vec<Span> {
        std::mem::take(&mut self.ready)
    }

    /// How many spans were held back since this was asked last.
    pub fn held_back(&mut self) -> u64 {
        std::mem::take(&mut self.held_back)
    }

    /// Nothing waits for ever; `now` in nanoseconds of `CLOCK_MONOTONIC`, nothing waits any more if `None`.
    pub fn release(&mut self, now: Option<u64>) {
        let is_over = |since: u64| now.is_none_or(|now| now.saturating_sub(since) > WAIT_NANOS);
        let (over, waits): (VecDeque<_>, _) =
            std::mem::take(&mut self.undecided).into_iter().partition(|finished| is_over(finished.begin));
        self.undecided = waits;
        for finished in over {
            let span = self.decide(finished);
            self.ready.extend(span);
        }
        let (over, waits): (VecDeque<_>, _) =
            std::mem::take(&mut self.unknown).into_iter().partition(|finished| is_over(finished.begin));
        self.unknown = waits;
        for finished in over {
            let span = self.without_trace(finished);
            self.ready.push(span);
        }
        self.requests.retain(|_, request| request.over.is_none_or(|over| !is_over(over)));
        let requests = &self.requests;
        self.answered.retain(|exchange| requests.contains_key(exchange));
    }

    /// A process is gone. It is what it was when it was looked at last.
    pub fn process_gone(&mut self, pid: u32) {
        self.looked(Look {
            pid,
            time: u64::MAX,
            sdk: self.processes.get(&pid).and_then(|process| process.sdk.clone()),
        });
        for (exchange, request) in &mut self.requests {
            if exchange.0.tgid == pid {
                request.over.get_or_insert(0);
            }
        }
        self.settle(|finished| finished.exchange.0.tgid == pid);
        self.processes.remove(&pid);
        self.requests.retain(|exchange, _| exchange.0.tgid != pid);
        self.calls.retain(|id, _| id.tgid != pid);
    }

    /// What belongs to a request that is served, where `ours` is the span that we make of it: that one may not
    /// be exported, and the request be in another trace.
    #[must_use]
    pub fn of_request(&self, exchange: ExchangeId, ours: SpanRef) -> Option<SpanRef> {
        if !self.traces_requests(exchange.0.tgid) {
            return Some(ours);
        }
        let Context { of, parent } = self.requests.get(&exchange)?.context()?;
        Some(SpanRef { trace_id: of.trace_id, span_id: parent, sampled: of.sampled })
    }

    /// The process has a tracer, or may have one.
    #[must_use]
    pub fn has_tracer(&self, pid: u32) -> bool {
        self.processes.get(&pid).is_some_and(|process| process.sdk.is_some())
    }

    /// The process has a tracer that makes spans of the requests that it serves.
    fn traces_requests(&self, pid: u32) -> bool {
        self.processes.get(&pid).and_then(|process| process.sdk.as_ref()).is_some_and(|sdk| sdk.server)
    }

    fn decide(&mut self, finished: Finished) -> Option<Span> {
        let tgid = finished.exchange.0.tgid;
        let Some(sdk) = self.processes.get(&tgid).and_then(|process| process.sdk.clone()) else {
            return Some(finished.span);
        };
        let is_call = finished.span.kind == SpanKind::Client;
        if let (true, Some(request), Some(header)) = (is_call, finished.request, &finished.header) {
            self.carries(request, header);
        }
        if let (true, Some(request)) = (finished.sent, finished.request) {
            self.told(request);
        }
        let traced =
            if is_call { sdk.traces_call(finished.category, finished.libraries) } else { sdk.server };
        if traced {
            self.held_back += 1;
            return None;
        }
        self.join(finished)
    }

    /// Puts a span that only we have into the trace of its request.
    fn join(&mut self, mut finished: Finished) -> Option<Span> {
        let span = &mut finished.span;
        let request = finished.request.and_then(|exchange| self.requests.get(&exchange));
        // The tracer's span for which the call is made.
        if let (SpanKind::Client, Some(header)) = (span.kind, &finished.header) {
            let incoming = request.and_then(|request| request.incoming.as_ref());
            let is_remote = incoming.is_some_and(|incoming| incoming.span_id == header.span_id);
            put(span, header);
            (span.parent_span_id, span.parent_is_remote) = (Some(header.span_id), is_remote);
            return Some(finished.span);
        }
        let Some(request) = request else { return Some(self.without_trace(finished)) };
        if finished.sent {
            if self.traces_requests(finished.exchange.0.tgid) {
                let context = request.context().filter(|context| context.of.trace_id == span.trace_id);
                span.parent_span_id = context.and_then(|context| context.parent);
                span.parent_is_remote = span.parent_span_id.is_some();
            }
            return Some(finished.span);
        }
        if self.traces_requests(finished.exchange.0.tgid) {
            if let Some(Context { of, parent }) = request.context() {
                put(span, of);
                (span.parent_span_id, span.parent_is_remote) = (parent, parent.is_some());
                return Some(finished.span);
            }
        } else if request.incoming.is_some() {
            // Ours of the request is exported, and is in that trace.
            return Some(finished.span);
        }
        if request.over.is_some() {
            return Some(self.without_trace(finished));
        }
        let oldest = if self.unknown.len() < MAX_WAITING { None } else { self.unknown.pop_front() };
        self.unknown.push_back(finished);
        oldest.map(|oldest| self.without_trace(oldest))
    }

    /// Spans of these can be put into their traces, or never will be.
    fn settle(&mut self, which: impl Fn(&Finished) -> bool) {
        if self.unknown.is_empty() {
            return;
        }
        let (settled, unknown): (VecDeque<_>, _) =
            std::mem::take(&mut self.unknown).into_iter().partition(|finished| which(finished));
        self.unknown = unknown;
        for finished in settled {
            let span = self.join(finished);
            self.ready.extend(span);
        }
    }

    /// No header has said which trace the request is in before it was answered, or several where the tracer
    /// makes no span of it.
    fn without_trace(&self, mut finished: Finished) -> Span {
        let span = &mut finished.span;
        let request = finished.request.and_then(|exchange| self.requests.get(&exchange));
        if self.traces_requests(finished.exchange.0.tgid) {
            if !span.parent_is_remote {
                span.parent_span_id = None;
            }
        } else if let Some(request) = request
            && let (None, Some(outgoing)) = (&request.incoming, &request.outgoing)
            && !(request.differ || request.fixed)
        {
            put(span, outgoing);
        }
        finished.span
    }
}

fn put(span: &mut Span, trace: &RemoteParent) {
    span.trace_id = trace.trace_id;
    span.trace_state.clone_from(&trace.trace_state);
    span.sampled = trace.sampled;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        python::{library::Library, sdk::Vendor},
        trace::span::{Resource, SpanId, Status, TraceId},
    };

    const PID: u32 = 7;
    const SERVED: ExchangeId = (ConnectionId { tgid: PID, inode: 1 }, 0);
    const OURS: TraceId = TraceId([9; 16]);

    fn remote(trace: u8, span: u8) -> RemoteParent {
        RemoteParent {
            trace_id: TraceId([trace; 16]),
            span_id: SpanId([span; 8]),
            sampled: true,
            trace_state: String::new(),
        }
    }

    fn sdk(server: bool, libraries: &[Library]) -> Option<Arc<Sdk>> {
        Some(Arc::new(Sdk {
            vendor: Vendor::OpenTelemetry,
            server,
            libraries: Libraries::of(libraries),
            instrumentations: Vec::new(),
        }))
    }

    fn finished(kind: SpanKind, category: Category, header: Option<RemoteParent>) -> Finished {
        let (inode, parent_span_id) = match kind {
            SpanKind::Server => (1, None),
            SpanKind::Client => (2, Some(SpanId([8; 8]))),
        };
        let span = Span {
            trace_id: OURS,
            span_id: SpanId([if kind == SpanKind::Server { 8 } else { 3 }; 8]),
            parent_span_id,
            parent_is_remote: false,
            trace_state: String::new(),
            sampled: true,
            name: String::new(),
            kind,
            start_unix_nano: 0,
            end_unix_nano: 0,
            status: Status::Unset,
            attributes: Vec::new(),
            resource: Arc::new(Resource { attributes: Vec::new() }),
        };
        let exchange = (ConnectionId { tgid: PID, inode }, 0);
        let libraries = Libraries::default();
        let request = Some(SERVED);
        Finished { span, exchange, request, begin: 100, category, libraries, header, sent: false }
    }

    fn command() -> Finished {
        finished(SpanKind::Client, Category::Redis, None)
    }

    fn call(header: Option<RemoteParent>) -> Finished {
        finished(SpanKind::Client, Category::Http, header)
    }

    fn looked(existing: &mut Existing, sdk: Option<Arc<Sdk>>) {
        existing.looked(Look { pid: PID, time: 100, sdk });
    }

    /// Of a process with this tracer, which has read a request.
    fn serving(sdk: Option<Arc<Sdk>>, incoming: Option<RemoteParent>) -> Existing {
        let mut existing = Existing::default();
        existing.selected(PID);
        looked(&mut existing, sdk);
        existing.began(SERVED, incoming);
        existing
    }

    fn place(span: &Span) -> (TraceId, Option<SpanId>, bool) {
        (span.trace_id, span.parent_span_id, span.parent_is_remote)
    }

    #[test]
    fn spans_wait_for_a_look_at_their_process() {
        let mut existing = Existing::default();
        assert!(existing.finish(command()).is_some(), "of a process that nobody looks at");
        existing.selected(PID);
        existing.began(SERVED, None);
        assert!(existing.finish(command()).is_none());
        assert!(existing.finish(finished(SpanKind::Server, Category::Http, None)).is_none());
        assert_eq!(existing.wanted(), [PID]);
        // Before their request began.
        existing.looked(Look { pid: PID, time: 99, sdk: None });
        assert_eq!((existing.ready().len(), existing.wanted()), (0, vec![PID]));
        looked(&mut existing, sdk(true, &[]));
        existing.ended(SERVED, 200);
        let ready = existing.ready();
        assert_eq!((ready.len(), existing.held_back()), (1, 1));
        // Nobody exports what would be its parent.
        assert_eq!(ready.first().map(place), Some((OURS, None, false)));
        assert!(existing.wanted().is_empty());
    }

    #[test]
    fn what_the_tracer_does_not_make_is_in_the_trace_of_the_caller() {
        let mut existing = serving(sdk(true, &[Library::Requests]), Some(remote(1, 2)));
        assert_eq!(existing.finish(call(None)), None);
        let span = existing.finish(command()).unwrap();
        assert_eq!(place(&span), (TraceId([1; 16]), Some(SpanId([2; 8])), true));
        assert_eq!(existing.held_back(), 1);
    }

    #[test]
    fn a_trace_that_the_tracer_begins_is_known_by_its_calls() {
        let mut existing = serving(sdk(true, &[Library::Requests]), None);
        assert_eq!(existing.finish(command()), None);
        let ours = SpanRef { trace_id: OURS, span_id: Some(SpanId([8; 8])), sampled: true };
        assert_eq!(existing.of_request(SERVED, ours), None);
        existing.carries(SERVED, &remote(4, 5));
        assert_eq!(existing.ready().iter().map(place).collect::<Vec<_>>(), [(TraceId([4; 16]), None, false)]);
        assert_eq!(place(&existing.finish(command()).unwrap()).0, TraceId([4; 16]));
        let found = existing.of_request(SERVED, ours).unwrap();
        assert_eq!((found.trace_id, found.span_id), (TraceId([4; 16]), None));
    }

    #[test]
    fn a_call_that_only_carries_the_header_is_below_the_span_that_it_names() {
        let mut existing = serving(sdk(true, &[Library::Redis]), None);
        let span = existing.finish(call(Some(remote(4, 5)))).unwrap();
        assert_eq!(place(&span), (TraceId([4; 16]), Some(SpanId([5; 8])), false));
    }

    #[test]
    fn where_the_tracer_knows_only_calls_the_request_joins_their_trace() {
        let mut existing = serving(sdk(false, &[Library::Requests]), None);
        assert_eq!(existing.finish(command()), None);
        assert_eq!(existing.finish(call(Some(remote(4, 5)))), None);
        assert_eq!(existing.ready(), []);
        existing.ended(SERVED, 200);
        let server = existing.finish(finished(SpanKind::Server, Category::Http, None)).unwrap();
        assert_eq!(place(&server), (TraceId([4; 16]), None, false));
        let below = (TraceId([4; 16]), Some(SpanId([8; 8])), false);
        assert_eq!(existing.ready().iter().map(place).collect::<Vec<_>>(), [below]);
        assert_eq!(existing.held_back(), 1);
    }

    #[test]
    fn calls_in_several_traces_say_nothing() {
        let mut existing = serving(sdk(false, &[Library::Requests]), None);
        existing.carries(SERVED, &remote(4, 5));
        existing.carries(SERVED, &remote(6, 7));
        existing.ended(SERVED, 200);
        let server = existing.finish(finished(SpanKind::Server, Category::Http, None)).unwrap();
        assert_eq!(server.trace_id, OURS);
    }

    #[test]
    fn nothing_waits_for_ever() {
        let mut existing = serving(sdk(true, &[]), None);
        assert_eq!(existing.finish(command()), None);
        existing.release(Some(101 + WAIT_NANOS));
        assert_eq!(existing.ready().len(), 1);
        existing.selected(PID);
        for _ in 0..MAX_WAITING {
            assert_eq!(existing.finish(command()), None);
        }
        assert!(existing.finish(command()).is_some());
        existing.process_gone(PID);
        assert_eq!(existing.ready().len(), MAX_WAITING);
        assert!(existing.requests.is_empty() && existing.processes.is_empty());
    }
}
