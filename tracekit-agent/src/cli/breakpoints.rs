//! `tracekit break` and `tracekit log`: breakpoints of a running agent.

use std::fmt::Write as _;
use std::time::Duration;

use clap::{Args, Subcommand};
use hyper::Method;
use jiff::SignedDuration;
use serde_json::{Value as Json, json};

use super::agent::{AgentArgs, failure, local_time, print, print_json, state, table, text, usage};
use super::snapshots;
use crate::discovery::ps::Format;
use crate::exit::ExitCode;
use crate::snapshot::breakpoint::{Kind, Level, Spec};
use crate::snapshot::limits::LimitsSpec;

/// How often it is looked whether a new breakpoint is armed, before it is said that it waits for its file.
const ARMING_STEPS: u32 = 40;
const ARMING_STEP: Duration = Duration::from_millis(50);

/// Arguments of `tracekit break`.
#[derive(Debug, Args)]
pub struct BreakArgs {
    #[command(subcommand)]
    verb: BreakVerb,
    #[command(flatten)]
    agent: AgentArgs,
}

/// Arguments of `tracekit log`.
#[derive(Debug, Args)]
pub struct LogArgs {
    #[command(subcommand)]
    verb: LogVerb,
    #[command(flatten)]
    agent: AgentArgs,
}

#[derive(Debug, Subcommand)]
enum BreakVerb {
    /// Capture stack and variables when a line runs
    Add(AddArgs),
    #[command(flatten)]
    Common(CommonVerb),
}

#[derive(Debug, Subcommand)]
enum LogVerb {
    /// Log a text with values when a line runs
    Add {
        #[command(flatten)]
        place: Box<AddArgs>,
        /// The text, with expressions in braces: 'total={order.total} user={user.id}'
        template: String,
        /// Severity of the log records
        #[arg(long, value_enum, default_value_t)]
        level: Level,
    },
    #[command(flatten)]
    Common(CommonVerb),
}

