//! Limits of breakpoints: captures, rates, time, conditions, budget, kill switch.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use serde_json::Value as Json;
use tracekit_tests::agent::Agent;
use tracekit_tests::debugger::{Driven, SOON, debugged, line_of, place};
use tracekit_tests::paths;
use tracekit_tests::process::{cpu_seconds, wait_for};

fn driven() -> Result<Driven> {
    let mut app = Driven::start(&[&paths::apps().join("debugged")])?;
    app.ask("load('counted')")?;
    Ok(app)
}

fn counter(view: &Json, pointer: &str) -> Result<u64> {
    view.pointer(&format!("/counters/{pointer}"))
        .and_then(Json::as_u64)
        .with_context(|| format!("no {pointer}"))
}

/// Waits until the line is not watched any more.
fn no_more_hits(app: &mut Driven, agent: &Agent, id: &str) -> Result<()> {
    wait_for("executions that are not counted", SOON, || {
        let before = counter(&agent.breakpoint(id)?, "hits")?;
        app.ask("loop(counted.step, range(20))")?;
        std::thread::sleep(Duration::from_millis(200));
        Ok((counter(&agent.breakpoint(id)?, "hits")? == before).then_some(()))
    })
}

#[test]
fn captures_rates_and_time() -> Result<()> {
    debugged("snapshots-limits", |stage| {
        let mut app = driven()?;
        let agent = Agent::attach(&stage, &[app.pid()])?;
        let place = place("debugged/counted.py", "step")?;

        // So many and no more, although there is time for more; then it is not even armed.
        let id = agent.arm(&["break", "add", &place, "--hits", "5", "--rate", "10"], 1)?;
        app.ask("loop(counted.step, range(40), pause=0.05)")?;
        let view = agent.when(&id, "done", |view| view["state"] == "DONE")?;
        ensure!(counter(&view, "captured")? == 5 && view["captures_left"] == 0, "{view:#}");
        ensure!(agent.snapshots(&id)?.len() == 5);
        let (_, table, _) = agent.verb(&["break", "ls"])?;
        ensure!(table.contains("DONE(hits)"), "{table}");
        no_more_hits(&mut app, &agent, &id)?;
        ensure!(agent.snapshots(&id)?.len() == 5);

        // A rate, and what it has left out.
        let id = agent.arm(&["break", "add", &place, "--rate", "2"], 1)?;
        let start = Instant::now();
        app.ask("loop(counted.step, range(60), pause=0.02)")?;
        let most = 2.0 + 2.0 * start.elapsed().as_secs_f64() + 1.0;
        let view = agent.hits(&id, 60)?;
        let captured = counter(&view, "captured")?;
        ensure!(captured >= 2 && captured as f64 <= most, "{captured} captures, {most} at most");
        let skipped = counter(&view, "skipped/rate")? + counter(&view, "skipped/error")?;
        ensure!(captured + skipped == 60, "{view:#}");
        let last = agent.snapshots(&id)?.iter().filter_map(|one| one["skipped"]["rate"].as_u64()).max();
        ensure!(last.is_some_and(|rate| rate > 0), "no snapshot says what was left out before it");
        agent.verb(&["break", "rm", &id])?;

        // Its time is over.
        let id = agent.arm(&["break", "add", &place, "--expires", "8s"], 1)?;
        agent.when(&id, "expired", |view| view["state"] == "EXPIRED")?;
        no_more_hits(&mut app, &agent, &id)?;
        ensure!(counter(&agent.breakpoint(&id)?, "captured")? == 0);

        // All breakpoints of a process together.
        let file = paths::apps().join("debugged/counted.py");
        let line = line_of(&file, "step")?;
        let ids: Vec<String> = (line - 2..=line)
            .map(|line| agent.arm(&["break", "add", &format!("counted.py:{line}"), "--rate", "10"], 1))
            .collect::<Result<_>>()?;
        let start = Instant::now();
        app.ask("loop(counted.step, range(60), pause=0.01)")?;
        let most = 20.0 + 20.0 * start.elapsed().as_secs_f64() + 1.0;
        let mut captured = 0;
        for id in &ids {
            captured += counter(&agent.hits(id, 60)?, "captured")?;
        }
        ensure!(captured >= 15 && captured as f64 <= most, "{captured} captures, {most} at most");
        Ok(())
    })
}

