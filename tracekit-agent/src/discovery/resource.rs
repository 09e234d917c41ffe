//! The OpenTelemetry resource of a traced process.

use percent_encoding::percent_decode_str;
use uuid::Uuid;

use super::Inspected;
use super::service_name::service_name;
use crate::trace::span::{Resource, Value};

/// Attributes that are taken from one `OTEL_RESOURCE_ATTRIBUTES`.
const MAX_ATTRIBUTES: usize = 128;

/// `OTEL_RESOURCE_ATTRIBUTES` is malformed; by the specification the whole value is then discarded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("OTEL_RESOURCE_ATTRIBUTES of the target is ignored: {0}")]
pub struct AttributesError(&'static str);

/// Parses `key1=value1,key2=value2` with percent-encoded values (OpenTelemetry resource SDK, "Specifying
/// resource information via an environment variable"). The last of two equal keys counts.
///
/// # Errors
/// For a pair without `=`, an empty key, a value that is not percent-encoded UTF-8, or too many pairs.
pub fn parse_attributes(text: &str) -> Result<Vec<(String, String)>, AttributesError> {
    let mut attributes: Vec<(String, String)> = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or(AttributesError("a pair has no '='"))?;
        let key = key.trim();
        if key.is_empty() {
            return Err(AttributesError("a key is empty"));
        }
        let value = value.trim();
        if has_broken_escape(value) {
            return Err(AttributesError("a '%' is not followed by two hexadecimal digits"));
        }
        let value = percent_decode_str(value)
            .decode_utf8()
            .map_err(|_| AttributesError("a value is not UTF-8 after percent-decoding"))?
            .into_owned();
        attributes.retain(|(known, _)| known != key);
        attributes.push((key.to_owned(), value));
        if attributes.len() > MAX_ATTRIBUTES {
            return Err(AttributesError("it has too many pairs"));
        }
    }
    Ok(attributes)
}

fn has_broken_escape(text: &str) -> bool {
    text.split('%').skip(1).any(|after| {
        let mut digits = after.bytes().take(2);
        !(digits.next().is_some_and(|b| b.is_ascii_hexdigit())
            && digits.next().is_some_and(|b| b.is_ascii_hexdigit()))
    })
}

/// The resource of a process: what the process says of itself in `OTEL_RESOURCE_ATTRIBUTES` first, then what
/// was found out. The command line is left out on purpose: it may hold secrets.
///
/// `process.pid` is the pid in the agent's namespace, `process.vpid` what the process itself sees, where that
/// differs.
#[must_use]
pub fn resource_for(inspected: &Inspected, override_name: Option<&str>) -> Resource {
    let process = &inspected.process;
    let mut attributes: Vec<(String, Value)> = Vec::new();
    let name = service_name(process, &inspected.launch, override_name).name;
    attributes.push(("service.name".into(), Value::String(name)));
    if let Some(text) = process.variable("OTEL_RESOURCE_ATTRIBUTES") {
        match parse_attributes(text) {
            Ok(declared) => {
                for (key, value) in declared {
                    // What the agent knows better than anybody's configuration.
                    let own = key == "service.name" || key == "process.pid" || key.starts_with("telemetry.");
                    if !own {
                        attributes.push((key, Value::String(value)));
                    }
                }
            }
            Err(error) => tracing::warn!(pid = process.pid, %error),
        }
    }
    for (key, value) in found_out(inspected) {
        if !attributes.iter().any(|(known, _)| known == key) {
            attributes.push((key.to_owned(), value));
        }
    }
    Resource { attributes }
}

fn found_out(inspected: &Inspected) -> Vec<(&'static str, Value)> {
    let process = &inspected.process;
    let text = |value: &str| Value::String(value.to_owned());
    let mut found = vec![
        ("service.instance.id", Value::String(instance_id(process.pid, process.start_ticks))),
        ("telemetry.sdk.name", text("tracekit")),
        ("telemetry.sdk.language", text("python")),
        ("telemetry.sdk.version", text(env!("CARGO_PKG_VERSION"))),
        ("telemetry.distro.name", text("tracekit")),
        ("telemetry.distro.version", text(env!("CARGO_PKG_VERSION"))),
        ("process.pid", Value::Int(i64::from(process.pid))),
    ];
    if process.namespace_pid != process.pid {
        found.push(("process.vpid", Value::Int(i64::from(process.namespace_pid))));
    }
    found.push(("process.executable.name", text(process.exe_name())));
    found.push(("process.executable.path", Value::String(process.exe.to_string_lossy().into_owned())));
    found.push((
        "process.runtime.name",
        Value::String(inspected.interpreter.implementation.to_string().to_lowercase()),
    ));
    if let Some((version, _)) = &inspected.interpreter.version {
        found.push(("process.runtime.version", Value::String(version.to_string())));
    }
    let system = rustix::system::uname();
    found.push(("host.name", Value::String(system.nodename().to_string_lossy().into_owned())));
    found.push((
        "host.arch",
        match std::env::consts::ARCH {
            "x86_64" => text("amd64"),
            "aarch64" => text("arm64"),
            other => text(other),
        },
    ));
    found.push(("os.type", text("linux")));
    if let Some(container) = &process.container {
        found.push(("container.id", text(&container.id)));
    }
    found
}

/// An id that is the same for every look at this process, by any agent on this boot of the host, and never
/// another's: a name-based UUID (RFC 9562 version 5) of boot, pid and start.
fn instance_id(pid: u32, start_ticks: u64) -> String {
    let boot = super::proc_fs::read_bounded(std::path::Path::new("/proc/sys/kernel/random/boot_id"), 64)
        .unwrap_or_default();
    let name = format!("{}/{pid}/{start_ticks}", String::from_utf8_lossy(&boot).trim());
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attributes_of_the_environment() {
        let parse = |text: &str| parse_attributes(text);
        assert_eq!(
            parse("service.namespace=shop, deployment.environment.name=a%2Cb%3D%C3%A9,,x=").unwrap(),
            [
                ("service.namespace".into(), "shop".into()),
                ("deployment.environment.name".into(), "a,b=é".into()),
                ("x".into(), String::new()),
            ]
        );
        assert_eq!(parse("a=1,a=2").unwrap(), [("a".into(), "2".into())]);
        assert!(parse("").unwrap().is_empty());
        for broken in ["a", "=1", "a=%zz", "a=%4", "a=%ff", "good=1,bad"] {
            assert!(parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn instance_ids_are_stable_and_distinct() {
        assert_eq!(instance_id(1, 2), instance_id(1, 2));
        assert_ne!(instance_id(1, 2), instance_id(1, 3));
        assert_ne!(instance_id(1, 23), instance_id(12, 3));
        assert_eq!(instance_id(1, 2).len(), 36);
    }

    proptest! {
        #[test]
        fn anything_parses(text in ".{0,200}") {
            let _ = parse_attributes(&text);
        }
    }
}
