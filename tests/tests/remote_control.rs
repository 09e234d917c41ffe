//! The client of control servers against a server that behaves, and one that does not (`control_server.py`).

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value as Json, json};
use tracekit_agent::control::remote::{Remote, RemoteConfig, Timing};
use tracekit_agent::python::object::{Content, Value};
use tracekit_agent::snapshot::breakpoint::Source;
use tracekit_agent::snapshot::language::Expressions;
use tracekit_agent::snapshot::record::{Frame, Process as Origin, Snapshot, Thread};
use tracekit_agent::snapshot::registry::{Actor, Registry};
use tracekit_agent::snapshot::state::Skipped;
use tracekit_agent::trace::span::{Resource, Value as Attribute};
use tracekit_tests::certificates::certificates;
use tracekit_tests::client::{Request, send_once};
use tracekit_tests::process::{Process, wait_for};
use tracekit_tests::stage::Stage;
use tracekit_tests::{agent, paths};

/// Long, for machines with much else to do.
const SOON: Duration = Duration::from_secs(30);

/// So long, in these tests, that only an event can have been the cause of what is quicker.
const POLL: Duration = Duration::from_secs(3);

struct Server {
    port: u16,
    tls: bool,
    _process: Process,
}

impl Server {
    fn start(stage: &Stage) -> Result<Self> {
        Self::start_with(stage, None, &json!({}))
    }

    fn start_with(stage: &Stage, tls: Option<[&str; 2]>, state: &Json) -> Result<Self> {
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-u").arg(paths::apps().join("control_server.py")).args([
            "0",
            "--state",
            &state.to_string(),
        ]);
        if let Some([certificate, key]) = tls {
            command.args(["--tls", certificate, key]);
        }
        let mut process = Process::start("control-server", stage.logs(), command)?;
        let output = process.stdout_path().to_owned();
        let mut line = String::new();
        process.ready(SOON, || {
            let text = std::fs::read_to_string(&output)?;
            Ok(text.split_once('\n').map(|(first, _)| line = first.to_owned()))
        })?;
        let ready: Json = serde_json::from_str(&line)?;
        let port = ready["port"].as_u64().context("no port")?.try_into()?;
        Ok(Self { port, tls: tls.is_some(), _process: process })
    }

    fn admin(&self, path: &str, body: &Json) -> Result<()> {
        let request = Request {
            method: "POST".to_owned(),
            target: format!("/admin/{path}"),
            body: body.to_string().into_bytes(),
            close: true,
            ..Request::default()
        };
        ensure!(send_once(self.port, &request)?.status == 200, "{path}");
        Ok(())
    }

    fn log(&self) -> Result<Json> {
        let request = Request { close: true, ..Request::get("/admin/log") };
        Ok(serde_json::from_slice(&send_once(self.port, &request)?.body)?)
    }

    fn config(&self, key: &str) -> Result<RemoteConfig> {
        let scheme = if self.tls { "https" } else { "http" };
        let timing = Timing {
            poll: POLL,
            poll_killed: POLL * 2,
            retry: Duration::from_millis(100),
            max_retry: Duration::from_secs(2),
            timeout: Duration::from_secs(2),
            silence: Duration::from_secs(4),
        };
        let config = RemoteConfig::new(&format!("{scheme}://127.0.0.1:{}", self.port), key)?;
        Ok(RemoteConfig { timing, ..config })
    }
}

/// An agent's breakpoints without an agent, following the server.
struct Agent {
    registry: Arc<Registry>,
    remote: Remote,
}

impl Agent {
    fn start(config: RemoteConfig, services: &[&str]) -> Result<Self> {
        let registry = Arc::new(Registry::new(Box::new(Expressions), Box::new(())));
        for (pid, service) in (1..).zip(services) {
            registry.process_started(pid, 1, service, Timestamp::now());
        }
        let remote = Remote::start(config, Arc::clone(&registry))?;
        Ok(Self { registry, remote })
    }

    fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> =
            self.registry.list(Timestamp::now()).iter().map(|view| view.breakpoint.id.to_string()).collect();
        ids.sort();
        ids
    }

    /// Waits for these breakpoints; gives how long that took.
    fn has(&self, expected: &[&str], limit: Duration) -> Result<Duration> {
        let began = Instant::now();
        wait_for(&format!("the breakpoints {expected:?}"), limit, || {
            Ok((self.ids() == expected).then_some(()))
        })
        .with_context(|| format!("there are {:?}", self.ids()))?;
        Ok(began.elapsed())
    }

    fn killed(&self, service: &str) -> bool {
        self.registry.kill_switch().is_on_for(service)
    }
}

fn breakpoint(id: &str, line: u32) -> Json {
    json!({
        "id": id, "service_name": "shop", "file_path": "app/orders.py", "function_name": "checkout", "label": id,
        "line_number": line, "max_captures": 100, "capture_count": 0, "enabled": true,
    })
}

/// What polls give.
fn active(breakpoints: &[Json]) -> Json {
    json!({ "breakpoints": { "shop": breakpoints } })
}

#[test]
fn events_are_in_force_within_a_second() -> Result<()> {
    Stage::run("remote-events", |stage| {
        let server = Server::start(&stage)?;
        server.admin("state", &json!({"stream": "ok"}))?;
        let agent = Agent::start(server.config("secret")?, &["shop"])?;
        wait_for("the stream", SOON, || Ok((server.log()?["streams"] == 1).then_some(())))?;
        let polls = |log: &Json| log["polls"].as_array().map_or(0, Vec::len);
        let before = polls(&server.log()?);

        let event = |name: &str, data: Json| server.admin("event", &json!({"event": name, "data": data}));
        let second = Duration::from_secs(1);
        event("breakpoint_created", breakpoint("b1", 42))?;
        let mut took = vec![agent.has(&["b1"], second)?];
        event("breakpoint_created", json!({"breakpoint": breakpoint("b2", 43)}))?;
        took.push(agent.has(&["b1", "b2"], second)?);
        event("breakpoint_updated", breakpoint("b1", 50))?;
        wait_for("the new line", second, || {
            let view = agent.registry.get(&"b1".parse()?, Timestamp::now()).context("b1 is gone")?;
            Ok((view.breakpoint.line == 50).then_some(()))
        })?;
        event("heartbeat", json!({}))?;
        event("sdk_count", json!({"count": 3}))?;
        event("something new", json!([]))?;
        server.admin(
            "event",
            &json!({"raw": "event: breakpoint_created\ndata: {{{\n\n: comment\n\ndata\n\n"}),
        )?;
        event("breakpoint_deleted", json!({"id": "b1"}))?;
        took.push(agent.has(&["b2"], second)?);
        let before_kill = server.log()?;
        event("kill_switch", json!({"enabled": true}))?;
        wait_for("the kill switch", second, || Ok(agent.killed("shop").then_some(())))?;
        ensure!(polls(&before_kill) == before, "it polled although it had a stream");
        ensure!(before_kill["refused"] == 0, "{before_kill}");
        eprintln!("in force after {took:?}");
        Ok(())
    })
}

#[test]
fn without_a_stream_it_polls_and_while_killed_it_polls_less() -> Result<()> {
    Stage::run("remote-polls", |stage| {
        let server = Server::start(&stage)?;
        server.admin("state", &active(&[breakpoint("b1", 42)]))?;
        let agent = Agent::start(server.config("secret")?, &["shop", "cart"])?;
        agent.has(&["b1"], SOON)?;
        server.admin("state", &active(&[breakpoint("b2", 42)]))?;
        agent.has(&["b2"], POLL * 10)?;
        server.admin("state", &json!({"kill_switch": true}))?;
        wait_for("the kill switch", POLL * 2, || {
            Ok((agent.killed("shop") && agent.killed("cart")).then_some(()))
        })?;
        let times = |log: &Json| -> Vec<f64> {
            let polls = log["polls"].as_array().into_iter().flatten();
            polls.filter(|poll| poll["service"] == "shop").filter_map(|poll| poll["time"].as_f64()).collect()
        };
        let killed = times(&server.log()?).len();
        wait_for("two more polls", POLL * 20, || {
            Ok((times(&server.log()?).len() >= killed + 2).then_some(()))
        })?;
        let times = times(&server.log()?);
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let (normal, slow) = (POLL.as_secs_f64(), POLL.as_secs_f64() * 2.0);
        let last = gaps[gaps.len() - 1];
        ensure!(gaps[0] >= normal * 0.85 && last >= slow * 0.85, "{gaps:?}");
        server.admin("state", &json!({"kill_switch": false}))?;
        wait_for("captures again", POLL * 10, || Ok((!agent.killed("shop")).then_some(())))?;
        // A service that is not traced any more has nothing here.
        agent.registry.process_gone(1, Timestamp::now());
        agent.has(&[], SOON).map(drop)
    })
}

