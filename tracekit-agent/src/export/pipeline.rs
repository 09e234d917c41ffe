//! Spans and log records in; OTLP, metrics and lines out.
//!
//! One thread runs the exports of all signals on an event loop of its own. Requests of one signal are
//! sent one after the other, as the specification wants it.

mod item;
mod queue;
mod tasks;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::Signal;
use super::config::ExportConfig;
use super::metrics::counters::{Counter, Counters};
use super::metrics::red::RedMetrics;
use super::otlp::{Exporter, StartError, Stop};
use super::print::{PrintMode, Printer};
use crate::trace::span::Span;
use item::Item;
pub use item::LogItem;
use queue::{Push, Queue};
use tasks::{BatchTask, MetricTask, agent_resource, unix_nanos};

struct Shared {
    counters: Arc<Counters>,
    metrics: Option<Arc<RedMetrics>>,
    queue: Option<Arc<Queue<Arc<Span>>>>,
    logs: Option<Arc<Queue<LogItem>>>,
    printer: Option<Printer>,
}

/// Takes finished spans; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// Counts, prints and exports a span, as far as each is configured. Never waits for output or network:
    /// what does not fit into a queue is dropped and counted. Spans that are not sampled are only counted.
    pub fn submit(&self, span: Span) {
        let Shared { counters, metrics, queue, printer, .. } = &*self.shared;
        counters.add(Counter::SpansFinished, 1);
        if let Some(metrics) = metrics {
            metrics.record(&span);
        }
        if !span.sampled {
            return counters.add(Counter::SpansNotSampled, 1);
        }
        let span = Arc::new(span);
        if let Some(printer) = printer {
            printer.submit(Arc::clone(&span));
        }
        push(queue.as_deref(), span, counters);
    }

    /// Exports a log record, if log records are exported. Never waits, like [`Self::submit`].
    pub fn submit_log(&self, item: LogItem) {
        push(self.shared.logs.as_deref(), item, &self.shared.counters);
    }
}

fn push<T: Item>(queue: Option<&Queue<T>>, item: T, counters: &Counters) {
    match queue.map(|queue| queue.push(item)) {
        None | Some(Push::Waits) => {}
        Some(Push::Full) => counters.add(T::COUNTED.queue_full, 1),
        Some(Push::Closed) => counters.add(T::COUNTED.shutdown, 1),
    }
}

/// How many spans went where, since the start of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Accepted by the collector.
    pub exported: u64,
    /// The queue was full: the collector is too slow or was away for too long.
    pub dropped_queue_full: u64,
    /// The collector could not be reached or did not want the request, with all retries.
    pub dropped_export_failed: u64,
    /// The collector took the request but not these.
    pub dropped_rejected: u64,
    /// Left over when the time for the shutdown was up or the collector could not be reached then.
    pub dropped_shutdown: u64,
    /// Not chosen by head sampling.
    pub not_sampled: u64,
    /// Printed.
    pub printed: u64,
    /// Not printed: the terminal was too slow, or is gone.
    pub print_dropped: u64,
}

impl Summary {
    fn of(counters: &Counters) -> Self {
        Self {
            exported: counters.get(Counter::SpansExported),
            dropped_queue_full: counters.get(Counter::SpansDroppedQueueFull),
            dropped_export_failed: counters.get(Counter::SpansDroppedExportFailed),
            dropped_rejected: counters.get(Counter::SpansDroppedRejected),
            dropped_shutdown: counters.get(Counter::SpansDroppedShutdown),
            not_sampled: counters.get(Counter::SpansNotSampled),
            printed: counters.get(Counter::SpansPrinted),
            print_dropped: counters.get(Counter::PrintDroppedQueueFull)
                + counters.get(Counter::PrintDroppedClosed),
        }
    }

    /// Spans that should have been exported and were not.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped_queue_full + self.dropped_export_failed + self.dropped_rejected + self.dropped_shutdown
    }
}

