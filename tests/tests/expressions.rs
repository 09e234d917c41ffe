//! Expressions evaluated from outside give what `eval()` gives inside the process, or nothing.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use tracekit_agent::discovery::Inspector;
use tracekit_agent::discovery::proc_fs::ProcFs;
use tracekit_agent::python::object::Content;
use tracekit_agent::python::{Reader, Target};
use tracekit_agent::redact::names::is_secret;
use tracekit_agent::snapshot::expression::{Context, Expression, Limits, Scope, Template};
use tracekit_tests::interpreters::{Interpreter, installed};

const PROGRAM: &str = include_str!("../apps/expressions.py");
const EXPRESSIONS: &str = include_str!("../apps/expressions.txt");
/// One of each layout of memory.
const INTERPRETERS: &[&str] = &[
    "3.8-pyenv",
    "3.9-pyenv",
    "3.10-pyenv",
    "3.11-pyenv",
    "3.12-pyenv",
    "3.13-pyenv",
    "3.13t-source",
    "3.14-debian-sid",
    "3.15-debian-sid",
];

/// Templates, which are formatted strings of Python too.
const TEMPLATES: &[&str] = &[
    "plain text",
    "{{braces}} {number}",
    "total={order.number} user={names['first']!r:>10}|",
    "{half:.2f} {big:,} {number:05d} {number:x} {ratio:.0%} {text:.5} {text:>15}|{text:^15}|",
    "{number=} {text=} {number = } {half=:.1f} {text=!s}",
    "{yes} {nothing} {cost} {cost:.1f} {ratio:e} {big:g} {infinite:8.2f}|{nan}",
    "{order.items[1].name.upper()} {len(numbers) + 1} {names['age'] if yes else 0}",
    "{numbers} {triple} {names} {number!r} {text!s:*^20}",
    "{(lambda_ is None)} {number != 7} {number == 7}",
    "{yes:5} {half:+.3} {whole} {1e22} {1234567.0:,} {0.1+0.2}",
    "{wide!r} {data} {array!r} {number:*<6} {negative:=+8}",
];

/// What the process says of an expression.
#[derive(Debug, Deserialize)]
struct Said {
    repr: Option<String>,
    #[serde(rename = "type")]
    type_name: Option<String>,
    truth: Option<bool>,
    error: Option<String>,
}

/// Ends the process with its value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(interpreter: &Interpreter, expressions: &[String]) -> Result<(Running, Vec<Said>)> {
    let mut command = interpreter.command();
    command
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .env("PYTHONIOENCODING", "utf-8");
    let mut running = Running(command.spawn().with_context(|| format!("start {command:?}"))?);
    let mut input = running.0.stdin.take().context("its standard input is a pipe")?;
    writeln!(input, "{}", serde_json::to_string(expressions)?)?;
    let out = running.0.stdout.take().context("its standard output is a pipe")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line).context("read what it prints")?;
    ensure!(!line.is_empty(), "{command:?} printed nothing");
    Ok((running, serde_json::from_str(&line)?))
}

