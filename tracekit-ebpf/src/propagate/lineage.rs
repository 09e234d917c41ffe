//! Which request an actor, a thread or a greenlet acts for, as far as that is known at the moment.
//!
//! The rules are those of the user side's `trace::actors`. That may learn more later; here only what is known already
//! counts, because the headers of a request can't be changed when it has left.

use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::map, maps::LruHashMap};
use tracekit_common::{
    actor::{
        CAUSE_ACCEPT, CAUSE_AFTER, CAUSE_NEXT, CAUSE_READ, ENDED, IN_GREENLET, IN_TASK, Identity, KNOWN,
        LASTING, WAITS_ELSEWHERE,
    },
    map::ConnectionKey,
    propagate::{
        ACTS_FOR_CONNECTION, ACTS_FOR_REQUEST, ACTS_UNKNOWN, ANSWERED, Acts, Exchange, INTERLEAVES, LOOPS,
        Lane, LaneKey, NO_LENGTH, PIPELINED, READS_NONBLOCKING, Serving, UNKNOWN,
    },
};

use super::OUTGOING;
use crate::{
    actor::identify,
    maps::{FOUND, SELECTED},
};

/// Requests by their numbers.
#[map]
static REQUESTS: LruHashMap<u64, Serving> = LruHashMap::with_max_entries(8 * 1024, 0);

/// Connections on which a process is the server.
#[map]
static EXCHANGES: LruHashMap<ConnectionKey, Exchange> = LruHashMap::with_max_entries(16 * 1024, 0);

/// What threads and greenlets serve.
#[map]
static LANES: LruHashMap<LaneKey, Lane> = LruHashMap::with_max_entries(8 * 1024, 0);

/// For whom actors act.
#[map]
static ACTS: LruHashMap<u64, Acts> = LruHashMap::with_max_entries(64 * 1024, 0);

/// By thread: a task that was made for a connection of which it is not known which one that is.
#[map]
static NEWEST: LruHashMap<u32, Newest> = LruHashMap::with_max_entries(8 * 1024, 0);

/// See [`NEWEST`].
#[repr(C)]
struct Newest {
    /// Its number.
    actor: u64,
    /// How many there are.
    count: u64,
}

/// Makers that are looked at, from an actor on.
const LINE: u32 = 16;

/// A connection is accepted.
#[inline(always)]
pub fn accepted(key: ConnectionKey) {
    // SAFETY: the helper has no preconditions.
    let opened = unsafe { bpf_ktime_get_ns() };
    let _ = EXCHANGES.insert(&key, &Exchange { opened, ..Exchange::default() }, 0);
}

/// A connection is closed.
#[inline(always)]
pub fn closed(key: &ConnectionKey) {
    let _ = EXCHANGES.remove(key);
}

/// More was read on a connection, of what began before.
#[inline(always)]
pub fn read_more(key: &ConnectionKey, length: u64) {
    let Some(exchange) = EXCHANGES.get_ptr_mut(key) else { return };
    // SAFETY: the pointer comes from the map and was checked. Two threads that read one connection at once are no
    // server.
    let exchange = unsafe { &mut *exchange };
    if exchange.left == NO_LENGTH || exchange.request == 0 {
        return;
    }
    if exchange.left < length {
        exchange.flags |= PIPELINED;
        exchange.left = 0;
    } else {
        exchange.left -= length;
    }
}

/// The process reads the rest of a body: what comes begins no request.
#[inline(always)]
pub fn reads_body(key: &ConnectionKey) -> bool {
    // SAFETY: the pointer comes from the map and was checked.
    EXCHANGES
        .get_ptr(key)
        .is_some_and(|exchange| unsafe { (*exchange).left != 0 && (*exchange).left != NO_LENGTH })
}

