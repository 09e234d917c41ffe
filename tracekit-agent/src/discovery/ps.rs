//! `tracekit ps`: the Python processes of the host.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::interpreter::Linkage;
use super::launch::base_name;
use super::proc_fs::{Status, read_bounded};
use super::{InspectError, Inspected, Inspector};
use crate::exit::{ExitCode, printed};

/// Output of a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Arguments of `tracekit ps`.
#[derive(Debug, Clone, Default, Args)]
pub struct PsArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// List processes that are not Python too, with the reason
    #[arg(short, long)]
    pub all: bool,
}

/// A line of the list. The names of the fields are the keys of the JSON output: stable.
#[derive(Debug, Default, Serialize)]
struct Row {
    pid: u32,
    /// Pid in the process's own namespace.
    namespace_pid: Option<u32>,
    implementation: Option<String>,
    version: Option<String>,
    /// `static` or `shared`
    linkage: Option<&'static str>,
    stripped: Option<bool>,
    free_threaded: bool,
    debug_build: bool,
    jit: bool,
    embedded: bool,
    distribution: Option<&'static str>,
    executable: Option<String>,
    server: Option<String>,
    server_mode: Option<String>,
    server_role: Option<&'static str>,
    framework: Option<&'static str>,
    listening: Vec<String>,
    container_id: Option<String>,
    container_runtime: Option<String>,
    service_name: Option<String>,
    attachable: bool,
    /// Why it is not attachable.
    reason: Option<String>,
    /// Its threads and objects can be read: `tracekit dump`.
    readable: bool,
    /// Why not.
    unreadable_reason: Option<String>,
    #[serde(skip)]
    build: String,
    #[serde(skip)]
    server_text: String,
    #[serde(skip)]
    ports: String,
}

/// Runs `tracekit ps` and prints to standard output.
///
/// # Errors
/// If standard output cannot be written.
pub fn run(args: &PsArgs) -> anyhow::Result<ExitCode> {
    printed(list(&Inspector::default(), args, &mut io::stdout().lock()), ExitCode::Ok)
}

fn list(inspector: &Inspector, args: &PsArgs, out: &mut impl Write) -> io::Result<()> {
    let mut rows = Vec::new();
    let mut denied = 0_usize;
    for pid in inspector.proc.pids() {
        match inspector.examine(pid) {
            Ok(inspected) => rows.push(row(&inspected)),
            Err(InspectError::NotFound { .. }) => {}
            Err(error) => {
                let denied_here = matches!(error, InspectError::Denied { .. });
                denied += usize::from(denied_here);
                let starting = matches!(error, InspectError::NotReady { .. });
                if args.all || starting || (denied_here && looks_like_python(inspector, pid)) {
                    rows.push(refused(pid, &error));
                }
            }
        }
    }
    match args.output {
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &rows)?;
            writeln!(out)?;
        }
        Format::Table => table(&rows, out)?,
    }
    // The kernel also refuses the odd process to root: one that is exiting, or guarded by an LSM.
    let privileged = read_bounded(&inspector.proc.path("self/status"), 64 << 10)
        .is_ok_and(|bytes| Status::parse(&String::from_utf8_lossy(&bytes)).may_read_processes());
    if denied > 0 && !privileged && !args.all {
        eprintln!("{denied} of other users could not be looked at: run as root, or with CAP_SYS_PTRACE");
    }
    Ok(())
}

/// The command line is readable without privilege: better to list a process as not permitted than to hide it.
fn looks_like_python(inspector: &Inspector, pid: u32) -> bool {
    let argv = inspector.proc.argv(pid).unwrap_or_default();
    argv.first().is_some_and(|first| {
        base_name(first).starts_with("python")
            || first.starts_with("gunicorn: ")
            || first.starts_with("[celery")
    })
}

fn row(inspected: &Inspected) -> Row {
    let process = &inspected.process;
    let interpreter = &inspected.interpreter;
    let reason = interpreter.unsupported();
    let unreadable = interpreter.unreadable();
    let mut ports: Vec<String> = inspected
        .listeners
        .iter()
        .map(|listener| listener.port().map_or_else(|| "unix".to_owned(), |port| port.to_string()))
        .collect();
    ports.dedup();
    Row {
        pid: process.pid,
        namespace_pid: Some(process.namespace_pid),
        implementation: Some(interpreter.implementation.to_string()),
        version: interpreter.version.as_ref().map(|(version, _)| version.to_string()),
        linkage: Some(match interpreter.linkage {
            Linkage::Static => "static",
            Linkage::Shared => "shared",
        }),
        stripped: interpreter.stripped,
        free_threaded: interpreter.free_threaded,
        debug_build: interpreter.debug,
        jit: interpreter.jit,
        embedded: interpreter.embedded,
        distribution: interpreter.distribution,
        executable: Some(process.exe.to_string_lossy().into_owned()),
        server: inspected.server.as_ref().map(|server| server.name.to_owned()),
        server_mode: inspected.server.as_ref().and_then(|server| server.mode.clone()),
        server_role: inspected.server.as_ref().and_then(|server| server.role).map(|role| match role {
            super::framework::Role::Master => "master",
            super::framework::Role::Worker => "worker",
        }),
        framework: inspected.framework.map(|framework| framework.name),
        listening: inspected.listeners.iter().map(ToString::to_string).collect(),
        container_id: process.container.as_ref().map(|container| container.id.clone()),
        container_runtime: process.container.as_ref().map(|container| container.runtime.to_string()),
        service_name: Some(inspected.service.name.clone()),
        attachable: reason.is_none(),
        reason,
        readable: unreadable.is_none(),
        unreadable_reason: unreadable,
        build: interpreter.build_text(),
        server_text: inspected.server.as_ref().map(ToString::to_string).unwrap_or_default(),
        ports: ports.join(","),
    }
}

