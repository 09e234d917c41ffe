//! `tracekit doctor`: will attaching work here, and if not, what to do.

mod capabilities;
mod host;
mod target;

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;

use crate::discovery::Inspector;
use crate::discovery::ps::{Format, printable};
use crate::exit::{ExitCode, printed};

/// Arguments of `tracekit doctor`.
#[derive(Debug, Clone, Default, Args)]
pub struct DoctorArgs {
    /// Check these processes too
    #[arg(short, long, value_name = "PID", num_args = 1.., value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Attaching works, something else may not.
    Warning,
    /// Attaching does not work.
    Fail,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name: `kernel.version`, `capability.bpf`, `process.interpreter`.
    pub id: &'static str,
    /// The process, if the check is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How it came out.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// What the exit code is if this check fails.
    #[serde(skip)]
    pub code: ExitCode,
}

impl Check {
    fn ok(id: &'static str, message: impl Into<String>) -> Self {
        Self { id, pid: None, level: Level::Ok, message: message.into(), remedy: None, code: ExitCode::Ok }
    }

    fn warning(id: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Warning, remedy: Some(remedy.into()), ..Self::ok(id, message) }
    }

    fn fail(id: &'static str, code: ExitCode, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Fail, remedy: Some(remedy.into()), code, ..Self::ok(id, message) }
    }

    fn about(mut self, pid: u32) -> Self {
        self.pid = Some(pid);
        self
    }
}

/// All checks of the host, and of these processes.
#[must_use]
pub fn examine(inspector: &Inspector, pids: &[u32]) -> Vec<Check> {
    let mut checks = host::checks(&inspector.proc);
    for pid in pids {
        checks.extend(target::checks(inspector, *pid));
    }
    checks
}

/// Runs `tracekit doctor` and prints to standard output. The code is that of the first failed check.
///
/// # Errors
/// If standard output cannot be written.
pub fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let checks = examine(&Inspector::default(), &args.pid);
    let code = exit_code(&checks);
    printed(print(&checks, args.output, &mut io::stdout().lock()), code)
}

fn exit_code(checks: &[Check]) -> ExitCode {
    checks.iter().find(|check| check.level == Level::Fail).map_or(ExitCode::Ok, |check| check.code)
}

fn print(checks: &[Check], format: Format, out: &mut impl Write) -> io::Result<()> {
    if format == Format::Json {
        let report = serde_json::json!({
            "attachable": exit_code(checks) == ExitCode::Ok,
            "checks": checks,
        });
        serde_json::to_writer_pretty(&mut *out, &report)?;
        return writeln!(out);
    }
    let mut section = None;
    for check in checks {
        if section != Some(check.pid) {
            section = Some(check.pid);
            match check.pid {
                None => writeln!(out, "host")?,
                Some(pid) => writeln!(out, "process {pid}")?,
            }
        }
        let level = match check.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Fail => "FAIL",
        };
        writeln!(out, "  {level:<7}  {}", printable(&check.message))?;
        if let Some(remedy) = &check.remedy {
            writeln!(out, "           → {}", printable(remedy))?;
        }
    }
    let count = |level| checks.iter().filter(|check| check.level == level).count();
    let verdict =
        if exit_code(checks) == ExitCode::Ok { "attach works here" } else { "attach does not work" };
    writeln!(out, "{verdict} ({} failed, {} to look at)", count(Level::Fail), count(Level::Warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_and_code() {
        let checks = [
            Check::ok("a", "fine"),
            Check::warning("b", "hm", "look"),
            Check::fail("c", ExitCode::NotFound, "gone", "start it").about(4),
        ];
        assert_eq!(exit_code(&checks), ExitCode::NotFound);
        assert_eq!(exit_code(&checks[..2]), ExitCode::Ok);
        let mut out = Vec::new();
        print(&checks, Format::Table, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("process 4\n  FAIL     gone\n           → start it\n"), "{text}");
        assert!(text.ends_with("attach does not work (1 failed, 1 to look at)\n"));
        let mut out = Vec::new();
        print(&checks, Format::Json, &mut out).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["attachable"], false);
        assert_eq!(json["checks"][2]["level"], "fail");
        assert_eq!(json["checks"][2]["pid"], 4);
    }

    #[test]
    fn this_process_is_not_python() {
        let checks = examine(&Inspector::default(), &[std::process::id()]);
        assert!(checks.iter().any(|check| check.id == "kernel.version"));
        let failed = checks.iter().find(|check| check.pid.is_some() && check.level == Level::Fail).unwrap();
        assert_eq!((failed.id, failed.code), ("process.interpreter", ExitCode::Unsupported));
    }
}
