//! Spans that wait for export.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::export::config::BatchConfig;
use crate::trace::span::{Span, Value};

/// Spans may be few and large: this bounds the memory of those that wait.
const QUEUE_BYTES: usize = 16 << 20;

/// Collectors take gRPC messages up to 4 MiB unless told otherwise.
const BATCH_BYTES: usize = 2 << 20;

/// What became of a span handed to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    Waits,
    Full,
    Closed,
}

/// Bounded by number and by memory. Pushing wakes the exporter once a batch is complete.
pub struct Queue {
    state: Mutex<State>,
    complete: Notify,
    max_spans: usize,
    batch_spans: usize,
}

#[derive(Default)]
struct State {
    spans: VecDeque<(Arc<Span>, usize)>,
    bytes: usize,
    in_flight: usize,
    closed: bool,
}

impl Queue {
    pub fn new(config: &BatchConfig) -> Self {
        Self {
            state: Mutex::default(),
            complete: Notify::new(),
            max_spans: config.max_queue_size,
            batch_spans: config.max_export_batch_size,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, span: Arc<Span>) -> Push {
        let size = approximate_size(&span);
        let mut state = self.lock();
        if state.closed {
            return Push::Closed;
        }
        if state.spans.len() >= self.max_spans || state.bytes + size > QUEUE_BYTES {
            return Push::Full;
        }
        let was_complete = self.is_complete(&state);
        state.spans.push_back((span, size));
        state.bytes += size;
        let wake = !was_complete && self.is_complete(&state);
        drop(state);
        if wake {
            self.complete.notify_one();
        }
        Push::Waits
    }

    fn is_complete(&self, state: &State) -> bool {
        state.spans.len() >= self.batch_spans || state.bytes >= BATCH_BYTES
    }

    /// Returns when a batch is complete.
    pub async fn complete(&self) {
        self.complete.notified().await;
    }

    /// Whether a whole batch waits.
    pub fn has_batch(&self) -> bool {
        self.is_complete(&self.lock())
    }

    pub fn len(&self) -> usize {
        self.lock().spans.len()
    }

    /// The oldest spans, as many as go into one request. They count as in flight until [`Self::settle`].
    pub fn take_batch(&self) -> Vec<Arc<Span>> {
        let mut state = self.lock();
        let mut batch = Vec::with_capacity(self.batch_spans.min(state.spans.len()));
        let mut bytes = 0;
        while batch.len() < self.batch_spans
            && let Some((_, size)) = state.spans.front()
        {
            bytes += size;
            if bytes > BATCH_BYTES && !batch.is_empty() {
                break;
            }
            let Some((span, size)) = state.spans.pop_front() else { break };
            state.bytes -= size;
            batch.push(span);
        }
        state.in_flight = batch.len();
        batch
    }

    /// The batch taken last has been dealt with.
    pub fn settle(&self) {
        self.lock().in_flight = 0;
    }

    /// Takes no more spans; returns how many were left, those in flight included.
    pub fn close(&self) -> u64 {
        let mut state = self.lock();
        state.closed = true;
        let left = state.spans.len() + std::mem::take(&mut state.in_flight);
        state.spans.clear();
        state.bytes = 0;
        left as u64
    }
}

/// Bytes of memory, and about those of the encoded span.
fn approximate_size(span: &Span) -> usize {
    const ATTRIBUTE: usize = 48;
    let attributes = span.attributes.iter().map(|(key, value)| {
        ATTRIBUTE
            + key.len()
            + match value {
                Value::String(text) => text.len(),
                Value::Strings(texts) => texts.iter().map(|text| text.len() + ATTRIBUTE).sum(),
                Value::Int(_) | Value::Double(_) | Value::Bool(_) => 0,
            }
    });
    size_of::<Span>() + span.name.len() + span.trace_state.len() + attributes.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::export::testing::{resource, server_span};

    fn queue(max_queue_size: usize, max_export_batch_size: usize) -> Queue {
        let schedule_delay = Duration::from_secs(5);
        let export_timeout = Duration::from_secs(30);
        Queue::new(&BatchConfig { max_queue_size, schedule_delay, max_export_batch_size, export_timeout })
    }

    fn span(path: &str) -> Arc<Span> {
        Arc::new(server_span(1, path, &resource("shop")))
    }

    #[test]
    fn bounded_by_number() {
        let queue = queue(3, 2);
        let pushed: Vec<_> = (0..4).map(|_| queue.push(span("/"))).collect();
        assert_eq!(pushed, [Push::Waits, Push::Waits, Push::Waits, Push::Full]);
        assert_eq!(queue.take_batch().len(), 2);
        assert_eq!(queue.push(span("/")), Push::Waits);
        assert_eq!(queue.close(), 4, "two wait, two are in flight");
        assert_eq!(queue.push(span("/")), Push::Closed);
    }

    #[test]
    fn bounded_by_memory() {
        let queue = queue(1000, 500);
        let large = "x".repeat(1 << 20);
        let pushed = (0..20).filter(|_| queue.push(span(&large)) == Push::Waits).count();
        assert_eq!(pushed, 15);
        assert!(queue.has_batch());
        assert_eq!(queue.take_batch().len(), 1);
        queue.settle();
        while !queue.take_batch().is_empty() {}
        assert_eq!(queue.lock().bytes, 0);
    }

    #[tokio::test]
    async fn a_complete_batch_wakes_the_exporter() {
        let queue = queue(10, 3);
        for n in 0..3 {
            let woken = tokio::time::timeout(Duration::from_millis(20), queue.complete()).await.is_ok();
            assert!(!woken, "after {n}");
            queue.push(span("/"));
        }
        tokio::time::timeout(Duration::from_secs(5), queue.complete()).await.expect("woken");
    }
}