/// A request was read whose body goes on for `left` bytes; `more`: there are bytes behind it already.
#[inline(always)]
pub fn began(
    key: &ConnectionKey,
    number: u64,
    request: &Serving,
    by: LaneKey,
    flags: u32,
    left: u64,
    more: bool,
) {
    let _ = REQUESTS.insert(&number, request, 0);
    // SAFETY: the helper has no preconditions.
    let begin = unsafe { bpf_ktime_get_ns() };
    let mut exchange = Exchange { request: number, opened: 0, begin, left, flags: 0, reserved: 0 };
    if let Some(before) = EXCHANGES.get_ptr(key) {
        // SAFETY: the pointer comes from the map and was checked.
        let before = unsafe { &*before };
        exchange.opened = before.opened;
        exchange.flags = before.flags & PIPELINED;
    }
    if more {
        exchange.flags |= PIPELINED;
    }
    let _ = EXCHANGES.insert(key, &exchange, 0);
    let mut lane = Lane { inode: key.inode, request: number, flags: 0, reserved: 0 };
    if !is_greenlet(flags) {
        lane.flags = if flags & READS_NONBLOCKING_INPUT != 0 { READS_NONBLOCKING } else { 0 };
        if let Some(before) = LANES.get_ptr(&by) {
            // SAFETY: as above.
            let before = unsafe { &*before };
            let open = before.inode != key.inode && is_open(by.tgid, before.inode, before.request);
            if before.flags & INTERLEAVES != 0 || open && lane.flags != 0 {
                lane.flags |= INTERLEAVES;
            }
        }
    }
    let _ = LANES.insert(&by, &lane, 0);
}

/// It happens in a greenlet: it is known as one, or its thread waits for events on another stack.
#[inline(always)]
fn is_greenlet(flags: u32) -> bool {
    flags & IN_GREENLET != 0 || flags & (KNOWN | WAITS_ELSEWHERE) == KNOWN | WAITS_ELSEWHERE
}

/// Beside the flags of an identity, for [`began`]: the socket is in non-blocking mode.
pub const READS_NONBLOCKING_INPUT: u32 = 1 << 31;

/// A request is not answered yet.
#[inline(always)]
fn is_open(tgid: u32, inode: u64, request: u64) -> bool {
    EXCHANGES.get_ptr(&ConnectionKey { inode, tgid, reserved: 0 }).is_some_and(|exchange| {
        // SAFETY: the pointer comes from the map and was checked.
        let exchange = unsafe { &*exchange };
        exchange.request == request && exchange.flags & ANSWERED == 0
    })
}