#[test]
fn a_stream_that_breaks_is_taken_up_again() -> Result<()> {
    Stage::run("remote-drops", |stage| {
        let server = Server::start(&stage)?;
        server.admin("state", &json!({"stream": "ok"}))?;
        let agent = Agent::start(server.config("secret")?, &["shop"])?;
        for n in 1..=4 {
            wait_for("a stream", SOON, || Ok((server.log()?["streams"].as_u64() >= Some(n)).then_some(())))?;
            // What happens while there is none is known when there is one again.
            server.admin("state", &active(&[breakpoint(&format!("b{n}"), 42)]))?;
            server.admin("drop", &Json::Null)?;
            agent.has(&[&format!("b{n}")], SOON)?;
        }
        // None is served any more: polls it is, and a stream as soon as there is one.
        server.admin("state", &json!({"stream": 503}))?;
        server.admin("drop", &Json::Null)?;
        server.admin("state", &active(&[breakpoint("polled", 1)]))?;
        agent.has(&["polled"], POLL * 10)?;
        for (how, id) in [("garbage", "g"), ("html", "h")] {
            server.admin("state", &json!({"stream": how}))?;
            server.admin("state", &active(&[breakpoint(id, 1)]))?;
            agent.has(&[id], POLL * 10)?;
        }
        server.admin("state", &json!({"stream": "ok"}))?;
        let streams = server.log()?["streams"].as_u64();
        wait_for("a stream", SOON * 4, || Ok((server.log()?["streams"].as_u64() > streams).then_some(())))?;
        server.admin("event", &json!({"event": "breakpoint_created", "data": breakpoint("z", 9)}))?;
        agent.has(&["h", "z"], SOON)?;
        // A stream that is silent for long is no stream: it is taken up again without anybody's doing.
        let streams = server.log()?["streams"].as_u64();
        wait_for("another stream", SOON * 2, || {
            Ok((server.log()?["streams"].as_u64() > streams).then_some(()))
        })
    })
}

#[test]
fn whatever_a_poll_gets_what_was_known_stays() -> Result<()> {
    Stage::run("remote-errors", |stage| {
        let server = Server::start(&stage)?;
        server.admin(
            "state",
            &active(&[breakpoint("b1", 42), json!({"id": 7}), json!("x"), breakpoint("b/2", 1)]),
        )?;
        let agent = Agent::start(server.config("secret")?, &["shop"])?;
        agent.has(&["b1"], SOON)?;
        for how in [
            json!(500),
            json!(503),
            json!(404),
            json!("garbage"),
            json!("huge"),
            json!("redirect"),
            json!("drip"),
            json!("slow"),
        ] {
            server.admin("state", &json!({"poll": how}))?;
            let polls = server.log()?["polls"].as_array().map_or(0, Vec::len);
            wait_for(&format!("two polls that get {how}"), POLL * 20, || {
                let now = server.log()?["polls"].as_array().map_or(0, Vec::len);
                Ok((now >= polls + 2).then_some(()))
            })?;
            ensure!(agent.ids() == ["b1"], "after {how}: {:?}", agent.ids());
        }
        server.admin("state", &json!({"poll": "ok"}))?;
        server.admin("state", &active(&[breakpoint("b3", 42)]))?;
        agent.has(&["b3"], POLL * 10)?;
        ensure!(server.log()?["stolen"] == 0, "a redirect was followed");
        // Too many: as many as a server may have.
        let many: Vec<Json> = (0..2000).map(|n| breakpoint(&format!("m{n}"), 1)).collect();
        server.admin("state", &active(&many))?;
        wait_for("500 breakpoints", POLL * 10, || Ok((agent.ids().len() == 500).then_some(())))
    })
}