/// What differs, for one line.
fn compare(said: &Said, line: &str, context: &Context<'_>) -> Result<Option<String>> {
    let hidden = line.starts_with('?');
    let text = line.trim_start_matches('?');
    let expression = match Expression::compile(text, &is_secret) {
        Ok(expression) => expression,
        Err(error) => return Ok(Some(format!("{text}: does not compile: {error}"))),
    };
    let value = expression.value(context);
    let condition = expression.condition(context);
    let difference = match (&said.error, value) {
        (_, Err(_)) if hidden => None,
        (_, Ok(value)) if hidden => Some(format!("{value} should be undefined")),
        (Some(_), Err(_)) => condition.is_ok().then(|| "the condition has a value".to_owned()),
        (Some(error), Ok(value)) => Some(format!("{value} instead of {error}")),
        (None, Err(reason)) => Some(format!("undefined ({reason}) instead of {:?}", said.repr)),
        (None, Ok(value)) => {
            let repr = said.repr.as_deref().context("it has a repr")?;
            // Of objects and of sets, whose order is another, only the type is compared.
            let by_type = matches!(value.content, Content::Fields(_) | Content::Text(_))
                || value.truncated.is_some()
                || matches!(value.type_name.as_str(), "set" | "frozenset")
                || repr.contains("NaN")
                || repr.starts_with('<')
                || repr.contains(" object at ")
                || repr.contains("Item(")
                || value.type_name == "Counter";
            if said.type_name.as_deref() != Some(value.type_name.as_str()) {
                Some(format!("a {} instead of a {:?}", value.type_name, said.type_name))
            } else if !by_type && value.to_string() != repr {
                Some(format!("{value} instead of {repr}"))
            } else if condition.as_ref().ok() != said.truth.as_ref() {
                Some(format!("as a condition {condition:?} instead of {:?}", said.truth))
            } else {
                None
            }
        }
    };
    Ok(difference.map(|what| format!("{text}: {what}")))
}

fn with_context<T>(pid: u32, work: impl FnOnce(&Context<'_>) -> Result<T>) -> Result<T> {
    let inspected = Inspector::default().inspect(pid)?;
    let target = Target::open(&ProcFs::default(), &inspected)?;
    let reader: Reader<'_> = target.reader()?;
    let stacks = target.stacks(&reader, |_, _| true)?;
    let mut frames = stacks.iter().flat_map(|thread| &thread.stack.frames);
    let frame = frames.find(|frame| frame.code.name == "main").context("no frame of main()")?;
    let scope = Scope::of_frame(&reader, frame)?;
    let limits = Limits { time: std::time::Duration::from_secs(5), ..Limits::default() };
    work(&Context { reader: &reader, scope: &scope, limits, is_sensitive: &is_secret })
}

fn check(interpreter: &Interpreter) -> Result<Vec<String>> {
    let lines: Vec<&str> =
        EXPRESSIONS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    // What would run code is not run inside either: it might leave its result behind.
    let inside = |line: &&str| if line.starts_with('?') { "None".to_owned() } else { (*line).to_owned() };
    let mut expressions: Vec<String> = lines.iter().map(inside).collect();
    // A formatted string is what a template is.
    expressions.extend(TEMPLATES.iter().map(|template| format!("f\"\"\"{template}\"\"\"")));
    let (running, said) = start(interpreter, &expressions)?;
    ensure!(said.len() == expressions.len(), "{} answers", said.len());
    with_context(running.0.id(), |context| {
        let mut differences = Vec::new();
        for (said, line) in said.iter().zip(&lines) {
            differences.extend(compare(said, line, context)?);
        }
        for (said, template) in said.iter().skip(lines.len()).zip(TEMPLATES) {
            let template = Template::compile(template, &is_secret)?;
            let rendered = template.render(context);
            let repr = tracekit_agent::python::object::Value::new("str", Content::Str(rendered.text.clone()));
            if said.repr != Some(repr.to_string()) || !rendered.undefined.is_empty() {
                differences.push(format!("{}: {rendered:?} instead of {said:?}", template.text()));
            }
        }
        Ok(differences)
    })
}

#[test]
fn values_are_those_of_eval() -> Result<()> {
    let mut failures = Vec::new();
    let mut done = 0;
    for interpreter in installed()?.iter().filter(|found| INTERPRETERS.contains(&found.id.as_str())) {
        done += 1;
        let differences = check(interpreter).with_context(|| interpreter.id.clone())?;
        println!("{}: {} differences", interpreter.id, differences.len());
        failures.extend(differences.into_iter().map(|what| format!("{}: {what}", interpreter.id)));
    }
    ensure!(done == INTERPRETERS.len(), "only {done} of {} interpreters are installed", INTERPRETERS.len());
    if !failures.is_empty() {
        bail!("{} differences:\n{}", failures.len(), failures.join("\n"));
    }
    Ok(())
}
