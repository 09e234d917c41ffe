//! A program with secrets wherever programs have them, traced and captured: none of them is in anything that the agent puts
//! out, and ordinary data is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value as Json, json};
use tracekit_tests::client::{Request, send_once};
use tracekit_tests::collector::Collector;
use tracekit_tests::debugger::debugged;
use tracekit_tests::process::{Process, free_port, wait_for};
use tracekit_tests::stage::Stage;
use tracekit_tests::{agent, paths};

const SOON: Duration = Duration::from_secs(30);
const CORPUS: &str = include_str!("../apps/secretive.json");
const SOURCE: &str = include_str!("../apps/secretive.py");
const TOKEN: &str = "a-token-of-more-than-16-characters";
/// Bytes of a secret that are one.
const PART: usize = 10;
/// Rounds of requests: with the first ones types become known.
const ROUNDS: usize = 5;

/// Texts by their names in the corpus.
fn corpus(kind: &str) -> Result<BTreeMap<String, String>> {
    let mut all: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_str(CORPUS)?;
    all.remove(kind).with_context(|| format!("no {kind} in the corpus"))
}

/// The line that ends with this mark.
fn line_of(mark: &str) -> Result<usize> {
    let mark = format!("# {mark}");
    Ok(SOURCE.lines().position(|line| line.ends_with(&mark)).context("no line with the mark")? + 1)
}

fn ready(port: u16) -> Result<Option<()>> {
    Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop))
}

/// All that the agent has put out, by where.
#[derive(Default)]
struct Outputs(BTreeMap<String, String>);

impl Outputs {
    fn add(&mut self, from: impl Into<String>, text: impl Into<String>) {
        self.0.insert(from.into(), text.into());
    }

    /// Where which of the secrets are, with what is around them.
    fn leaks(&self) -> Result<Vec<String>> {
        let mut leaks = Vec::new();
        for (label, secret) in corpus("secrets")? {
            for (from, text) in &self.0 {
                // A part of it is a leak too.
                let parts = secret.as_bytes().windows(PART.min(secret.len()));
                let found = parts.filter_map(|part| text.find(std::str::from_utf8(part).ok()?)).next();
                if let Some(at) = found {
                    let near = text.char_indices().filter(|(place, _)| place + 120 > at && *place < at + 30);
                    let around: String = near.map(|(_, c)| c).collect();
                    leaks.push(format!("{label} in {from}: …{around}…"));
                }
            }
        }
        Ok(leaks)
    }

    /// Ordinary texts that are not where captured variables are shown.
    fn mangled(&self, from: &str) -> Result<Vec<String>> {
        let text = self.0.get(from).with_context(|| format!("no output {from}"))?;
        let all = corpus("ordinary")?.into_iter();
        Ok(all
            .filter(|(_, text_of)| !text.contains(text_of))
            .map(|(label, _)| format!("{label} in {from}"))
            .collect())
    }
}

struct Shop {
    stage: Stage,
    port: u16,
    app: Process,
}

impl Shop {
    fn start(stage: Stage) -> Result<Self> {
        let stage = stage.with_postgres()?.with_redis()?.with_backend()?;
        let port = free_port()?;
        let ports = [
            port,
            stage.postgres.as_ref().context("PostgreSQL")?.port,
            stage.redis.as_ref().context("Redis")?.port,
            stage.backend.as_ref().context("backend")?.port,
        ];
        let secrets = corpus("secrets")?;
        let secret = |label: &str| secrets.get(label).cloned().unwrap_or_default();
        let mut command = Command::new(paths::venv("web", "python")?);
        command.arg(paths::apps().join("secretive.py")).args(ports.map(|port| port.to_string()));
        command.arg("--password").arg(secret("argv")).arg(format!("--api-key={}", secret("api_key")));
        command.arg(format!("--dsn=postgres://shop:{}@db/shop", secret("dsn")));
        command.env("OTEL_SERVICE_NAME", "shop");
        let mut app = Process::start("app", stage.logs(), command)?;
        app.ready(SOON, || ready(port))?;
        Ok(Self { stage, port, app })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.stage.logs().join(name)
    }

