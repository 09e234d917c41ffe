//! `tracekit kill-switch` and `tracekit limits`.

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value as Json, json};

use super::agent::{AgentArgs, local_time, print, print_json, table, text};
use crate::discovery::ps::{Format, printable};
use crate::exit::ExitCode;
use crate::snapshot::limits;

/// Arguments of `tracekit kill-switch`.
#[derive(Debug, Args)]
pub struct KillSwitchArgs {
    #[command(subcommand)]
    verb: KillSwitchVerb,
    #[command(flatten)]
    agent: AgentArgs,
}

#[derive(Debug, Subcommand)]
enum KillSwitchVerb {
    /// Stop all captures at once
    On(ServiceArgs),
    /// Capture again
    Off(ServiceArgs),
    /// Say where it is on, and who switched it
    Status {
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

#[derive(Debug, Args)]
struct ServiceArgs {
    /// Only in this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
}

/// Arguments of `tracekit limits`.
#[derive(Debug, Args)]
pub struct LimitsArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs `tracekit kill-switch`.
///
/// # Errors
/// No agent, or it says no.
pub fn kill_switch(args: &KillSwitchArgs) -> anyhow::Result<ExitCode> {
    const PATH: &str = "/v1/kill-switch";
    let (status, output) = match &args.verb {
        KillSwitchVerb::On(of) => {
            let body = json!({ "enabled": true, "service": of.service });
            (args.agent.ask(Method::PUT, PATH, Some(&body))?, Format::Table)
        }
        KillSwitchVerb::Off(of) => {
            let body = json!({ "enabled": false, "service": of.service });
            (args.agent.ask(Method::PUT, PATH, Some(&body))?, Format::Table)
        }
        KillSwitchVerb::Status { output } => (args.agent.ask(Method::GET, PATH, None)?, *output),
    };
    match output {
        Format::Json => print_json(&status),
        Format::Table => print(&status_text(&status)),
    }
}

fn status_text(status: &Json) -> String {
    let mut lines = Vec::new();
    let who = |killed: &Json| format!("by {} since {}", text(killed, "/by"), local_time(killed, "/since"));
    if status["all"].is_object() {
        lines.push(format!("on everywhere, {}\n", who(&status["all"])));
    }
    for key in ["services", "remote"] {
        for (service, killed) in status[key].as_object().into_iter().flatten() {
            lines.push(format!("on in {}, {}\n", printable(service), who(killed)));
        }
    }
    if lines.is_empty() { "off\n".to_owned() } else { lines.concat() }
}

/// Runs `tracekit limits`.
///
/// # Errors
/// Standard output can't be written.
pub fn limits(args: &LimitsArgs) -> anyhow::Result<ExitCode> {
    let limits = limits::table();
    match args.output {
        Format::Json => print_json(&limits),
        Format::Table => print(&limits_text(&limits)),
    }
}

fn limits_text(limits: &Json) -> String {
    let meaning = |name: &str| match name {
        "hits" => "captures, then the breakpoint is done",
        "rate" => "captures per second of a breakpoint",
        "expires_seconds" => "seconds until a breakpoint expires",
        "depth" => "levels of containers and instances",
        "items" => "items of a container",
        "text" => "characters of a string",
        "fields" => "attributes of an instance",
        "frames" => "frames whose variables are captured",
        "stack" => "frames of the stack",
        "payload_bytes" => "bytes of a snapshot",
        _ => "",
    };
    let bounds = crate::snapshot::breakpoint::Kind::Snapshot.bounds().rows();
    let mut rows: Vec<[String; 6]> = bounds
        .iter()
        .map(|(name, _)| {
            let of = |kind: &str, which: &str| text(limits, &format!("/{kind}/{name}/{which}"));
            [
                (*name).to_owned(),
                of("snapshot", "default"),
                of("snapshot", "max"),
                of("log", "default"),
                of("log", "max"),
                meaning(name).to_owned(),
            ]
        })
        .collect();
    for (name, of) in [("per_process_rate", "process"), ("per_agent_rate", "agent")] {
        let fixed = |kind: &str| text(limits, &format!("/{kind}/{name}"));
        let (snapshot, log) = (fixed("snapshot"), fixed("log"));
        rows.push([
            name.to_owned(),
            snapshot.clone(),
            snapshot,
            log.clone(),
            log,
            format!("captures per second of all breakpoints in one {of}"),
        ]);
    }
    let number = |pointer: &str| text(limits, pointer);
    format!(
        "{}\nbreakpoints      at most {}, {} of them from control servers\n\
         circuit breaker  {} failures in {} s pause captures for {} s\n\
         CPU budget       {} % of one CPU in each process; over it captures pause for {} s, up to {} s\n\
         redaction        {}: see `tracekit redact --help`\n",
        table(["LIMIT", "SNAPSHOT", "MAX", "LOG", "MAX", ""], &rows),
        number("/breakpoints/max"),
        number("/breakpoints/max_remote"),
        number("/breaker/failures"),
        number("/breaker/window_seconds"),
        number("/breaker/pause_seconds"),
        number("/cpu_budget/percent_of_one_cpu"),
        number("/cpu_budget/pause_seconds"),
        number("/cpu_budget/max_pause_seconds"),
        number("/redaction/mode"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_explained() {
        let text = limits_text(&limits::table());
        for line in text.lines().take_while(|line| !line.is_empty()) {
            assert!(!line.contains("  -"), "{line}");
            assert!(
                line.starts_with("LIMIT") || line.split("  ").filter(|part| !part.is_empty()).count() == 6,
                "{line}"
            );
        }
        assert!(text.contains("3 failures in 60 s pause captures for 300 s"), "{text}");
    }

    #[test]
    fn where_the_switch_is_on() {
        let killed = json!({"by": "uid 0", "since": "2026-01-01T00:00:00Z", "source": "local"});
        let status = json!({"all": null, "services": {"shop": killed}, "remote": {}});
        assert!(
            status_text(&status).starts_with("on in shop, by uid 0 since 202"),
            "{}",
            status_text(&status)
        );
        assert_eq!(status_text(&json!({"all": null, "services": {}, "remote": {}})), "off\n");
    }
}
