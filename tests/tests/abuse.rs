//! The API of a running agent, misused: it answers clearly, stays small, writes down who tried what, and goes on working.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value as Json, json};
use tracekit_tests::agent;
use tracekit_tests::client::{Request, send_once};
use tracekit_tests::process::{Process, free_port, wait_for};
use tracekit_tests::stage::Stage;

const SOON: Duration = Duration::from_secs(20);
const TOKEN: &str = "a-token-of-more-than-16-characters";
/// Bytes that the agent may grow by, whatever it is asked.
const GROWTH: u64 = 64 << 20;

/// Runs a line over and over, with variables that expressions can be made large of.
const PROGRAM: &str = "import time
def work(count):
    many = list(range(90))
    text = 'x' * 200
    cycle = [1]; cycle.append(cycle)
    other = [1]; other.append(other)
    table = {str(at): many for at in range(50)}
    return count  # here
count = 0
while True:
    count += 1
    work(count)
    time.sleep(0.02)
";

struct Victim {
    stage: Stage,
    target: Process,
    agent: Process,
    port: u16,
}

impl Victim {
    fn start(name: &str) -> Result<Self> {
        let stage = Stage::new(&format!("abuse-{name}"))?;
        let program = stage.logs().join("victim.py");
        std::fs::write(&program, PROGRAM)?;
        let mut target = Command::new("/usr/bin/python3");
        target.arg(&program).env("OTEL_SERVICE_NAME", "victim");
        let target = Process::start("target", stage.logs(), target)?;
        wait_for("the interpreter", SOON, || {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", target.pid()))?;
            Ok(name.starts_with("python").then_some(()))
        })?;
        std::thread::sleep(Duration::from_millis(300));
        let (port, ready) = (free_port()?, stage.logs().join("ready"));
        let mut command = agent::command(&["attach", "--print", "none", "--pid", &target.pid().to_string()])?;
        command.arg("--ready-file").arg(&ready).arg("--control-socket").arg(stage.logs().join("agent.sock"));
        command.arg("--state-dir").arg(stage.logs().join("state"));
        command.args(["--control-listen", &format!("127.0.0.1:{port}")]).env("TRACEKIT_CONTROL_TOKEN", TOKEN);
        let mut agent = Process::start("agent", stage.logs(), command)?;
        agent.ready(SOON, || Ok(ready.exists().then_some(())))?;
        Ok(Self { stage, target, agent, port })
    }

    fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &[u8]) -> Result<(u16, Json)> {
        let mut headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
        headers.extend(token.map(|token| ("Authorization".to_owned(), format!("Bearer {token}"))));
        let request = Request {
            method: method.to_owned(),
            target: path.to_owned(),
            headers,
            body: body.to_vec(),
            close: true,
            ..Request::default()
        };
        let response = send_once(self.port, &request)?;
        let body = serde_json::from_slice(&response.body).unwrap_or(Json::Null);
        Ok((response.status, body))
    }

    fn add(&self, breakpoint: &Json) -> Result<(u16, Json)> {
        self.ask("POST", "/v1/breakpoints", Some(TOKEN), breakpoint.to_string().as_bytes())
    }

    /// Resident bytes of the agent.
    fn memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.agent.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? << 10)
    }

    fn audit(&self) -> Result<Vec<Json>> {
        let path: PathBuf = self.stage.logs().join("state/audit.jsonl");
        std::fs::read_to_string(path)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// The agent grew no more than it may, still answers, and the program goes on.
    fn is_well(&self, before: u64) -> Result<()> {
        let now = self.memory()?;
        println!("resident before {} KiB, after {} KiB", before >> 10, now >> 10);
        ensure!(now < before + GROWTH, "the agent grew from {before} to {now} bytes");
        let (status, _) = self.ask("GET", "/v1/breakpoints", Some(TOKEN), b"")?;
        ensure!(status == 200, "it answers with {status}");
        let state = std::fs::read_to_string(format!("/proc/{}/stat", self.target.pid()))?;
        ensure!(!state.contains(") T") && !state.contains(") Z"), "the program does not run: {state}");
        Ok(())
    }
}

/// The line that runs.
fn line() -> Result<usize> {
    Ok(PROGRAM.lines().position(|line| line.ends_with("# here")).context("no line is marked")? + 1)
}

