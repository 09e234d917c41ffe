use tracekit_common::actor::Identity;

use super::*;

const CONNECTION: ConnectionId = ConnectionId { tgid: 1, inode: 10 };
const OTHER: ConnectionId = ConnectionId { tgid: 1, inode: 11 };

fn served(connection: ConnectionId, id: u64, begin: u64) -> Arc<Served> {
    Arc::new(Served {
        exchange: (connection, id),
        begin,
        trace_id: TraceId([1; 16]),
        span_id: SpanId([2; 8]),
        trace_state: String::new(),
        sampled: true,
    })
}

fn new(actor: u64, by: u64, time: u64, cause: Cause) -> NewActor {
    NewActor { tgid: 1, tid: 7, actor, time, by: Identity { actor: by, ..Identity::default() }, cause }
}

/// The request for which an actor acts: its connection and ordinal.
fn request(actors: &Actors, actor: u64) -> Option<(ConnectionId, u64)> {
    actors.request_of((1, actor)).map(|request| request.exchange)
}

#[test]
fn a_task_made_by_a_protocol_acts_for_what_it_has_read() {
    let mut actors = Actors::default();
    actors.began(served(CONNECTION, 0, 100));
    actors.made(&new(1, 0, 101, Cause::Read(CONNECTION)), None);
    actors.made(&new(2, 1, 102, Cause::None), None);
    assert_eq!(request(&actors, 2), Some((CONNECTION, 0)));
    // It goes on for that request when it is answered, and the connection has the next one.
    actors.ended((CONNECTION, 0));
    actors.made(&new(3, 2, 110, Cause::None), None);
    actors.began(served(CONNECTION, 1, 120));
    actors.made(&new(4, 0, 121, Cause::Read(CONNECTION)), None);
    assert_eq!([2, 3, 4].map(|actor| request(&actors, actor).unwrap().1), [0, 0, 1]);
}

#[test]
fn the_task_of_a_connection_acts_for_one_request_after_the_other() {
    let mut actors = Actors::default();
    actors.made(&new(1, 0, 90, Cause::Accept(CONNECTION)), None);
    assert_eq!(request(&actors, 1), None);
    actors.began(served(CONNECTION, 0, 100));
    actors.made(&new(2, 1, 102, Cause::None), None);
    actors.ended((CONNECTION, 0));
    // Between two requests nobody knows for which of them.
    actors.made(&new(3, 1, 115, Cause::None), None);
    actors.began(served(CONNECTION, 1, 120));
    assert_eq!(request(&actors, 1), Some((CONNECTION, 1)));
    assert_eq!(request(&actors, 2), Some((CONNECTION, 0)));
    assert_eq!(request(&actors, 3), None);
}

#[test]
fn who_writes_the_answer_has_acted_for_the_request() {
    let mut actors = Actors::default();
    // The server's own task, and the task that it has made for the connection.
    actors.made(&new(1, 0, 10, Cause::None), None);
    actors.made(&new(2, 1, 60, Cause::None), None);
    actors.began(served(CONNECTION, 0, 100));
    actors.made(&new(3, 2, 101, Cause::None), None);
    actors.made(&new(4, 3, 102, Cause::None), None);
    actors.made(&new(5, 1, 103, Cause::None), None);
    assert!(actors.may_be_known_later((1, 4)));
    let found = actors.answers((1, 3), CONNECTION, 50).map(|request| request.exchange);
    assert_eq!(found, Some((CONNECTION, 0)));
    assert_eq!([2, 3, 4].map(|actor| request(&actors, actor)), [Some((CONNECTION, 0)); 3]);
    // Who was there before the connection is not the connection's.
    assert_eq!([1, 5].map(|actor| request(&actors, actor)), [None; 2]);
    actors.ended((CONNECTION, 0));
    actors.began(served(CONNECTION, 1, 200));
    assert_eq!([2, 3, 4].map(|actor| request(&actors, actor).unwrap().1), [1, 0, 0]);
    assert_eq!(actors.answers((1, 3), CONNECTION, 50), None);
}

