//! Breakpoints through the command line and a running agent: verbs, exit codes, restarts, and what is not allowed.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value as Json, json};
use tracekit_tests::process::{Process, wait_for};
use tracekit_tests::stage::Stage;
use tracekit_tests::{agent, paths};

const SOON: Duration = Duration::from_secs(20);

/// An agent with a socket and a state directory of its own, attached to a Python that sleeps.
struct Place {
    stage: Stage,
    target: Process,
}

impl Place {
    fn new(stage: Stage) -> Result<Self> {
        let mut target = Command::new("/usr/bin/python3");
        target.args(["-c", "import time; time.sleep(600)"]).env("OTEL_SERVICE_NAME", "shop");
        let target = Process::start("target", stage.logs(), target)?;
        wait_for("the interpreter", SOON, || {
            let command = std::fs::read_to_string(format!("/proc/{}/comm", target.pid()))?;
            Ok(command.starts_with("python").then_some(()))
        })?;
        Ok(Self { stage, target })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.stage.logs().join(name)
    }

    fn agent(&self, further: &[&str], environment: &[(&str, &str)]) -> Result<Process> {
        let ready = self.path("ready");
        if ready.exists() {
            std::fs::remove_file(&ready)?;
        }
        let mut command =
            agent::command(&["attach", "--print", "none", "--pid", &self.target.pid().to_string()])?;
        command.arg("--ready-file").arg(&ready).arg("--control-socket").arg(self.path("run/agent.sock"));
        command.arg("--state-dir").arg(self.path("state")).args(further).envs(environment.iter().copied());
        let mut process = Process::start("agent", self.stage.logs(), command)?;
        process.ready(SOON, || Ok(ready.exists().then_some(())))?;
        Ok(process)
    }

    /// Exit code, standard output and standard error of a verb.
    fn verb(&self, arguments: &[&str]) -> Result<(i32, String, String)> {
        let output =
            agent::command(arguments)?.env("TRACEKIT_AGENT", self.path("run/agent.sock")).output()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr)))
    }

    fn json(&self, arguments: &[&str]) -> Result<Json> {
        let (code, out, said) = self.verb(&[arguments, &["-o", "json"]].concat())?;
        ensure!(code == 0, "{arguments:?}: exit code {code}:\n{said}");
        serde_json::from_str(&out).with_context(|| format!("{arguments:?} printed no JSON: {out}"))
    }

    fn fails(&self, arguments: &[&str], expected: i32, says: &str) -> Result<()> {
        let (code, _, said) = self.verb(arguments)?;
        ensure!(code == expected, "{arguments:?}: exit code {code} instead of {expected}:\n{said}");
        ensure!(
            said.contains(says) && !said.contains("panicked"),
            "{arguments:?} says {said:?} without {says:?}"
        );
        Ok(())
    }
}

fn run(name: &str, test: impl FnOnce(&Place) -> Result<()>) -> Result<()> {
    Stage::run(&format!("breakpoints-{name}"), |stage| test(&Place::new(stage)?))
}

