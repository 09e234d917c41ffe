//! Items that wait for export.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::item::Item;
use crate::export::config::BatchConfig;

/// Items may be few and large: this bounds the memory of those that wait.
const QUEUE_BYTES: usize = 16 << 20;

/// Collectors take gRPC messages up to 4 MiB unless told otherwise.
const BATCH_BYTES: usize = 2 << 20;

/// What became of an item handed to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    Waits,
    Full,
    Closed,
}

/// Bounded by number and by memory. Pushing wakes the exporter once a batch is complete.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    complete: Notify,
    max_items: usize,
    batch_items: usize,
}

struct State<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    in_flight: usize,
    closed: bool,
}

impl<T: Item> Queue<T> {
    pub fn new(config: &BatchConfig) -> Self {
        Self {
            state: Mutex::new(State { items: VecDeque::new(), bytes: 0, in_flight: 0, closed: false }),
            complete: Notify::new(),
            max_items: config.max_queue_size,
            batch_items: config.max_export_batch_size,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, item: T) -> Push {
        let size = item.size();
        let mut state = self.lock();
        if state.closed {
            return Push::Closed;
        }
        if state.items.len() >= self.max_items || state.bytes + size > QUEUE_BYTES {
            return Push::Full;
        }
        let was_complete = self.is_complete(&state);
        state.items.push_back((item, size));
        state.bytes += size;
        let wake = !was_complete && self.is_complete(&state);
        drop(state);
        if wake {
            self.complete.notify_one();
        }
        Push::Waits
    }

    fn is_complete(&self, state: &State<T>) -> bool {
        state.items.len() >= self.batch_items || state.bytes >= BATCH_BYTES
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
        self.lock().items.len()
    }

    /// The oldest items, as many as go into one request. They count as in flight until [`Self::settle`].
    pub fn take_batch(&self) -> Vec<T> {
        let mut state = self.lock();
        let mut batch = Vec::with_capacity(self.batch_items.min(state.items.len()));
        let mut bytes = 0;
        while batch.len() < self.batch_items
            && let Some((_, size)) = state.items.front()
        {
            bytes += size;
            if bytes > BATCH_BYTES && !batch.is_empty() {
                break;
            }
            let Some((item, size)) = state.items.pop_front() else { break };
            state.bytes -= size;
            batch.push(item);
        }
        state.in_flight = batch.len();
        batch
    }

    /// The batch taken last has been dealt with.
    pub fn settle(&self) {
        self.lock().in_flight = 0;
    }

    /// Takes no more items; returns how many were left, those in flight included.
    pub fn close(&self) -> u64 {
        let mut state = self.lock();
        state.closed = true;
        let left = state.items.len() + std::mem::take(&mut state.in_flight);
        state.items.clear();
        state.bytes = 0;
        left as u64
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::export::testing::{resource, server_span};
    use crate::trace::span::Span;

    fn queue(max_queue_size: usize, max_export_batch_size: usize) -> Queue<Arc<Span>> {
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
