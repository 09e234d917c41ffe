//! What is said of requests that make the same call again and again, and of calls that are slow: Django's ORM on PostgreSQL.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tracekit_tests::agent::{Agent, listing};
use tracekit_tests::app::{Setup, Tracing};
use tracekit_tests::client::{Request, send_once};
use tracekit_tests::paths;
use tracekit_tests::span::Span;
use tracekit_tests::stage::Stage;

/// The line of the shop's views that contains this.
fn line(text: &str) -> Result<(String, usize)> {
    let path = paths::apps().join("shop_django/views.py");
    let views = std::fs::read_to_string(&path)?;
    let index = views.lines().position(|line| line.contains(text)).context("no such line")?;
    Ok((path.display().to_string(), index + 1))
}

/// The spans of requests for these paths.
fn spans_of(options: &[&str], paths: &[&str]) -> Result<Vec<Span>> {
    let mut spans = Vec::new();
    Stage::run(&format!("insight-{}", options.join("-").replace("--", "")), |stage| {
        let stage = stage.with_postgres()?.with_redis()?.with_backend()?;
        let app = Setup::Django.start(stage.logs(), &stage.environment(), &Tracing::None)?;
        for _ in 0..12 {
            let order = Request { method: "POST".into(), ..Request::get("/orders") };
            send_once(app.port, &order)?;
        }
        let verb = [&["attach"], options].concat();
        let agent = Agent::start(&stage, "agent", &verb, &app.pids(), &[])?;
        for path in paths {
            send_once(app.port, &Request::get(path))?;
        }
        agent.spans_when(Duration::from_secs(10), |spans| {
            spans.iter().filter(|span| span.is_server()).count() >= paths.len()
        })?;
        spans = agent.finish()?;
        app.stop()
    })?;
    Ok(spans)
}

fn served<'a>(spans: &'a [Span], path: &str) -> Result<&'a Span> {
    let found = spans.iter().find(|span| span.is_server() && span.text("url.path").as_deref() == Some(path));
    found.with_context(|| format!("no span of {path}:\n{}", listing(spans)))
}

#[test]
fn the_same_statement_from_the_same_line_is_said_of_the_request() -> Result<()> {
    let spans = spans_of(&[], &["/listed/5", "/listed/6", "/listed/12", "/products/1"])?;
    let (file, number) = line("order.product.name for")?;
    for (path, count) in [("/listed/6", 6), ("/listed/12", 12)] {
        let span = served(&spans, path)?;
        let said = |key: &str| span.text(&format!("tracekit.n_plus_one.{key}"));
        ensure!(said("count") == Some(count.to_string()), "{span}");
        ensure!(said("code.file.path").as_deref() == Some(&file), "{span}");
        ensure!(said("code.line.number") == Some(number.to_string()), "{span}");
        ensure!(said("patterns").as_deref() == Some("1"), "{span}");
        let statement = said("statement").context("no statement")?;
        ensure!(statement.contains("\"products\"") && statement.contains('?'), "{statement}");
    }
    for path in ["/listed/5", "/products/1"] {
        let span = served(&spans, path)?;
        ensure!(!span.attributes.keys().any(|key| key.contains("n_plus_one")), "{span}");
    }
    Ok(())
}

#[test]
fn the_limit_of_repetitions_can_be_set() -> Result<()> {
    let spans = spans_of(&["--n-plus-one", "2"], &["/listed/3"])?;
    let said = served(&spans, "/listed/3")?.text("tracekit.n_plus_one.count");
    ensure!(said.as_deref() == Some("3"), "{said:?}");
    let spans = spans_of(&["--n-plus-one", "0"], &["/listed/12"])?;
    let said = served(&spans, "/listed/12")?.text("tracekit.n_plus_one.count");
    ensure!(said.is_none(), "{said:?}");
    Ok(())
}

/// `code.stacktrace` of the client spans of a request, with their statement.
fn stacks(spans: &[Span]) -> Vec<(String, Option<String>)> {
    let calls = spans.iter().filter(|span| !span.is_server());
    calls
        .filter_map(|span| Some((span.text("db.query.text")?, span.text("code.stacktrace"))))
        .filter(|(statement, _)| statement.contains("pg_sleep") || statement.contains("products"))
        .collect()
}

#[test]
fn a_slow_call_has_its_stack() -> Result<()> {
    let (file, inner) = line("SELECT pg_sleep")?;
    let (_, outer) = line("    _report(seconds)")?;
    let stack =
        format!("  File \"{file}\", line {inner}, in _report\n  File \"{file}\", line {outer}, in report");
    let found =
        stacks(&spans_of(&["--slow-call", "200ms"], &["/products/1", "/report/0.01", "/report/0.25"])?);
    ensure!(found.len() == 3, "{found:?}");
    let said: Vec<&str> = found.iter().filter_map(|(_, stack)| stack.as_deref()).collect();
    ensure!(said == [&stack], "{found:?}");
    let found = stacks(&spans_of(&["--slow-call", "0"], &["/products/1"])?);
    ensure!(found.iter().all(|(_, stack)| stack.is_some()), "{found:?}");
    let found = stacks(&spans_of(&["--slow-call", "off"], &["/report/0.6"])?);
    ensure!(found.len() == 1 && found.iter().all(|(_, stack)| stack.is_none()), "{found:?}");
    Ok(())
}
