//! What is in a snapshot: everything that the application says of itself, and the same on each way out of the agent.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value as Json, json};
use tracekit_tests::agent::Agent;
use tracekit_tests::app::App;
use tracekit_tests::client::{Request, send_once};
use tracekit_tests::collector::Collector;
use tracekit_tests::debugger::{SOON, debugged, line_of, place};
use tracekit_tests::paths;
use tracekit_tests::process::{Process, free_port, wait_for};
use tracekit_tests::stage::Stage;

/// A value of a snapshot as `json.dumps` would write it.
fn plain(value: &Json) -> Json {
    let list = |key: &str| value[key].as_array().map(|all| all.iter().map(plain).collect::<Vec<_>>());
    if let Some(elements) = list("elements") {
        return Json::from(elements);
    }
    if let Some(entries) = value["entries"].as_array() {
        let pair = |entry: &Json| Some((plain(&entry[0]).as_str()?.to_owned(), plain(&entry[1])));
        return entries.iter().filter_map(pair).collect::<Map<_, _>>().into();
    }
    if let Some(fields) = value["fields"].as_object() {
        return fields.iter().map(|(name, value)| (name.clone(), plain(value))).collect::<Map<_, _>>().into();
    }
    // Those that are too large for numbers of JSON.
    let large = value["value"].as_str().filter(|_| value["type"] == "int");
    large.and_then(|digits| digits.parse::<f64>().ok()).map_or_else(|| value["value"].clone(), Json::from)
}

/// The breakpoint that the control server has.
const REMOTE: &str = "bp-of-server";

fn control_server(stage: &Stage) -> Result<(Process, u16)> {
    let mut command = Command::new("/usr/bin/python3");
    command.arg("-u").arg(paths::apps().join("control_server.py")).arg("0");
    let breakpoint = json!({
        "id": REMOTE, "service_name": "shop", "file_path": "orders.py", "function_name": "charge", "label": "remote",
        "line_number": line_of(&paths::apps().join("orders.py"), "paid")?, "max_captures": 100, "capture_count": 0,
        "enabled": true,
    });
    let state = json!({"breakpoints": {"shop": [breakpoint]}, "stream": "ok"});
    command.args(["--state", &state.to_string()]);
    let mut process = Process::start("control-server", stage.logs(), command)?;
    let output = process.stdout_path().to_owned();
    let mut line = String::new();
    process.ready(SOON, || {
        let text = std::fs::read_to_string(&output)?;
        Ok(text.split_once('\n').map(|(first, _)| line = first.to_owned()))
    })?;
    let port = serde_json::from_str::<Json>(&line)?["port"].as_u64().context("no port")?;
    Ok((process, port.try_into()?))
}

fn admin(port: u16) -> Result<Json> {
    let request = Request { close: true, ..Request::get("/admin/log") };
    Ok(serde_json::from_slice(&send_once(port, &request)?.body)?)
}

