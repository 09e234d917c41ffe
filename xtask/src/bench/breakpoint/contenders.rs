//! What logs a line from inside the process.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value as Json, json};
use tracekit_tests::paths;

use super::sink::Sink;

/// Where they are installed, and what they talk to.
#[derive(Debug)]
pub struct Contenders<'s> {
    /// Virtual environment with ddtrace, which is used without it, too.
    pub datadog: PathBuf,
    /// Virtual environment with tracekit-apm.
    pub sdk: PathBuf,
    /// Their servers.
    pub sink: &'s Sink,
    /// Directory for logs and probe files.
    pub logs: &'s Path,
}

impl Contenders<'_> {
    /// A program of the environment, which finds the applications under test, with what ddtrace and the SDK need. It
    /// has the caller's working directory.
    #[must_use]
    pub fn command(&self, venv: &Path, program: &str) -> Command {
        let mut command = Command::new(venv.join("bin").join(program));
        command.env("PYTHONPATH", paths::apps()).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("SINK_PORT", self.sink.port.to_string());
        command
    }

    /// Adds the environment with which ddtrace does this probe and nothing else.
    ///
    /// # Errors
    /// The probe's file cannot be written.
    pub fn probe(&self, command: &mut Command, name: &str, probe: Option<&Json>) -> Result<()> {
        command.env("DD_TRACE_AGENT_URL", format!("http://127.0.0.1:{}", self.sink.port));
        for (name, value) in [
            ("DD_TRACE_ENABLED", "false"),
            ("DD_INSTRUMENTATION_TELEMETRY_ENABLED", "false"),
            ("DD_DYNAMIC_INSTRUMENTATION_METRICS_ENABLED", "false"),
            ("DD_CRASHTRACKING_ENABLED", "false"),
            ("DD_DYNAMIC_INSTRUMENTATION_ENABLED", "true"),
        ] {
            command.env(name, value);
        }
        if let Some(probe) = probe {
            let file = self.logs.join(format!("{name}.probe.json"));
            std::fs::write(&file, json!([probe]).to_string())
                .with_context(|| format!("write {}", file.display()))?;
            command.env("DD_DYNAMIC_INSTRUMENTATION_PROBE_FILE", file);
        }
        Ok(())
    }
}

/// A probe of ddtrace with the agent's bounds, on the line of `file` that ends with `marker`.
///
/// # Errors
/// There is no such line.
pub fn probe(file: &str, marker: &str, rate: f64, condition: Option<Json>) -> Result<Json> {
    let mut probe = json!({
        "id": "line", "version": 0, "type": "LOG_PROBE", "language": "python", "tags": [],
        "where": {"sourceFile": paths::apps().join(file), "lines": [line_of(file, marker)?.to_string()]},
        "template": "", "segments": [{"str": "hit"}], "captureSnapshot": true,
        "capture": {"maxReferenceDepth": 3, "maxCollectionSize": 100, "maxLength": 256, "maxFieldCount": 20},
        "sampling": {"snapshotsPerSecond": rate},
    });
    if let (Some(condition), Some(probe)) = (condition, probe.as_object_mut()) {
        probe.insert("when".into(), json!({"dsl": condition.to_string(), "json": condition}));
    }
    Ok(probe)
}

/// The number of the first line of an application under test that ends with `marker`.
///
/// # Errors
/// There is none.
pub fn line_of(file: &str, marker: &str) -> Result<usize> {
    let path = paths::apps().join(file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let line = text.lines().position(|line| line.ends_with(marker));
    Ok(line.with_context(|| format!("no line of {file} ends with {marker:?}"))? + 1)
}