/// Somebody writes on a connection. Who answers a request acts for it, and those that made it.
#[inline(always)]
pub fn wrote(key: &ConnectionKey, actor: u64) {
    let Some(exchange) = EXCHANGES.get_ptr_mut(key) else { return };
    // SAFETY: the pointer comes from the map and was checked. Two threads that answer at once set the same flag.
    let exchange = unsafe { &mut *exchange };
    if exchange.request == 0 {
        return;
    }
    let first = exchange.flags & ANSWERED == 0;
    exchange.flags |= ANSWERED;
    if first && actor != 0 && exchange.opened != 0 && exchange.flags & PIPELINED == 0 && known(actor) == 0 {
        claim(key.tgid, key.inode, actor);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn claim(tgid: u32, inode: u64, actor: u64) -> u32 {
    let Some(exchange) = EXCHANGES.get_ptr(&ConnectionKey { inode, tgid, reserved: 0 }) else { return 0 };
    let mut at = actor;
    for _ in 0..LINE {
        let Some(acts) = ACTS.get_ptr_mut(&at) else { break };
        // SAFETY: the pointers come from maps and were checked.
        let (acts, exchange) = unsafe { (&mut *acts, &*exchange) };
        if acts.what != ACTS_UNKNOWN || acts.tgid != tgid || acts.born < exchange.opened {
            break;
        }
        at = acts.value;
        if acts.born >= exchange.begin {
            acts.value = exchange.request;
            acts.what = ACTS_FOR_REQUEST;
        } else {
            acts.value = inode;
            acts.what = ACTS_FOR_CONNECTION;
        }
    }
    0
}

/// An actor is made.
#[inline(always)]
pub fn made(tgid: u32, tid: u32, actor: u64, born: u64, by: &Identity, what: u32, cause: u64) {
    // Of a thread or greenlet nothing is known before it ends.
    if what == LASTING || what == ENDED {
        return;
    }
    let (what, value) = reason(tgid, tid, by, what, cause);
    let _ = ACTS.insert(&actor, &Acts { value, born, tgid, what }, 0);
}

/// An actor is made in a protocol's `connection_made`. Event loops watch the connection right after that: asyncio with
/// its next callback, uvloop before it waits.
#[inline(always)]
pub fn made_by_connection(tid: u32, actor: u64) {
    // SAFETY: the pointer comes from the map and was checked; only this thread uses its entry.
    let count = NEWEST.get_ptr(&tid).map_or(0, |newest| unsafe { (*newest).count });
    let _ = NEWEST.insert(&tid, &Newest { actor, count: count + 1 }, 0);
}

/// An event loop begins to watch a connection. If that is the only one that a task was made for, it is that task's.
#[inline(always)]
pub fn watched(tid: u32, key: &ConnectionKey) {
    let (Some(newest), Some(exchange)) = (NEWEST.get_ptr_mut(&tid), EXCHANGES.get_ptr(key)) else { return };
    // SAFETY: the pointers come from maps and were checked; only this thread uses its entry.
    let (newest, exchange) = unsafe { (&mut *newest, &*exchange) };
    if newest.count == 1
        && exchange.opened != 0
        && exchange.request == 0
        && let Some(acts) = ACTS.get_ptr_mut(&newest.actor)
    {
        // SAFETY: as above.
        let acts = unsafe { &mut *acts };
        if acts.what == ACTS_UNKNOWN && acts.tgid == key.tgid && acts.born >= exchange.opened {
            acts.value = key.inode;
            acts.what = ACTS_FOR_CONNECTION;
        }
    }
    newest.count = 0;
}

/// The thread waits for events.
#[inline(always)]
pub fn waits(tid: u32) {
    if let Some(newest) = NEWEST.get_ptr_mut(&tid) {
        // SAFETY: as above.
        unsafe { (*newest).count = 0 };
    }
}

#[inline(always)]
fn reason(tgid: u32, tid: u32, by: &Identity, what: u32, cause: u64) -> (u32, u64) {
    const NOBODY: (u32, u64) = (ACTS_UNKNOWN, 0);
    if what == CAUSE_ACCEPT {
        return (ACTS_FOR_CONNECTION, cause);
    }
    if what == CAUSE_READ {
        let request = open_request(tgid, cause);
        return if request != 0 { (ACTS_FOR_REQUEST, request) } else { NOBODY };
    }
    // That one is pipelined behind another, and that is the one behind its maker's.
    if what == CAUSE_AFTER || what == CAUSE_NEXT {
        return NOBODY;
    }
    if by.flags & IN_TASK == 0 {
        let request = of_lane(tgid, tid, by.lane, by.flags);
        if request != 0 {
            return (ACTS_FOR_REQUEST, request);
        }
    }
    if by.actor == 0 {
        return NOBODY;
    }
    let Some(maker) = ACTS.get_ptr(&known(by.actor)) else { return (ACTS_UNKNOWN, by.actor) };
    // SAFETY: the pointer comes from the map and was checked.
    let maker = unsafe { *maker };
    if maker.what == ACTS_FOR_CONNECTION {
        let Some(exchange) = EXCHANGES.get_ptr(&ConnectionKey { inode: maker.value, tgid, reserved: 0 })
        else {
            return NOBODY;
        };
        // SAFETY: as above.
        if unsafe { (*exchange).request } == 0 {
            return (ACTS_FOR_CONNECTION, maker.value);
        }
        let request = open_request(tgid, maker.value);
        return if request != 0 { (ACTS_FOR_REQUEST, request) } else { NOBODY };
    }
    let Some(request) = REQUESTS.get_ptr(&maker.value) else { return NOBODY };
    // SAFETY: as above.
    let inode = unsafe { (*request).inode };
    // What is made now may be for the request behind it.
    if is_pipelined(tgid, inode) { NOBODY } else { (ACTS_FOR_REQUEST, maker.value) }
}

#[inline(always)]
fn is_pipelined(tgid: u32, inode: u64) -> bool {
    let exchange = EXCHANGES.get_ptr(&ConnectionKey { inode, tgid, reserved: 0 });
    // SAFETY: the pointer comes from the map and was checked.
    exchange.is_some_and(|exchange| unsafe { (*exchange).flags & PIPELINED != 0 })
}

/// The request of a connection that waits for its answer alone; 0 if there is none.
#[inline(always)]
fn open_request(tgid: u32, inode: u64) -> u64 {
    let Some(exchange) = EXCHANGES.get_ptr(&ConnectionKey { inode, tgid, reserved: 0 }) else { return 0 };
    // SAFETY: the pointer comes from the map and was checked.
    let exchange = unsafe { &*exchange };
    if exchange.flags & (ANSWERED | PIPELINED) == 0 { exchange.request } else { 0 }
}

/// The first of an actor and its makers of whom is known for whom they act; 0 if there is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn known(actor: u64) -> u64 {
    let mut at = actor;
    for _ in 0..LINE {
        let Some(acts) = ACTS.get_ptr(&at) else { break };
        // SAFETY: the pointer comes from the map and was checked.
        let acts = unsafe { &*acts };
        if acts.what != ACTS_UNKNOWN {
            return at;
        }
        at = acts.value;
    }
    0
}

/// The request that a thread or greenlet has read and not answered; 0 if there is none, or that can't be told.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn of_lane(tgid: u32, tid: u32, lane: u64, flags: u32) -> u64 {
    let mut key = LaneKey { lane, tgid, tid };
    let mut serving = LANES.get_ptr(&key);
    if serving.is_none() && flags & IN_GREENLET == 0 {
        // Only the thread was known when it read.
        key.lane = 0;
        serving = LANES.get_ptr(&key);
    }
    let (Some(serving), Some(process)) = (serving, SELECTED.get_ptr(&tgid)) else { return 0 };
    // SAFETY: the pointers come from maps and were checked.
    let (serving, process) = unsafe { (&*serving, *process) };
    let greenlet = is_greenlet(flags) && key.lane != 0;
    let looping = process & LOOPS != 0 && serving.flags & READS_NONBLOCKING != 0 && !greenlet;
    let open = is_open(tgid, serving.inode, serving.request);
    if looping || !open || serving.flags & INTERLEAVES != 0 { 0 } else { serving.request }
}