#[test]
fn the_verbs() -> Result<()> {
    run("verbs", |place| {
        place.fails(&["break", "ls"], 3, "tracekit attach --pid")?;
        let mut agent = place.agent(&[], &[])?;
        let pid = place.target.pid().to_string();
        let add = [
            "break",
            "add",
            "app/orders.py:42",
            "--if",
            "order.total > 100",
            "--expr",
            "user.id",
            "--expr",
            "len(items)",
            "--hits",
            "5",
            "--expires",
            "30m",
            "--rate",
            "30/m",
            "--depth",
            "2",
            "--label",
            "big orders",
            "--service",
            "shop",
        ];
        let added = place.json(&add)?;
        for (key, expected) in [
            ("/state", json!("PENDING")),
            ("/condition", json!("order.total > 100")),
            ("/expressions", json!(["user.id", "len(items)"])),
            ("/limits/hits", json!(5)),
            ("/limits/expires_seconds", json!(1800)),
            ("/limits/rate", json!(0.5)),
            ("/limits/depth", json!(2)),
            ("/label", json!("big orders")),
            ("/service", json!("shop")),
            ("/processes/0/pid", json!(place.target.pid())),
        ] {
            ensure!(added.pointer(key) == Some(&expected), "{key} is not {expected} in {added}");
        }
        let id = added["id"].as_str().context("no id")?;
        let (code, out, said) = place.verb(&[
            "log",
            "add",
            "orders.py:50",
            "total={order.total}",
            "--level",
            "warn",
            "--pid",
            &pid,
        ])?;
        ensure!(code == 0 && out.contains("PENDING") && out.contains("orders.py:50"), "{out}{said}");

        ensure!(place.json(&["break", "ls"])?.as_array().map(Vec::len) == Some(1), "a log is no break");
        let (_, table, _) = place.verb(&["log", "ls"])?;
        ensure!(table.contains("orders.py:50") && !table.contains("orders.py:42"), "{table}");
        ensure!(place.json(&["break", "get", id])?["id"] == id);
        let (_, details, _) = place.verb(&["break", "get", id])?;
        for text in ["big orders", "order.total > 100", "len(items)", &pid, "PENDING", "hits 5"] {
            ensure!(details.contains(text), "no {text:?} in:\n{details}");
        }
        for (verb, state) in [("disable", "DISABLED"), ("enable", "PENDING")] {
            let (code, out, said) = place.verb(&["break", verb, id])?;
            ensure!(code == 0 && out.contains(state), "{out}{said}");
        }
        let (_, out, _) = place.verb(&["kill-switch", "on"])?;
        ensure!(out.contains("on everywhere"), "{out}");
        ensure!(place.json(&["break", "get", id])?["reason"] == "kill-switch");
        ensure!(place.json(&["kill-switch", "status"])?["enabled"] == true);
        place.verb(&["kill-switch", "off"])?;
        ensure!(place.json(&["snapshots", "ls"])? == json!([]), "nothing captures yet");
        let limits = place.json(&["limits"])?;
        ensure!(limits["snapshot"]["hits"]["default"] == 100, "{limits}");

        for (arguments, code, says) in [
            (&["break", "add", "orders.py"][..], 2, "app/orders.py:42"),
            (&["break", "add", "orders.py:0"], 2, "app/orders.py:42"),
            (&["break", "add", "orders.py:1", "--depth", "99"], 2, "use 0 to 6"),
            (&["break", "add", "orders.py:1", "--expires", "soon"], 2, "90s"),
            (&["break", "add", "orders.py:1", "--pid", "4194000"], 3, "4194000 is not traced"),
            (&["break", "get", "bp-none"], 3, "break ls"),
            (&["break", "get", "no/id"], 2, "letters, digits"),
            (&["break", "rm", "bp-none"], 3, "break ls"),
            (&["break", "watch", "bp-none"], 3, "break ls"),
            (&["log", "add", "orders.py:1"], 2, "TEMPLATE"),
            (&["snapshots", "get", "sn-1"], 3, "sn-1"),
            (&["break", "ls", "--agent", "/no/such.sock"], 3, "/no/such.sock"),
            (&["break", "ls", "--agent", "nonsense"], 2, "http://HOST:PORT"),
        ] {
            place.fails(arguments, code, says)?;
        }
        let (code, out, said) = place.verb(&["break", "rm", "bp-none", id])?;
        ensure!(code == 3 && out.contains("removed") && said.contains("bp-none"), "{code} {out}{said}");
        ensure!(place.json(&["break", "ls"])? == json!([]));

        let audit = std::fs::read_to_string(place.path("state/audit.jsonl"))?;
        let actions: Vec<String> = audit
            .lines()
            .map(|line| Ok(serde_json::from_str::<Json>(line)?))
            .map(|entry: Result<Json>| {
                entry.map(|entry| format!("{}{}", entry["action"], entry["refused"].is_string()))
            })
            .collect::<Result<_>>()?;
        for expected in [
            "\"add\"false",
            "\"add\"true",
            "\"disable\"false",
            "\"enable\"false",
            "\"kill-switch\"false",
            "\"remove\"false",
            "\"remove\"true",
        ] {
            ensure!(actions.iter().any(|action| action == expected), "no {expected} in {actions:?}");
        }
        let status = agent.stop(SOON)?;
        ensure!(status.success(), "{status}");
        ensure!(!place.path("run/agent.sock").exists(), "the socket is left behind");
        Ok(())
    })
}