fn refused(pid: u32, error: &InspectError) -> Row {
    let executable = match error {
        InspectError::NotPython { exe, .. } => exe.as_ref().map(|exe| exe.to_string_lossy().into_owned()),
        _ => None,
    };
    let reason = match error {
        InspectError::NotPython { exe: Some(exe), .. } => format!("not Python: {}", exe.display()),
        InspectError::NotPython { exe: None, .. } => "kernel thread or zombie".to_owned(),
        InspectError::NotReady { .. } => "starting".to_owned(),
        InspectError::Denied { what, .. } => format!("not permitted to read /proc/{pid}/{what}"),
        other => other.to_string(),
    };
    Row { pid, executable, unreadable_reason: Some(reason.clone()), reason: Some(reason), ..Row::default() }
}

const COLUMNS: [&str; 9] =
    ["PID", "PYTHON", "BUILD", "SERVER", "FRAMEWORK", "PORTS", "CONTAINER", "SERVICE", "ATTACHABLE"];

fn table(rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    let lines: Vec<[String; 9]> = rows
        .iter()
        .map(|row| {
            let python = match (row.implementation.as_deref(), &row.version) {
                (Some("CPython"), Some(version)) if row.free_threaded => format!("{version}t"),
                (Some("CPython"), Some(version)) => version.clone(),
                (Some("CPython"), None) => "?".to_owned(),
                (Some(other), _) => other.to_owned(),
                (None, _) => String::new(),
            };
            let attachable = match (&row.reason, &row.unreadable_reason) {
                (Some(reason), _) => format!("no: {reason}"),
                (None, Some(reason)) => format!("yes, but not dump: {reason}"),
                (None, None) => "yes".to_owned(),
            };
            [
                row.pid.to_string(),
                python,
                row.build.clone(),
                row.server_text.clone(),
                row.framework.unwrap_or_default().to_owned(),
                row.ports.clone(),
                row.container_id.as_ref().map(|id| id.chars().take(12).collect()).unwrap_or_default(),
                row.service_name.clone().unwrap_or_default(),
                attachable,
            ]
            .map(|cell| printable(if cell.is_empty() { "-" } else { &cell }))
        })
        .collect();
    let mut widths = COLUMNS.map(str::len);
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut write_line = |cells: &[String]| -> io::Result<()> {
        let padded: Vec<String> =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", padded.join("  ").trim_end())
    };
    write_line(&COLUMNS.map(str::to_owned))?;
    lines.iter().try_for_each(|line| write_line(line))
}

/// Text of a target for a terminal: without control characters, which could move the cursor or worse.
pub(crate) fn printable(text: &str) -> String {
    characters(text).take(200).collect()
}

/// As [`printable`], whole.
pub(crate) fn printable_whole(text: &str) -> String {
    characters(text).collect()
}

fn characters(text: &str) -> impl Iterator<Item = char> {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
}

#[cfg(test)]
mod tests {
    use super::super::testing::inspected;
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows =
            [row(&inspected(7, "python /v/bin/gunicorn app:wsgi")), row(&inspected(1234567, "python x.py"))];
        let mut out = Vec::new();
        table(&rows, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        let at = lines[0].find("SERVICE").unwrap();
        assert!(lines[1][at..].starts_with("app "), "{text}");
        assert!(lines[2][at..].starts_with("x "), "{text}");
        assert!(lines[1].ends_with("yes"));
    }

    #[test]
    fn json_keys_are_stable() {
        let value = serde_json::to_value(row(&inspected(7, "python x.py"))).unwrap();
        let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        let expected = "attachable container_id container_runtime debug_build distribution embedded executable \
                        framework free_threaded implementation jit linkage listening namespace_pid pid readable \
                        reason server server_mode server_role service_name stripped unreadable_reason version";
        assert_eq!(keys.join(" "), expected);
    }

    #[test]
    fn a_target_cannot_write_to_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
    }
}