/// Finds out who sends on a connection, into its entry; gives 0 if somebody else was looked for on this processor
/// meanwhile (see [`crate::actor::who`]).
///
/// A function of its own, and once, because the stacks of functions that call each other add up.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn look_for_sender(cookie: u64, tgid: u32, tid: u32) -> u32 {
    let turn = identify(tgid, tid);
    let (Some(outgoing), Some(found)) = (OUTGOING.get_ptr_mut(&cookie), FOUND.get_ptr(0)) else { return 0 };
    // SAFETY: the pointers come from maps and were checked; this thread holds the socket's lock. Volatile, because
    // another thread may write it between.
    unsafe {
        let (from, to) = (&raw const (*found).identity, &raw mut (*outgoing).by);
        (&raw mut (*to).actor).write((&raw const (*from).actor).read_volatile());
        (&raw mut (*to).lane).write((&raw const (*from).lane).read_volatile());
        (&raw mut (*to).flags).write((&raw const (*from).flags).read_volatile());
        u32::from(turn != 0 && (&raw const (*found).turn).read_volatile() == turn)
    }
}

/// The number of the request on whose behalf somebody sends on a connection, after [`look_for_sender`]; 0 if that is not
/// known.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn request_of_sender(cookie: u64, tgid: u32, tid: u32) -> u64 {
    let Some(outgoing) = OUTGOING.get_ptr(&cookie) else { return 0 };
    // SAFETY: as above.
    let by = unsafe { &(*outgoing).by };
    // What a thread has read itself it has not got from elsewhere.
    if by.flags & IN_TASK == 0 {
        let request = of_lane(tgid, tid, by.lane, by.flags);
        if request != 0 {
            return request;
        }
    }
    if by.actor == 0 {
        return 0;
    }
    let Some(acts) = ACTS.get_ptr(&known(by.actor)) else { return 0 };
    // SAFETY: the pointer comes from the map and was checked.
    let acts = unsafe { *acts };
    if acts.tgid != tgid {
        return 0;
    }
    if acts.what == ACTS_FOR_REQUEST {
        return acts.value;
    }
    let Some(exchange) = EXCHANGES.get_ptr(&ConnectionKey { inode: acts.value, tgid, reserved: 0 }) else {
        return 0;
    };
    // SAFETY: as above.
    let exchange = unsafe { &*exchange };
    if exchange.flags & PIPELINED == 0 { exchange.request } else { 0 }
}

/// The request of this number, if it is of this process and its trace is known.
#[inline(always)]
pub fn request(tgid: u32, number: u64) -> Option<*const Serving> {
    let request = REQUESTS.get_ptr(&number)?;
    // SAFETY: the pointer comes from the map and was checked.
    let usable = unsafe { (*request).tgid == tgid && (*request).flags & UNKNOWN == 0 };
    if usable { Some(request) } else { None }
}
