//! Recorded connections of every protocol, cut, mixed, corrupted and with bytes missing: nothing panics,
//! memory stays bounded, begins and ends pair, and cutting a clean stream otherwise changes nothing.

mod support;

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;
use support::{Capture, Player, assert_paired, ends};
use tracekit_protocol::{Close, Direction, Event, Limits, Outcome, Request, Role, Segment, Session};

static CAPTURES: LazyLock<Vec<Capture>> = LazyLock::new(|| {
    let all = Capture::all();
    let mirrored: Vec<_> = all.iter().cloned().map(Capture::mirrored).collect();
    all.into_iter().chain(mirrored).collect()
});

/// Memory that a session may hold beyond what it is given in one call, as multiples of the buffer limit:
/// heads of both directions, and requests in flight.
const MEMORY: usize = 12;

/// What happens to one piece of a capture.
#[derive(Debug, Clone)]
enum Fate {
    Whole,
    /// Bytes from here on go into a system call of their own.
    Split(Index),
    /// One call, but two segments.
    Segments(Index),
    /// The middle isn't captured.
    Gap(Index, Index),
    /// This many bytes of the start are captured, and nobody knows how many are missing.
    Lost(Index),
    Missing,
    Twice,
    /// One byte is changed.
    Corrupt(Index, u8),
    /// Replaced by a piece of another capture.
    Foreign(Index, Index),
    Settle,
}

fn fate() -> impl Strategy<Value = Fate> {
    let index = any::<Index>;
    prop_oneof![
        6 => Just(Fate::Whole),
        2 => index().prop_map(Fate::Split),
        2 => index().prop_map(Fate::Segments),
        2 => (index(), index()).prop_map(|(a, b)| Fate::Gap(a, b)),
        1 => index().prop_map(Fate::Lost),
        1 => Just(Fate::Missing),
        1 => Just(Fate::Twice),
        1 => (index(), any::<u8>()).prop_map(|(i, b)| Fate::Corrupt(i, b)),
        1 => (index(), index()).prop_map(|(a, b)| Fate::Foreign(a, b)),
        1 => Just(Fate::Settle),
    ]
}

fn close() -> impl Strategy<Value = Close> {
    prop_oneof![Just(Close::Local), Just(Close::Remote), Just(Close::LocalWrite)]
}

fn play(player: &mut Player, direction: Direction, bytes: &[u8], fate: &Fate) {
    match fate {
        Fate::Whole => player.call(direction, &[Segment::Data(bytes)]),
        Fate::Split(at) => {
            let (a, b) = bytes.split_at(at.index(bytes.len()));
            player.call(direction, &[Segment::Data(a)]);
            player.call(direction, &[Segment::Data(b)]);
        }
        Fate::Segments(at) => {
            let (a, b) = bytes.split_at(at.index(bytes.len()));
            player.call(direction, &[Segment::Data(a), Segment::Data(b)]);
        }
        Fate::Gap(from, length) => {
            let (a, rest) = bytes.split_at(from.index(bytes.len()));
            let (hidden, b) = rest.split_at(length.index(rest.len()));
            player.call(direction, &[Segment::Data(a), Segment::Gap(hidden.len() as u64), Segment::Data(b)]);
        }
        Fate::Lost(at) => {
            player.call(direction, &[Segment::Data(&bytes[..at.index(bytes.len())]), Segment::Lost]);
        }
        Fate::Missing => {}
        Fate::Twice => {
            player.call(direction, &[Segment::Data(bytes)]);
            player.call(direction, &[Segment::Data(bytes)]);
        }
        Fate::Corrupt(at, byte) => {
            let mut changed = bytes.to_vec();
            changed[at.index(bytes.len())] = *byte;
            player.call(direction, &[Segment::Data(&changed)]);
        }
        Fate::Foreign(capture, piece) => {
            let other = &CAPTURES[capture.index(CAPTURES.len())];
            let (direction, bytes) = &other.pieces[piece.index(other.pieces.len())];
            player.call(*direction, &[Segment::Data(bytes)]);
        }
        Fate::Settle => {
            player.session.settle(&mut player.events);
            player.call(direction, &[Segment::Data(bytes)]);
        }
    }
}

/// The exchanges without their times.
fn timeless(events: &[Event]) -> Vec<(u64, String, Request)> {
    ends(events).iter().map(|e| (e.id, format!("{:?}", e.outcome), e.request.clone())).collect()
}

/// The part that the traced process plays, if the capture has any exchange.
fn role_of(capture: &Capture) -> Option<Role> {
    capture.play().iter().find_map(|e| if let Event::Begin(begin) = e { Some(begin.role) } else { None })
}

