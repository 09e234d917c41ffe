//! Export settings from the agent's own `OTEL_*` environment.
//!
//! Sources: OpenTelemetry specification, "Environment Variable Specification" and "OpenTelemetry Protocol
//! Exporter". An empty value counts as unset. A value that cannot be used is an error rather than a
//! warning: whoever starts an agent is there to correct it.

mod parse;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::HeaderMap;
use url::Url;

use super::{Signal, sampler::Sampler};
use parse::Env;

/// A variable that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}={value:?} cannot be used: {remedy}")]
pub struct ConfigError {
    /// Name of the variable.
    pub variable: String,
    /// Its value, or `…` where it may hold a secret.
    pub value: String,
    /// What to set instead.
    pub remedy: String,
}

/// Where a signal goes: `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER`, `OTEL_LOGS_EXPORTER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exporters {
    /// To a collector by OTLP.
    pub otlp: bool,
    /// To standard output.
    pub console: bool,
}

/// `OTEL_EXPORTER_OTLP_PROTOCOL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `grpc`
    Grpc,
    /// `http/protobuf`
    HttpProtobuf,
}

/// `OTEL_EXPORTER_OTLP_COMPRESSION`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// `none`
    #[default]
    None,
    /// `gzip`
    Gzip,
}

/// How one signal reaches its collector.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpConfig {
    /// For HTTP the whole URL, for gRPC scheme, host and port.
    pub endpoint: Url,
    /// gRPC or HTTP.
    pub protocol: Protocol,
    /// Sent with each request. The values are marked sensitive, so `Debug` does not show them.
    pub headers: HeaderMap,
    /// Of the request body.
    pub compression: Compression,
    /// For one request.
    pub timeout: Duration,
    /// PEM file of certificate authorities to trust instead of the system's.
    pub certificate: Option<PathBuf>,
    /// PEM files of the client's key and certificate chain.
    pub client_identity: Option<ClientIdentity>,
}

/// PEM files that prove who the agent is (mTLS).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// Private key.
    pub key: PathBuf,
    /// Certificate chain.
    pub certificate: PathBuf,
}

impl OtlpConfig {
    /// The endpoint as it may be shown to anyone: without user, password and query.
    #[must_use]
    pub fn display_endpoint(&self) -> String {
        let mut url = self.endpoint.clone();
        // Fails only for URLs that cannot have a user, which then have none.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_query(None);
        url.to_string()
    }
}

/// `OTEL_BSP_*`, `OTEL_BLRP_*`: how spans and log records are gathered into requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchConfig {
    /// Items that may wait. More are dropped and counted.
    pub max_queue_size: usize,
    /// An item waits at most this long before it is sent.
    pub schedule_delay: Duration,
    /// Items in one request.
    pub max_export_batch_size: usize,
    /// For one batch with all its retries.
    pub export_timeout: Duration,
}

/// `OTEL_METRIC_EXPORT_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricReaderConfig {
    /// Between two exports.
    pub interval: Duration,
    /// For one export with all its retries.
    pub timeout: Duration,
}

/// Everything that the environment says about export.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportConfig {
    /// Where spans go. Nowhere if `OTEL_SDK_DISABLED=true`.
    pub traces: Exporters,
    /// Where metrics go. Nowhere if `OTEL_SDK_DISABLED=true`.
    pub metrics: Exporters,
    /// Where log records go. Nowhere if `OTEL_SDK_DISABLED=true`.
    pub logs: Exporters,
    /// How spans reach the collector.
    pub traces_otlp: OtlpConfig,
    /// How metrics reach the collector.
    pub metrics_otlp: OtlpConfig,
    /// How log records reach the collector.
    pub logs_otlp: OtlpConfig,
    /// How spans are gathered.
    pub batch: BatchConfig,
    /// How log records are gathered.
    pub log_batch: BatchConfig,
    /// How often metrics are sent.
    pub metric_reader: MetricReaderConfig,
    /// Which traces are exported.
    pub sampler: Sampler,
    /// Someone named an endpoint. If not, the endpoints are the defaults of the specification on
    /// `localhost`, where nobody may listen.
    pub endpoint_configured: bool,
    /// Variables that are understood but have no effect here, one sentence each; for the log.
    pub warnings: Vec<String>,
}

impl ExportConfig {
    /// From the environment of this process.
    ///
    /// # Errors
    /// A variable that cannot be used.
    pub fn from_process_env() -> Result<Self, ConfigError> {
        let variables = std::env::vars_os()
            .filter_map(|(key, value)| {
                let key = key.into_string().ok().filter(|key| key.starts_with("OTEL_"))?;
                Some((key, value.to_string_lossy().into_owned()))
            })
            .collect();
        Self::from_env(&variables)
    }

    /// From these variables. Looks at nothing else: files named in them are read when the exporters start.
    ///
    /// # Errors
    /// A variable that cannot be used.
    pub fn from_env(variables: &HashMap<String, String>) -> Result<Self, ConfigError> {
        let env = Env::new(variables);
        let disabled = env.boolean("OTEL_SDK_DISABLED")?.unwrap_or(false);
        let mut traces = env.exporters("OTEL_TRACES_EXPORTER", &["otlp", "console", "none"])?;
        let mut metrics = env.exporters("OTEL_METRICS_EXPORTER", &["otlp", "none"])?;
        let mut logs = env.exporters("OTEL_LOGS_EXPORTER", &["otlp", "none"])?;
        if disabled {
            traces = Exporters::default();
            metrics = Exporters::default();
            logs = Exporters::default();
        }
        let mut config = Self {
            traces,
            metrics,
            logs,
            traces_otlp: env.otlp(Signal::Traces)?,
            metrics_otlp: env.otlp(Signal::Metrics)?,
            logs_otlp: env.otlp(Signal::Logs)?,
            batch: env.batch("BSP", DEFAULT_QUEUE_SIZE, Duration::from_secs(5))?,
            log_batch: env.batch("BLRP", LOG_QUEUE_SIZE, Duration::from_secs(1))?,
            metric_reader: MetricReaderConfig {
                interval: env
                    .millis("OTEL_METRIC_EXPORT_INTERVAL")?
                    .filter(|interval| !interval.is_zero())
                    .unwrap_or(Duration::from_secs(60)),
                timeout: env.timeout("OTEL_METRIC_EXPORT_TIMEOUT")?.unwrap_or(Duration::from_secs(30)),
            },
            sampler: env.sampler()?,
            endpoint_configured: env.endpoint_configured(),
            warnings: Vec::new(),
        };
        config.warnings = env.warnings(&config);
        Ok(config)
    }
}

/// Four times the default of the specification, which is meant for one service: the agent carries the
/// spans of many.
const DEFAULT_QUEUE_SIZE: usize = 8192;

/// The default of the specification.
const LOG_QUEUE_SIZE: usize = 2048;