impl fmt::Display for Summary {
    /// One line for the end of the log; parts that are zero are left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} spans exported", self.exported)?;
        for (count, what) in [
            (self.printed, "printed"),
            (self.not_sampled, "not sampled"),
            (self.dropped_queue_full, "dropped: queue full"),
            (self.dropped_export_failed, "dropped: export failed"),
            (self.dropped_rejected, "dropped: rejected by the collector"),
            (self.dropped_shutdown, "dropped: no time or no collector at the end"),
            (self.print_dropped, "not printed: output too slow or closed"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

/// The running exporters. Dropped without [`Pipeline::shutdown`] they end by themselves, but nobody waits for
/// the last spans.
pub struct Pipeline {
    shared: Arc<Shared>,
    /// The time when the exports end, finished or not.
    stop: watch::Sender<Option<Instant>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Pipeline {
    /// Starts what is configured. Connections are made when there is something to send, so a collector
    /// that is away is no error here. `OTEL_TRACES_EXPORTER=console` prints even if `print` does not say so.
    ///
    /// # Errors
    /// Certificates that cannot be used; no threads or files left.
    pub fn start(
        config: ExportConfig,
        print: PrintMode,
        counters: Arc<Counters>,
    ) -> Result<Self, StartError> {
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let print = match print {
            PrintMode::None if config.traces.console => PrintMode::Pretty,
            print => print,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (sender, stop) = Stop::new();

        let context = runtime.enter();
        let mut spans = None;
        if config.traces.otlp {
            let exporter = Exporter::new(Signal::Traces, &config.traces_otlp)?;
            spans = Some(BatchTask::new(exporter, config.batch, Arc::clone(&counters), stop.clone()));
        }
        let mut logs = None;
        if config.logs.otlp {
            let exporter = Exporter::new(Signal::Logs, &config.logs_otlp)?;
            logs = Some(BatchTask::new(exporter, config.log_batch, Arc::clone(&counters), stop.clone()));
        }
        let mut points = None;
        if config.metrics.otlp {
            points = Some(MetricTask {
                exporter: Exporter::new(Signal::Metrics, &config.metrics_otlp)?,
                metrics: Arc::new(RedMetrics::new(Arc::clone(&counters))),
                reader: config.metric_reader,
                counters: Arc::clone(&counters),
                stop: stop.clone(),
                resource: agent_resource(),
                start_unix_nano: unix_nanos(),
            });
        }
        drop(context);

        let shared = Arc::new(Shared {
            metrics: points.as_ref().map(|task| Arc::clone(&task.metrics)),
            queue: spans.as_ref().map(|task: &BatchTask<Arc<Span>>| Arc::clone(&task.queue)),
            logs: logs.as_ref().map(|task: &BatchTask<LogItem>| Arc::clone(&task.queue)),
            printer: Printer::start(print, &counters)?,
            counters,
        });
        let mut thread = None;
        if spans.is_some() || logs.is_some() || points.is_some() {
            let run = move || {
                runtime.block_on(run(spans, logs, points, stop));
                // A name look-up that hangs must not hold up the end.
                runtime.shutdown_background();
            };
            thread = Some(std::thread::Builder::new().name("export".to_owned()).spawn(run)?);
        }
        Ok(Self { shared, stop: sender, thread })
    }

    /// Where spans are handed in.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Exports and prints what is left, for at most `deadline`, and ends the threads. A collector that
    /// cannot be reached is not waited for. Spans submitted afterwards are dropped and counted.
    pub fn shutdown(self, deadline: Duration) -> Summary {
        let end = Instant::now() + deadline;
        // Fails if the thread has ended, which is what it asks for.
        let _ = self.stop.send(Some(end));
        let Shared { counters, queue, logs, printer, .. } = &*self.shared;
        if let Some(printer) = printer {
            printer.shutdown(end.into_std());
        }
        if let Some(thread) = self.thread
            && thread.join().is_err()
        {
            tracing::error!("the export thread has panicked, so spans are missing; please report this");
        }
        if let Some(queue) = queue {
            counters.add(Counter::SpansDroppedShutdown, queue.close());
        }
        if let Some(logs) = logs {
            counters.add(Counter::LogsDroppedShutdown, logs.close());
        }
        Summary::of(counters)
    }
}

/// Runs the tasks until they are done or the time for the shutdown is up.
async fn run(
    spans: Option<BatchTask<Arc<Span>>>,
    logs: Option<BatchTask<LogItem>>,
    points: Option<MetricTask>,
    mut stop: Stop,
) {
    let (items_done, items_seen_done) = oneshot::channel();
    let spans = async {
        if let Some(task) = spans {
            task.run().await;
        }
    };
    let logs = async {
        if let Some(task) = logs {
            task.run().await;
        }
    };
    let items = async {
        tokio::join!(spans, logs);
        drop(items_done);
    };
    let points = async {
        if let Some(task) = points {
            task.run(items_seen_done).await;
        }
    };
    let expired = async {
        stop.wait().await;
        tokio::time::sleep_until(stop.deadline().unwrap_or_else(Instant::now)).await;
    };
    tokio::select! {
        _ = async { tokio::join!(items, points) } => {}
        () = expired => {}
    }
}