/// `PROPTEST_CASES` sets how many cases are tried.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1500);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn hostile_streams_do_no_harm(
        capture in any::<Index>(),
        skip in 0usize..6,
        fates in prop::collection::vec(fate(), 1..40),
        close in close(),
        buffer in prop_oneof![Just(64 * 1024usize), Just(2000usize), Just(300usize)],
    ) {
        let capture = &CAPTURES[capture.index(CAPTURES.len())];
        let limits = Limits { buffer, text: buffer / 4, in_flight: 16, ..Limits::default() };
        let mut player = Player::new(Session::new(limits));
        let largest = CAPTURES.iter().flat_map(|c| &c.pieces).map(|(_, b)| b.len()).max().unwrap_or(0);
        for ((direction, bytes), fate) in capture.pieces.iter().skip(skip).zip(fates.iter().cycle()) {
            play(&mut player, *direction, bytes, fate);
            let held = player.session.buffered();
            prop_assert!(held <= MEMORY * buffer + largest, "{held} bytes held with a limit of {buffer}");
        }
        assert_paired(&player.finish(close));
    }

    #[test]
    fn garbage_does_no_harm(
        calls in prop::collection::vec(
            (any::<bool>(), prop::collection::vec(any::<u8>(), 0..200)), 0..30),
    ) {
        let mut player = Player::new(Session::new(Limits { buffer: 500, ..Limits::default() }));
        for (out, bytes) in &calls {
            let direction = if *out { Direction::Outbound } else { Direction::Inbound };
            player.call(direction, &[Segment::Data(bytes)]);
            prop_assert!(player.session.buffered() <= 12 * 500 + 200);
        }
        assert_paired(&player.finish(Close::Local));
    }

    /// How the bytes of one direction are cut into segments, and whether their middle was captured in
    /// one piece, changes no exchange. (Cutting into other system calls may: commands that were sent in
    /// one are one.)
    #[test]
    fn segments_do_not_matter(capture in any::<Index>(), size in 1usize..50) {
        let capture = &CAPTURES[capture.index(CAPTURES.len())];
        let mut player = Player::new(Session::new(Limits::default()));
        for (direction, bytes) in &capture.pieces {
            let segments: Vec<_> = bytes.chunks(size).map(Segment::Data).collect();
            player.call(*direction, &segments);
        }
        prop_assert_eq!(timeless(&player.finish(capture.close)), timeless(&capture.play()));
    }

    /// For HTTP and for what the answers are cut into, system calls don't matter either.
    #[test]
    fn calls_do_not_matter(capture in any::<Index>(), size in 1usize..50) {
        let capture = &CAPTURES[capture.index(CAPTURES.len())];
        let role = role_of(capture);
        let answers = |direction| role.is_some_and(|role| role.request_direction() != direction);
        let answers = [answers(Direction::Inbound), answers(Direction::Outbound)];
        let mut player = Player::new(Session::new(Limits::default()));
        for (direction, bytes) in &capture.pieces {
            let free = capture.protocol == "http" || answers[usize::from(*direction == Direction::Outbound)];
            for call in bytes.chunks(if free { size } else { usize::MAX }) {
                player.call(*direction, &[Segment::Data(call)]);
            }
        }
        prop_assert_eq!(timeless(&player.finish(capture.close)), timeless(&capture.play()));
    }
}

/// A gap where the kernel side makes one (after the first 4 KiB, before the last 256 bytes of a call)
/// changes no count of exchanges.
#[test]
fn the_kernels_gaps_lose_no_exchange() {
    const HEAD: usize = 1024;
    const TAIL: usize = 128;
    for capture in CAPTURES.iter().filter(|c| matches!(c.protocol.as_str(), "http" | "redis")) {
        let mut player = Player::new(Session::new(Limits::default()));
        for (direction, bytes) in &capture.pieces {
            if bytes.len() > HEAD + TAIL {
                let (head, rest) = bytes.split_at(HEAD);
                let (hidden, tail) = rest.split_at(rest.len() - TAIL);
                let segments = [Segment::Data(head), Segment::Gap(hidden.len() as u64), Segment::Data(tail)];
                player.call(*direction, &segments);
            } else {
                player.call(*direction, &[Segment::Data(bytes)]);
            }
        }
        let (seen, expected) = (player.finish(capture.close), capture.play());
        assert_paired(&seen);
        let outcomes = |events: &[Event]| ends(events).iter().map(|e| e.outcome).collect::<Vec<_>>();
        assert_eq!(outcomes(&seen), outcomes(&expected), "{}", capture.name);
    }
}