    fn request(&self) -> Result<()> {
        let secrets = corpus("secrets")?;
        let secret = |label: &str| secrets.get(label).cloned().unwrap_or_default();
        let jwt = secret("jwt");
        let target = format!("/pay/{jwt}?api_key={}&token={jwt}&data={jwt}&page=2", secret("query"));
        let headers = vec![
            ("Authorization".to_owned(), format!("Bearer {}", secret("bearer"))),
            ("Cookie".to_owned(), format!("sid={}", secret("cookie"))),
            ("X-Api-Key".to_owned(), secret("api_key")),
            ("Referer".to_owned(), format!("https://shop/?access_token={}", secret("query"))),
        ];
        let get = Request { headers: headers.clone(), close: true, ..Request::get(&target) };
        let body = format!("user=ada&password={}", secret("posted")).into_bytes();
        let post =
            Request { method: "POST".to_owned(), target, headers, body, close: true, ..Request::default() };
        for request in [get, post] {
            let status = send_once(self.port, &request)?.status;
            ensure!(status == 200, "status {status}");
        }
        Ok(())
    }

    fn verb(&self, arguments: &[&str]) -> Result<String> {
        let mut command = agent::command(arguments)?;
        let output = command.env("TRACEKIT_AGENT", self.path("run/agent.sock")).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {}: {said}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &said)
    }
}

