//! Applications that export spans by the OpenTelemetry SDK, with the agent attached: together they export each
//! request and call once, in the same traces.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tracekit_tests::agent::{Agent, listing};
use tracekit_tests::app::{App, Environment, Setup, Tracing};
use tracekit_tests::client::{Request, send_once};
use tracekit_tests::collector::Collector;
use tracekit_tests::paths;
use tracekit_tests::process::free_port;
use tracekit_tests::span::Span;
use tracekit_tests::stage::Stage;

const PARENT: &str = "00f067aa0ba902b7";

/// The trace of a caller for the request of this number.
fn trace_of(number: usize) -> String {
    format!("4bf92f3577b34da6a3ce{number:012x}")
}

fn header(number: usize) -> (String, String) {
    ("traceparent".into(), format!("00-{}-{PARENT}-01", trace_of(number)))
}

/// Asks for `target` with the ids of these numbers; the even ones have a caller.
fn ask(port: u16, target: &str, numbers: std::ops::Range<usize>) -> Result<()> {
    for number in numbers {
        let mut request = Request { close: true, ..Request::get(&format!("{target}?id=n{number}")) };
        if number % 2 == 0 {
            request.headers.push(header(number));
        }
        let answer = send_once(port, &request)?;
        ensure!(answer.status == 200, "{target}: status {}", answer.status);
    }
    Ok(())
}

fn has(spans: &[Span], kind: &str, id: usize) -> bool {
    spans.iter().any(|span| span.kind == kind && span.request_id() == Some(format!("n{id}")))
}

/// The trace of each request, as the SDK's spans of kind `kind` say.
fn traces(spans: &[Span], kind: &str) -> BTreeMap<String, String> {
    let of_kind = spans.iter().filter(|span| span.kind == kind);
    of_kind.filter_map(|span| Some((span.request_id()?, span.trace_id.clone()))).collect()
}

fn system(span: &Span) -> Option<String> {
    span.text("db.system.name").or_else(|| span.text("db.system"))
}

/// Collects what both export after `numbers` were asked for.
fn both(
    agent: Agent,
    collector: &Collector,
    app: App,
    kind: &str,
    numbers: std::ops::Range<usize>,
) -> Result<(Vec<Span>, Vec<Span>)> {
    let sdk = collector.spans_when(Duration::from_secs(10), |spans| {
        numbers.clone().all(|number| has(spans, kind, number))
    })?;
    app.stop()?;
    Ok((sdk, agent.finish()?))
}

fn without_redis(stage: &Stage, more: &[(&str, &str)]) -> Environment {
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    stage.environment().into_iter().chain(more).collect()
}

/// Each checkout has two Redis commands, which the SDK does not trace; everything else is its own.
fn check_checkouts(sdk: &[Span], agent: &[Span], numbers: std::ops::Range<usize>) -> Result<()> {
    let known = traces(sdk, "server");
    let others: Vec<Span> =
        agent.iter().filter(|span| system(span).as_deref() != Some("redis")).cloned().collect();
    ensure!(others.is_empty(), "the SDK makes these, too:\n{}", listing(&others));
    for number in numbers {
        let trace = known.get(&format!("n{number}")).context("no server span of the SDK")?;
        ensure!(number % 2 == 1 || *trace == trace_of(number), "the SDK does not honour the header");
        let ours: Vec<&Span> = agent.iter().filter(|span| span.trace_id == *trace).collect();
        ensure!(ours.len() == 2, "n{number}: {} Redis commands in {trace}:\n{}", ours.len(), listing(agent));
        for span in ours {
            let parent = if number % 2 == 0 { Some(PARENT) } else { None };
            ensure!(span.parent_span_id.as_deref() == parent, "n{number}: another parent: {span}");
        }
    }
    Ok(())
}

