//! The OpenTelemetry Protocol: requests to a collector, with retries.
//!
//! Source: OpenTelemetry Protocol specification 1.x, sections "OTLP/gRPC" and "OTLP/HTTP".

pub mod encode;
mod failure;
mod grpc;
mod http;
mod pem;
mod retry;

use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tokio::time::Instant;

pub use failure::Failure;
pub(crate) use http::is_local;
use retry::Backoff;
pub use retry::{Stop, WarningGate};

use super::{
    Signal,
    config::{OtlpConfig, Protocol},
};

impl Signal {
    /// What the items are called.
    pub fn items(self) -> &'static str {
        match self {
            Self::Traces => "spans",
            Self::Metrics => "metrics",
            Self::Logs => "log records",
        }
    }

    fn exporter_variable(self) -> &'static str {
        match self {
            Self::Traces => "OTEL_TRACES_EXPORTER",
            Self::Metrics => "OTEL_METRICS_EXPORTER",
            Self::Logs => "OTEL_LOGS_EXPORTER",
        }
    }

    fn grpc_path(self) -> &'static str {
        match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        }
    }

    /// How many items the collector refused, and why. A response that cannot be decoded accepts all.
    fn partial_success(self, response: &[u8]) -> (u64, String) {
        let (rejected, message) = match self {
            Self::Traces => ExportTraceServiceResponse::decode(response)
                .ok()
                .and_then(|response| response.partial_success)
                .map(|partial| (partial.rejected_spans, partial.error_message))
                .unwrap_or_default(),
            Self::Metrics => ExportMetricsServiceResponse::decode(response)
                .ok()
                .and_then(|response| response.partial_success)
                .map(|partial| (partial.rejected_data_points, partial.error_message))
                .unwrap_or_default(),
            Self::Logs => ExportLogsServiceResponse::decode(response)
                .ok()
                .and_then(|response| response.partial_success)
                .map(|partial| (partial.rejected_log_records, partial.error_message))
                .unwrap_or_default(),
        };
        (u64::try_from(rejected).unwrap_or(0), message)
    }
}

/// An exporter that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file with a certificate or key cannot be read.
    #[error("cannot read {path}: {source}; correct {variable}")]
    File {
        /// The file.
        path: String,
        /// The variable that names it.
        variable: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Certificates, key or endpoint are not what they should be.
    #[error("cannot set up the connection to {endpoint}: {error}; {remedy}")]
    Client {
        /// The collector.
        endpoint: String,
        /// What the library says.
        error: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The system refuses a thread or an event loop.
    #[error("cannot start the export thread: {0}; check the limits on threads and open files")]
    Thread(#[from] std::io::Error),
}

/// How an export ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The collector has it, but for this many items.
    Accepted {
        /// Items that the collector refused.
        rejected: u64,
    },
    /// Given up.
    Failed,
    /// Given up because the agent ends.
    Stopped,
}

enum Transport {
    Grpc(grpc::Grpc),
    Http(http::Http),
}

/// Sends requests of one signal to one collector.
pub struct Exporter {
    signal: Signal,
    transport: Transport,
    protocol: Protocol,
    endpoint: String,
    port: Option<u16>,
    timeout: Duration,
    failures: WarningGate,
    rejections: WarningGate,
}

impl Exporter {
    /// Prepares the connection; nothing is sent yet. Needs the context of a tokio runtime.
    ///
    /// # Errors
    /// Certificate files that cannot be used.
    pub fn new(signal: Signal, config: &OtlpConfig) -> Result<Self, StartError> {
        let transport = match config.protocol {
            Protocol::Grpc => Transport::Grpc(grpc::Grpc::new(signal, config)?),
            Protocol::HttpProtobuf => Transport::Http(http::Http::new(config)?),
        };
        Ok(Self {
            signal,
            transport,
            protocol: config.protocol,
            endpoint: config.display_endpoint(),
            port: config.endpoint.port(),
            timeout: config.timeout,
            failures: WarningGate::default(),
            rejections: WarningGate::default(),
        })
    }

    /// Sends an encoded request of `items` items until it is accepted, refused for good or `budget` is
    /// spent. `on_retry` is called before each further attempt. `stop` ends waiting for a collector that
    /// cannot be reached, but not attempts as such: the caller limits those.
    pub async fn export(
        &mut self,
        request: Vec<u8>,
        items: u64,
        budget: Duration,
        stop: &mut Stop,
        mut on_retry: impl FnMut(),
    ) -> Outcome {
        let give_up = Instant::now() + budget;
        let body = match &self.transport {
            Transport::Grpc(_) => Bytes::from(request),
            Transport::Http(http) => http.prepare(request),
        };
        let mut backoff = Backoff::default();
        loop {
            let left = give_up.saturating_duration_since(Instant::now());
            let limit = self.timeout.min(left);
            let sent = match &mut self.transport {
                Transport::Grpc(grpc) => tokio::time::timeout(limit, grpc.send(body.clone(), limit)).await,
                Transport::Http(http) => tokio::time::timeout(limit, http.send(body.clone())).await,
            };
            let failure = match sent {
                Ok(Ok(response)) => return self.accepted(&response, items),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::timeout(limit),
            };
            let delay = backoff.next(failure.retry_after);
            let lasting = !failure.retryable || Instant::now() + delay >= give_up;
            // An agent that is told to end does not wait for a collector that is not there.
            let stopped = stop.requested() && failure.unreachable;
            self.warn(&failure, items, lasting || stopped);
            if stopped {
                return Outcome::Stopped;
            }
            if lasting {
                return Outcome::Failed;
            }
            stop.sleep(delay).await;
            on_retry();
        }
    }

    fn accepted(&mut self, response: &[u8], items: u64) -> Outcome {
        if self.failures.reset() {
            tracing::info!(endpoint = self.endpoint, "exporting {} again", self.signal.items());
        }
        let (rejected, message) = self.signal.partial_success(response);
        if (rejected > 0 || !message.is_empty()) && self.rejections.open() {
            tracing::warn!(
                endpoint = self.endpoint,
                rejected,
                of = items,
                "the collector did not accept all {}: {message:?}; see its log",
                self.signal.items(),
            );
        }
        Outcome::Accepted { rejected: rejected.min(items) }
    }

    fn warn(&mut self, failure: &Failure, items: u64, lasting: bool) {
        if !self.failures.open() {
            return;
        }
        let what = self.signal.items();
        let then = if lasting { "giving these up" } else { "trying again" };
        tracing::warn!(
            endpoint = self.endpoint,
            items,
            "cannot export {what}: {}; {then}; {}",
            failure.error,
            self.remedy(failure),
        );
    }

    fn remedy(&self, failure: &Failure) -> String {
        // Someone is there, so it is worth a thought who that is.
        let port = self.port.filter(|_| !failure.unreachable);
        match (self.protocol, port) {
            (Protocol::HttpProtobuf, Some(4317)) => {
                return "port 4317 speaks gRPC as a rule: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc or use port 4318"
                    .to_owned();
            }
            (Protocol::Grpc, Some(4318)) => {
                return "port 4318 speaks HTTP as a rule: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf or use \
                        port 4317"
                    .to_owned();
            }
            _ => {}
        }
        failure.remedy(self.signal.exporter_variable())
    }
}
