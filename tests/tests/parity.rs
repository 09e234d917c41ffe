//! The agent and the OpenTelemetry SDK on the same requests: same spans, parents, names and attributes.
//!
//! Every setup runs twice with the same 200 mixed requests: under `opentelemetry-instrument`, and unmodified with
//! the agent attached after it has served requests. `PERMITTED` is the whole list of differences that are right.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tracekit_tests::agent::{Agent, listing};
use tracekit_tests::app::{Setup, Tracing};
use tracekit_tests::client::{Request, send_once};
use tracekit_tests::collector::Collector;
use tracekit_tests::compare::{Permitted, Site, compare, report, trees};
use tracekit_tests::process::free_port;
use tracekit_tests::span::Span;
use tracekit_tests::stage::Stage;
use tracekit_tests::traffic::{Planned, plan, send};

const REQUESTS: usize = 200;
const SEED: u64 = 20_261;

/// SQL that drivers send on their own, without a cursor's `execute`, which is what the SDK traces.
fn is_driver_statement(span: &Span) -> bool {
    let text = span.text("db.query.text").unwrap_or_else(|| span.name.clone()).to_ascii_uppercase();
    let first = text.split_whitespace().next().unwrap_or("").trim_end_matches(';');
    let sql = span.text("db.system.name").is_some_and(|system| system != "redis");
    sql && matches!(
        first,
        "BEGIN" | "COMMIT" | "ROLLBACK" | "SET" | "START" | "SAVEPOINT" | "RELEASE" | "DEALLOCATE"
    )
}

fn is_database(site: &Site<'_>) -> bool {
    site.sdk.is_some_and(|span| span.attributes.contains_key("db.system.name"))
}

fn is_server(site: &Site<'_>) -> bool {
    site.sdk.is_some_and(Span::is_server)
}

/// `?`, `%s`, `$1` and a literal number stand for a value.
fn placeholders(text: &str) -> String {
    let mut result = String::new();
    let mut characters = text.replace("%s", "?").chars().collect::<Vec<_>>().into_iter().peekable();
    let mut in_word = false;
    while let Some(character) = characters.next() {
        let starts_value = character == '$' || character.is_ascii_digit() && !in_word;
        if starts_value && (character != '$' || characters.peek().is_some_and(char::is_ascii_digit)) {
            while characters.next_if(|next| next.is_ascii_digit() || *next == '.').is_some() {}
            result.push('?');
        } else {
            in_word = character.is_ascii_alphanumeric() || character == '_';
            result.push(character);
        }
    }
    result
}

#[test]
fn placeholders_are_equal() {
    assert_eq!(
        placeholders("SELECT a1 FROM t WHERE b = %s AND c = 1.5"),
        "SELECT a1 FROM t WHERE b = ? AND c = ?"
    );
    assert_eq!(
        placeholders("SELECT a1 FROM t WHERE b = $1 AND c = $12"),
        "SELECT a1 FROM t WHERE b = ? AND c = ?"
    );
}