#[test]
fn breakpoints_outlive_the_agent() -> Result<()> {
    run("restart", |place| {
        let mut agent = place.agent(&[], &[])?;
        let id = place.json(&["break", "add", "app/orders.py:42", "--label", "kept"])?["id"].clone();
        place.verb(&["kill-switch", "on", "--service", "shop"])?;
        // Written at once, so that not even this loses it.
        wait_for("the file", SOON, || {
            let text = std::fs::read_to_string(place.path("state/breakpoints.json")).unwrap_or_default();
            Ok((text.contains("kept") && text.contains("shop")).then_some(()))
        })?;
        agent.signal(libc::SIGKILL);
        agent.wait(SOON)?;

        // The socket that it has left is in nobody's way.
        let mut agent = place.agent(&[], &[])?;
        let list = place.json(&["break", "ls"])?;
        ensure!(list[0]["id"] == id && list[0]["label"] == "kept", "{list}");
        ensure!(place.json(&["kill-switch", "status"])?["services"]["shop"].is_object());
        let mode = |name: &str| -> Result<u32> {
            Ok(std::fs::metadata(place.path(name))?.permissions().mode() & 0o777)
        };
        for (name, expected) in [
            ("run", 0o700),
            ("run/agent.sock", 0o600),
            ("state", 0o700),
            ("state/breakpoints.json", 0o600),
            ("state/audit.jsonl", 0o600),
        ] {
            ensure!(mode(name)? == expected, "{name} has mode {:o}", mode(name)?);
        }
        agent.stop(SOON)?;

        // A file that is not what it should be is kept, said, and not used.
        std::fs::write(place.path("state/breakpoints.json"), "{\"version\": 1, \"breakp")?;
        let mut agent = place.agent(&[], &[])?;
        ensure!(place.json(&["break", "ls"])? == json!([]));
        let said = agent.stderr();
        ensure!(said.contains("breakpoints.json.broken-"), "{said}");
        agent.stop(SOON).map(drop)
    })
}

#[test]
fn two_agents_do_not_disturb_each_other() -> Result<()> {
    run("two", |place| {
        let mut first = place.agent(&[], &[])?;
        place.json(&["break", "add", "app/orders.py:42"])?;
        let pid = place.target.pid().to_string();
        for (socket, state, says) in [
            ("run/agent.sock", "other", "another agent listens"),
            ("run/other.sock", "state", "another agent uses"),
        ] {
            let mut second = agent::command(&["attach", "--print", "none", "--pid", &pid])?;
            second.arg("--control-socket").arg(place.path(socket)).arg("--state-dir").arg(place.path(state));
            let mut second = Process::start("second", place.stage.logs(), second)?;
            let status = second.wait(SOON)?;
            let said = second.stderr();
            ensure!(status.code() == Some(1) && said.contains(says), "{status}: {said}");
        }
        ensure!(place.json(&["break", "ls"])?.as_array().map(Vec::len) == Some(1));
        first.stop(SOON).map(drop)
    })
}

