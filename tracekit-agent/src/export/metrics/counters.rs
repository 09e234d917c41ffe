//! What the agent counts about itself.

use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Metric, NumberDataPoint, Sum, metric, number_data_point,
};

use crate::export::otlp::encode;
use crate::trace::span::Value;

/// Name and meaning of a counter as exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// Metric name. Several counters may share one, then their attributes differ.
    pub name: &'static str,
    /// Unit in UCUM notation.
    pub unit: &'static str,
    /// What is counted.
    pub text: &'static str,
    /// Attribute that tells counters of one name apart.
    pub attribute: Option<(&'static str, &'static str)>,
}

macro_rules! counters {
    ($($variant:ident = $name:literal $([$key:literal = $value:literal])?, $unit:literal, $text:literal;)*) => {
        /// A counter of the agent.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Counter {
            $(#[doc = concat!("`", $name, "`", $(" {", $key, "=", $value, "}",)? ": ", $text)] $variant,)*
        }

        impl Counter {
            /// All counters, those of one name next to each other.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Name and meaning.
            #[must_use]
            pub fn description(self) -> Description {
                match self {
                    $(Self::$variant => Description {
                        name: $name,
                        unit: $unit,
                        text: $text,
                        attribute: None $(.or(Some(($key, $value))))?,
                    },)*
                }
            }
        }
    };
}

counters! {
    EventsReceived = "tracekit.events.received", "{event}", "Events read from the kernel.";
    EventsLost = "tracekit.events.lost", "{event}", "Events that the kernel side could not hand over.";
    ConnectionsTracked = "tracekit.connections.tracked", "{connection}", "Connections of traced processes seen.";
    ConnectionsOpaque = "tracekit.connections.opaque", "{connection}",
        "Connections whose protocol is not known or is encrypted.";
    ConnectionsEvicted = "tracekit.connections.evicted", "{connection}",
        "Connections forgotten because too many were open at once.";
    ParseErrors = "tracekit.parse.errors", "{error}", "Messages that did not follow their protocol.";
    SpansFinished = "tracekit.spans.finished", "{span}", "Spans made, sampled or not.";
    SpansHeldBack = "tracekit.spans.held_back", "{span}",
        "Spans left out because the process exports them itself.";
    SpansNotSampled = "tracekit.spans.not_sampled", "{span}", "Spans left out by head sampling.";
    SpansExported = "tracekit.spans.exported", "{span}", "Spans that the collector accepted.";
    SpansDroppedQueueFull = "tracekit.spans.dropped" ["reason" = "queue_full"], "{span}",
        "Spans that were made but not exported.";
    SpansDroppedExportFailed = "tracekit.spans.dropped" ["reason" = "export_failed"], "{span}",
        "Spans that were made but not exported.";
    SpansDroppedRejected = "tracekit.spans.dropped" ["reason" = "rejected"], "{span}",
        "Spans that were made but not exported.";
    SpansDroppedShutdown = "tracekit.spans.dropped" ["reason" = "shutdown"], "{span}",
        "Spans that were made but not exported.";
    HitsLost = "tracekit.breakpoints.hits_lost", "{hit}",
        "Captured hits of breakpoints that were dropped because too many waited to be decoded.";
    LogsExported = "tracekit.logs.exported", "{record}", "Log records that the collector accepted.";
    LogsDroppedQueueFull = "tracekit.logs.dropped" ["reason" = "queue_full"], "{record}",
        "Log records that were made but not exported.";
    LogsDroppedExportFailed = "tracekit.logs.dropped" ["reason" = "export_failed"], "{record}",
        "Log records that were made but not exported.";
    LogsDroppedRejected = "tracekit.logs.dropped" ["reason" = "rejected"], "{record}",
        "Log records that were made but not exported.";
    LogsDroppedShutdown = "tracekit.logs.dropped" ["reason" = "shutdown"], "{record}",
        "Log records that were made but not exported.";
    ExportRetries = "tracekit.export.retries", "{request}", "Export requests sent again after a failure.";
    MetricExportsFailed = "tracekit.export.metrics_failed", "{request}",
        "Metric exports given up; the next one carries the same totals.";
    MetricPointsRejected = "tracekit.metric_points.rejected", "{point}",
        "Metric data points that the collector did not accept.";
    MetricSeriesOverflow = "tracekit.metric_series.overflow", "{span}",
        "Spans counted under otel.metric.overflow because a metric has too many series.";
    MetricSpansUncounted = "tracekit.metric_series.dropped", "{span}",
        "Spans that no metric counts because too many services have metrics.";
    SpansPrinted = "tracekit.print.spans", "{span}", "Spans printed.";
    PrintDroppedQueueFull = "tracekit.print.dropped" ["reason" = "queue_full"], "{span}",
        "Spans not printed.";
    PrintDroppedClosed = "tracekit.print.dropped" ["reason" = "output_closed"], "{span}",
        "Spans not printed.";
}

/// All counters of the agent; cheap to add to from any thread.
#[derive(Debug)]
pub struct Counters {
    values: Box<[AtomicU64]>,
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

impl Counters {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        Self { values: Counter::ALL.iter().map(|_| AtomicU64::new(0)).collect() }
    }

    /// Adds to a counter.
    pub fn add(&self, counter: Counter, n: u64) {
        if let Some(value) = self.values.get(counter as usize) {
            value.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// The value of a counter.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.values.get(counter as usize).map_or(0, |value| value.load(Ordering::Relaxed))
    }

    /// The values of all counters, in the order of [`Counter::ALL`].
    #[must_use]
    pub fn snapshot(&self) -> Vec<(Counter, u64)> {
        Counter::ALL.iter().map(|&counter| (counter, self.get(counter))).collect()
    }

    /// As cumulative sums, one metric for each name.
    #[must_use]
    pub fn to_otlp(&self, start_unix_nano: u64, now_unix_nano: u64) -> Vec<Metric> {
        let neighbours = Counter::ALL.chunk_by(|a, b| a.description().name == b.description().name);
        let metrics = neighbours.filter_map(|counters| {
            let description = counters.first()?.description();
            let data_points = counters.iter().map(|&counter| {
                let attribute = counter.description().attribute;
                NumberDataPoint {
                    attributes: attribute
                        .map(|(key, value)| encode::key_value(key, &Value::from(value)))
                        .into_iter()
                        .collect(),
                    start_time_unix_nano: start_unix_nano,
                    time_unix_nano: now_unix_nano,
                    exemplars: Vec::new(),
                    flags: 0,
                    value: i64::try_from(self.get(counter)).ok().map(number_data_point::Value::AsInt),
                }
            });
            let data = metric::Data::Sum(Sum {
                data_points: data_points.collect(),
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
                is_monotonic: true,
            });
            Some(encode::metric(description.name, description.text, description.unit, data))
        });
        metrics.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_its_own_slot_and_identity() {
        let counters = Counters::new();
        for (n, &counter) in Counter::ALL.iter().enumerate() {
            counters.add(counter, n as u64 + 1);
        }
        for (n, (counter, value)) in counters.snapshot().into_iter().enumerate() {
            assert_eq!(value, n as u64 + 1, "{counter:?}");
        }
        let mut seen = std::collections::HashSet::new();
        for counter in Counter::ALL {
            let description = counter.description();
            assert!(seen.insert((description.name, description.attribute)), "{counter:?}");
        }
    }

    #[test]
    fn counters_of_one_name_are_neighbours() {
        let mut names: Vec<_> = Counter::ALL.iter().map(|c| c.description().name).collect();
        names.dedup();
        let unique: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
    }
}