fn flask(name: &str, warm_up: bool) -> Result<()> {
    Stage::run(name, |stage| {
        let stage = stage.with_postgres()?.with_redis()?.with_backend()?;
        let collector = Collector::start(&stage, "collector", &[])?;
        let tracing = Tracing::Sdk { collector: collector.http, stdlib: false };
        let environment = without_redis(&stage, &[("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "redis")]);
        let app = Setup::FlaskSync.start(stage.logs(), &environment, &tracing)?;
        if warm_up {
            ask(app.port, "/checkout/1", 1000..1010)?;
        }
        let agent = Agent::attach(&stage, &app.pids())?;
        ask(app.port, "/checkout/1", 0..20)?;
        let (sdk, ours) = both(agent, &collector, app, "server", 0..20)?;
        check_checkouts(&sdk, &ours, 0..20)
    })
}

#[test]
fn flask_attached_before_the_first_checkout() -> Result<()> {
    flask("existing-flask", false)
}

#[test]
fn flask_attached_after_the_first_checkout() -> Result<()> {
    flask("existing-flask-warm", true)
}

#[test]
fn flask_that_starts_after_the_agent() -> Result<()> {
    Stage::run("existing-flask-later", |stage| {
        let stage = stage.with_postgres()?.with_redis()?.with_backend()?;
        let collector = Collector::start(&stage, "collector", &[])?;
        let agent = Agent::start(&stage, "agent", &["run", "--cmdline", "gunicorn.*shop_flask"], &[], &[])?;
        let tracing = Tracing::Sdk { collector: collector.http, stdlib: false };
        let environment = without_redis(&stage, &[("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "redis")]);
        let app = Setup::FlaskSync.start(stage.logs(), &environment, &tracing)?;
        // As soon as it answers: of what came before the agent has found it there are no spans.
        ask(app.port, "/checkout/1", 0..200)?;
        let (sdk, ours) = both(agent, &collector, app, "server", 0..200)?;
        check_checkouts(&sdk, &ours, 180..200)
    })
}

/// The SDK watches `requests` and `urllib3`, the application calls by `http.client` itself.
#[test]
fn a_library_that_the_sdk_does_not_watch() -> Result<()> {
    Stage::run("existing-library", |stage| {
        let stage = stage.with_redis()?.with_backend()?;
        let collector = Collector::start(&stage, "collector", &[])?;
        let tracing = Tracing::Sdk { collector: collector.http, stdlib: false };
        let environment = without_redis(&stage, &[("PG_PORT", "1")]);
        let app = Setup::FlaskGthread.start(stage.logs(), &environment, &tracing)?;
        let agent = Agent::attach(&stage, &app.pids())?;
        ask(app.port, "/call/http.client/status/200", 0..10)?;
        ask(app.port, "/call/requests/status/200", 10..20)?;
        ask(app.port, "/call/urllib3/status/200", 20..30)?;
        let (sdk, ours) = both(agent, &collector, app, "server", 0..30)?;
        ensure!(ours.len() == 10, "not just the calls by http.client:\n{}", listing(&ours));
        let (known, called) = (traces(&sdk, "server"), traces(&ours, "client"));
        for number in (0..10).step_by(2) {
            let id = format!("n{number}");
            ensure!(known.get(&id) == called.get(&id), "n{number} is in two traces");
        }
        Ok(())
    })
}

#[test]
fn ignored_when_told_so() -> Result<()> {
    Stage::run("existing-ignored", |stage| {
        let stage = stage.with_postgres()?.with_redis()?.with_backend()?;
        let collector = Collector::start(&stage, "collector", &[])?;
        let tracing = Tracing::Sdk { collector: collector.http, stdlib: false };
        let app = Setup::FlaskSync.start(stage.logs(), &stage.environment(), &tracing)?;
        let verb = ["attach", "--existing-sdk", "ignore"];
        let agent = Agent::start(&stage, "agent", &verb, &app.pids(), &[])?;
        ask(app.port, "/checkout/1", 0..4)?;
        let (_, ours) = both(agent, &collector, app, "server", 0..4)?;
        ensure!((0..4).all(|number| has(&ours, "server", number)), "held back:\n{}", listing(&ours));
        Ok(())
    })
}

/// uvicorn with uvloop; the SDK watches FastAPI and httpx, not asyncpg.
#[test]
fn fastapi() -> Result<()> {
    Stage::run("existing-fastapi", |stage| {
        let stage = stage.with_postgres()?.with_backend()?;
        let collector = Collector::start(&stage, "collector", &[])?;
        let tracing = Tracing::Sdk { collector: collector.http, stdlib: false };
        let mut environment = without_redis(&stage, &[("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "asyncpg")]);
        let port = stage.backend.as_ref().context("a backend")?.port;
        environment.push(("UPSTREAM_PORT".into(), port.to_string()));
        let app = Setup::FastApi.start(stage.logs(), &environment, &tracing)?;
        let agent = Agent::attach(&stage, &app.pids())?;
        ask(app.port, "/bench", 0..20)?;
        let (sdk, ours) = both(agent, &collector, app, "server", 0..20)?;
        let others: Vec<Span> =
            ours.iter().filter(|span| system(span).as_deref() != Some("postgresql")).cloned().collect();
        ensure!(others.is_empty(), "the SDK makes these, too:\n{}", listing(&others));
        for (id, trace) in traces(&sdk, "server") {
            let count =
                ours.iter().filter(|span| span.trace_id == trace && span.name == "SELECT products").count();
            ensure!(count == 1, "{id}: {count} statements in its trace:\n{}", listing(&ours));
        }
        Ok(())
    })
}

/// The SDK is set up while the agent watches; it knows nothing of `http.server` and Redis.
#[test]
fn an_sdk_that_is_set_up_later() -> Result<()> {
    Stage::run("existing-later", |stage| {
        let stage = stage.with_redis()?.with_backend()?;
        let collector = Collector::start(&stage, "collector", &[])?;
        let port = free_port()?;
        let mut command = Command::new(paths::venv("otel", "python")?);
        command.arg(paths::apps().join("late_sdk.py")).arg(port.to_string());
        command.envs(stage.environment()).env("COLLECTOR_PORT", collector.http.to_string());
        command.env("OTEL_SEMCONV_STABILITY_OPT_IN", "http");
        let app = App::start("late", stage.logs(), command, port, 0)?;
        let agent = Agent::attach(&stage, &app.pids())?;
        ask(port, "/call", 0..10)?;
        send_once(port, &Request { close: true, ..Request::get("/set-up") })?;
        ask(port, "/call", 10..30)?;
        let (sdk, ours) = both(agent, &collector, app, "client", 10..30)?;
        for number in 0..30 {
            let id = Some(format!("n{number}"));
            let of = |spans: &[Span], kind: &str| -> Vec<Span> {
                let found = spans.iter().filter(|span| span.kind == kind && span.request_id() == id);
                found.cloned().collect()
            };
            let (served, called) = (of(&ours, "server"), of(&ours, "client"));
            ensure!(served.len() == 1, "n{number}: {} server spans:\n{}", served.len(), listing(&ours));
            let calls = of(&sdk, "client").len() + called.len();
            ensure!(calls == 1, "n{number}: {calls} spans of one call:\n{}", listing(&ours));
            let trace = &served[0].trace_id;
            let redis = ours.iter().filter(|span| {
                span.trace_id == *trace
                    && span.parent_span_id.as_deref() == Some(&served[0].span_id)
                    && system(span).as_deref() == Some("redis")
            });
            ensure!(redis.count() == 1, "n{number}: no Redis command below it:\n{}", listing(&ours));
            // The SDK has begun a trace of its own for the call, where the request has none.
            if number >= 10 && number % 2 == 1 {
                ensure!(of(&sdk, "client")[0].trace_id == *trace, "n{number} is in two traces");
            }
        }
        Ok(())
    })
}