#[test]
fn over_tcp_with_a_token() -> Result<()> {
    run("tcp", |place| {
        let port = tracekit_tests::process::free_port()?;
        let token = "a-token-of-more-than-16-characters";
        let address = format!("127.0.0.1:{port}");
        let mut agent = place.agent(&["--control-listen", &address], &[("TRACEKIT_CONTROL_TOKEN", token)])?;
        let url = format!("http://{address}");
        place.fails(&["break", "ls", "--agent", &url], 4, "token")?;
        let output = agent::command(&["break", "add", "x.py:1", "--agent", &url])?
            .env("TRACEKIT_CONTROL_TOKEN", token)
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let list = place.json(&["break", "ls"])?;
        ensure!(list[0]["created_by"].as_str().is_some_and(|who| who.starts_with("127.0.0.1:")), "{list}");
        agent.stop(SOON)?;

        let pid = place.target.pid().to_string();
        let mut open =
            agent::command(&["attach", "--print", "none", "--pid", &pid, "--control-listen", "0.0.0.0:0"])?;
        open.arg("--control-socket")
            .arg(place.path("run/open.sock"))
            .arg("--state-dir")
            .arg(place.path("open"));
        let mut open = Process::start("open", place.stage.logs(), open)?;
        let status = open.wait(SOON)?;
        ensure!(
            status.code() == Some(2) && open.stderr().contains("needs a token"),
            "{status}: {}",
            open.stderr()
        );
        Ok(())
    })
}

#[test]
fn others_cannot_use_the_socket() -> Result<()> {
    run("others", |place| {
        let mut agent = place.agent(&[], &[])?;
        // The binary may be where only root can go: a copy that everyone may execute.
        let folder = tempfile::Builder::new().prefix("tracekit-").tempdir()?;
        let copy = folder.path().join("tracekit");
        std::fs::copy(paths::agent()?, &copy)?;
        let socket = folder.path().join("agent.sock");
        std::os::unix::fs::symlink(std::fs::canonicalize(place.path("run/agent.sock"))?, &socket)?;
        for path in [folder.path(), &copy] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]).arg(&copy);
        command.args(["break", "ls", "--agent"]).arg(&socket).current_dir(folder.path());
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(4) && said.contains("not permitted"),
            "{:?}: {said}",
            output.status
        );
        agent.stop(SOON).map(drop)
    })
}

#[test]
fn watching_shows_what_happens() -> Result<()> {
    run("watch", |place| {
        let mut agent = place.agent(&[], &[])?;
        let added = place.json(&["break", "add", "app/orders.py:42"])?;
        let id = added["id"].as_str().context("no id")?;
        let mut watch = agent::command(&["break", "watch", id, "-o", "json"])?;
        watch.env("TRACEKIT_AGENT", place.path("run/agent.sock"));
        let mut watch = Process::start("watch", place.stage.logs(), watch)?;
        wait_for("the first event", SOON, || Ok(watch.stdout().contains("\"init\"").then_some(())))?;
        place.verb(&["break", "disable", id])?;
        place.verb(&["break", "add", "other.py:1"])?;
        place.verb(&["break", "rm", id])?;
        let status = watch.wait(SOON)?;
        ensure!(status.success(), "{status}");
        let events: Vec<String> = watch
            .stdout()
            .lines()
            .map(|line| {
                Ok(serde_json::from_str::<Json>(line)?["event"].as_str().unwrap_or_default().to_owned())
            })
            .collect::<Result<_>>()?;
        ensure!(events == ["init", "updated", "state", "removed"], "{events:?}");

        let mut tail = agent::command(&["snapshots", "tail"])?;
        tail.env("TRACEKIT_AGENT", place.path("run/agent.sock"));
        let mut tail = Process::start("tail", place.stage.logs(), tail)?;
        std::thread::sleep(Duration::from_secs(1));
        agent.stop(SOON)?;
        let status = tail.wait(SOON)?;
        ensure!(
            status.code() == Some(1) && tail.stderr().contains("has ended"),
            "{status}: {}",
            tail.stderr()
        );
        Ok(())
    })
}