#[derive(Debug, Subcommand)]
enum CommonVerb {
    /// List them, with state and counters
    Ls(OutputArgs),
    /// Show one with all there is to know
    Get {
        /// Its id
        id: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Switch on; captures are counted anew
    Enable(IdsArgs),
    /// Switch off
    Disable(IdsArgs),
    /// Remove
    Rm(IdsArgs),
    /// Follow its hits and states until Ctrl-C
    Watch {
        /// Its id
        id: String,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Args)]
struct OutputArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Args)]
struct IdsArgs {
    /// Their ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

#[derive(Debug, Args)]
struct AddArgs {
    /// The line: the end of the file's path, a colon and the number, such as app/orders.py:42
    #[arg(value_name = "FILE:LINE", value_parser = place)]
    place: (String, u32),
    /// Only if this is true: 'order.total > 100 and user.plan == "pro"'
    #[arg(long = "if", value_name = "EXPR")]
    condition: Option<String>,
    /// Capture the value of this, too; may be repeated
    #[arg(long = "expr", value_name = "EXPR")]
    expressions: Vec<String>,
    /// Captures, then it is done
    #[arg(long, value_name = "N")]
    hits: Option<u64>,
    /// When it stops by itself: 90s, 30m, 2h
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    expires: Option<u64>,
    /// Captures per time: 1/s, 30/m, 10/h
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<f64>,
    /// Levels of containers and instances
    #[arg(long, value_name = "N")]
    depth: Option<u32>,
    /// Frames whose variables are captured
    #[arg(long, value_name = "N")]
    frames: Option<u32>,
    /// A name for people
    #[arg(long)]
    label: Option<String>,
    /// Only processes of this service
    #[arg(long, value_name = "NAME", conflicts_with = "pid")]
    service: Option<String>,
    /// Only this process
    #[arg(long)]
    pid: Option<u32>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl AddArgs {
    fn spec(&self, kind: Kind) -> Spec {
        let (file, line) = self.place.clone();
        Spec {
            kind,
            file,
            line,
            condition: self.condition.clone(),
            expressions: self.expressions.clone(),
            label: self.label.clone(),
            service: self.service.clone(),
            pid: self.pid,
            limits: LimitsSpec {
                hits: self.hits,
                rate: self.rate,
                expires_seconds: self.expires,
                depth: self.depth,
                frames: self.frames,
                ..LimitsSpec::default()
            },
            ..Spec::default()
        }
    }
}

/// `app/orders.py:42`
fn place(text: &str) -> Result<(String, u32), String> {
    let wrong = || "give a file and a line, such as app/orders.py:42".to_owned();
    let (file, line) = text.rsplit_once(':').ok_or_else(wrong)?;
    let line = line.parse().ok().filter(|&line| line > 0).ok_or_else(wrong)?;
    if file.is_empty() { Err(wrong()) } else { Ok((file.to_owned(), line)) }
}

/// `90s`, `30m`, `1h 30m`; a number alone is seconds.
fn seconds(text: &str) -> Result<u64, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let wrong = || "give a duration such as 90s, 30m or 2h".to_owned();
    let duration: SignedDuration = text.parse().map_err(|_| wrong())?;
    u64::try_from(duration.as_secs()).ok().filter(|&seconds| seconds > 0).ok_or_else(wrong)
}

/// `5/s`, `30/m`, `10/h`; a number alone is per second.
fn rate(text: &str) -> Result<f64, String> {
    let (count, per) = text.split_once('/').unwrap_or((text, "s"));
    let seconds = match per {
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("give a rate such as 1/s, 30/m or 10/h".to_owned()),
    };
    let count: f64 = count.trim().parse().map_err(|_| "give a rate such as 1/s, 30/m or 10/h".to_owned())?;
    Ok(count / seconds)
}

/// Runs `tracekit break`.
///
/// # Errors
/// No agent, or it says no.
pub fn run_break(args: &BreakArgs) -> anyhow::Result<ExitCode> {
    match &args.verb {
        BreakVerb::Add(add) => self::add(&args.agent, &add.spec(Kind::Snapshot), add.output),
        BreakVerb::Common(verb) => common(&args.agent, verb, Kind::Snapshot),
    }
}

/// Runs `tracekit log`.
///
/// # Errors
/// No agent, or it says no.
pub fn run_log(args: &LogArgs) -> anyhow::Result<ExitCode> {
    match &args.verb {
        LogVerb::Add { place, template, level } => {
            let spec =
                Spec { template: Some(template.clone()), level: Some(*level), ..place.spec(Kind::Log) };
            add(&args.agent, &spec, place.output)
        }
        LogVerb::Common(verb) => common(&args.agent, verb, Kind::Log),
    }
}

fn add(agent: &AgentArgs, spec: &Spec, output: Format) -> anyhow::Result<ExitCode> {
    let mut added = agent.ask(Method::POST, "/v1/breakpoints", Some(&serde_json::to_value(spec)?))?;
    // Whoever asks wants to know whether it is armed, which takes a moment.
    let path = path(&text(&added, "/id"), "")?;
    for _ in 0..ARMING_STEPS {
        if added["state"] != "PENDING" || added["process_count"] == 0 {
            break;
        }
        std::thread::sleep(ARMING_STEP);
        added = agent.ask(Method::GET, &path, None)?;
    }
    match output {
        Format::Json => print_json(&added),
        Format::Table => {
            let processes = added["process_count"].as_u64().unwrap_or(0);
            let scope = match processes {
                0 => "no traced process is selected yet".to_owned(),
                1 => "1 process".to_owned(),
                n => format!("{n} processes"),
            };
            print(&format!(
                "{}  {}:{}  {}  ({scope}; until {})\n",
                text(&added, "/id"),
                text(&added, "/file"),
                text(&added, "/line"),
                state(&added),
                local_time(&added, "/expires_at"),
            ))
        }
    }
}

/// A path segment; an id has no character that needs escaping, and anything else is no id.
fn path(id: &str, rest: &str) -> anyhow::Result<String> {
    let id: crate::snapshot::breakpoint::Id =
        id.parse().map_err(|error| usage(format!("{id:?}: {error}")))?;
    Ok(format!("/v1/breakpoints/{id}{rest}"))
}

fn common(agent: &AgentArgs, verb: &CommonVerb, kind: Kind) -> anyhow::Result<ExitCode> {
    match verb {
        CommonVerb::Ls(OutputArgs { output }) => {
            let list = agent.ask(Method::GET, &format!("/v1/breakpoints?kind={kind}"), None)?;
            match output {
                Format::Json => print_json(&list["breakpoints"]),
                Format::Table => {
                    print(&list_table(list["breakpoints"].as_array().map_or(&[], Vec::as_slice)))
                }
            }
        }
        CommonVerb::Get { id, output } => {
            let breakpoint = agent.ask(Method::GET, &path(id, "")?, None)?;
            match output.output {
                Format::Json => print_json(&breakpoint),
                Format::Table => print(&details(&breakpoint)?),
            }
        }
        CommonVerb::Enable(ids) => each(agent, ids, Method::POST, "/enable"),
        CommonVerb::Disable(ids) => each(agent, ids, Method::POST, "/disable"),
        CommonVerb::Rm(ids) => each(agent, ids, Method::DELETE, ""),
        CommonVerb::Watch { id, output } => watch(agent, id, output.output),
    }
}

/// Goes on after an error, so that one id that is gone does not keep the others.
fn each(agent: &AgentArgs, ids: &IdsArgs, method: Method, rest: &str) -> anyhow::Result<ExitCode> {
    let mut failed = None;
    for id in &ids.ids {
        match path(id, rest).and_then(|path| agent.ask(method.clone(), &path, None)) {
            Ok(now) if method == Method::DELETE => print(&format!("{}  removed\n", text(&now, "/id")))?,
            Ok(now) => print(&format!("{}  {}\n", text(&now, "/id"), state(&now)))?,
            Err(error) => {
                if let Some(first) = failed.replace(error) {
                    eprintln!("tracekit: {first:#}");
                }
                continue;
            }
        };
    }
    failed.map_or(Ok(ExitCode::Ok), Err)
}

fn list_table(list: &[Json]) -> String {
    let rows: Vec<[String; 9]> = list
        .iter()
        .map(|breakpoint| {
            let skipped = &breakpoint["counters"]["skipped"];
            let skipped: u64 = ["condition", "rate", "budget", "error"]
                .iter()
                .filter_map(|key| skipped[*key].as_u64())
                .sum();
            let scope = match (text(breakpoint, "/service"), text(breakpoint, "/pid")) {
                (service, pid) if service == "-" && pid == "-" => "all".to_owned(),
                (service, pid) if service == "-" => format!("pid {pid}"),
                (service, _) => service,
            };
            [
                text(breakpoint, "/id"),
                state(breakpoint),
                format!("{}:{}", text(breakpoint, "/file"), text(breakpoint, "/line")),
                text(breakpoint, "/label"),
                scope,
                text(breakpoint, "/counters/hits"),
                text(breakpoint, "/counters/captured"),
                skipped.to_string(),
                local_time(breakpoint, "/expires_at"),
            ]
        })
        .collect();
    if rows.is_empty() {
        return "no breakpoints; add one with `tracekit break add FILE:LINE`\n".to_owned();
    }
    table(["ID", "STATE", "PLACE", "LABEL", "SCOPE", "HITS", "CAPTURED", "SKIPPED", "EXPIRES"], &rows)
}

fn details(breakpoint: &Json) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let place = format!("{}:{}", text(breakpoint, "/file"), text(breakpoint, "/line"));
    writeln!(out, "{} {}  {place}", text(breakpoint, "/kind"), text(breakpoint, "/id"))?;
    let state_text = match breakpoint["mode"].as_str() {
        Some(mode) => format!("{} [{mode}]", state(breakpoint)),
        None => state(breakpoint),
    };
    writeln!(out, "state       {state_text}")?;
    let by = format!("{} ({})", text(breakpoint, "/created_by"), text(breakpoint, "/source"));
    for (name, value) in [
        ("label", text(breakpoint, "/label")),
        ("condition", text(breakpoint, "/condition")),
        ("template", text(breakpoint, "/template")),
        ("level", text(breakpoint, "/level")),
        ("function", text(breakpoint, "/function")),
        ("service", text(breakpoint, "/service")),
        ("pid", text(breakpoint, "/pid")),
        ("created", format!("{} by {by}", local_time(breakpoint, "/created_at"))),
        ("expires", local_time(breakpoint, "/expires_at")),
    ] {
        if value != "-" {
            writeln!(out, "{name:<11} {value}")?;
        }
    }
    for n in 0..breakpoint["expressions"].as_array().map_or(0, Vec::len) {
        writeln!(out, "expression  {}", text(breakpoint, &format!("/expressions/{n}")))?;
    }
    let limits = breakpoint["limits"].as_object().into_iter().flatten();
    let limits: Vec<String> = limits.map(|(name, value)| format!("{name} {value}")).collect();
    writeln!(out, "limits      {}", limits.join(", "))?;
    let counter = |name: &str| text(breakpoint, &format!("/counters/{name}"));
    writeln!(
        out,
        "counters    {} hits, {} captured ({} left), skipped: {} condition, {} rate, {} budget, {} error; {} undefined",
        counter("hits"),
        counter("captured"),
        text(breakpoint, "/captures_left"),
        counter("skipped/condition"),
        counter("skipped/rate"),
        counter("skipped/budget"),
        counter("skipped/error"),
        counter("undefined"),
    )?;
    if breakpoint["counters"]["cost"]["count"] != json!(0) {
        writeln!(
            out,
            "cost        {} µs mean, {} µs median, {} µs p99, {} µs max; last hit {}",
            counter("cost/mean_us"),
            counter("cost/p50_us"),
            counter("cost/p99_us"),
            counter("cost/max_us"),
            local_time(breakpoint, "/counters/last_hit"),
        )?;
    }
    let processes = breakpoint["processes"].as_array().map_or(&[][..], Vec::as_slice);
    if processes.is_empty() {
        writeln!(out, "processes   no traced process is selected")?;
        return Ok(out);
    }
    let rows: Vec<[String; 5]> = processes
        .iter()
        .map(|process| {
            let [pid, service, hits, captured] =
                ["/pid", "/service", "/hits", "/captured"].map(|key| text(process, key));
            [pid, service, state(process), hits, captured]
        })
        .collect();
    out.push('\n');
    out.push_str(&table(["PID", "SERVICE", "STATE", "HITS", "CAPTURED"], &rows));
    let all = breakpoint["process_count"].as_u64().unwrap_or(0);
    let more = all.saturating_sub(processes.len() as u64);
    if more > 0 {
        writeln!(out, "… {more} more")?;
    }
    Ok(out)
}