/// What else runs the line meanwhile has other values.
fn requests(app: &App) -> Result<Json> {
    let ordinary = |number: u32| Request { close: true, ..Request::get(&format!("/pay/{number}")) };
    let mut special = Request::get("/pay/7?token=abcdefgh12345678&x=1");
    special.headers = [
        ("Authorization", "Bearer abcdefgh12345678abcdefgh"),
        ("X-Customer", "forty-two"),
        ("Cookie", "session=abcdefgh12345678"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    for number in 1..7 {
        send_once(app.port, &ordinary(number))?;
    }
    let answer = send_once(app.port, &special)?;
    ensure!(answer.status == 200);
    Ok(serde_json::from_slice(&answer.body)?)
}

/// A way to a value that all ways out have in common.
fn check_common(snapshot: &Json, said: &Json) -> Result<()> {
    let stack = snapshot["stack"].as_array().context("no stack")?;
    let file = paths::apps().join("orders.py");
    let expected = [
        ("charge", Some(line_of(&file, "paid")?)),
        ("respond", None),
        ("serve.<locals>.Handler.do_GET", None),
        ("BaseHTTPRequestHandler.handle_one_request", None),
    ];
    for (frame, (function, line)) in stack.iter().zip(expected) {
        ensure!(frame["function"] == function, "{frame} is not {function}");
        ensure!(frame["line"].as_u64().is_some_and(|line| line > 0), "{frame} has no line");
        if let Some(line) = line {
            ensure!(frame["line"] == line && frame["file"] == json!(file), "{frame}");
        }
    }
    let last = stack.last().context("an empty stack")?;
    ensure!(last["function"] == "Thread._bootstrap", "the stack ends with {last}");

    let mut locals = said["locals"].clone();
    locals["api_key"] = json!("[REDACTED:sensitive_name]");
    locals["user"]["password"] = json!("[REDACTED:sensitive_name]");
    // Made of the others by the function itself.
    let mut captured = stack[0]["locals"].as_object().context("no locals")?.clone();
    ensure!(captured.remove("answer").is_some_and(|answer| answer["type"] == "str"));
    let captured: Json =
        captured.iter().map(|(name, value)| (name.clone(), plain(value))).collect::<Map<_, _>>().into();
    ensure!(captured == locals, "captured\n{captured:#}\nbut the function says\n{locals:#}");
    Ok(())
}

#[test]
fn all_that_the_application_says_of_itself() -> Result<()> {
    debugged("snapshots-content", |stage| {
        let collector = Collector::start(&stage, "collector", &[])?;
        let (_server, server) = control_server(&stage)?;
        let port = free_port()?;
        let mut command = Command::new("/usr/bin/python3");
        command.arg("orders.py").arg(port.to_string()).current_dir(paths::apps());
        command.env("OTEL_SERVICE_NAME", "shop").env("PYTHONDONTWRITEBYTECODE", "1");
        let app = App::start("orders", stage.logs(), command, port, 0)?;
        let url = format!("http://127.0.0.1:{server}");
        let environment = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", collector.http)),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".to_owned()),
            ("OTEL_BLRP_SCHEDULE_DELAY", "100".to_owned()),
            ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
            ("TRACEKIT_API_KEY", "secret".to_owned()),
        ];
        let arguments = ["attach", "--control-server", &url];
        let agent = Agent::start(&stage, "agent", &arguments, &app.pids(), &environment)?;
        let place = place("orders.py", "paid")?;
        let id = agent.arm(
            &[
                "break",
                "add",
                &place,
                "--label",
                "sevens",
                "--if",
                "number == 7",
                "--expr",
                "order.lines[1]",
                "--expr",
                "user.nothing",
            ],
            1,
        )?;
        let log = ["log", "add", &place, "paid {order.total:.2f} of {user['name']}", "--level", "warn"];
        let log = agent.arm(&log, 1)?;
        agent.armed(REMOTE, 1)?;
        let said = requests(&app)?;
        let view = agent.hits(&id, 7)?;
        ensure!(view["counters"]["skipped"]["condition"] == 6, "{view:#}");
        ensure!(view["counters"]["captured"] == 1 && view["counters"]["undefined"] == 1, "{view:#}");

        let snapshots = agent.snapshots(&id)?;
        let [snapshot] = snapshots.as_slice() else { anyhow::bail!("{} snapshots", snapshots.len()) };
        check_common(snapshot, &said)?;
        for (pointer, expected) in [
            ("/breakpoint/id", json!(id)),
            ("/breakpoint/label", json!("sevens")),
            ("/process/pid", said["pid"].clone()),
            ("/thread/id", said["tid"].clone()),
            ("/request/method", json!("GET")),
            ("/skipped/condition", json!(6)),
            ("/truncated", json!([])),
        ] {
            let found = snapshot.pointer(pointer);
            ensure!(found == Some(&expected), "{pointer} is {found:?}, not {expected}: {snapshot:#}");
        }
        let text = snapshot.to_string();
        ensure!(text.contains("forty-two") && text.contains("\"shop\""), "{snapshot:#}");
        for hidden in ["abcdefgh12345678", "hunter2", "sk_live_"] {
            ensure!(!text.contains(hidden), "{hidden} is in {snapshot:#}");
        }
        let redacted = snapshot["redacted"].to_string();
        for path in ["api_key", "password", "authorization", "cookie"] {
            ensure!(redacted.contains(path), "{path} is not said to be hidden: {redacted}");
        }
        let watches = snapshot["watches"].to_string();
        ensure!(watches.contains("cake") && watches.contains("\"undefined\""), "{watches}");

        // The span of that request, and of no other.
        let ids = [&snapshot["trace_id"], &snapshot["span_id"]]
            .map(|id| id.as_str().unwrap_or_default().to_owned());
        let record = wait_for("the span at the collector", SOON, || {
            let records = collector.records()?;
            let it = records.into_iter().find(|record| {
                record.get("event_name").is_none()
                    && record["span_id"] == ids[1]
                    && record["trace_id"] == ids[0]
            });
            Ok(it)
        })?;
        ensure!(
            record["kind"] == "SPAN_KIND_SERVER" && record["attributes"]["url.path"] == "/pay/7",
            "{record:#}"
        );

        let logs = wait_for("log records at the collector", SOON, || {
            let logs = collector.logs()?;
            let lines = logs.iter().filter(|log| log["event_name"] == "tracekit.logpoint");
            let sevens = logs.iter().any(|log| log["attributes"]["tracekit.probe.label"] == "sevens");
            Ok((lines.count() >= 7 && sevens).then_some(logs))
        })?;
        let of = |event: &str| logs.iter().filter(|log| log["event_name"] == event).collect::<Vec<_>>();
        let sevens = |log: &&&Json| log["attributes"]["tracekit.probe.label"] == "sevens";
        let all = of("tracekit.snapshot");
        let record = all.iter().find(sevens).with_context(|| format!("{logs:#?}"))?;
        ensure!(record["trace_id"] == ids[0] && record["span_id"] == ids[1], "{record:#}");
        let attributes = &record["attributes"];
        ensure!(
            attributes["tracekit.probe.id"] == id && attributes["tracekit.snapshot.id"] == snapshot["id"]
        );
        ensure!(attributes["tracekit.probe.label"] == "sevens" && attributes["url.path"] == "/pay/7");
        ensure!(record["resource"]["service.name"] == "shop", "{record:#}");
        let line = line_of(&paths::apps().join("orders.py"), "paid")?.to_string();
        let in_log = &record["body"]["captures"]["lines"][&line]["locals"];
        ensure!(
            *in_log == snapshot["stack"][0]["locals"],
            "{in_log:#}\nis not\n{:#}",
            snapshot["stack"][0]["locals"]
        );
        let lines = of("tracekit.logpoint");
        ensure!(lines.len() == 7, "{lines:#?}");
        ensure!(
            lines.iter().any(|line| line["body"] == "paid 80.50 of Zoë" && line["severity_text"] == "WARN")
        );
        let view = agent.hits(&log, 7)?;
        ensure!(view["counters"]["captured"] == 7, "{view:#}");

        // What the control server has asked for, it gets; and its kill switch holds.
        let captures = wait_for("the snapshot at the control server", SOON, || {
            let captures = admin(server)?["captures"].as_array().cloned().unwrap_or_default();
            Ok(captures.iter().any(|capture| capture.to_string().contains("\"pro\"")).then_some(captures))
        })?;
        let text = Json::from(captures).to_string();
        let mine = agent.snapshots(REMOTE)?;
        ensure!(!mine.is_empty(), "none is kept");
        for id in ["trace_id", "span_id"].map(|key| mine[0][key].as_str().unwrap_or("none").to_owned()) {
            ensure!(text.contains(&id), "no {id} in {text}");
        }
        ensure!(text.contains(REMOTE) && text.contains("Zoë") && !text.contains("hunter2"), "{text}");
        let kill = json!({"event": "kill_switch", "data": {"enabled": true}}).to_string();
        let kill = Request {
            method: "POST".to_owned(),
            target: "/admin/event".to_owned(),
            body: kill.into_bytes(),
            close: true,
            ..Request::default()
        };
        ensure!(send_once(server, &kill)?.status == 200);
        agent.when(&id, "killed", |view| view["reason"] == "kill-switch")?;
        let captured =
            |id: &str| Ok::<_, anyhow::Error>(agent.breakpoint(id)?["counters"]["captured"].clone());
        let before = captured(&id)?;
        requests(&app)?;
        std::thread::sleep(Duration::from_millis(300));
        ensure!(captured(&id)? == before, "captured although killed");
        Ok(())
    })
}