const PERMITTED: &[Permitted] = &[
    // --- What the wire shows and the SDK does not.
    Permitted {
        reason: "the driver's own BEGIN, COMMIT, SET …: on the wire, but not by a cursor's execute",
        matches: |site| site.key == "extra span" && site.agent.is_some_and(is_driver_statement),
    },
    // --- What comes with part D: reading the interpreter.
    Permitted {
        reason: "http.route needs the framework's objects: part D",
        matches: |site| {
            site.key == "http.route" && is_server(site) && site.agent_text("http.route").is_empty()
        },
    },
    Permitted {
        reason: "the route in the name: part D; until then the method alone, as the conventions say",
        matches: |site| {
            site.key == "name"
                && is_server(site)
                && site.agent.is_some_and(|span| {
                    span.name == site.sdk_text("http.request.method")
                        && !span.attributes.contains_key("http.route")
                })
        },
    },
    // --- Where the SDK does not follow the conventions.
    Permitted {
        reason: "the SDK names database spans by the operation; the conventions prefer db.query.summary",
        matches: |site| {
            site.key == "name"
                && is_database(site)
                && site.agent.zip(site.sdk).is_some_and(|(agent, sdk)| {
                    let operation = sdk.name.split_whitespace().next().unwrap_or("");
                    agent.name.split_whitespace().next() == Some(operation)
                        || Some(&agent.name) == agent.text("db.query.summary").as_ref()
                        || Some(&agent.name) == agent.text("db.operation.name").as_ref()
                })
        },
    },
    Permitted {
        reason: "db.redis.* are the SDK's own; network.transport is not of the database conventions",
        matches: |site| {
            is_database(site) && (site.key.starts_with("db.redis.") || site.key == "network.transport")
        },
    },
    Permitted {
        reason: "values: the driver's %s is $1 or a literal on the wire, and literals are redacted to ?",
        matches: |site| {
            site.key == "db.query.text"
                && placeholders(&site.sdk_text(site.key)) == placeholders(&site.agent_text(site.key))
        },
    },
    Permitted {
        reason: "the server says on the wire that it is MariaDB; PyMySQL's instrumentation cannot know",
        matches: |site| site.key == "db.system.name" && site.agent_text(site.key) == "mariadb",
    },
    Permitted {
        reason: "the name of the exception class is the interpreter's; the wire says that it timed out or closed",
        matches: |site| {
            let (sdk, agent) = (site.sdk_text("error.type"), site.agent_text("error.type"));
            site.key == "error.type" && sdk.starts_with(|c: char| c.is_ascii_uppercase()) && !agent.is_empty()
        },
    },
    Permitted {
        reason: "the WSGI instrumentations leave the port in server.address; the conventions say the host alone",
        matches: |site| {
            let port = format!(":{}", site.sdk_text("server.port"));
            site.key == "server.address"
                && is_server(site)
                && site.sdk_text(site.key).strip_suffix(&port) == Some(&site.agent_text(site.key))
        },
    },
    Permitted {
        reason: "Django's instrumentation calls a 404 an error; the conventions leave a server's 4xx unset",
        matches: |site| {
            let status = site.sdk_text("http.response.status_code");
            site.key == "status"
                && is_server(site)
                && status.starts_with('4')
                && !site.agent.is_some_and(Span::is_error)
        },
    },
    Permitted {
        reason: "the client has gone: whether the write of the answer already fails is a race",
        matches: |site| {
            matches!(site.key, "status" | "http.response.status_code")
                && site.sdk_text("url.path").starts_with("/sleep")
        },
    },
    // --- What was said on the connection before the agent came.
    Permitted {
        reason: "the database's name is said once, when the connection opens, which was before the attach",
        matches: |site| site.key == "db.namespace" && site.agent_text(site.key).is_empty(),
    },
    Permitted {
        reason: "prepared before the attach: later executions carry only the statement's name",
        matches: |site| {
            matches!(site.key, "db.query.text" | "name")
                && is_database(site)
                && site.agent.is_some_and(|span| !span.attributes.contains_key("db.query.text"))
                && site.sdk_text("db.system.name") == "postgresql"
        },
    },
    // --- Attributes that the conventions do not require and the wire has no use for.
    Permitted {
        reason: "client.port is another one in every run, and opt-in",
        matches: |site| site.key == "client.port",
    },
];

fn requests(setup: Setup) -> (Vec<Planned>, Vec<Planned>, usize) {
    // One client for each worker of gunicorn's sync class: a kept connection would block nothing there.
    let clients = if setup == Setup::FlaskSync || setup == Setup::Django { 2 } else { 4 };
    (plan(SEED + 1, 160), plan(SEED, REQUESTS), clients)
}

fn has_all(spans: &[Span], plan: &[Planned]) -> bool {
    let trees = trees(spans);
    plan.iter().all(|planned| trees.contains_key(&planned.id))
}

fn sdk_run(stage: &Stage, setup: Setup, port: u16) -> Result<Vec<Span>> {
    let (warm_up, requests, clients) = requests(setup);
    let collector = Collector::start(stage, "collector", &[])?;
    let tracing = Tracing::Sdk { collector: collector.http, stdlib: true };
    let app = setup.start_on(port, &stage.logs().join("sdk"), &stage.environment(), &tracing)?;
    send(&warm_up, app.port, clients)?;
    send(&requests, app.port, clients)?;
    app.stop()?;
    collector.spans_when(Duration::from_secs(10), |spans| has_all(spans, &requests))
}

