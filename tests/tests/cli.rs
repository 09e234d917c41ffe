//! The command line: what `ps` and `doctor` say, and that errors name the remedy and have their exit codes.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tracekit_tests::app::{App, Setup, Tracing};
use tracekit_tests::process::{Process, wait_for};
use tracekit_tests::stage::Stage;
use tracekit_tests::{agent, paths};

/// Exit code, standard output and standard error of a command that ends by itself.
fn outcome(stage: &Stage, command: Command) -> Result<(i32, String, String)> {
    let mut process = Process::start("agent", stage.logs(), command)?;
    let status = process.wait(Duration::from_secs(20)).with_context(|| process.log_tail())?;
    Ok((status.code().unwrap_or(-1), process.stdout(), process.stderr()))
}

fn fails(name: &str, arguments: &[&str], code: i32, says: &[&str]) -> Result<()> {
    Stage::run(&format!("cli-{name}"), |stage| {
        let (status, _, said) = outcome(&stage, agent::command(arguments)?)?;
        ensure!(status == code, "exit code {status} instead of {code}:\n{said}");
        for text in says {
            ensure!(said.contains(text), "the message has no {text:?}:\n{said}");
        }
        ensure!(!said.contains("panicked"), "panic:\n{said}");
        Ok(())
    })
}

#[test]
fn no_such_process() -> Result<()> {
    // Above the kernel's largest pid_max.
    fails("no-such-process", &["attach", "--pid", "4194305"], 3, &["4194305"])
}

#[test]
fn nothing_matches() -> Result<()> {
    fails(
        "nothing-matches",
        &["attach", "--cmdline", "no such command line anywhere"],
        3,
        &["no such command"],
    )
}

#[test]
fn usage() -> Result<()> {
    fails("usage", &["attach", "--pid", "many"], 2, &["many", "--pid"])
}

#[test]
fn unknown_verb() -> Result<()> {
    fails("unknown-verb", &["atach"], 2, &["atach", "attach"])
}

#[test]
fn not_python() -> Result<()> {
    Stage::run("cli-not-python", |stage| {
        let mut sleeper = Command::new("sleep");
        sleeper.arg("60");
        let sleeper = Process::start("sleep", stage.logs(), sleeper)?;
        let pid = sleeper.pid().to_string();
        let (status, _, said) = outcome(&stage, agent::command(&["attach", "--pid", &pid])?)?;
        ensure!(status == 5, "exit code {status} instead of 5:\n{said}");
        ensure!(said.contains(&pid) && said.contains("Python"), "the message is not clear:\n{said}");
        Ok(())
    })
}

#[test]
fn no_privilege() -> Result<()> {
    Stage::run("cli-no-privilege", |stage| {
        let mut server = Command::new("/usr/bin/python3");
        server.args(["-c", "import time; time.sleep(60)"]);
        let server = Process::start("server", stage.logs(), server)?;
        // The binary may be where only root can go: a copy that everyone may execute.
        let place = tempfile::Builder::new().prefix("tracekit-").tempdir()?;
        let copy = place.path().join("tracekit");
        std::fs::copy(paths::agent()?, &copy)?;
        tracekit_tests::process::run(Command::new("chmod").args(["a+rx"]).arg(place.path()).arg(&copy))?;
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]).arg(&copy);
        command.args(["attach", "--pid", &server.pid().to_string()]).current_dir(place.path());
        let (status, _, said) = outcome(&stage, command)?;
        ensure!(status == 4, "exit code {status} instead of 4:\n{said}");
        ensure!(said.contains("CAP_") || said.contains("root"), "the message has no remedy:\n{said}");
        Ok(())
    })
}

#[test]
fn target_that_ends_ends_the_attach() -> Result<()> {
    Stage::run("cli-target-ends", |stage| {
        let mut server = Command::new("/usr/bin/python3");
        server.args(["-c", "import time; time.sleep(60)"]);
        let mut server = Process::start("server", stage.logs(), server)?;
        wait_for("the interpreter", Duration::from_secs(5), || {
            let command = std::fs::read_to_string(format!("/proc/{}/comm", server.pid()))?;
            Ok(command.starts_with("python").then_some(()))
        })?;
        let mut agent = agent::Agent::attach(&stage, &[server.pid()])?;
        server.stop(Duration::from_secs(5))?;
        let status = agent.process.wait(Duration::from_secs(10)).with_context(|| agent.process.log_tail())?;
        ensure!(status.success(), "exit code {status}");
        Ok(())
    })
}

fn flask(stage: &Stage) -> Result<App> {
    let environment = [stage.environment(), vec![("PG_PORT".into(), "1".into())]].concat();
    Setup::FlaskSync.start(stage.logs(), &environment, &Tracing::None)
}

#[test]
fn ps_lists_python_processes() -> Result<()> {
    Stage::run("cli-ps", |stage| {
        let stage = stage.with_redis()?;
        let app = flask(&stage)?;
        let (status, out, said) = outcome(&stage, agent::command(&["ps", "-o", "json"])?)?;
        ensure!(status == 0, "exit code {status}:\n{said}");
        let list: Value = serde_json::from_str(&out).with_context(|| format!("not JSON: {out}"))?;
        let list = list.as_array().with_context(|| format!("not a list: {out}"))?;
        for pid in app.pids() {
            let entry = list.iter().find(|entry| entry["pid"] == u64::from(pid));
            let entry = entry.with_context(|| format!("no entry for {pid} in {out}"))?.to_string();
            for text in ["3.11", "gunicorn", "shop_flask"] {
                ensure!(entry.contains(text), "no {text} in {entry}");
            }
        }
        let (status, table, said) = outcome(&stage, agent::command(&["ps"])?)?;
        ensure!(status == 0 && table.contains(&app.process.pid().to_string()), "{said}{table}");
        Ok(())
    })
}

#[test]
fn doctor_examines_host_and_process() -> Result<()> {
    Stage::run("cli-doctor", |stage| {
        let stage = stage.with_redis()?;
        let app = flask(&stage)?;
        let pid = app.process.pid().to_string();
        let (status, out, said) = outcome(&stage, agent::command(&["doctor", "--pid", &pid])?)?;
        ensure!(status == 0, "exit code {status}:\n{said}{out}");
        for text in ["BTF", "CAP_BPF", &pid, "3.11"] {
            ensure!(out.contains(text), "no {text} in:\n{out}");
        }
        Ok(())
    })
}