fn watch(agent: &AgentArgs, id: &str, output: Format) -> anyhow::Result<ExitCode> {
    // An id that is not there would be watched forever.
    let path = path(id, "")?;
    agent.ask(Method::GET, &path, None)?;
    let mut result = Ok(ExitCode::Ok);
    let on_event = |name: &str, data: &Json| {
        let text = match (output, name) {
            (Format::Json, _) => format!("{}\n", json!({ "event": name, "data": data })),
            (Format::Table, "snapshot") => snapshots::details(data).unwrap_or_default() + "\n",
            (Format::Table, "init") => {
                let breakpoint = data.pointer("/breakpoints/0").unwrap_or(&Json::Null);
                format!("{id}  {}\n", state(breakpoint))
            }
            (Format::Table, "state") => format!("{id}  {}\n", state(data)),
            (Format::Table, "lagged") => format!("{} events were missed\n", self::text(data, "/missed")),
            (Format::Table, "removed") => format!("{id}  removed\n"),
            (Format::Table, "kill-switch" | "updated") => String::new(),
            (Format::Table, _) => return true,
        };
        result = print(&text);
        result.is_ok() && name != "removed"
    };
    agent.client()?.events(&format!("/v1/events?breakpoint={id}"), on_event).map_err(failure)?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        assert_eq!(place("app/orders.py:42"), Ok(("app/orders.py".to_owned(), 42)));
        assert_eq!(place("C:x.py:1"), Ok(("C:x.py".to_owned(), 1)));
        for text in ["", "orders.py", "orders.py:", "orders.py:0", "orders.py:-1", ":4", "orders.py:x"] {
            assert!(place(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_and_rates() {
        for (text, expected) in [("90", 90), ("90s", 90), ("30m", 1800), ("2h", 7200), ("1h 30m", 5400)] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "soon", "-1h", "0s"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        for (text, expected) in [("1/s", 1.0), ("30/m", 0.5), ("36/h", 0.01), ("5", 5.0)] {
            assert_eq!(rate(text), Ok(expected), "{text}");
        }
        assert!(rate("1/day").is_err() && rate("x/s").is_err());
    }
}