#[test]
fn conditions_and_others_on_the_same_line() -> Result<()> {
    debugged("snapshots-conditions", |stage| {
        let mut app = driven()?;
        let agent = Agent::attach(&stage, &[app.pid()])?;
        let place = place("debugged/counted.py", "step")?;
        let short = place.trim_start_matches("debugged/").to_owned();
        let one = agent.add(&["break", "add", &place, "--if", "item.number == 137 and double > 200"])?;
        let undefined = agent.add(&["break", "add", &short, "--if", "nothing.at.all == 1"])?;
        let log = agent.add(&["log", "add", &short, "{number}: {double + 1} {nothing}", "--rate", "1000"])?;
        let odd =
            agent.add(&["break", "add", &place, "--if", "number % 2 == 1", "--hits", "3", "--rate", "10"])?;
        for id in [&one, &undefined, &log, &odd] {
            agent.armed(id, 1)?;
        }
        app.ask("loop(counted.step, range(200), pause=0.02)")?;
        let view = agent.hits(&one, 200)?;
        ensure!(counter(&view, "captured")? == 1 && counter(&view, "skipped/condition")? == 199, "{view:#}");
        let snapshots = agent.snapshots(&one)?;
        ensure!(snapshots.len() == 1 && snapshots[0]["stack"][0]["locals"]["number"]["value"] == 137);
        let view = agent.hits(&undefined, 200)?;
        ensure!(counter(&view, "captured")? == 0 && counter(&view, "undefined")? == 200, "{view:#}");
        let view = agent.hits(&log, 200)?;
        ensure!(counter(&view, "captured")? == 200 && counter(&view, "undefined")? == 200, "{view:#}");
        let lines = agent.snapshots(&log)?;
        ensure!(lines.iter().any(|line| line["message"] == "20: 41 UNDEFINED"), "{:#}", lines[0]);
        let view = agent.when(&odd, "done", |view| view["state"] == "DONE")?;
        ensure!(counter(&view, "captured")? == 3, "{view:#}");

        // Each leaves on its own.
        agent.verb(&["break", "rm", &one])?;
        agent.verb(&["break", "disable", &undefined])?;
        app.ask("loop(counted.step, range(50), pause=0.01)")?;
        agent.hits(&log, 250)?;
        agent.hits(&undefined, 200)?;
        agent.verb(&["break", "rm", &log])?;
        agent.verb(&["break", "enable", &undefined])?;
        agent.armed(&undefined, 1)?;
        app.ask("loop(counted.step, range(50), pause=0.01)")?;
        agent.hits(&undefined, 250)?;
        Ok(())
    })
}

