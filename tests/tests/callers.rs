//! Client spans say which function and line of the application made the call, in every setup.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use tracekit_tests::agent::{Agent, listing};
use tracekit_tests::app::{Setup, Tracing};
use tracekit_tests::client::{Request, send_once};
use tracekit_tests::interpreters::Running;
use tracekit_tests::paths;
use tracekit_tests::process::run;
use tracekit_tests::span::Span;
use tracekit_tests::stage::Stage;
use tracekit_tests::traffic::{plan, send};

/// What stands in the statement that makes a call of this kind.
const SQL: &[&str] =
    &["execute(", "commit()", "rollback()", "connect(", ".objects.", "get_object_or_404(", "atomic()"];
const REDIS: &[&str] = &["cache."];
const HTTP: &[&str] = &[".request(", ".getresponse()"];

/// Says of each statement of a file: first and last line, qualified name of the function, source.
const STATEMENTS: &str = r#"
import ast, json, sys
found = {}
def visit(node, names, statements, source):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            statements.append([child.lineno, child.end_lineno, ".".join(names), ast.get_source_segment(source, child)])
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            visit(child, names + [child.name, "<locals>"], statements, source)
        elif isinstance(child, ast.ClassDef):
            visit(child, names + [child.name], statements, source)
        else:
            visit(child, names, statements, source)
for path in sys.argv[1:]:
    source = open(path).read()
    statements = found.setdefault(path, [])
    visit(ast.parse(source), [], statements, source)
print(json.dumps(found))
"#;

#[derive(Debug, Deserialize)]
struct Statement(u64, u64, String, String);

/// Statements of all files of the applications.
fn statements() -> Result<BTreeMap<String, Vec<Statement>>> {
    fn files(directory: &Path, found: &mut Vec<std::path::PathBuf>) -> Result<()> {
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                files(&path, found)?;
            } else if path.extension().is_some_and(|extension| extension == "py") {
                found.push(path);
            }
        }
        Ok(())
    }
    let mut paths = Vec::new();
    files(&tracekit_tests::paths::apps(), &mut paths)?;
    let told = run(Command::new(paths::venv("web", "python")?).args(["-c", STATEMENTS]).args(paths))?;
    serde_json::from_str(&told).context("read the statements")
}

/// What is wrong with what a span says of its caller.
fn judge(span: &Span, statements: &BTreeMap<String, Vec<Statement>>) -> Result<()> {
    // Django asks at the start of a request whether its connection still works: no application on the stack.
    if span.text("db.query.text").as_deref() == Some("SELECT ?") && span.text("code.file.path").is_none() {
        return Ok(());
    }
    let text = |key| span.text(key).with_context(|| format!("no {key}"));
    let file = text("code.file.path")?;
    let line: u64 = text("code.line.number")?.parse()?;
    let of_file = statements.get(&file).with_context(|| format!("{file} is not of the application"))?;
    let statement = of_file.iter().filter(|found| (found.0..=found.1).contains(&line));
    let Statement(.., function, source) = statement
        .min_by_key(|found| found.1 - found.0)
        .with_context(|| format!("{file} has no statement at line {line}"))?;
    let expected = function.strip_suffix(".<locals>").unwrap_or(function);
    let name = text("code.function.name")?;
    ensure!(name == expected, "{file}:{line} is in {expected}, not in {name}");
    let marks = match span.text("db.system.name").as_deref() {
        Some("redis") => REDIS,
        Some(_) => SQL,
        None => HTTP,
    };
    // A pipeline is sent by the method that executes it.
    let is_batch = marks == REDIS && source.contains("batch.execute()");
    ensure!(is_batch || marks.iter().any(|mark| source.contains(mark)), "{file}:{line} is: {source}");
    Ok(())
}

fn check(setup: Setup, prepare: impl FnOnce(Stage) -> Result<Stage>) -> Result<()> {
    let statements = statements()?;
    Stage::run(&format!("callers-{}", setup.name()), |stage| {
        let stage = prepare(stage.with_redis()?.with_backend()?)?;
        let app = setup.start(stage.logs(), &stage.environment(), &Tracing::None)?;
        send_once(app.port, &Request::get("/products/1"))?;
        let agent = Agent::attach(&stage, &app.pids())?;
        // The first stacks of a process are read to their end; then code of the application is known.
        let plan = plan(7, 120);
        send(&plan, app.port, 2)?;
        let answered = plan.iter().filter(|planned| planned.expected.is_some()).count();
        agent.spans_when(Duration::from_secs(20), |spans| {
            spans.iter().filter(|span| span.is_server()).count() >= answered
        })?;
        let spans = agent.finish()?;
        let clients: Vec<&Span> = spans.iter().filter(|span| !span.is_server()).collect();
        ensure!(clients.len() > 150, "{} client spans", clients.len());
        let wrong: Vec<String> = clients
            .iter()
            .filter_map(|span| {
                judge(span, &statements).err().map(|error| format!("{}: {error:#}", span.name))
            })
            .collect();
        if !wrong.is_empty() {
            let all = clients.len();
            bail!("{} of {all} wrong:\n{}\n{}", wrong.len(), wrong.join("\n"), listing(&spans));
        }
        if let Some(span) =
            spans.iter().find(|span| span.is_server() && span.text("code.line.number").is_some())
        {
            bail!("a server span has a caller: {}", span.name);
        }
        app.stop()
    })
}

#[test]
fn flask_and_psycopg2() -> Result<()> {
    check(Setup::FlaskSync, Stage::with_postgres)
}

#[test]
fn flask_threads_and_psycopg() -> Result<()> {
    check(Setup::FlaskGthread, Stage::with_postgres)
}

#[test]
fn django_and_psycopg() -> Result<()> {
    check(Setup::Django, Stage::with_postgres)
}

#[test]
fn plain_http_and_pymysql() -> Result<()> {
    check(Setup::PlainHttp, Stage::with_mariadb)
}

/// Functions that `tests/apps/async_calls.py` is said to call from, on both event loops.
fn async_callers(way: &str) -> Result<Vec<Option<String>>> {
    let mut callers = Vec::new();
    for event_loop in ["asyncio", "uvloop"] {
        Stage::run(&format!("callers-{event_loop}-{way}"), |stage| {
            let stage = stage.with_redis()?;
            let environment = stage.environment();
            let port = environment.iter().find(|(key, _)| key == "REDIS_PORT").context("no port of Redis")?;
            let mut command = Command::new(paths::venv("web", "python")?);
            command.arg(paths::apps().join("async_calls.py")).args([event_loop, way, &port.1]);
            let running = Running::start(command, Stdio::null())?;
            let agent = Agent::attach(&stage, &[running.pid()])?;
            agent.spans_when(Duration::from_secs(10), |spans| spans.len() >= 20)?;
            callers.extend(agent.finish()?.iter().map(|span| span.text("code.function.name")));
            Ok(())
        })?;
    }
    Ok(callers)
}

#[test]
fn a_coroutine_is_the_caller() -> Result<()> {
    let callers = async_callers("now")?;
    ensure!(callers.iter().all(|caller| caller.as_deref() == Some("ask")), "{callers:?}");
    Ok(())
}

/// Below the event loop on the stack is the line that started it, which asked for nothing.
#[test]
fn what_started_the_event_loop_is_not_the_caller() -> Result<()> {
    let callers = async_callers("soon")?;
    ensure!(callers.iter().all(Option::is_none), "{callers:?}");
    Ok(())
}