#[test]
fn what_is_made_after_an_answer_may_be_for_the_request_behind_it() {
    let mut actors = Actors::default();
    actors.began(served(CONNECTION, 0, 100));
    actors.began(served(CONNECTION, 1, 100));
    actors.made(&new(1, 0, 101, Cause::Read(CONNECTION)), None);
    actors.made(&new(2, 0, 101, Cause::Read(CONNECTION)), None);
    assert_eq!([1, 2].map(|actor| request(&actors, actor)), [Some((CONNECTION, 0)), None]);
    // Not before it has written something.
    actors.made(&new(4, 1, 102, Cause::None), None);
    assert_eq!(request(&actors, 4), Some((CONNECTION, 0)));
    actors.wrote(CONNECTION, 1, 109);
    actors.ended((CONNECTION, 0));
    // Who did not write it has not begun with the next one.
    actors.made(&new(5, 4, 110, Cause::None), None);
    assert_eq!(request(&actors, 5), Some((CONNECTION, 0)));
    actors.made(&new(3, 1, 110, Cause::None), None);
    assert_eq!(request(&actors, 3), None);
    assert!(actors.answers((1, 3), CONNECTION, 50).is_some());
    assert_eq!(request(&actors, 3), Some((CONNECTION, 1)));
}

#[test]
fn what_is_made_with_an_answer_may_be_for_a_request_that_was_read_before() {
    let mut actors = Actors::default();
    actors.began(served(CONNECTION, 0, 100));
    actors.made(&new(1, 0, 101, Cause::Read(CONNECTION)), None);
    actors.wrote(CONNECTION, 1, 110);
    actors.ended((CONNECTION, 0));
    actors.began(served(CONNECTION, 1, 120));
    // It was read after the answer was written: nobody can have begun with it then.
    actors.made(&new(2, 1, 121, Cause::None), None);
    actors.made(&new(3, 0, 122, Cause::Read(CONNECTION)), None);
    assert_eq!([2, 3].map(|actor| request(&actors, actor)), [0, 1].map(|id| Some((CONNECTION, id))));
    // The beginning of a large answer is written, and the rest waits for the client.
    actors.began(served(CONNECTION, 2, 130));
    actors.wrote(CONNECTION, 3, 131);
    actors.made(&new(4, 3, 132, Cause::None), None);
    assert_eq!(request(&actors, 4), None);
}

#[test]
fn what_was_read_while_another_request_is_handled_is_for_who_has_read_it() {
    let mut actors = Actors::default();
    actors.began(served(CONNECTION, 0, 100));
    actors.made(&new(1, 0, 101, Cause::Read(CONNECTION)), None);
    actors.began(served(CONNECTION, 1, 105));
    actors.made(&new(2, 0, 106, Cause::Read(CONNECTION)), None);
    assert_eq!(request(&actors, 2), Some((CONNECTION, 1)));
    // Of two that were read together nobody knows for which.
    actors.began(served(CONNECTION, 2, 110));
    actors.began(served(CONNECTION, 3, 110));
    actors.made(&new(3, 0, 111, Cause::Read(CONNECTION)), None);
    assert_eq!(request(&actors, 3), None);
}

#[test]
fn a_protocol_begins_with_the_next_request_when_one_is_answered() {
    let mut actors = Actors::default();
    actors.began(served(CONNECTION, 0, 100));
    actors.began(served(CONNECTION, 1, 100));
    actors.made(&new(1, 0, 101, Cause::Read(CONNECTION)), None);
    // The answer is still in a buffer of the process.
    actors.made(&new(2, 1, 102, Cause::Next), None);
    actors.made(&new(3, 2, 103, Cause::None), None);
    assert_eq!([1, 2, 3].map(|actor| request(&actors, actor).unwrap().1), [0, 1, 1]);
    actors.made(&new(4, 1, 104, Cause::Next), None);
    assert_eq!(request(&actors, 4), None);
}