fn agent_run(stage: &Stage, setup: Setup, port: u16) -> Result<Vec<Span>> {
    let (warm_up, requests, clients) = requests(setup);
    let app = setup.start_on(port, &stage.logs().join("agent"), &stage.environment(), &Tracing::None)?;
    send(&warm_up, app.port, clients)?;
    let agent = Agent::attach(stage, &app.pids())?;
    send(&requests, app.port, clients)?;
    // A missing span is for the comparison to report, so the time-out is not an error here.
    let waited = agent.spans_when(Duration::from_secs(5), |spans| has_all(spans, &requests));
    let spans = agent.finish()?;
    if waited.is_err() && spans.is_empty() {
        bail!("the agent saw nothing of {REQUESTS} requests");
    }
    Ok(spans)
}

/// Both runs have the same servers and the same port, so that addresses compare.
fn parity(setup: Setup) -> Result<()> {
    Stage::run(&format!("parity-{}", setup.name()), |stage| {
        let stage = match setup {
            Setup::PlainHttp => stage.with_mariadb()?,
            _ => stage.with_postgres()?,
        };
        let stage = stage.with_redis()?.with_backend()?;
        let port = free_port()?;
        let sdk = sdk_run(&stage, setup, port)?;
        let agent = agent_run(&stage, setup, port)?;
        let ids: Vec<String> = requests(setup).1.into_iter().map(|planned| planned.id).collect();
        let differences = compare(&ids, &sdk, &agent, PERMITTED);
        let (text, failed) = report(setup.name(), &differences);
        println!("{text}");
        if failed {
            bail!("the agent's spans differ from the SDK's; see above");
        }
        Ok(())
    })
}

/// psycopg 3 prepares a statement at its sixth execution. The text was sent before the agent came; the spans of the
/// executions are there nevertheless, under their requests.
#[test]
fn statements_prepared_before_the_attach_have_spans() -> Result<()> {
    Stage::run("parity-prepared", |stage| {
        let stage = stage.with_postgres()?.with_redis()?.with_backend()?;
        let app = Setup::FlaskGthread.start(stage.logs(), &stage.environment(), &Tracing::None)?;
        let ask = |ids: std::ops::Range<usize>| {
            ids.into_iter().try_for_each(|id| {
                send_once(
                    app.port,
                    &Request { close: true, ..Request::get(&format!("/products/3?id=p{id}")) },
                )
                .map(drop)
            })
        };
        ask(0..200)?;
        let agent = Agent::attach(&stage, &app.pids())?;
        ask(1000..1030)?;
        let is_last = |span: &Span| span.request_id().as_deref() == Some("p1029");
        agent.spans_when(Duration::from_secs(5), |spans| spans.iter().any(is_last))?;
        let spans = agent.finish()?;
        let trees = trees(&spans);
        let mut without_text = 0;
        for id in 1000..1030 {
            let [tree] = trees.get(&format!("p{id}")).map_or(&[][..], Vec::as_slice) else {
                bail!("not one server span for p{id}");
            };
            let statements: Vec<&Span> = tree
                .children
                .iter()
                .filter(|span| span.text("db.system.name").as_deref() == Some("postgresql"))
                .filter(|span| !is_driver_statement(span))
                .collect();
            let [statement] = statements.as_slice() else {
                bail!("p{id} has {} statements:\n{}", statements.len(), listing(&tree.children));
            };
            without_text += usize::from(!statement.attributes.contains_key("db.query.text"));
        }
        println!("{without_text} of 30 executions of statements whose text was not seen");
        ensure!(without_text > 0, "no statement was prepared before the attach");
        Ok(())
    })
}

#[test]
fn flask_gunicorn_sync_psycopg2() -> Result<()> {
    parity(Setup::FlaskSync)
}

#[test]
fn flask_gunicorn_gthread_psycopg3() -> Result<()> {
    parity(Setup::FlaskGthread)
}

#[test]
fn django_gunicorn_psycopg3() -> Result<()> {
    parity(Setup::Django)
}

#[test]
fn plain_http_server_pymysql() -> Result<()> {
    parity(Setup::PlainHttp)
}
