//! A connection played by hand, for the unit tests: every call is one system call, 10 ns after the last.

use crate::exchange::{Http, Redis};
use crate::{Close, Direction, End, Event, Moment, Parser, Request, Segment, Session};

/// Whatever takes segments.
pub trait Follows {
    fn follow(&mut self, direction: Direction, segment: Segment<'_>, at: &Moment, events: &mut Vec<Event>);
    fn end(&mut self, close: Close, at: &Moment, events: &mut Vec<Event>);
}

impl<P: Parser> Follows for P {
    fn follow(&mut self, direction: Direction, segment: Segment<'_>, at: &Moment, events: &mut Vec<Event>) {
        self.segment(direction, segment, at, events);
    }

    fn end(&mut self, close: Close, at: &Moment, events: &mut Vec<Event>) {
        self.close(close, at, events);
    }
}

/// Makes a [`Session`] one of [`Follows`].
pub struct Whole(pub Session);

impl Follows for Whole {
    fn follow(&mut self, direction: Direction, segment: Segment<'_>, at: &Moment, events: &mut Vec<Event>) {
        self.0.segment(direction, segment, at, events);
    }

    fn end(&mut self, close: Close, at: &Moment, events: &mut Vec<Event>) {
        self.0.close(close, at, events);
    }
}

pub struct Wire<F> {
    pub parser: F,
    pub events: Vec<Event>,
    /// System calls so far; call number n is entered at 10 n and returns at 10 n + 5.
    pub calls: u64,
}

impl<F: Follows> Wire<F> {
    pub fn new(parser: F) -> Self {
        Self { parser, events: Vec::new(), calls: 0 }
    }

    /// One system call of these segments.
    pub fn call(&mut self, direction: Direction, segments: &[Segment<'_>]) -> &mut Self {
        self.calls += 1;
        for (i, segment) in segments.iter().enumerate() {
            let at = self.moment(i == 0);
            self.parser.follow(direction, *segment, &at, &mut self.events);
        }
        self
    }

    fn moment(&self, first_of_call: bool) -> Moment {
        Moment { entered: self.calls * 10, returned: self.calls * 10 + 5, tid: 7, first_of_call }
    }

    pub fn out(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.call(Direction::Outbound, &[Segment::Data(bytes.as_ref())])
    }

    pub fn inn(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.call(Direction::Inbound, &[Segment::Data(bytes.as_ref())])
    }

    /// A call of which the middle wasn't captured.
    pub fn cut(&mut self, direction: Direction, head: &str, gap: u64, tail: &str) -> &mut Self {
        let segments = [Segment::Data(head.as_bytes()), Segment::Gap(gap), Segment::Data(tail.as_bytes())];
        self.call(direction, &segments[..if tail.is_empty() { 2 } else { 3 }])
    }

    pub fn close(&mut self, close: Close) -> &mut Self {
        self.calls += 1;
        let at = self.moment(true);
        self.parser.end(close, &at, &mut self.events);
        self
    }

    pub fn begins(&self) -> usize {
        self.events.iter().filter(|e| matches!(e, Event::Begin(_))).count()
    }

    pub fn ends(&self) -> Vec<&End> {
        self.events.iter().filter_map(|e| if let Event::End(end) = e { Some(&**end) } else { None }).collect()
    }

    /// The only exchange that has ended.
    pub fn only(&self) -> &End {
        let ends = self.ends();
        assert_eq!(ends.len(), 1, "{ends:#?}");
        ends[0]
    }
}

pub fn http(end: &End) -> &Http {
    let Request::Http(http) = &end.request else { panic!("not HTTP: {end:?}") };
    http
}

pub fn redis(end: &End) -> &Redis {
    let Request::Redis(redis) = &end.request else { panic!("not Redis: {end:?}") };
    redis
}
