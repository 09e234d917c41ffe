//! What is sent in batches: spans and log records.

use std::sync::Arc;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message as _;

use crate::export::Signal;
use crate::export::metrics::counters::Counter;
use crate::export::otlp::encode;
use crate::trace::span::{Resource, Span, Value};

/// Where the items of a signal are counted.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    /// The collector has them.
    pub exported: Counter,
    /// The queue was full.
    pub queue_full: Counter,
    /// The collector did not want them, or was away, with all retries.
    pub export_failed: Counter,
    /// The collector took the request but not these.
    pub rejected: Counter,
    /// Left over at the end.
    pub shutdown: Counter,
}

/// An item that waits to be sent.
pub trait Item: Send + Sized + 'static {
    /// Its signal.
    const SIGNAL: Signal;
    /// Where it is counted.
    const COUNTED: Counted;
    /// What to do if the queue is full.
    const REMEDY: &'static str;

    /// Bytes of memory, and about those of the encoded item.
    fn size(&self) -> usize;

    /// One export request.
    fn request(batch: Vec<Self>) -> Vec<u8>;
}

impl Item for Arc<Span> {
    const SIGNAL: Signal = Signal::Traces;
    const COUNTED: Counted = Counted {
        exported: Counter::SpansExported,
        queue_full: Counter::SpansDroppedQueueFull,
        export_failed: Counter::SpansDroppedExportFailed,
        rejected: Counter::SpansDroppedRejected,
        shutdown: Counter::SpansDroppedShutdown,
    };
    const REMEDY: &'static str = "raise OTEL_BSP_MAX_QUEUE_SIZE, or sample (OTEL_TRACES_SAMPLER=traceidratio, \
                                  OTEL_TRACES_SAMPLER_ARG=0.1)";

    fn size(&self) -> usize {
        const ATTRIBUTE: usize = 48;
        let attributes = self.attributes.iter().map(|(key, value)| {
            ATTRIBUTE
                + key.len()
                + match value {
                    Value::String(text) => text.len(),
                    Value::Strings(texts) => texts.iter().map(|text| text.len() + ATTRIBUTE).sum(),
                    Value::Int(_) | Value::Double(_) | Value::Bool(_) => 0,
                }
        });
        size_of::<Span>() + self.name.len() + self.trace_state.len() + attributes.sum::<usize>()
    }

    fn request(batch: Vec<Self>) -> Vec<u8> {
        encode::trace_request(batch)
    }
}

/// A log record and the process that it is of.
#[derive(Debug, Clone)]
pub struct LogItem {
    /// Resource of the process.
    pub resource: Arc<Resource>,
    /// The record.
    pub record: LogRecord,
}

impl Item for LogItem {
    const SIGNAL: Signal = Signal::Logs;
    const COUNTED: Counted = Counted {
        exported: Counter::LogsExported,
        queue_full: Counter::LogsDroppedQueueFull,
        export_failed: Counter::LogsDroppedExportFailed,
        rejected: Counter::LogsDroppedRejected,
        shutdown: Counter::LogsDroppedShutdown,
    };
    const REMEDY: &'static str = "raise OTEL_BLRP_MAX_QUEUE_SIZE, or lower the rates of the breakpoints";

    fn size(&self) -> usize {
        size_of::<Self>() + self.record.encoded_len()
    }

    fn request(batch: Vec<Self>) -> Vec<u8> {
        encode::logs_request(batch.into_iter().map(|item| (item.resource, item.record)).collect())
    }
}
