//! Checks of one process.

use super::Check;
use crate::discovery::interpreter::{Linkage, agent_path};
use crate::discovery::resource::parse_attributes;
use crate::discovery::service_name::NameSource;
use crate::discovery::{InspectError, Inspected, Inspector};
use crate::exit::ExitCode;
use crate::python::{Target, modules, sdk};

pub(super) fn checks(inspector: &Inspector, pid: u32) -> Vec<Check> {
    let mut checks = Vec::new();
    match inspector.examine(pid) {
        Ok(inspected) => found(inspector, &inspected, &mut checks),
        Err(error) => checks.push(refused(&error)),
    }
    checks.into_iter().map(|check| check.about(pid)).collect()
}

fn refused(error: &InspectError) -> Check {
    let (id, code, remedy) = match error {
        InspectError::NotFound { .. } => {
            ("process.exists", ExitCode::NotFound, "`tracekit ps` lists what runs")
        }
        InspectError::Denied { .. } => {
            ("process.readable", ExitCode::NotPermitted, "run as root, or with CAP_SYS_PTRACE")
        }
        InspectError::NotPython { .. } => (
            "process.interpreter",
            ExitCode::Unsupported,
            "give the pid of the Python process: `tracekit ps`",
        ),
        InspectError::NotReady { .. } => ("process.interpreter", ExitCode::Error, "try again in a moment"),
        InspectError::Unsupported { .. } | InspectError::Unreadable { .. } => {
            ("process.readable", ExitCode::Error, "look at /proc/PID by hand")
        }
    };
    let message = match error {
        InspectError::Denied { pid, what } => format!("not permitted to read /proc/{pid}/{what}"),
        InspectError::NotFound { pid } => format!("no process with pid {pid}"),
        other => other.to_string(),
    };
    Check::fail(id, code, message, remedy)
}

/// Whether `dump` and `code` can read it: by reading.
fn frames(inspector: &Inspector, inspected: &Inspected) -> Check {
    let opened = Target::open(&inspector.proc, inspected);
    let read = opened.and_then(|target| {
        let reader = target.reader()?;
        Ok(target.stacks(&reader, None, |_, _| true)?.len())
    });
    match read {
        Ok(threads) => {
            Check::ok("process.frames", format!("the stacks of its {threads} threads are readable"))
        }
        Err(error) => Check::warning(
            "process.frames",
            error.to_string(),
            "requests are traced; `tracekit dump` and `tracekit code` cannot read it",
        ),
    }
}

/// Whether it exports spans itself.
fn tracer(inspector: &Inspector, inspected: &Inspected) -> Option<Check> {
    let target = Target::open(&inspector.proc, inspected).ok()?;
    let found = modules::read(&target, sdk::find)?;
    let text = match found.sdk {
        Some(sdk) => {
            let (name, watches) = (sdk.vendor.name(), sdk.instrumentations.join(", "));
            format!("exports spans itself ({name}: {watches}); these are held back (--existing-sdk)")
        }
        None => "exports no spans itself".to_owned(),
    };
    Some(Check::ok("process.tracer", text))
}

fn found(inspector: &Inspector, inspected: &Inspected, checks: &mut Vec<Check>) {
    let process = &inspected.process;
    let interpreter = &inspected.interpreter;
    let described = format!(
        "{} {} ({}) in {}",
        interpreter.implementation,
        interpreter.version_text(),
        interpreter.build_text(),
        interpreter.binary.path.display()
    );
    checks.push(match interpreter.unsupported() {
        None => Check::ok("process.interpreter", described),
        Some(reason) => Check::fail(
            "process.interpreter",
            ExitCode::Unsupported,
            format!("{described} cannot be traced: {reason}"),
            "CPython 3.8 or newer, 64-bit, is supported",
        ),
    });
    if interpreter.version.is_none() {
        checks.push(Check::warning(
            "process.version",
            "the version of Python could not be found out",
            "requests are traced; its threads and objects cannot be read",
        ));
    }
    if interpreter.unsupported().is_none() {
        checks.push(frames(inspector, inspected));
        checks.extend(tracer(inspector, inspected));
    }
    if process.exe_deleted || interpreter.binary.deleted {
        let binary = match interpreter.linkage {
            Linkage::Static => "executable",
            Linkage::Shared => "library",
        };
        checks.push(Check::warning(
            "process.deleted",
            format!("the interpreter's {binary} was replaced while the process runs"),
            "sockets are traced all the same; restart the service when convenient",
        ));
    }
    let path = agent_path(&inspector.proc, process, &interpreter.binary);
    checks.push(match std::fs::File::open(&path) {
        Ok(_) => Check::ok("process.binary", format!("the interpreter is readable as {}", path.display())),
        Err(error) => Check::warning(
            "process.binary",
            format!("{} is not readable: {error}", path.display()),
            "grant CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH; sockets are traced without it",
        ),
    });
    checks.push(match &process.environment {
        Some(_) => Check::ok("process.environ", "the environment is readable"),
        None => Check::warning(
            "process.environ",
            "the environment is not readable: OTEL_SERVICE_NAME and the like have no effect",
            "grant CAP_SYS_PTRACE, or give --service-name",
        ),
    });
    let source = match inspected.service.source {
        NameSource::Override => "given",
        NameSource::OtelServiceName => "from OTEL_SERVICE_NAME",
        NameSource::OtelResourceAttributes => "from OTEL_RESOURCE_ATTRIBUTES",
        NameSource::TracekitServiceName => "from TRACEKIT_SERVICE_NAME",
        NameSource::Derived => "derived from how it was started",
        NameSource::Unknown => "nothing tells it",
    };
    let name = format!("service {} ({source})", inspected.service.name);
    checks.push(if inspected.service.source == NameSource::Unknown {
        Check::warning(
            "process.service",
            name,
            "set OTEL_SERVICE_NAME in the service, or give --service-name",
        )
    } else {
        Check::ok("process.service", name)
    });
    if let Some(Err(error)) = process.variable("OTEL_RESOURCE_ATTRIBUTES").map(parse_attributes) {
        checks.push(Check::warning(
            "process.resource",
            error.to_string(),
            "write key=value pairs, percent-encoded",
        ));
    }
    if let Some(server) = &inspected.server {
        let framework = inspected.framework.map(|f| format!(", {}", f.name)).unwrap_or_default();
        let listening: Vec<String> = inspected.listeners.iter().map(ToString::to_string).collect();
        let listening = if listening.is_empty() {
            String::new()
        } else {
            format!(", listens on {}", listening.join(" "))
        };
        checks.push(Check::ok("process.server", format!("{server}{framework}{listening}")));
    }
    if let Some(container) = &process.container {
        checks.push(Check::ok(
            "process.container",
            format!(
                "in container {} ({}), where its pid is {}",
                container.short_id(),
                container.runtime,
                process.namespace_pid
            ),
        ));
    }
}
