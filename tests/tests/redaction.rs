//! Nothing that is secret appears in what the agent shows of a process, on every interpreter of
//! `cargo xtask interpreters`; what is ordinary does.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tracekit_tests::interpreters::{Interpreter, Running, installed};
use tracekit_tests::process::Process;
use tracekit_tests::stage::Stage;
use tracekit_tests::{agent, paths};

/// Ordinary values and secrets that `tests/apps/holds_secrets.py` holds: `ordinary-01`, `planted-01` and so on.
const ORDINARY: usize = 33;
const PLANTED: usize = 40;
/// Places of ordinary values where the text around them is written differently.
const UNDERSCORED: &str = "ordinary_24";

/// A process that holds them.
fn start(interpreter: &Interpreter) -> Result<Running> {
    let mut command = interpreter.command();
    // From standard input: those in a tree of their own see no file of the repository.
    command.arg("-");
    let input = File::open(paths::apps().join("holds_secrets.py"))?;
    let running = Running::start(command, Stdio::from(input))?;
    ensure!(running.said.trim() == "ready", "it printed {:?}", running.said);
    Ok(running)
}

/// Exit code, standard output and standard error of a command that ends by itself.
fn outcome(stage: &Stage, arguments: &[&str]) -> Result<(i32, String, String)> {
    let mut process = Process::start("agent", stage.logs(), agent::command(arguments)?)?;
    let status = process.wait(Duration::from_secs(20)).with_context(|| process.log_tail())?;
    Ok((status.code().unwrap_or(-1), process.stdout(), process.stderr()))
}

fn dumped(stage: &Stage, pid: u32, more: &[&str]) -> Result<String> {
    let pid = pid.to_string();
    let arguments = [&["dump", "--pid", &pid, "--locals", "--depth", "8"], more].concat();
    let (status, out, said) = outcome(stage, &arguments)?;
    ensure!(status == 0, "exit code {status}:\n{said}");
    Ok(out)
}

fn check(stage: &Stage, interpreter: &Interpreter) -> Result<()> {
    let target = start(interpreter)?;
    let pid = target.pid();
    let shown = [dumped(stage, pid, &[])?, dumped(stage, pid, &["-o", "json"])?];
    for text in &shown {
        let shown: Vec<&str> = text.lines().filter(|line| line.to_lowercase().contains("planted")).collect();
        ensure!(shown.is_empty(), "secrets are shown:\n{}", shown.join("\n"));
        for secret in ["4111111111111111", "4711471147", "eyJhbGci"] {
            ensure!(!text.contains(secret), "{secret} is shown");
        }
        for number in 1..=ORDINARY {
            let ordinary = format!("ordinary-{number:02}");
            let there = text.contains(&ordinary) || (number == 24 && text.contains(UNDERSCORED));
            ensure!(there, "{ordinary} is hidden:\n{text}");
        }
        ensure!(text.contains("1234567890123456"), "a number is hidden");
        for marker in ["sensitive_name", "credit_card", "email", "jwt", "aws_key", "credentials", "password"]
        {
            ensure!(text.contains(&format!("[REDACTED:{marker}]")), "no {marker} in:\n{text}");
        }
    }
    let json: Value = serde_json::from_str(&shown[1])?;
    let hidden = json["hidden"].as_object().context("nothing is counted")?;
    ensure!(hidden["sensitive_name"].as_u64() > Some(20), "{hidden:?}");
    // What was looked for is there, if it may be shown.
    let all = dumped(stage, pid, &["--show-secrets"])?.to_lowercase();
    for number in 1..=PLANTED {
        let there = all.contains(&format!("planted-{number:02}"))
            || all.contains("planted33planted") && number == 33
            // Behind what is shown of the string.
            || number == 34
            || all.contains("akiaplanted000000036") && number == 36;
        ensure!(there, "planted-{number:02} is nowhere");
    }
    Ok(())
}

#[test]
fn no_secret_is_shown_of_any_interpreter() -> Result<()> {
    Stage::run("redaction", |stage| {
        let mut failures = Vec::new();
        for interpreter in installed()? {
            if let Err(error) = check(&stage, &interpreter) {
                failures.push(format!("{}: {error:#}", interpreter.id));
            }
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    })
}

#[test]
fn the_verb_shows_what_is_hidden_of_a_text() -> Result<()> {
    Stage::run("redaction-verb", |stage| {
        let file = stage.logs().join("app.log");
        std::fs::write(&file, "an ordinary line\npassword=hunter2 of bob@example.com, badge B-77\n")?;
        let file = file.to_str().context("the path is text")?;
        let (status, out, said) = outcome(&stage, &["redact", file])?;
        ensure!(status == 0, "exit code {status}:\n{said}");
        let expected = "an ordinary line\npassword=[REDACTED:password] of [REDACTED:email], badge B-77\n";
        ensure!(out == expected, "{out}");
        let report = ["redact", "--report", "--allow", "password", "--pattern", "badge=B-[0-9]+", file];
        let (status, out, _) = outcome(&stage, &report)?;
        ensure!(status == 0 && out == "2:21\temail\n2:44\tbadge\n2 hidden: 1 badge, 1 email\n", "{out}");
        let (_, out, _) = outcome(&stage, &["redact", "-o", "json", file])?;
        let report: Value = serde_json::from_str(&out)?;
        let first = serde_json::json!({"line": 2, "column": 10, "type": "password"});
        ensure!(report["findings"][0] == first && report["counts"]["email"] == 1, "{out}");
        ensure!(!out.contains("hunter2") && !out.contains("bob"), "{out}");
        for (arguments, code, says) in [
            (["redact", "--pattern", "badge=(", file], 2, "badge"),
            (["redact", "--pattern", "badge", file], 2, "TYPE=REGEX"),
            (["redact", "--report", "--report", "no such file"], 2, "--report"),
        ] {
            let (status, _, said) = outcome(&stage, &arguments)?;
            ensure!(status == code && said.contains(says), "{arguments:?}: exit code {status}:\n{said}");
        }
        let (status, _, said) = outcome(&stage, &["redact", "no such file"])?;
        ensure!(status == 3 && said.contains("no such file"), "exit code {status}:\n{said}");
        Ok(())
    })
}
