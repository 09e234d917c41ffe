//! The stream of what happens: server-sent events (WHATWG HTML, section 9.2).

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use jiff::Timestamp;
use serde_json::{Value as Json, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};

use crate::snapshot::registry::{Change, Event, Registry};
use crate::snapshot::store::{Store, Stored};

/// Says that the stream is alive, and finds out whether the other side is.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A reader that takes nothing for this long is cut off.
const STUCK: Duration = Duration::from_secs(30);
/// Events that wait for a slow reader, beside those in the broadcast.
pub const PENDING: usize = 16;

/// What a listener wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Only of this breakpoint.
    pub breakpoint: Option<String>,
    /// Not snapshots, or only these.
    pub only: Option<Only>,
}

/// One half of the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Only {
    /// Snapshots.
    Snapshots,
    /// Changes to breakpoints and kill switch.
    Changes,
}

/// What a stream is fed from. Made before the answer begins, so that nothing falls in between.
pub struct Feed {
    changes: Option<broadcast::Receiver<Arc<Event>>>,
    snapshots: Option<broadcast::Receiver<Arc<Stored>>>,
    wanted: Wanted,
    init: Json,
}

impl Feed {
    /// Listens from now on; the first event is what there is.
    pub fn new(registry: &Registry, store: &Store, wanted: Wanted) -> Self {
        let changes = (wanted.only != Some(Only::Snapshots)).then(|| registry.subscribe());
        let snapshots = (wanted.only != Some(Only::Changes)).then(|| store.subscribe());
        let mut breakpoints = registry.list(Timestamp::now());
        if let Some(id) = &wanted.breakpoint {
            breakpoints.retain(|view| view.breakpoint.id.as_str() == id);
        }
        let init = json!({ "breakpoints": breakpoints, "kill_switch": registry.kill_switch() });
        Self { changes, snapshots, wanted, init }
    }

    /// Sends events until the reader is gone or stuck.
    pub async fn run(mut self, to: mpsc::Sender<Bytes>) {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.tick().await;
        let mut next = Some(message("init", &self.init.to_string()));
        self.init = Json::Null;
        loop {
            if let Some(bytes) = next.take()
                && !matches!(tokio::time::timeout(STUCK, to.send(bytes)).await, Ok(Ok(())))
            {
                return;
            }
            next = tokio::select! {
                change = receive(&mut self.changes) => match change {
                    Ok(event) if self.wants(&event.change) => {
                        // Fails for nothing that an event can hold.
                        let text = serde_json::to_string(&*event).unwrap_or_default();
                        Some(message(name(&event.change), &text))
                    }
                    Ok(_) => None,
                    Err(missed) => Some(missed),
                },
                snapshot = receive(&mut self.snapshots) => match snapshot {
                    Ok(stored) if self.wanted.breakpoint.as_deref().is_none_or(|id| stored.breakpoint.as_str() == id) => {
                        Some(message("snapshot", &stored.json))
                    }
                    Ok(_) => None,
                    Err(missed) => Some(missed),
                },
                _ = heartbeat.tick() => Some(Bytes::from_static(b": alive\n\n")),
                () = to.closed() => return,
            };
        }
    }

    fn wants(&self, change: &Change) -> bool {
        let Some(wanted) = self.wanted.breakpoint.as_deref() else { return true };
        match change {
            Change::Added { breakpoint } | Change::Updated { breakpoint } => {
                breakpoint.breakpoint.id.as_str() == wanted
            }
            Change::Removed { id } | Change::State { id, .. } => id.as_str() == wanted,
            Change::KillSwitch { .. } => true,
        }
    }
}

/// The next of a feed; an event that says how many were missed if the listener was too slow. Never returns if
/// there is no feed (any more).
async fn receive<T: Clone>(feed: &mut Option<broadcast::Receiver<T>>) -> Result<T, Bytes> {
    if let Some(receiver) = feed {
        match receiver.recv().await {
            Ok(value) => return Ok(value),
            Err(RecvError::Lagged(missed)) => {
                return Err(message("lagged", &json!({ "missed": missed }).to_string()));
            }
            Err(RecvError::Closed) => *feed = None,
        }
    }
    std::future::pending().await
}

/// As in the events' own `event` key.
fn name(change: &Change) -> &'static str {
    match change {
        Change::Added { .. } => "added",
        Change::Updated { .. } => "updated",
        Change::Removed { .. } => "removed",
        Change::State { .. } => "state",
        Change::KillSwitch { .. } => "kill-switch",
    }
}

/// JSON has no line feeds outside of strings, and there they are escaped.
fn message(event: &str, data: &str) -> Bytes {
    Bytes::from(format!("event: {event}\ndata: {data}\n\n"))
}