/// Every refusal says what is wrong.
fn is_clear(status: u16, answer: &Json) -> bool {
    (400..500).contains(&status)
        && answer["error"]["code"].as_str().is_some_and(|code| !code.is_empty())
        && answer["error"]["message"].as_str().is_some_and(|text| text.len() > 5 && text.len() < 4096)
}

#[test]
fn strangers_and_nonsense() -> Result<()> {
    let mut victim = Victim::start("nonsense")?;
    let before = victim.memory()?;
    let good = json!({ "file": "victim.py", "line": line()? }).to_string();
    for token in [None, Some(""), Some("wrong-token-of-more-than-16"), Some(&TOKEN[1..])] {
        for (method, path) in [
            ("GET", "/v1/snapshots"),
            ("POST", "/v1/breakpoints"),
            ("PUT", "/v1/kill-switch"),
            ("GET", "/v1/events"),
            ("DELETE", "/v1/breakpoints/bp-1"),
        ] {
            let (status, answer) = victim.ask(method, path, token, good.as_bytes())?;
            ensure!(
                matches!(status, 401 | 403 | 429) && is_clear(status, &answer),
                "{method} {path}: {status} {answer}"
            );
        }
    }
    // Who guesses too often has to wait.
    std::thread::sleep(Duration::from_secs(2));
    let deep = "[".repeat(60_000);
    let large = format!("{{\"file\": \"{}\", \"line\": 1}}", "x".repeat(200_000));
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("text", b"hello".to_vec()),
        ("binary", vec![0xff; 1000]),
        ("deep", deep.into_bytes()),
        ("large", large.into_bytes()),
        ("half", b"{\"file\": \"victim.py\", \"li".to_vec()),
        ("list", b"[1, 2]".to_vec()),
        ("null", b"null".to_vec()),
        ("negative line", json!({"file": "victim.py", "line": -1}).to_string().into_bytes()),
        ("huge line", json!({"file": "victim.py", "line": 1e300}).to_string().into_bytes()),
        ("number as file", json!({"file": 7, "line": 1}).to_string().into_bytes()),
        ("unknown field", json!({"file": "victim.py", "line": 1, "exec": "x"}).to_string().into_bytes()),
        (
            "many expressions",
            json!({"file": "victim.py", "line": 1, "expressions": vec!["x"; 10_000]})
                .to_string()
                .into_bytes(),
        ),
        (
            "control characters",
            json!({"file": "victim.py\u{0}\u{1b}[2J", "line": 1}).to_string().into_bytes(),
        ),
    ];
    for (what, body) in &bodies {
        let (status, answer) = victim.ask("POST", "/v1/breakpoints", Some(TOKEN), body)?;
        ensure!(is_clear(status, &answer), "{what}: {status} {answer}");
    }
    victim.is_well(before)?;
    let audit = victim.audit()?;
    let refused = audit.iter().filter(|entry| entry["refused"].is_string()).count();
    ensure!(refused > 4, "{refused} refusals are in the audit log: {audit:?}");
    let text = serde_json::to_string(&audit)?;
    ensure!(!text.contains(&TOKEN[1..]), "a token is in the audit log");
    victim.agent.stop(SOON).map(drop)
}