#[test]
fn a_condition_that_is_false_costs_no_rate() -> Result<()> {
    debugged("snapshots-decided", |stage| {
        let mut app = driven()?;
        // To 3.10 the interpreter reads code once more when it has run so often.
        app.ask("loop(counted.step, range(1100))")?;
        let agent = Agent::attach(&stage, &[app.pid()])?;
        let place = place("debugged/counted.py", "step")?;
        let id = agent.arm(&["break", "add", &place, "--if", "number == 1234 and double is not None"], 1)?;
        app.ask("loop(counted.step, range(2000), pause=0.003)")?;
        let view = agent.hits(&id, 2000)?;
        ensure!(counter(&view, "captured")? == 1 && counter(&view, "skipped/condition")? == 1999, "{view:#}");
        ensure!(counter(&view, "skipped/rate")? == 0 && counter(&view, "undefined")? == 0, "{view:#}");
        let snapshots = agent.snapshots(&id)?;
        ensure!(snapshots.len() == 1 && snapshots[0]["stack"][0]["locals"]["number"]["value"] == 1234);

        // With another breakpoint on the line, the agent decides again; and alone, the kernel side does.
        let short = place.trim_start_matches("debugged/").to_owned();
        let other = agent.arm(&["break", "add", &short, "--if", "number < 0"], 1)?;
        app.ask("loop(counted.step, range(1200, 1300), pause=0.01)")?;
        let view = agent.hits(&id, 2100)?;
        ensure!(counter(&view, "captured")? == 2 && counter(&view, "skipped/condition")? == 2098, "{view:#}");
        let view = agent.hits(&other, 100)?;
        ensure!(counter(&view, "captured")? == 0 && counter(&view, "skipped/condition")? == 100, "{view:#}");
        agent.verb(&["break", "rm", &other])?;
        std::thread::sleep(Duration::from_millis(500));
        app.ask("loop(counted.step, range(2000), pause=0.003)")?;
        let view = agent.hits(&id, 4100)?;
        ensure!(counter(&view, "captured")? == 3 && counter(&view, "skipped/condition")? == 4097, "{view:#}");
        Ok(())
    })
}

/// Calls of `spin` for each second of the process's own time: what others do on the machine does not matter.
fn throughput(app: &mut Driven) -> Result<f64> {
    let pid = app.pid();
    let mut windows = Vec::new();
    for _ in 0..5 {
        let (calls, time) = (app.number("count()")?, cpu_seconds(pid).context("no times")?);
        let busy = wait_for("the process to work", SOON, || {
            let now = cpu_seconds(pid).context("no times")?;
            Ok((now - time >= 0.3).then_some(now - time))
        })?;
        windows.push((app.number("count()")? - calls) as f64 / busy);
    }
    windows.sort_by(f64::total_cmp);
    Ok(windows[windows.len() / 2])
}

#[test]
fn the_hottest_line_is_paused() -> Result<()> {
    debugged("snapshots-budget", |stage| {
        let mut app = driven()?;
        let agent = Agent::attach(&stage, &[app.pid()])?;
        let place = place("debugged/counted.py", "spin")?;
        app.ask("begin(counted.spin, [2000] * 10**6)")?;
        let before = throughput(&mut app)?;
        let id = agent.add(&["break", "add", &place])?;
        let paused = |view: &Json| view["reason"] == "budget";
        agent.when(&id, "paused", paused)?;
        std::thread::sleep(Duration::from_secs(1));
        let mut now = throughput(&mut app)?;
        let (_, table, _) = agent.verb(&["break", "ls"])?;
        let view = agent.breakpoint(&id)?;
        ensure!(table.contains("PAUSED(budget)") && paused(&view), "{table}\n{view:#}");
        ensure!(counter(&view, "hits")? > 0);
        agent.verb(&["break", "disable", &id])?;
        let mut after = throughput(&mut app)?;
        if now < 0.95 * before.min(after) {
            // Something else changed the speed of the machine: once more, with both at the same time.
            agent.verb(&["break", "enable", &id])?;
            agent.when(&id, "paused", paused)?;
            std::thread::sleep(Duration::from_secs(1));
            now = throughput(&mut app)?;
            agent.verb(&["break", "disable", &id])?;
            after = after.min(throughput(&mut app)?);
        }
        ensure!(
            now >= 0.95 * before.min(after),
            "{now} calls a second while paused; {before} before, {after} after"
        );

        // The load has changed: it goes on.
        app.ask("end()")?;
        agent.verb(&["break", "enable", &id])?;
        agent.armed(&id, 1)?;
        std::thread::sleep(Duration::from_millis(300));
        let hits = counter(&agent.breakpoint(&id)?, "hits")?;
        app.ask("counted.spin(7)")?;
        agent.hits(&id, hits + 7)?;
        Ok(())
    })
}

