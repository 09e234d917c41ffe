//! Whatever is captured: no panic, bounded memory, one end for each begin, and the same exchanges
//! however the stream is cut into system calls.

mod capture;

use capture::{Capture, balanced, describe, moment, play, play_bounded, play_from};
use proptest::prelude::*;
use tracekit_protocol::{Close, Direction, Limits, Outcome, Segment, mysql, postgres};
use tracekit_protocol::{Event, Request};

/// What may happen to a record on its way.
#[derive(Debug, Clone)]
enum Mishap {
    Cut(usize),
    Gap(u64),
    Lost,
    Flip(usize, u8),
    Drop,
    Twice,
    OtherWay,
}

fn mishap() -> impl Strategy<Value = Mishap> {
    prop_oneof![
        (0..5000_usize).prop_map(Mishap::Cut),
        (0..100_000_u64).prop_map(Mishap::Gap),
        Just(Mishap::Lost),
        (0..300_usize, any::<u8>()).prop_map(|(at, by)| Mishap::Flip(at, by)),
        Just(Mishap::Drop),
        Just(Mishap::Twice),
        Just(Mishap::OtherWay),
    ]
}

fn ends(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::End(_))).count()
}

/// The description without what a lost stretch may hide: counts, and how it ended.
fn texts(events: &[Event]) -> Vec<String> {
    describe(events).iter().map(|line| line.split(" | ").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn large_answers_captured_in_part_are_the_same_exchanges() {
    for capture in Capture::all() {
        let whole = play(&capture);
        for (head, tail) in [(4096, 256), (1024, 256), (512, 128)] {
            let bounded = play_bounded(&capture, head, tail);
            assert_eq!(texts(&bounded), texts(&whole), "{} {head}", capture.name);
        }
    }
}

#[test]
fn a_connection_joined_late_gives_no_exchange_that_was_not_there() {
    for capture in Capture::all() {
        let whole = describe(&play(&capture));
        for from in 1..capture.records.len() {
            let joined = play_from(&capture, from, 4096, 256);
            balanced(&joined);
            for event in &joined {
                let Event::End(end) = event else { continue };
                let Request::Sql(sql) = &end.request else { panic!() };
                if end.outcome != Outcome::Complete {
                    continue;
                }
                if let Some(text) = &sql.text {
                    let known = whole.iter().any(|line| {
                        let known = line.split(" | ").next().unwrap_or_default().trim_end_matches('…');
                        text.starts_with(known)
                    });
                    assert!(known, "{} from {from}: {text}", capture.name);
                }
            }
        }
    }
}

#[test]
fn an_endless_result_costs_nothing_and_is_counted() {
    let mut parser = postgres::Connection::new(tracekit_protocol::Role::Client, Limits::default());
    let mut events = Vec::new();
    let mut n = 0;
    let mut feed = |direction, segment: Segment<'_>, events: &mut Vec<Event>| {
        n += 1;
        tracekit_protocol::Parser::segment(&mut parser, direction, segment, &moment(n, true), events);
    };
    feed(Direction::Outbound, Segment::Data(b"Q\0\0\0\x0dSELECT 1\0"), &mut events);
    feed(Direction::Inbound, Segment::Data(b"T\0\0\0\x06\0\0"), &mut events);
    for _ in 0..1000 {
        // A row of 1 GiB less 5 bytes, of which nothing but the header is captured.
        feed(Direction::Inbound, Segment::Data(b"D\x3f\xff\xff\xff"), &mut events);
        feed(Direction::Inbound, Segment::Gap(0x3fff_fffb), &mut events);
    }
    feed(Direction::Inbound, Segment::Data(b"C\0\0\0\x10SELECT 1000\0Z\0\0\0\x05I"), &mut events);
    assert_eq!(describe(&events), ["SELECT 1 | 1000 rows"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn chunks_do_not_matter(sizes in prop::collection::vec(1..600_usize, 1..20)) {
        for capture in Capture::all() {
            let expected = play(&capture);
            let mut parser = capture.parser(Limits::default());
            let mut events = Vec::new();
            let mut sizes = sizes.iter().cycle();
            for (n, (direction, data)) in capture.records.iter().enumerate() {
                let mut data = data.as_slice();
                let mut first = true;
                while !data.is_empty() {
                    let (chunk, rest) = data.split_at((*sizes.next().unwrap()).min(data.len()));
                    parser.segment(*direction, Segment::Data(chunk), &moment(n, first), &mut events);
                    data = rest;
                    first = false;
                }
            }
            parser.close(capture.close, &moment(capture.records.len(), false), &mut events);
            prop_assert_eq!(&events, &expected, "{}", capture.name);
        }
    }

    #[test]
    fn mishaps_do_no_harm(
        which in any::<prop::sample::Index>(),
        mishaps in prop::collection::vec((any::<prop::sample::Index>(), mishap()), 1..12),
        from in 0..10_usize,
        close in prop::sample::select(vec![Close::Local, Close::Remote]),
    ) {
        let all = Capture::all();
        let capture = which.get(&all);
        let mut parser = capture.parser(Limits { in_flight: 8, statements: 4, ..Limits::default() });
        let mut events = Vec::new();
        let count = capture.records.len();
        for (n, (direction, data)) in capture.records.iter().enumerate().skip(from) {
            let (mut direction, mut data, mut times) = (*direction, data.clone(), 1);
            for (_, mishap) in mishaps.iter().filter(|(at, _)| at.index(count) == n) {
                match mishap {
                    Mishap::Cut(at) => data.truncate(*at),
                    Mishap::Gap(gap) => {
                        parser.segment(direction, Segment::Gap(*gap), &moment(n, true), &mut events);
                    }
                    Mishap::Lost => parser.segment(direction, Segment::Lost, &moment(n, true), &mut events),
                    Mishap::Flip(at, by) => {
                        if let Some(byte) = data.get_mut(*at) {
                            *byte ^= by;
                        }
                    }
                    Mishap::Drop => times = 0,
                    Mishap::Twice => times = 2,
                    Mishap::OtherWay => direction = direction.reverse(),
                }
            }
            for _ in 0..times {
                parser.segment(direction, Segment::Data(&data), &moment(n, true), &mut events);
            }
        }
        parser.close(close, &moment(count, false), &mut events);
        balanced(&events);
        let after = ends(&events);
        parser.segment(Direction::Outbound, Segment::Data(b"Q\0\0\0\x0dSELECT 1\0"), &moment(count, true), &mut events);
        parser.close(close, &moment(count, false), &mut events);
        prop_assert_eq!(ends(&events), after, "events after the close");
    }

    #[test]
    fn noise_does_no_harm(
        pieces in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..80)), 0..30),
        mysql in any::<bool>(),
    ) {
        let mut capture = Capture {
            name: "noise".into(),
            protocol: if mysql { "mysql" } else { "postgres" }.into(),
            records: vec![],
            close: Close::Remote,
        };
        let direction = |out| if out { Direction::Outbound } else { Direction::Inbound };
        capture.records = pieces.into_iter().map(|(out, bytes)| (direction(out), bytes)).collect();
        for (direction, bytes) in &capture.records {
            let _ = (postgres::detect(*direction, bytes), mysql::detect(*direction, bytes));
        }
        balanced(&play(&capture));
    }
}
