//! The OTLP collector of the tests: `tests/collector/collector.py`, which decodes with `opentelemetry-proto`.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::paths;
use crate::process::{Process, wait_for};
use crate::span::Span;
use crate::stage::Stage;

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    /// Port of the gRPC listener.
    pub grpc: u16,
    /// Port of the HTTP listener.
    pub http: u16,
    /// The collector's process.
    pub process: Process,
    file: PathBuf,
}

impl Collector {
    /// Starts it on free ports; `arguments` are added to its command line.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(stage: &Stage, name: &str, arguments: &[&str]) -> Result<Self> {
        Self::start_on(stage, name, 0, 0, arguments)
    }

    /// Starts it on these ports (0: a free one).
    ///
    /// # Errors
    /// It does not start.
    pub fn start_on(stage: &Stage, name: &str, grpc: u16, http: u16, arguments: &[&str]) -> Result<Self> {
        let file = stage.logs().join(format!("{name}.jsonl"));
        let mut command = Command::new(paths::venv("collector", "python")?);
        command.arg("-u").arg(paths::workspace().join("tests/collector/collector.py"));
        command.args(["--grpc", &grpc.to_string(), "--http", &http.to_string(), "--out"]).arg(&file);
        command.args(arguments);
        let mut process = Process::start(name, stage.logs(), command)?;
        let output = process.stdout_path().to_owned();
        let mut line = String::new();
        process.ready(Duration::from_secs(20), || {
            let text = std::fs::read_to_string(&output)?;
            Ok(text.split_once('\n').map(|(first, _)| line = first.to_owned()))
        })?;
        let ready: Value =
            serde_json::from_str(&line).with_context(|| format!("ready line of the collector: {line}"))?;
        let port = |name: &str| ready.get(name).and_then(Value::as_u64).and_then(|port| port.try_into().ok());
        let grpc = port("grpc").with_context(|| format!("no gRPC port in {line}"))?;
        let http = port("http").with_context(|| format!("no HTTP port in {line}"))?;
        Ok(Self { grpc, http, process, file })
    }

    /// Every line that it wrote: spans, data points of metrics, which have a `metric`, and log records, which have
    /// an `event_name`.
    ///
    /// # Errors
    /// A line is not JSON.
    pub fn records(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// The spans that have arrived so far.
    ///
    /// # Errors
    /// A line is not a span.
    pub fn spans(&self) -> Result<Vec<Span>> {
        let records = self.records()?.into_iter();
        let is_span = |record: &Value| record.get("metric").is_none() && record.get("event_name").is_none();
        records.filter(is_span).map(Span::from_json).collect()
    }

    /// The log records that have arrived so far.
    ///
    /// # Errors
    /// A line is not JSON.
    pub fn logs(&self) -> Result<Vec<Value>> {
        let mut records = self.records()?;
        records.retain(|record| record.get("event_name").is_some());
        Ok(records)
    }

    /// Waits until `enough` says that the spans are all there.
    ///
    /// # Errors
    /// `limit` has passed.
    pub fn spans_when(&self, limit: Duration, enough: impl Fn(&[Span]) -> bool) -> Result<Vec<Span>> {
        let result = wait_for("spans at the collector", limit, || {
            let spans = self.spans()?;
            Ok(enough(&spans).then_some(spans))
        });
        match result {
            Ok(spans) => Ok(spans),
            Err(error) => bail!("{error:#}; there are {}", self.spans()?.len()),
        }
    }
}