#[test]
fn who_handles_a_connection_may_be_at_the_next_request_when_an_answer_has_begun() {
    let mut actors = Actors::default();
    actors.made(&new(1, 0, 90, Cause::Accept(CONNECTION)), None);
    actors.began(served(CONNECTION, 0, 100));
    actors.wrote(CONNECTION, 1, 101);
    assert_eq!(request(&actors, 1), Some((CONNECTION, 0)));
    actors.began(served(CONNECTION, 1, 102));
    assert_eq!(request(&actors, 1), None);
    actors.made(&new(2, 1, 103, Cause::None), None);
    assert_eq!(request(&actors, 2), None);
    actors.ended((CONNECTION, 0));
    assert_eq!(request(&actors, 1), Some((CONNECTION, 1)));
}

#[test]
fn it_may_be_known_later_who_has_made_somebody() {
    let mut actors = Actors::default();
    actors.began(served(CONNECTION, 0, 100));
    actors.made(&new(1, 0, 101, Cause::Read(CONNECTION)), None);
    assert!(!actors.made(&new(2, 0, 102, Cause::None), None));
    assert!(actors.may_be_known_later((1, 2)));
    assert!(actors.made(&new(2, 1, 103, Cause::None), None));
    assert_eq!(request(&actors, 2), Some((CONNECTION, 0)));
    // That does not change any more.
    actors.began(served(OTHER, 0, 104));
    actors.made(&new(3, 0, 105, Cause::Read(OTHER)), None);
    assert!(!actors.made(&new(2, 3, 106, Cause::None), None));
    assert_eq!(request(&actors, 2), Some((CONNECTION, 0)));
}

#[test]
fn after_a_loss_only_who_acts_for_one_request_is_believed() {
    let mut actors = Actors::default();
    actors.made(&new(1, 0, 90, Cause::Accept(CONNECTION)), None);
    actors.began(served(CONNECTION, 0, 100));
    actors.made(&new(2, 1, 101, Cause::None), None);
    // The end of that answer and the next request's begin are lost.
    actors.lost();
    actors.made(&new(3, 1, 121, Cause::None), None);
    actors.made(&new(4, 2, 122, Cause::None), None);
    actors.made(&new(5, 0, 123, Cause::Read(CONNECTION)), None);
    // Nor are those believed whose record was lost.
    actors.made(&new(6, 99, 124, Cause::None), None);
    let of = |actors: &Actors| [1, 2, 3, 4, 5, 6].map(|actor| request(actors, actor).map(|of| of.1));
    assert_eq!(of(&actors), [None, Some(0), None, Some(0), None, None]);
    // A request may be answered that is not the one that seems to be.
    actors.began(served(CONNECTION, 2, 130));
    assert_eq!(actors.answers((1, 3), CONNECTION, 50), None);
    assert_eq!(of(&actors), [None, Some(0), None, Some(0), None, None]);
    // From the next one on it is known where one begins.
    actors.ended((CONNECTION, 2));
    actors.began(served(CONNECTION, 3, 140));
    assert_eq!(of(&actors), [Some(3), Some(0), None, Some(0), None, None]);
}

#[test]
fn others_are_nobodys() {
    let mut actors = Actors::default();
    actors.began(served(CONNECTION, 0, 100));
    actors.made(&new(1, 0, 101, Cause::Read(OTHER)), None);
    actors.made(&new(2, 99, 101, Cause::None), None);
    assert_eq!([1, 2, 99].map(|actor| request(&actors, actor)), [None; 3]);
    // Of a task that was there before the probes nothing is known, not even when it writes.
    assert_eq!(actors.answers((1, 98), CONNECTION, 50), None);
    assert!(!actors.may_be_known_later((1, 98)));
    actors.process_gone(1);
    assert_eq!(actors.actors.len() + actors.unsettled.len() + actors.connections.len(), 0);
}

#[test]
fn work_of_a_thread_that_serves_is_for_its_request() {
    let mut actors = Actors::default();
    let request_of_lane = served(CONNECTION, 0, 100);
    actors.began(Arc::clone(&request_of_lane));
    actors.made(&new(1, 0, 101, Cause::None), Some(request_of_lane));
    actors.ended((CONNECTION, 0));
    assert_eq!(request(&actors, 1), Some((CONNECTION, 0)));
}