#[test]
fn a_wrong_key_gets_nothing() -> Result<()> {
    Stage::run("remote-key", |stage| {
        let server = Server::start(&stage)?;
        server.admin("state", &active(&[breakpoint("b1", 42)]))?;
        let agent = Agent::start(server.config("wrong")?, &["shop"])?;
        wait_for("refusals", SOON, || Ok((server.log()?["refused"].as_u64() >= Some(2)).then_some(())))?;
        ensure!(agent.ids().is_empty(), "{:?}", agent.ids());
        Ok(())
    })
}

#[test]
fn over_tls_the_server_is_who_its_certificate_says() -> Result<()> {
    Stage::run("remote-tls", |stage| {
        let [ca, certificate, key] = certificates(&stage)?;
        let server =
            Server::start_with(&stage, Some([&certificate, &key]), &active(&[breakpoint("b1", 42)]))?;
        let stranger = Agent::start(server.config("secret")?, &["shop"])?;
        let config = RemoteConfig { certificate: Some(PathBuf::from(ca)), ..server.config("secret")? };
        let agent = Agent::start(config, &["shop"])?;
        agent.has(&["b1"], SOON)?;
        // By now the other has tried several times.
        std::thread::sleep(Duration::from_secs(1));
        ensure!(stranger.ids().is_empty(), "it trusts a certificate of nobody: {:?}", stranger.ids());
        Ok(())
    })
}

fn snapshot(agent: &Agent, id: &str, text: &str) -> Result<Snapshot> {
    let view = agent.registry.get(&id.parse()?, Timestamp::now()).context("no such breakpoint")?;
    let attributes = vec![("service.name".to_owned(), Attribute::from("shop"))];
    let value = Value::new("str", Content::Str(text.to_owned()));
    let frame = Frame {
        function: "checkout".to_owned(),
        file: "/srv/app/orders.py".to_owned(),
        line: Some(42),
        locals: Some(vec![("text".to_owned(), value)]),
    };
    Ok(Snapshot {
        id: Snapshot::random_id(),
        breakpoint: Arc::new(view.breakpoint),
        time: Timestamp::now(),
        hit: 1,
        skipped: Skipped::default(),
        process: Origin { pid: 1, resource: Arc::new(Resource { attributes }) },
        thread: Thread { tid: 1, name: None },
        stack: vec![frame],
        watches: Vec::new(),
        message: None,
        request: None,
        span: None,
        truncated: Vec::new(),
        redacted: Vec::new(),
    })
}

