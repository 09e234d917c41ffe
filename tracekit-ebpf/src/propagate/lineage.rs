//! Which request an actor, a thread or a greenlet acts for, as far as that is known at the moment.
//!
//! The rules are those of the user side's `trace::actors`. That may learn more later; here only what is known already
//! counts, because the headers of a request can't be changed when it has left.

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::LruHashMap,
};
use tracekit_common::{
    actor::{CAUSE_ACCEPT, CAUSE_READ, IN_TASK, Identity, KNOWN, WAITS_ELSEWHERE},
    map::ConnectionKey,
    propagate::{
        ACTS_FOR_CONNECTION, ACTS_FOR_REQUEST, ACTS_UNKNOWN, ANSWERED, Acts, Exchange, INTERLEAVES, LOOPS, Lane,
        LaneKey, NO_LENGTH, PIPELINED, READS_NONBLOCKING, Serving, UNKNOWN,
    },
};

use crate::{actor::who, maps::SELECTED};

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
    EXCHANGES.get_ptr(key).is_some_and(|exchange| unsafe { (*exchange).left != 0 && (*exchange).left != NO_LENGTH })
}

/// A request was read whose body goes on for `left` bytes; `more`: there are bytes behind it already.
#[inline(always)]
pub fn began(key: &ConnectionKey, number: u64, request: &Serving, by: LaneKey, flags: u32, left: u64, more: bool) {
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
    if flags & (KNOWN | WAITS_ELSEWHERE) != KNOWN | WAITS_ELSEWHERE {
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
    let (what, value) = reason(tgid, tid, by, what, cause);
    let _ = ACTS.insert(&actor, &Acts { value, born, tgid, what }, 0);
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
        let Some(exchange) = EXCHANGES.get_ptr(&ConnectionKey { inode: maker.value, tgid, reserved: 0 }) else {
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
    if serving.is_none() {
        // Only the thread was known when it read.
        key.lane = 0;
        serving = LANES.get_ptr(&key);
    }
    let (Some(serving), Some(process)) = (serving, SELECTED.get_ptr(&tgid)) else { return 0 };
    // SAFETY: the pointers come from maps and were checked.
    let (serving, process) = unsafe { (&*serving, *process) };
    let greenlet = flags & (KNOWN | WAITS_ELSEWHERE) == KNOWN | WAITS_ELSEWHERE && key.lane != 0;
    let looping = process & LOOPS != 0 && serving.flags & READS_NONBLOCKING != 0 && !greenlet;
    let open = is_open(tgid, serving.inode, serving.request);
    if looping || !open || serving.flags & INTERLEAVES != 0 { 0 } else { serving.request }
}

/// The number of the request on whose behalf the current thread acts; 0 if that is not known.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn current_request(tgid: u32, tid: u32) -> u64 {
    let Some(found) = who(tgid, tid) else { return 0 };
    let by = found.identity;
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