/// A control server that has a breakpoint on each of the lines.
fn control_server(stage: &Stage) -> Result<(Process, u16)> {
    let mut breakpoints = Vec::new();
    for mark in ["secrets", "texts", "ordinary"] {
        breakpoints.push(json!({
            "id": mark, "service_name": "shop", "file_path": "apps/secretive.py", "function_name": "", "label": mark,
            "line_number": line_of(mark)?, "max_captures": 100, "capture_count": 0, "enabled": true,
        }));
    }
    let state = json!({ "breakpoints": { "shop": breakpoints } });
    let mut command = Command::new("/usr/bin/python3");
    command.arg("-u").arg(paths::apps().join("control_server.py")).args(["0", "--state", &state.to_string()]);
    let mut process = Process::start("control-server", stage.logs(), command)?;
    let output = process.stdout_path().to_owned();
    let mut port = None;
    process.ready(SOON, || {
        let text = std::fs::read_to_string(&output)?;
        let Some((first, _)) = text.split_once('\n') else { return Ok(None) };
        port =
            serde_json::from_str::<Json>(first)?["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        Ok(Some(()))
    })?;
    Ok((process, port.context("no port")?))
}

fn rest(port: u16, path: &str) -> Result<String> {
    let headers = vec![("Authorization".to_owned(), format!("Bearer {TOKEN}"))];
    let response = send_once(port, &Request { headers, close: true, ..Request::get(path) })?;
    ensure!(response.status == 200, "{path}: {}", response.status);
    Ok(String::from_utf8_lossy(&response.body).into_owned())
}

/// Runs the shop and an agent that prints in this form, and gives all that it put out.
fn outputs(shop: &Shop, print: &str, further: &[&str]) -> Result<Outputs> {
    let stage = &shop.stage;
    let collector = Collector::start(stage, &format!("collector-{}", further.len()), &[])?;
    let (_server, server) = control_server(stage)?;
    let (api, ready) = (free_port()?, shop.path("ready"));
    if ready.exists() {
        std::fs::remove_file(&ready)?;
    }
    let mut command = agent::command(&["attach", "--print", print, "--pid", &shop.app.pid().to_string()])?;
    command
        .args(further)
        .arg("--ready-file")
        .arg(&ready)
        .arg("--control-socket")
        .arg(shop.path("run/agent.sock"));
    command.arg("--state-dir").arg(shop.path("state"));
    command.args(["--control-listen", &format!("127.0.0.1:{api}")]).env("TRACEKIT_CONTROL_TOKEN", TOKEN);
    command
        .args(["--control-server", &format!("http://127.0.0.1:{server}")])
        .env("TRACEKIT_API_KEY", "secret");
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", collector.grpc));
    command
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .env("TRACEKIT_LOG", "tracekit=debug,tracekit_agent=debug");
    let mut process = Process::start("agent", stage.logs(), command)?;
    process.ready(SOON, || Ok(ready.exists().then_some(())))?;

    let mut found = Outputs::default();
    let place = |mark: &str| -> Result<String> { Ok(format!("apps/secretive.py:{}", line_of(mark)?)) };
    let add = |arguments: &[&str]| -> Result<String> {
        shop.verb(&[&["break", "add"], arguments, &["--rate", "10", "-o", "json"]].concat())
    };
    let mut said = String::new();
    said += &add(&[
        &place("secrets")?,
        "--expr",
        "user.name",
        "--expr",
        "note",
        "--expr",
        "headers",
        "--expr",
        "settings['timeout']",
        "--expr",
        "client.options",
        "--expr",
        "note[4:40]",
        "--expr",
        "[payment, listed]",
    ])?;
    said += &add(&[
        &place("texts")?,
        "--expr",
        "error",
        "--expr",
        "error.args",
        "--expr",
        "message",
        "--expr",
        "url",
        "--expr",
        "dsn[18:]",
        "--expr",
        "arguments",
        "--expr",
        "random",
    ])?;
    said += &add(&[&place("ordinary")?, "--expr", "next_token", "--if", "name.startswith('Ada')"])?;
    let template =
        "user={user.name} note={note!r} headers={headers} payment={payment} row={row} {by_name} {login}";
    said += &shop.verb(&["log", "add", &place("secrets")?, template, "--rate", "10"])?;
    found.add("break add", said);

    let socket = shop.path("run/agent.sock");
    let mut followers = Vec::new();
    for (name, form) in [("tail", "table"), ("tail-json", "json")] {
        let mut command = agent::command(&["snapshots", "tail", "-o", form])?;
        command.env("TRACEKIT_AGENT", &socket);
        followers.push(Process::start(name, stage.logs(), command)?);
    }
    let events = std::net::TcpStream::connect(("127.0.0.1", api))?;
    let head =
        format!("GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1:{api}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    std::io::Write::write_all(&mut &events, head.as_bytes())?;

    let list = || -> Result<Vec<Json>> {
        Ok(serde_json::from_str(&shop.verb(&["snapshots", "ls", "-o", "json"])?)?)
    };
    for _ in 0..ROUNDS {
        shop.request()?;
        std::thread::sleep(Duration::from_millis(1200));
    }
    // Of each of the lines.
    let snapshots = wait_for("snapshots", SOON, || {
        let all = list()?;
        Ok((all.len() >= ROUNDS * 3).then_some(all))
    });
    let snapshots = snapshots.with_context(|| shop.verb(&["break", "ls"]).unwrap_or_default())?;
    std::thread::sleep(Duration::from_secs(2));
    found.add("break ls", shop.verb(&["break", "ls"])? + &shop.verb(&["log", "ls", "-o", "json"])?);
    found.add("snapshots ls", shop.verb(&["snapshots", "ls"])? + &serde_json::to_string(&snapshots)?);
    for snapshot in &snapshots {
        let id = snapshot["id"].as_str().context("it has an id")?;
        for (kind, text) in [
            ("get", shop.verb(&["snapshots", "get", id])?),
            ("get json", shop.verb(&["snapshots", "get", id, "-o", "json"])?),
            ("REST", rest(api, &format!("/v1/snapshots/{id}"))?),
        ] {
            let known = found.0.entry(kind.to_owned()).or_default();
            known.push_str(&text);
        }
    }
    found.add("REST list", rest(api, "/v1/snapshots")? + &rest(api, "/v1/breakpoints")?);
    found.add(
        "server",
        String::from_utf8_lossy(
            &send_once(server, &Request { close: true, ..Request::get("/admin/log") })?.body,
        ),
    );
    let status = process.stop(SOON)?;
    ensure!(status.success(), "{status}: {}", process.stderr());
    let mut streamed = Vec::new();
    let _ = std::io::Read::read_to_end(&mut &events, &mut streamed);
    found.add("SSE", String::from_utf8_lossy(&streamed));
    for mut follower in followers {
        let _ = follower.stop(SOON);
    }
    for name in ["tail.out", "tail.err", "tail-json.out", "agent.out", "agent.err"] {
        found.add(name, String::from_utf8_lossy(&std::fs::read(shop.path(name))?));
    }
    for entry in std::fs::read_dir(shop.path("state"))? {
        let path = entry?.path();
        if path.is_file() {
            found.add(format!("{}", path.display()), String::from_utf8_lossy(&std::fs::read(&path)?));
        }
    }
    let arrived: Vec<String> = collector.records()?.iter().map(Json::to_string).collect();
    found.add("OTLP", arrived.join("\n"));
    Ok(found)
}

fn check(name: &str, print: &str) -> Result<()> {
    debugged(&format!("secrets-{name}"), |stage| {
        let shop = Shop::start(stage)?;
        let found = outputs(&shop, print, &[])?;
        for (from, text) in &found.0 {
            println!("{from}: {} bytes", text.len());
            if text.len() < 400 {
                println!("{text}");
            }
            ensure!(
                !text.is_empty() || from.ends_with(".err") || from.ends_with("lock"),
                "nothing in {from}"
            );
        }
        let leaks = found.leaks()?;
        let mut mangled = Vec::new();
        for from in ["get", "get json", "REST", "SSE", "OTLP", "server", "tail.out", "tail-json.out"] {
            mangled.extend(found.mangled(from)?);
        }
        ensure!(
            leaks.is_empty() && mangled.is_empty(),
            "{} leaks:\n{}\n{} mangled:\n{}",
            leaks.len(),
            leaks.join("\n"),
            mangled.len(),
            mangled.join("\n")
        );
        Ok(())
    })
}

#[test]
fn no_secret_is_put_out_and_ordinary_data_is() -> Result<()> {
    check("jsonl", "jsonl")
}

#[test]
fn nor_on_a_terminal() -> Result<()> {
    check("pretty", "pretty")
}

#[test]
fn the_settings_of_an_agent_are_those_of_all_that_it_puts_out() -> Result<()> {
    let hidden = corpus("ordinary")?;
    let names = ["--redact-name", "sort_key,tag", "--redact-pattern", "release=v1\\.[0-9.]+-rc4"];
    let hides = |found: &Outputs, label: &str, also: &[&str]| -> Result<()> {
        let text = hidden.get(label).with_context(|| format!("no {label}"))?;
        for (from, output) in &found.0 {
            ensure!(also.contains(&from.as_str()) || !output.contains(text.as_str()), "{label} in {from}");
        }
        Ok(())
    };
    debugged("secrets-settings", |stage| {
        let shop = Shop::start(stage)?;
        let found = outputs(&shop, "jsonl", &names)?;
        hides(&found, "version", &[])?;
        hides(&found, "sort_key", &[])?;
        ensure!(found.leaks()?.is_empty(), "{:?}", found.leaks()?);
        let found = outputs(&shop, "jsonl", &["--redaction", "strict"])?;
        for label in ["title", "author", "text", "cache_key"] {
            hides(&found, label, &[])?;
        }
        ensure!(found.0.values().any(|text| text.contains("[REDACTED:strict]")), "nothing is hidden");
        ensure!(found.leaks()?.is_empty(), "{:?}", found.leaks()?);
        Ok(())
    })
}