#[test]
fn snapshots_of_its_breakpoints_arrive() -> Result<()> {
    Stage::run("remote-captures", |stage| {
        let server = Server::start(&stage)?;
        server.admin("state", &active(&[breakpoint("b1", 42)]))?;
        let agent = Agent::start(server.config("secret")?, &["shop"])?;
        agent.has(&["b1"], SOON)?;
        let uploads = agent.remote.uploads();
        uploads.submit(&snapshot(&agent, "b1", "first")?);
        let captures = |server: &Server| -> Result<Vec<Json>> {
            Ok(server.log()?["captures"].as_array().cloned().unwrap_or_default())
        };
        wait_for("the snapshot", SOON, || Ok((captures(&server)?.len() == 1).then_some(())))?;
        let first = &captures(&server)?[0];
        ensure!(first["breakpoint_id"] == "b1" && first["variables"]["text"] == "first", "{first}");
        ensure!(
            first["label"] == "b1" && first["service_name"] == "shop" && first["line_number"] == 42,
            "{first}"
        );
        ensure!(first["captured_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{first}");

        // A user's own breakpoints are not for the server.
        let spec = serde_json::from_value(json!({"file": "a.py", "line": 1}))?;
        let actor = Actor { who: "me".to_owned(), via: "unix" };
        let own = agent.registry.add(spec, &actor, Timestamp::now())?.breakpoint;
        ensure!(own.source == Source::Local);
        uploads.submit(&snapshot(&agent, own.id.as_str(), "private")?);

        // A server that fails is asked twice for each, and left alone after three.
        server.admin("state", &json!({"capture": 500}))?;
        for n in 0..6 {
            uploads.submit(&snapshot(&agent, "b1", &format!("failing {n}"))?);
        }
        wait_for("six attempts", SOON, || Ok((captures(&server)?.len() == 7).then_some(())))?;
        server.admin("state", &json!({"capture": 201}))?;
        std::thread::sleep(Duration::from_secs(2));
        uploads.submit(&snapshot(&agent, "b1", "paused")?);
        std::thread::sleep(Duration::from_secs(1));
        let all = captures(&server)?;
        ensure!(all.len() == 7, "{all:?}");
        ensure!(!format!("{all:?}").contains("private"), "a user's snapshot was sent");
        Ok(())
    })
}

/// The agent itself: it asks for the services that it traces, and its users see what the server wants.
#[test]
fn a_running_agent_follows_the_server() -> Result<()> {
    Stage::run("remote-agent", |stage| {
        let server = Server::start(&stage)?;
        server.admin("state", &json!({"stream": "ok"}))?;
        let mut target = Command::new("/usr/bin/python3");
        target.args(["-c", "import time; time.sleep(600)"]).env("OTEL_SERVICE_NAME", "shop");
        let target = Process::start("target", stage.logs(), target)?;
        wait_for("the interpreter", SOON, || {
            let command = std::fs::read_to_string(format!("/proc/{}/comm", target.pid()))?;
            Ok(command.starts_with("python").then_some(()))
        })?;
        let url = format!("http://127.0.0.1:{}/v1/traces", server.port);
        let pid = target.pid().to_string();
        let without_key =
            agent::command(&["attach", "--pid", &pid, "--no-control", "--control-server", &url])?
                .env_remove("TRACEKIT_API_KEY")
                .output()?;
        let said = String::from_utf8_lossy(&without_key.stderr);
        ensure!(without_key.status.code() == Some(2) && said.contains("TRACEKIT_API_KEY"), "{said}");

        let environment = [("TRACEKIT_ENDPOINT", url), ("TRACEKIT_API_KEY", "secret".to_owned())];
        let agent = agent::Agent::start(&stage, "agent", &["attach"], &[target.pid()], &environment)?;
        wait_for("the stream", SOON, || Ok((server.log()?["streams"] == 1).then_some(())))?;
        server.admin("event", &json!({"event": "breakpoint_created", "data": breakpoint("b1", 42)}))?;
        let verb = |arguments: &[&str]| -> Result<(Option<i32>, String)> {
            let output = agent::command(arguments)?.env("TRACEKIT_AGENT", agent.socket()).output()?;
            let text = [output.stdout, output.stderr].concat();
            Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
        };
        let list = || -> Result<Json> { Ok(serde_json::from_str(&verb(&["break", "ls", "-o", "json"])?.1)?) };
        let list = wait_for("the breakpoint", SOON, || {
            let list = list()?;
            Ok((list[0]["id"] == "b1").then_some(list))
        })?;
        ensure!(list[0]["source"] == "remote" && list[0]["service"] == "shop", "{list}");
        ensure!(list[0]["state"] == "PENDING" && list[0]["processes"][0]["pid"] == target.pid(), "{list}");
        let (code, said) = verb(&["break", "rm", "b1"])?;
        ensure!(code == Some(1) && said.contains("control server"), "{code:?}: {said}");
        let (code, said) = verb(&["break", "disable", "b1"])?;
        ensure!(code == Some(0) && said.contains("DISABLED"), "{code:?}: {said}");
        server.admin("event", &json!({"event": "kill_switch", "data": {"enabled": true}}))?;
        wait_for("the kill switch", SOON, || {
            Ok(verb(&["kill-switch", "status"])?.1.contains("on in shop").then_some(()))
        })?;
        agent.finish().map(drop)
    })
}