/// Joined anywhere, a connection shows only exchanges that the whole connection has. (But joined between
/// the writes of one pipeline, it shows the rest of that pipeline: nothing tells it from a whole one.)
#[test]
fn joined_anywhere_there_is_no_wrong_exchange() {
    for capture in CAPTURES.iter().filter(|c| matches!(c.protocol.as_str(), "http" | "redis")) {
        let whole: Vec<_> =
            timeless(&capture.play()).into_iter().map(|(_, o, r)| (o, without_database(r))).collect();
        for start in 0..capture.pieces.len() {
            let request = role_of(capture).is_some_and(|r| r.request_direction() == capture.pieces[start].0);
            if capture.protocol == "redis"
                && request
                && start > 0
                && capture.pieces[start - 1].0 == capture.pieces[start].0
            {
                continue;
            }
            let mut player = Player::new(Session::new(Limits::default()));
            for (direction, bytes) in &capture.pieces[start..] {
                player.call(*direction, &[Segment::Data(bytes)]);
            }
            let mut rest = whole.iter();
            for (_, outcome, request) in timeless(&player.finish(capture.close)) {
                let found = (outcome, without_database(request));
                assert!(rest.any(|r| *r == found), "{} from {start}: {found:?}", capture.name);
            }
        }
    }
}

/// What only the start of a connection tells.
fn without_database(mut request: Request) -> Request {
    if let Request::Redis(redis) = &mut request {
        redis.database = None;
        redis.handshake = false;
    }
    request
}

/// What identifies an exchange, and what was answered, as far as missing bytes leave them alone.
fn essence(request: &Request) -> (String, Option<String>) {
    match request {
        Request::Http(http) => {
            (format!("{} {}", http.method, http.target), http.status.map(|status| status.to_string()))
        }
        Request::Redis(redis) if redis.batch.is_empty() => {
            let error = redis.error.as_ref().map(|e| e.prefix.clone());
            (format!("{} {}", redis.command, redis.argument_count), error)
        }
        // Of a pipeline some commands may be missing.
        _ => (String::new(), None),
    }
}

proptest! {
    #![proptest_config(config())]

    /// Bytes may be missing, but the capture says so: every exchange that is complete is one of the
    /// connection, with its own answer.
    #[test]
    fn missing_bytes_make_no_wrong_exchange(
        capture in any::<Index>(),
        skip in 0usize..4,
        fates in prop::collection::vec(
            prop_oneof![
                4 => Just(Fate::Whole),
                1 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Fate::Gap(a, b)),
                1 => any::<Index>().prop_map(Fate::Lost),
                1 => Just(Fate::Missing),
            ],
            1..40,
        ),
    ) {
        // (A pipeline of which one command was captured shows as that command.)
        let captures: Vec<_> = CAPTURES
            .iter()
            .filter(|c| matches!(c.protocol.as_str(), "http" | "redis") && !c.name.contains("pipeline"))
            .collect();
        let capture = captures[capture.index(captures.len())];
        let clean = capture.play();
        let clean: Vec<_> = ends(&clean).iter().map(|e| essence(&e.request)).collect();
        let mut player = Player::new(Session::new(Limits::default()));
        for ((direction, bytes), fate) in capture.pieces.iter().skip(skip).zip(fates.iter().cycle()) {
            match fate {
                Fate::Missing => player.call(*direction, &[Segment::Lost]),
                fate => play(&mut player, *direction, bytes, fate),
            }
        }
        let events = player.finish(capture.close);
        assert_paired(&events);
        let mut rest = clean.iter();
        for end in ends(&events).into_iter().filter(|e| e.outcome == Outcome::Complete) {
            let (request, answer) = essence(&end.request);
            if !request.is_empty() {
                let found = rest.find(|(r, a)| *r == request && (answer.is_none() || *a == answer));
                prop_assert!(found.is_some(), "{}: {request} {answer:?} is none of {clean:?}", capture.name);
            }
        }
    }
}

/// Joined anywhere, a connection is never taken for another protocol's; a textual one not even where
/// every few bytes look like the start of a message.
#[test]
fn joined_anywhere_the_protocol_is_right_or_unknown() {
    for capture in CAPTURES.iter() {
        for start in 0..capture.pieces.len() {
            let textual = matches!(capture.protocol.as_str(), "http" | "redis");
            for size in if textual { &[7, usize::MAX][..] } else { &[usize::MAX] } {
                let mut player = Player::new(Session::new(Limits::default()));
                for (direction, bytes) in &capture.pieces[start..] {
                    bytes.chunks(*size).for_each(|call| player.call(*direction, &[Segment::Data(call)]));
                }
                if let Some(found) = player.session.protocol() {
                    let right = found.name().starts_with(&capture.protocol);
                    assert!(right, "{} from {start} is taken for {found:?}", capture.name);
                }
            }
        }
    }
}