#[test]
fn a_thread_acts_for_the_request_that_started_it_if_it_ends_soon() {
    let mut actors = Actors::default();
    let request_of_lane = served(CONNECTION, 0, 100);
    actors.began(Arc::clone(&request_of_lane));
    for (thread, by) in [(1, 0), (2, 0), (3, 1)] {
        let lane = (by == 0).then(|| Arc::clone(&request_of_lane));
        actors.made(&new(thread, by, 101, Cause::Lasting), lane);
    }
    // What the first one has handed over.
    actors.made(&new(4, 1, 102, Cause::None), None);
    assert_eq!([1, 2, 3, 4].map(|actor| request(&actors, actor)), [None; 4]);
    assert_eq!([1, 2, 3, 4].map(|actor| actors.waits_for_end((1, actor))), [true; 4]);
    actors.awaited((1, 4));
    actors.ended((CONNECTION, 0));
    actors.tick(200);
    assert!(actors.actor_ended((1, 1)), "its work waits");
    assert_eq!(
        [1, 3, 4].map(|actor| request(&actors, actor)),
        [Some((CONNECTION, 0)), None, Some((CONNECTION, 0))]
    );
    assert!(!actors.actor_ended((1, 3)), "nobody waits");
    assert_eq!(request(&actors, 3), Some((CONNECTION, 0)));
    // The other one lives on.
    actors.tick(201 + LASTS_NANOS);
    assert!(!actors.may_be_known_later((1, 2)) && !actors.actor_ended((1, 2)));
    assert_eq!(request(&actors, 2), None);
}

#[test]
fn threads_that_serve_are_nobodys() {
    let mut actors = Actors::default();
    let request_of_lane = served(CONNECTION, 0, 100);
    actors.began(Arc::clone(&request_of_lane));
    actors.made(&new(1, 0, 101, Cause::Lasting), Some(request_of_lane));
    actors.made(&new(2, 0, 101, Cause::Lasting), None);
    actors.serves((1, 1));
    assert_eq!(actors.answers((1, 2), CONNECTION, 50), None);
    assert!(!actors.actor_ended((1, 1)) && !actors.actor_ended((1, 2)));
    assert_eq!([1, 2].map(|actor| request(&actors, actor)), [None; 2]);
    assert_eq!([1, 2].map(|actor| actors.may_be_known_later((1, actor))), [false; 2]);
}

#[test]
fn a_connection_that_is_handed_over_again_is_for_its_next_request() {
    let mut actors = Actors::default();
    for id in 0..3 {
        actors.began(served(CONNECTION, id, 100));
    }
    actors.made(&new(1, 0, 101, Cause::Read(CONNECTION)), None);
    actors.made(&new(2, 1, 102, Cause::After(1)), None);
    // Whether the answers were seen by then or not.
    actors.ended((CONNECTION, 0));
    actors.ended((CONNECTION, 1));
    actors.made(&new(3, 2, 103, Cause::After(2)), None);
    actors.made(&new(4, 3, 104, Cause::After(3)), None);
    actors.made(&new(5, 0, 104, Cause::After(99)), None);
    let found = [1, 2, 3, 4, 5].map(|actor| request(&actors, actor).map(|(_, ordinal)| ordinal));
    assert_eq!(found, [Some(0), Some(1), Some(2), None, None]);
}

#[test]
fn the_task_of_an_open_connection_is_not_forgotten() {
    let mut actors = Actors::default();
    actors.made(&new(1, 0, 90, Cause::Accept(CONNECTION)), None);
    actors.began(served(CONNECTION, 0, 100));
    for actor in 2..2 * MAX_ACTORS as u64 {
        actors.made(&new(actor, 0, 100 + actor, Cause::None), None);
    }
    assert!(actors.actors.len() <= MAX_ACTORS);
    assert_eq!(request(&actors, 1), Some((CONNECTION, 0)));
    actors.closed(CONNECTION);
    actors.forget_older_half();
    assert_eq!(request(&actors, 1), None);
}

#[test]
fn the_number_of_actors_is_bounded() {
    let mut actors = Actors::default();
    for actor in 1..=2 * MAX_ACTORS as u64 {
        actors.made(&new(actor, actor.saturating_sub(1), actor, Cause::None), None);
    }
    assert!(actors.actors.len() <= MAX_ACTORS && actors.unsettled.len() <= MAX_ACTORS);
}