#[test]
fn expressions_that_loop_or_explode() -> Result<()> {
    let mut victim = Victim::start("expressions")?;
    let nested = |count: usize| format!("{}1{}", "(".repeat(count), ")".repeat(count));
    let expressions: Vec<String> = [
        "10**10**10",
        "2**(2**(2**(2**2)))",
        "1 << 10**9",
        "'a' * 10**9",
        "text * 10**6 + text * 10**6",
        "[many] * 10**8",
        "sum(sum(sum(a for a in many) for b in many) for c in many)",
        "sum(len(text * 300) for a in many for b in many)",
        "any(any(any(a + b + c < 0 for a in many) for b in many) for c in many)",
        "max(str(10**4000) for a in many)",
        "text.replace('x', text).replace('x', text).replace('x', text)",
        "text.split('x')",
        "cycle == other",
        "cycle < other",
        "table == table",
        "[[[[many, many], [many, many]], [many]], table, [table, table]]",
        "{a: 1 for a in many}",
        "(lambda: 0)()",
        "__import__('os').system('true')",
        "().__class__.__bases__[0].__subclasses__()",
        "exec('1')",
        "[x for x in many]",
        "int('9' * 100000)",
        "str(2**20000)",
        "round(1e308 * 10, 400)",
        "f'{many}'",
        "\u{0}",
        "((((((((((",
    ]
    .into_iter()
    .map(ToOwned::to_owned)
    .chain([
        nested(30),
        nested(10_000),
        "a.".repeat(500) + "b",
        "not ".repeat(250) + "x",
        "-".repeat(1000) + "1",
    ])
    .collect();
    let before = victim.memory()?;
    let line = line()?;
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for expression in &expressions {
        for body in [
            json!({"file": "victim.py", "line": line, "condition": expression, "limits": {"rate": 10}}),
            json!({"file": "victim.py", "line": line, "expressions": [expression], "limits": {"rate": 10}}),
        ] {
            let begun = Instant::now();
            let (status, answer) = victim.add(&body)?;
            ensure!(begun.elapsed() < Duration::from_secs(3), "{expression:.60}: took {:?}", begun.elapsed());
            match status {
                200 | 201 => {
                    accepted.push((expression.clone(), answer["id"].as_str().unwrap_or("").to_owned()))
                }
                _ => {
                    ensure!(is_clear(status, &answer), "{expression:.60}: {status} {answer}");
                    refused += 1;
                }
            }
        }
    }
    ensure!(refused > 10 && accepted.len() > 10, "{refused} refused, {} accepted", accepted.len());
    // They are evaluated: the line runs 50 times a second.
    let hits = |id: &str| -> Result<Json> {
        Ok(victim.ask("GET", &format!("/v1/breakpoints/{id}"), Some(TOKEN), b"")?.1)
    };
    let (_, last) = accepted.last().context("none was accepted")?;
    wait_for("hits", SOON, || Ok((hits(last)?["counters"]["hits"].as_u64() > Some(20)).then_some(())))
        .with_context(|| hits(last).map(|view| view.to_string()).unwrap_or_default())?;
    std::thread::sleep(Duration::from_secs(3));
    victim.is_well(before)?;
    let mut undefined = 0;
    let (_, snapshots) = victim.ask("GET", "/v1/snapshots", Some(TOKEN), b"")?;
    let text = snapshots.to_string();
    ensure!(text.len() < 4 << 20, "{} bytes of snapshots", text.len());
    for (expression, id) in &accepted {
        let view = hits(id)?;
        ensure!(view["id"].is_string(), "{expression}: {view}");
        undefined += view["counters"]["skipped"]["error"].as_u64().unwrap_or(0);
        undefined += view["counters"]["undefined"].as_u64().unwrap_or(0);
    }
    println!("{} accepted, {refused} refused, {undefined} evaluations had no value", accepted.len());
    ensure!(undefined > 0, "no evaluation failed");
    let audit = victim.audit()?;
    ensure!(
        audit.iter().filter(|entry| entry["action"] == "add").count() >= expressions.len(),
        "{}",
        audit.len()
    );
    victim.agent.stop(SOON).map(drop)
}

#[test]
fn ten_thousand_breakpoints_of_a_running_agent() -> Result<()> {
    let mut victim = Victim::start("many")?;
    let before = victim.memory()?;
    let (mut added, mut refused) = (0, None);
    let begun = Instant::now();
    for at in 0..10_000 {
        let (status, answer) =
            victim.add(&json!({"file": "victim.py", "line": line()?, "label": format!("{at}")}))?;
        match status {
            200 | 201 => added += 1,
            _ => {
                ensure!(is_clear(status, &answer), "{status} {answer}");
                refused = Some((status, answer));
            }
        }
    }
    println!("{added} of 10000 in {:?}, then {refused:?}", begun.elapsed());
    ensure!((100..5000).contains(&added) && refused.is_some(), "{added} were added");
    victim.is_well(before)?;
    let (_, list) = victim.ask("GET", "/v1/breakpoints", Some(TOKEN), b"")?;
    let count = list["breakpoints"].as_array().map_or(0, Vec::len);
    ensure!(count == added, "{count} of {added} are listed");
    victim.agent.stop(SOON).map(drop)
}
