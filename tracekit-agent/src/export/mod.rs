//! Finished spans and log records → OTLP, metrics and the terminal.
//!
//! [`pipeline::Pipeline`] ties the parts together. A span goes three ways at [`pipeline::Handle::submit`],
//! none of which waits for anything: into the duration histograms ([`metrics::red`]), into the bounded
//! queue of the OTLP exporter ([`otlp`]), and into the bounded queue of the printer ([`mod@print`]).

pub mod config;
pub mod metrics;
pub mod otlp;
pub mod pipeline;
pub mod print;
pub mod sampler;

pub use config::ExportConfig;
pub use metrics::counters::{Counter, Counters};
pub use pipeline::{Handle, LogItem, Pipeline, Summary};
pub use print::PrintMode;
pub use sampler::{ParentSampled, Sampler};

/// What is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Metric data points.
    Metrics,
    /// Log records: what breakpoints have captured.
    Logs,
}

/// Name of the instrumentation scope of everything that the agent exports.
pub const SCOPE_NAME: &str = "tracekit";

/// Version of the instrumentation scope: that of the agent.
pub const SCOPE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version of the semantic conventions that spans and metrics follow.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";

#[cfg(test)]
mod testing;
