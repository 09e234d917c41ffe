//! Recent snapshots, in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::broadcast;

use super::breakpoint::{Id, Kind};
use super::record::Snapshot;

/// Snapshots that are kept.
const MAX_SNAPSHOTS: usize = 1000;
/// Bytes of their JSON forms.
const MAX_BYTES: usize = 16 << 20;
/// Snapshots that a slow listener may lag behind before it loses some.
const LAG: usize = 256;

/// A snapshot as it is kept: what lists show, and the whole as JSON text.
#[derive(Debug, Clone, Serialize)]
pub struct Stored {
    /// Its name.
    pub id: String,
    /// Snapshot or log.
    pub kind: Kind,
    /// When the line ran.
    pub time: Timestamp,
    /// Its breakpoint.
    pub breakpoint: Id,
    /// The breakpoint's label.
    pub label: Option<String>,
    /// `orders.py:42`
    pub location: String,
    /// The function.
    pub function: Option<String>,
    /// The service.
    pub service: String,
    /// The process.
    pub pid: u32,
    /// The trace it belongs to.
    pub trace_id: Option<String>,
    /// The text of a log breakpoint.
    pub message: Option<String>,
    /// The whole.
    #[serde(skip)]
    pub json: Arc<str>,
}

impl Stored {
    fn new(snapshot: &Snapshot) -> Self {
        Self {
            id: snapshot.id.clone(),
            kind: snapshot.breakpoint.kind,
            time: snapshot.time,
            breakpoint: snapshot.breakpoint.id.clone(),
            label: snapshot.breakpoint.label.clone(),
            location: snapshot.breakpoint.location(),
            function: snapshot.stack.first().map(|frame| frame.function.clone()),
            service: snapshot.process.resource.service_name().to_owned(),
            pid: snapshot.process.pid,
            trace_id: snapshot.span.map(|span| span.trace_id.to_string()),
            message: snapshot.message.clone(),
            json: snapshot.to_json().to_string().into(),
        }
    }

    /// What it takes: the message is in it twice.
    fn size(&self) -> usize {
        self.json.len() + self.message.as_ref().map_or(0, String::len) + 512
    }
}

/// What a list is to have; all that is given must be so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Of this breakpoint.
    pub breakpoint: Option<String>,
    /// Of this service.
    pub service: Option<String>,
    /// Of this trace.
    pub trace_id: Option<String>,
    /// Later than this.
    pub since: Option<Timestamp>,
    /// The newest so many.
    pub limit: Option<usize>,
}

impl Filter {
    /// It is to be in the list, but for the limit.
    #[must_use]
    pub fn matches(&self, stored: &Stored) -> bool {
        self.breakpoint.as_deref().is_none_or(|id| stored.breakpoint.as_str() == id)
            && self.service.as_deref().is_none_or(|service| stored.service == service)
            && self.trace_id.as_deref().is_none_or(|id| stored.trace_id.as_deref() == Some(id))
            && self.since.is_none_or(|since| stored.time > since)
    }
}

#[derive(Debug, Default)]
struct Inner {
    snapshots: VecDeque<Arc<Stored>>,
    bytes: usize,
    evicted: u64,
}

/// The newest snapshots. Bounded by number and bytes: the oldest make room.
#[derive(Debug)]
pub struct Store {
    inner: Mutex<Inner>,
    listeners: broadcast::Sender<Arc<Stored>>,
}

impl Default for Store {
    fn default() -> Self {
        let (listeners, _) = broadcast::channel(LAG);
        Self { inner: Mutex::default(), listeners }
    }
}

impl Store {
    /// Keeps a snapshot and tells whoever listens. It must be redacted.
    pub fn add(&self, snapshot: &Snapshot) {
        let stored = Arc::new(Stored::new(snapshot));
        let mut inner = self.lock();
        inner.bytes += stored.size();
        inner.snapshots.push_back(Arc::clone(&stored));
        while inner.snapshots.len() > MAX_SNAPSHOTS || (inner.bytes > MAX_BYTES && inner.snapshots.len() > 1)
        {
            let Some(oldest) = inner.snapshots.pop_front() else { break };
            inner.bytes -= oldest.size();
            inner.evicted += 1;
        }
        // Fails if nobody listens.
        let _ = self.listeners.send(stored);
    }

    /// One snapshot, if it is still there.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<Stored>> {
        self.lock().snapshots.iter().rev().find(|stored| stored.id == id).cloned()
    }

    /// Those that match, the oldest first.
    #[must_use]
    pub fn list(&self, filter: &Filter) -> Vec<Arc<Stored>> {
        let inner = self.lock();
        let matching = inner.snapshots.iter().rev().filter(|stored| filter.matches(stored));
        let mut list: Vec<Arc<Stored>> = matching.take(filter.limit.unwrap_or(usize::MAX)).cloned().collect();
        drop(inner);
        list.reverse();
        list
    }

    /// Snapshots that had to make room since the start of the agent.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.lock().evicted
    }

    /// All snapshots from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Stored>> {
        self.listeners.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::record::testing::snapshot;

    fn numbered(n: usize, message: &str) -> Snapshot {
        let mut snapshot = snapshot(Kind::Log);
        snapshot.id = format!("sn-{n}");
        snapshot.message = Some(message.to_owned());
        snapshot.time = Timestamp::from_second(n as i64).unwrap();
        snapshot
    }

    #[test]
    fn the_oldest_make_room() {
        let store = Store::default();
        for n in 0..MAX_SNAPSHOTS + 5 {
            store.add(&numbered(n, "x"));
        }
        assert_eq!((store.list(&Filter::default()).len(), store.evicted()), (MAX_SNAPSHOTS, 5));
        assert!(store.get("sn-4").is_none() && store.get("sn-5").is_some());
        let large = "x".repeat(3 << 20);
        for n in 0..10 {
            store.add(&numbered(5000 + n, &large));
        }
        let inner = store.lock();
        assert!(
            inner.bytes <= MAX_BYTES && inner.snapshots.len() == 2,
            "{} {}",
            inner.bytes,
            inner.snapshots.len()
        );
        assert_eq!(inner.bytes, inner.snapshots.iter().map(|stored| stored.size()).sum::<usize>());
    }

    #[test]
    fn filters() {
        let store = Store::default();
        for n in 0..10 {
            store.add(&numbered(n, "x"));
        }
        let ids = |filter: Filter| -> Vec<String> {
            store.list(&filter).iter().map(|stored| stored.id.clone()).collect()
        };
        let all =
            Filter { breakpoint: Some("bp-1".into()), service: Some("shop".into()), ..Filter::default() };
        assert_eq!(ids(all.clone()).len(), 10);
        assert_eq!(ids(Filter { limit: Some(2), ..all.clone() }), ["sn-8", "sn-9"]);
        assert_eq!(ids(Filter { since: Some(Timestamp::from_second(8).unwrap()), ..all.clone() }), ["sn-9"]);
        assert!(ids(Filter { service: Some("cart".into()), ..all.clone() }).is_empty());
        assert!(ids(Filter { trace_id: Some("00".into()), ..all }).is_empty());
    }

    #[test]
    fn listeners_hear_what_comes() {
        let store = Store::default();
        store.add(&numbered(1, "x"));
        let mut listener = store.subscribe();
        store.add(&numbered(2, "x"));
        assert_eq!(listener.try_recv().unwrap().id, "sn-2");
        for n in 0..LAG + 10 {
            store.add(&numbered(n, "x"));
        }
        assert!(matches!(listener.try_recv(), Err(broadcast::error::TryRecvError::Lagged(10))));
    }
}
