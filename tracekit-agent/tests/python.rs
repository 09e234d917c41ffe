//! Reads real interpreters and compares with what they say of themselves (`tests/apps/values.py`).
//!
//! Interpreters: those of `target/interpreters/manifest.json` if `cargo xtask setup` has made it, else
//! pyenv's and the `python3` on the path. `TRACEKIT_INTERPRETERS` names another manifest.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value as Json;
use tracekit_agent::discovery::Inspector;
use tracekit_agent::python::code::{qualified_names, scan};
use tracekit_agent::python::frame::locals;
use tracekit_agent::python::object::{Decoder, Limits};
use tracekit_agent::python::runtime::Target;

struct Interpreter {
    id: String,
    program: PathBuf,
    /// It runs in this root.
    root: Option<PathBuf>,
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn interpreters() -> Vec<Interpreter> {
    let manifest = std::env::var_os("TRACEKIT_INTERPRETERS")
        .map_or_else(|| workspace().join("target/interpreters/manifest.json"), PathBuf::from);
    if let Ok(text) = std::fs::read_to_string(&manifest) {
        // Paths of the manifest are relative to the workspace in whose target directory it is.
        let base = manifest.ancestors().nth(3).unwrap().to_owned();
        let rows: Vec<Json> = serde_json::from_str(&text).unwrap();
        let path = |row: &Json, key: &str| row[key].as_str().map(|path| base.join(path));
        return rows
            .iter()
            .map(|row| Interpreter {
                id: row["id"].as_str().unwrap().to_owned(),
                program: path(row, "python").unwrap(),
                root: path(row, "root"),
            })
            .collect();
    }
    let pyenv = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")));
    let mut found: Vec<Interpreter> = pyenv
        .and_then(|root| std::fs::read_dir(root.join("versions")).ok())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path().join("bin/python3")))
        .filter(|(id, _)| {
            let minor = id.strip_prefix("3.").and_then(|rest| rest.split('.').next()?.parse::<u8>().ok());
            minor.is_some_and(|minor| minor >= 8)
        })
        .map(|(id, program)| Interpreter { id, program, root: None })
        .collect();
    found.push(Interpreter { id: "python3".into(), program: "python3".into(), root: None });
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found
}

/// Starts the script and waits for its facts; `None` if the interpreter cannot be started here.
fn start(interpreter: &Interpreter) -> Option<(Running, Json)> {
    let mut command = match &interpreter.root {
        Some(root) => {
            let inside = Path::new("/").join(interpreter.program.strip_prefix(root).unwrap());
            let mut command = Command::new("chroot");
            command.arg(root).arg(inside);
            command
        }
        None => Command::new(&interpreter.program),
    };
    let script = File::open(workspace().join("tests/apps/values.py")).unwrap();
    let child = command.arg("-").stdin(script).stdout(Stdio::piped()).spawn().ok()?;
    let mut running = Running(child);
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line.is_empty() {
        return None;
    }
    Some((running, serde_json::from_str(&line).unwrap()))
}

fn open(process: &Running) -> (Target, tracekit_agent::discovery::Inspected) {
    let inspector = Inspector::default();
    let inspected = inspector.inspect(process.0.id()).unwrap();
    (Target::open(&inspector.proc, &inspected).unwrap(), inspected)
}

fn large_limits() -> Limits {
    Limits {
        depth: 50,
        items: 1000,
        fields: 1000,
        text: 1000,
        values: 10_000_000,
        time: Duration::from_secs(100),
    }
}

