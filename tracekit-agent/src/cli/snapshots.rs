//! `tracekit snapshots`: what breakpoints of a running agent have captured.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::Value as Json;

use super::agent::{AgentArgs, failure, local_time, print, print_json, table, text, usage};
use super::value::python;
use crate::discovery::ps::{Format, printable};
use crate::exit::ExitCode;

/// Arguments of `tracekit snapshots`.
#[derive(Debug, Args)]
pub struct SnapshotsArgs {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    agent: AgentArgs,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the recent ones
    Ls {
        #[command(flatten)]
        filter: FilterArgs,
        /// The newest so many
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Show one
    Get {
        /// Its id
        id: String,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Print them as they come, until Ctrl-C
    Tail {
        #[command(flatten)]
        filter: FilterArgs,
        /// Output format; JSON is one object a line
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

#[derive(Debug, Args)]
struct FilterArgs {
    /// Only of this breakpoint
    #[arg(long = "breakpoint", value_name = "ID")]
    breakpoint: Option<String>,
    /// Only of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
}

/// Runs `tracekit snapshots`.
///
/// # Errors
/// No agent, or it says no.
pub fn run(args: &SnapshotsArgs) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Verb::Ls { filter, limit, output } => {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair("limit", &limit.to_string());
            if let Some(id) = &filter.breakpoint {
                query.append_pair("breakpoint", id);
            }
            if let Some(service) = &filter.service {
                query.append_pair("service", service);
            }
            let list = args.agent.ask(Method::GET, &format!("/v1/snapshots?{}", query.finish()), None)?;
            match output {
                Format::Json => print_json(&list["snapshots"]),
                Format::Table => print(&list_table(list["snapshots"].as_array().map_or(&[], Vec::as_slice))),
            }
        }
        Verb::Get { id, output } => {
            if !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
                return Err(usage(format!(
                    "{id:?} is no id of a snapshot; `tracekit snapshots ls` lists them"
                )));
            }
            let snapshot = args.agent.ask(Method::GET, &format!("/v1/snapshots/{id}"), None)?;
            match output {
                Format::Json => print_json(&snapshot),
                Format::Table => print(&details(&snapshot)?),
            }
        }
        Verb::Tail { filter, output } => tail(&args.agent, filter, *output),
    }
}

fn tail(agent: &AgentArgs, filter: &FilterArgs, output: Format) -> anyhow::Result<ExitCode> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("only", "snapshots");
    if let Some(id) = &filter.breakpoint {
        query.append_pair("breakpoint", id);
    }
    let mut result = Ok(ExitCode::Ok);
    let on_event = |name: &str, data: &Json| {
        match name {
            "lagged" => eprintln!(
                "tracekit: {} snapshots were missed: this reader is too slow",
                text(data, "/missed")
            ),
            "snapshot" => {
                let service = data.pointer("/process/service").and_then(Json::as_str);
                if filter.service.as_deref().is_none_or(|wanted| service == Some(wanted)) {
                    result = print(&match output {
                        Format::Json => format!("{data}\n"),
                        Format::Table => details(data).unwrap_or_default() + "\n",
                    });
                }
            }
            _ => {}
        }
        result.is_ok()
    };
    agent.client()?.events(&format!("/v1/events?{}", query.finish()), on_event).map_err(failure)?;
    result
}

fn list_table(list: &[Json]) -> String {
    let rows: Vec<[String; 7]> = list
        .iter()
        .map(|snapshot| {
            [
                text(snapshot, "/id"),
                local_time(snapshot, "/time"),
                text(snapshot, "/breakpoint"),
                text(snapshot, "/location"),
                text(snapshot, "/function"),
                text(snapshot, "/service"),
                text(snapshot, "/message"),
            ]
        })
        .collect();
    if rows.is_empty() {
        return "no snapshots yet; `tracekit break ls` shows what breakpoints wait for\n".to_owned();
    }
    table(["ID", "TIME", "BREAKPOINT", "PLACE", "FUNCTION", "SERVICE", "MESSAGE"], &rows)
}

/// A snapshot for people.
pub(super) fn details(snapshot: &Json) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    writeln!(
        out,
        "{}  {}  {} {}:{}",
        local_time(snapshot, "/time"),
        text(snapshot, "/id"),
        text(snapshot, "/breakpoint/id"),
        text(snapshot, "/breakpoint/file"),
        text(snapshot, "/breakpoint/line"),
    )?;
    let process = format!("{} (pid {})", text(snapshot, "/process/service"), text(snapshot, "/process/pid"));
    let thread = match (text(snapshot, "/thread/name"), text(snapshot, "/thread/id")) {
        (name, id) if name == "-" => format!("thread {id}"),
        (name, id) => format!("thread {id} {name:?}"),
    };
    writeln!(out, "  {process}, {thread}, hit {}", text(snapshot, "/hit"))?;
    if snapshot["request"].is_object() {
        writeln!(out, "  {} {}", text(snapshot, "/request/method"), text(snapshot, "/request/url"))?;
    }
    if snapshot["trace_id"].is_string() {
        writeln!(out, "  trace {} span {}", text(snapshot, "/trace_id"), text(snapshot, "/span_id"))?;
    }
    if let Some(message) = snapshot["message"].as_str() {
        writeln!(out, "  {}", printable(message))?;
    }
    for watch in snapshot["watches"].as_array().into_iter().flatten() {
        let value = match watch["undefined"].as_str() {
            Some(reason) => format!("UNDEFINED ({})", printable(reason)),
            None => python(&watch["value"]),
        };
        let late = if watch["late"] == true { "  (read a little later)" } else { "" };
        writeln!(out, "  {} = {value}{late}", text(watch, "/expression"))?;
    }
    for frame in snapshot["stack"].as_array().into_iter().flatten() {
        writeln!(out, "  {} ({}:{})", text(frame, "/function"), text(frame, "/file"), text(frame, "/line"))?;
        for (name, value) in frame["locals"].as_object().into_iter().flatten() {
            writeln!(out, "      {} = {}", printable(name), python(value))?;
        }
    }
    for truncated in snapshot["truncated"].as_array().into_iter().flatten() {
        writeln!(out, "  truncated: {} by {}", text(truncated, "/what"), text(truncated, "/by"))?;
    }
    for redacted in snapshot["redacted"].as_array().into_iter().flatten() {
        writeln!(out, "  redacted: {} ({})", text(redacted, "/path"), text(redacted, "/type"))?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::breakpoint::Kind;
    use crate::snapshot::record::testing::snapshot;

    #[test]
    fn a_snapshot_for_people() {
        let text = details(&snapshot(Kind::Snapshot).to_json()).unwrap();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "  shop (pid 10), thread 11 \"worker\", hit 3",
                "  POST /checkout?id=7",
                "  trace 01010101010101010101010101010101 span 0202020202020202",
                "  order.total = 120",
                "  user.plan = UNDEFINED (user is not defined)",
                "  checkout (/srv/app/orders.py:42)",
                "      order = <Order id=7 items=[1, … 500 in all]>",
                "      password = <redacted>",
                "  dispatch (/srv/app/orders.py:7)",
                "  redacted: locals.password (sensitive_name)",
            ]
        );
    }
}
