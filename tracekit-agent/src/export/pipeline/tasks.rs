//! The export loops.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::item::Item;
use super::queue::Queue;
use crate::export::SCOPE_VERSION;
use crate::export::config::{BatchConfig, MetricReaderConfig};
use crate::export::metrics::counters::{Counter, Counters};
use crate::export::metrics::red::RedMetrics;
use crate::export::otlp::{Exporter, Outcome, Stop, WarningGate, encode};
use crate::trace::span::{Resource, Value};

/// `OTEL_BSP_SCHEDULE_DELAY=0` means "at once", but not a request for each span.
const MIN_DELAY: Duration = Duration::from_millis(10);

/// Sends items when a batch is complete or has waited long enough.
pub struct BatchTask<T> {
    exporter: Exporter,
    pub queue: Arc<Queue<T>>,
    batch: BatchConfig,
    counters: Arc<Counters>,
    stop: Stop,
    drops: WarningGate,
    dropped_told: u64,
}

impl<T: Item> BatchTask<T> {
    pub fn new(exporter: Exporter, batch: BatchConfig, counters: Arc<Counters>, stop: Stop) -> Self {
        let queue = Arc::new(Queue::new(&batch));
        Self { exporter, queue, batch, counters, stop, drops: WarningGate::default(), dropped_told: 0 }
    }

    pub async fn run(mut self) {
        let delay = self.batch.schedule_delay.max(MIN_DELAY);
        loop {
            let mut due = 0;
            tokio::select! {
                () = self.queue.complete() => {}
                () = tokio::time::sleep(delay) => due = self.queue.len(),
                () = self.stop.wait() => {}
            }
            while due > 0 || self.queue.has_batch() || self.stop.requested() {
                let batch = self.queue.take_batch();
                let items = batch.len();
                if items == 0 {
                    break;
                }
                due = due.saturating_sub(items);
                let request = T::request(batch);
                if self.export(request, items as u64).await == Outcome::Stopped {
                    return;
                }
            }
            if self.stop.requested() {
                return;
            }
        }
    }

    async fn export(&mut self, request: Vec<u8>, items: u64) -> Outcome {
        let retried = || self.counters.add(Counter::ExportRetries, 1);
        let budget = self.batch.export_timeout;
        let outcome = self.exporter.export(request, items, budget, &mut self.stop, retried).await;
        match outcome {
            Outcome::Accepted { rejected } => {
                self.counters.add(T::COUNTED.exported, items - rejected.min(items));
                self.counters.add(T::COUNTED.rejected, rejected);
            }
            Outcome::Failed => self.counters.add(T::COUNTED.export_failed, items),
            Outcome::Stopped => self.counters.add(T::COUNTED.shutdown, items),
        }
        self.queue.settle();
        self.warn_of_drops();
        outcome
    }

    fn warn_of_drops(&mut self) {
        let dropped = self.counters.get(T::COUNTED.queue_full);
        if dropped > self.dropped_told && self.drops.open() {
            tracing::warn!(
                dropped = dropped - self.dropped_told,
                "{} were dropped because the queue of {} was full: the collector is away or too slow; give it more \
                 resources, {}",
                T::SIGNAL.items(),
                self.batch.max_queue_size,
                T::REMEDY,
            );
            self.dropped_told = dropped;
        }
    }
}

/// Sends all metrics from time to time, and once more at the end.
pub struct MetricTask {
    pub exporter: Exporter,
    pub metrics: Arc<RedMetrics>,
    pub reader: MetricReaderConfig,
    pub counters: Arc<Counters>,
    pub stop: Stop,
    /// Of the agent.
    pub resource: Resource,
    pub start_unix_nano: u64,
}

impl MetricTask {
    /// `items_done` resolves when the last spans and log records are sent, so that the last metrics count them.
    pub async fn run(mut self, items_done: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.reader.interval) => {}
                () = self.stop.wait() => break,
            }
            self.export().await;
        }
        let left = self.stop.deadline().map(|end| end.saturating_duration_since(Instant::now()));
        // An error means that there is nothing to wait for.
        let _ = tokio::time::timeout(left.unwrap_or_default() / 2, items_done).await;
        self.export().await;
    }

    async fn export(&mut self) {
        let now = unix_nanos();
        let mut metrics = self.metrics.collect(now);
        let own = self.counters.to_otlp(self.start_unix_nano, now);
        metrics.push(encode::resource_metrics(&self.resource, own));
        let points = metrics.iter().map(encode::count_points).sum();
        let request = encode::metrics_request(metrics);
        let retried = || self.counters.add(Counter::ExportRetries, 1);
        match self.exporter.export(request, points, self.reader.timeout, &mut self.stop, retried).await {
            Outcome::Accepted { rejected } => self.counters.add(Counter::MetricPointsRejected, rejected),
            Outcome::Failed | Outcome::Stopped => self.counters.add(Counter::MetricExportsFailed, 1),
        }
    }
}

/// Now, in nanoseconds since the Unix epoch.
pub fn unix_nanos() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// What the agent says of itself in its own metrics. The instance id keeps the sums of agents apart.
pub fn agent_resource() -> Resource {
    let kernel = |file: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/{file}")).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let attributes = [
        ("service.name", Some(Value::from("tracekit"))),
        ("service.version", Some(Value::from(SCOPE_VERSION))),
        ("service.instance.id", kernel("random/uuid").map(Value::from)),
        ("host.name", kernel("hostname").map(Value::from)),
        ("process.pid", Some(Value::Int(i64::from(std::process::id())))),
    ];
    let attributes = attributes.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Resource { attributes: attributes.collect() }
}