/// Runs a check on every interpreter and reports all that fail.
fn on_every_interpreter(check: impl Fn(&Running, &Json) -> Vec<String>) {
    let mut failures = Vec::new();
    let mut checked = Vec::new();
    for interpreter in interpreters() {
        let Some((process, facts)) = start(&interpreter) else {
            eprintln!("{}: cannot be started here, skipped", interpreter.id);
            continue;
        };
        failures.extend(
            check(&process, &facts).into_iter().map(|failure| format!("{}: {failure}", interpreter.id)),
        );
        checked.push(interpreter.id);
    }
    eprintln!("checked: {}", checked.join(" "));
    assert!(!checked.is_empty(), "no interpreter could be started");
    failures.truncate(60);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn short(value: &Json) -> String {
    value.to_string().chars().take(160).collect()
}

#[test]
fn values_are_what_the_process_says() {
    on_every_interpreter(|process, facts| {
        let (target, _) = open(process);
        let reader = target.reader().unwrap();
        let main = process.0.id();
        let stacks = target.stacks(&reader, None, |_, tid| tid == Some(main)).unwrap();
        let frame = stacks[0].stack.frames.iter().find(|frame| frame.code.name == "hold").unwrap();
        let variables = locals(&reader, frame).unwrap();
        let corpus = variables.iter().find(|local| local.name == "values").unwrap();
        let mut decoder = Decoder::new(&reader, large_limits(), false);
        let value = decoder.value(corpus.object);
        let tracekit_agent::python::object::Content::Entries(entries) = value.content else {
            return vec![format!("the corpus is {value}")];
        };
        let expected = facts["values"].as_object().unwrap();
        let mut failures = Vec::new();
        assert!(entries.len() > 250, "{}", entries.len());
        if entries.len() != expected.len() {
            failures.push(format!("{} values, not {}", entries.len(), expected.len()));
        }
        for (key, value) in entries {
            let tracekit_agent::python::object::Content::Str(name) = key.content else { continue };
            let (got, wanted) = (value.to_json(), &expected[&name]);
            if got != *wanted {
                failures.push(format!("{name}: {} is not {}", short(&got), short(wanted)));
            }
            let wanted = facts["text"][&name].as_str();
            let has_surrogate = value.to_string().contains('\u{fffd}');
            if let Some(wanted) = wanted.filter(|_| value.truncated.is_none() && !has_surrogate)
                && value.to_string() != *wanted
            {
                failures.push(format!("{name}: the text {value} is not {wanted}"));
            }
        }
        failures
    });
}

#[test]
fn stacks_are_what_the_process_says() {
    on_every_interpreter(|process, facts| {
        let (target, _) = open(process);
        let reader = target.reader().unwrap();
        let stacks = target.stacks(&reader, None, |_, _| true).unwrap();
        let mut failures = Vec::new();
        let expected = facts["stacks"].as_object().unwrap();
        assert_eq!(expected.len(), 6);
        for (native_id, wanted) in expected {
            let found = stacks
                .iter()
                .find(|stack| stack.state.native_id.map(|id| id.to_string()).as_ref() == Some(native_id));
            let Some(found) = found else {
                failures.push(format!("no thread {native_id}"));
                continue;
            };
            let frames: Vec<Json> = found
                .stack
                .frames
                .iter()
                .map(|frame| serde_json::json!([frame.code.filename, frame.line, frame.code.name]))
                .collect();
            let got = Json::Array(frames);
            if got != *wanted || found.changing || found.stack.broken.is_some() {
                failures.push(format!("thread {native_id}: {got} is not {wanted}: {:?}", found.stack.broken));
            }
        }
        failures
    });
}

#[test]
fn code_is_what_the_process_says() {
    on_every_interpreter(|process, facts| {
        let (target, _) = open(process);
        let reader = target.reader().unwrap();
        let found = scan(&target, &reader).unwrap();
        let own: Vec<_> = found.codes.iter().filter(|code| code.filename == "<stdin>").cloned().collect();
        let names = qualified_names(&reader, &own);
        let mut failures = Vec::new();
        for wanted in facts["code"].as_array().unwrap() {
            let (name, first) = (wanted[0].as_str().unwrap(), wanted[1].as_i64().unwrap());
            let lines = wanted[2].as_array().unwrap();
            let same = own.iter().filter(|code| code.name == name && i64::from(code.first_line) == first);
            let fits = |code: &tracekit_agent::python::reader::Code| {
                lines.iter().all(|pair| {
                    let at = u32::try_from(pair[0].as_u64().unwrap()).unwrap();
                    code.line_at(at).map(i64::from) == pair[1].as_i64()
                })
            };
            if !same.clone().any(|code| fits(code)) {
                failures.push(format!("{name}:{first}: {} code objects, no lines as in it", same.count()));
            }
        }
        let mut qualnames: BTreeMap<(String, i64), Vec<&String>> = BTreeMap::new();
        for code in &own {
            let key = (code.name.clone(), i64::from(code.first_line));
            qualnames.entry(key).or_default().push(&names[&code.address]);
        }
        for wanted in facts["qualnames"].as_array().unwrap() {
            let key = (wanted[0].as_str().unwrap().to_owned(), wanted[1].as_i64().unwrap());
            let wanted = wanted[2].as_str().unwrap();
            let got = qualnames.get(&key).cloned().unwrap_or_default();
            if !got.iter().any(|name| *name == wanted) {
                failures.push(format!("{key:?}: {got:?} is not {wanted}"));
            }
        }
        failures
    });
}

#[test]
fn the_verbs_redact_unless_told_otherwise() {
    let Some((process, _)) = interpreters().iter().find_map(start) else { panic!("no interpreter") };
    let pid = process.0.id().to_string();
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tracekit")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for format in ["table", "json"] {
        let text = run(&["dump", "--pid", &pid, "--locals", "--all-threads", "-o", format]);
        assert!(text.contains("fine") && !text.contains("hunter2"), "{text}");
    }
    let shown = run(&["dump", "--pid", &pid, "--locals", "--show-secrets"]);
    assert!(shown.contains("password = 'hunter2'"), "{shown}");
    let code = run(&["code", "--pid", &pid, "<stdin>", "-o", "json"]);
    let files: Json = serde_json::from_str(&code).unwrap();
    assert!(files[0]["functions"].as_array().unwrap().iter().any(|row| row["name"] == "Worker.run"));
}