fn newest(agent: &Agent, id: &str) -> Result<Timestamp> {
    let times = agent.snapshots(id)?.into_iter().filter_map(|one| one["time"].as_str()?.parse().ok());
    Ok(times.max().unwrap_or(Timestamp::UNIX_EPOCH))
}

#[test]
fn the_kill_switch_stops_captures() -> Result<()> {
    debugged("snapshots-kill", |stage| {
        let mut app = driven()?;
        let agent = Agent::attach(&stage, &[app.pid()])?;
        let place = place("debugged/counted.py", "step")?;
        app.ask("begin(counted.step, range(10**9), threads=2, pause=0.02)")?;
        let id = agent.arm(&["break", "add", &place, "--rate", "10", "--hits", "10000"], 1)?;
        let captures = |since: Timestamp| {
            wait_for("a snapshot", SOON, || Ok((newest(&agent, &id)? > since).then_some(())))
        };
        captures(Timestamp::UNIX_EPOCH)?;
        for service in [&[][..], &["--service", "driven"]] {
            let (code, _, said) = agent.verb(&[&["kill-switch", "on"][..], service].concat())?;
            let acknowledged = Timestamp::now();
            ensure!(code == 0, "{said}");
            let view = agent.breakpoint(&id)?;
            ensure!(view["state"] == "PAUSED" && view["reason"] == "kill-switch", "{view:#}");
            std::thread::sleep(Duration::from_millis(1500));
            let newest = newest(&agent, &id)?;
            let late = newest.duration_since(acknowledged);
            ensure!(late.as_millis() < 100, "a snapshot {late} after the switch");
            ensure!(agent.json(&["kill-switch", "status"])?["enabled"] == true);
            // Another service's is another's.
            agent.verb(&["kill-switch", "on", "--service", "another"])?;
            agent.verb(&[&["kill-switch", "off"][..], service].concat())?;
            captures(acknowledged)?;
            agent.armed(&id, 1)?;
            agent.verb(&["kill-switch", "off"])?;
        }
        ensure!(app.number("end()")? > 0);
        Ok(())
    })
}

/// Some virtual machines raise debug exceptions without a reason, which kill who gets them; so does the instruction `INT1`.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_debug_exception_without_a_reason_ends_watching() -> Result<()> {
    use tracekit_tests::debug_registers::{Faults, debug_registers};
    use tracekit_tests::stage::Stage;

    let _registers = debug_registers()?;
    Stage::run("snapshots-trapped", |stage| {
        let (mut app, mut victim) = (driven()?, driven()?);
        let agent = Agent::attach(&stage, &[app.pid(), victim.pid()])?;
        let id = agent.arm(&["break", "add", &place("debugged/counted.py", "step")?], 2)?;
        victim.ask("load('trapped')")?;
        let mut faults = Faults::count()?;
        let died = victim.ask("trapped.trap()");
        ensure!(died.is_err(), "it goes on: {died:?}");
        ensure!(
            faults.since()? > 0 && faults.since()? == 0,
            "it is not counted as a fault of the machine, or again"
        );
        let view = agent.when(&id, "killed", |view| view["reason"] == "kill-switch")?;
        ensure!(view["state"] == "PAUSED", "{view:#}");
        let status = agent.json(&["kill-switch", "status"])?;
        let by = status.to_string();
        ensure!(by.contains(&format!("a debug exception without a reason in PID {}", victim.pid())), "{by}");
        no_more_hits(&mut app, &agent, &id)?;
        agent.verb(&["kill-switch", "off"])?;
        agent.armed(&id, 1)?;
        let said = std::fs::read_to_string(stage.logs().join("agent.err"))?;
        ensure!(said.contains("got a SIGTRAP"), "{said}");
        Ok(())
    })
}
