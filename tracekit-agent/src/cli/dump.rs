//! `tracekit dump`: the stacks of a process, with local variables, like a debugger's backtrace.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use clap::Args;
use serde_json::{Map, Value as Json, json};

use crate::discovery::Inspector;
use crate::discovery::ps::{Format, printable_whole};
use crate::exit::{ExitCode, Failure, printed};
use crate::python::dump::{ThreadStack, Variable, Variables};
use crate::python::object::Limits;
use crate::python::runtime::{AttachError, Target};
use crate::redact::Counts;

/// Arguments of `tracekit dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// The process
    #[arg(short, long)]
    pid: u32,
    /// Show local variables
    #[arg(short, long)]
    locals: bool,
    /// Show every thread, not only the main thread
    #[arg(short, long)]
    all_threads: bool,
    /// Levels of containers and instances to show
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=32))]
    depth: u8,
    /// Show also secrets: variables, attributes and keys named password, token, …, and what looks like one
    #[arg(long)]
    show_secrets: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs `tracekit dump`.
///
/// # Errors
/// If the process cannot be read.
pub fn run(args: &DumpArgs) -> anyhow::Result<ExitCode> {
    let inspector = Inspector::default();
    let inspected = inspector.inspect(args.pid)?;
    let target = Target::open(&inspector.proc, &inspected).map_err(failure)?;
    let reader = target.reader().map_err(failure)?;
    let limits = Limits { depth: args.depth.into(), ..Limits::default() };
    let variables = args.locals.then_some(Variables { limits, redact: !args.show_secrets });
    let is_wanted = |_: &_, tid| args.all_threads || tid == Some(args.pid);
    let mut threads = target.stacks(&reader, variables, is_wanted).map_err(failure)?;
    if threads.is_empty() {
        // The main thread may have left Python, or cannot be told from others: then all are of interest.
        threads = target.stacks(&reader, variables, |_, _| true).map_err(failure)?;
    }
    let mut hidden = Counts::new();
    for (kind, count) in threads.iter().flat_map(|thread| &thread.hidden) {
        *hidden.entry(*kind).or_default() += count;
    }
    let text = match args.output {
        Format::Json => {
            let process = json!({
                "pid": args.pid,
                "version": inspected.interpreter.version_text(),
                "threads": threads.iter().map(to_json).collect::<Vec<_>>(),
                "hidden": hidden,
            });
            serde_json::to_string_pretty(&process)? + "\n"
        }
        Format::Table => {
            let mut text = format!("process {}: Python {}\n", args.pid, inspected.interpreter.version_text());
            for thread in &threads {
                write(thread, &mut text)?;
            }
            if !hidden.is_empty() {
                let kinds: Vec<String> =
                    hidden.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
                writeln!(text, "\nhidden: {}; --show-secrets shows them", kinds.join(", "))?;
            }
            text
        }
    };
    printed(io::stdout().lock().write_all(text.as_bytes()), ExitCode::Ok)
}

/// The error with the exit code that fits.
pub(super) fn failure(error: AttachError) -> anyhow::Error {
    use crate::python::MemoryError;
    let code = match &error {
        AttachError::Inspect(_) | AttachError::Binary { .. } => return error.into(),
        AttachError::Memory { error: MemoryError::Denied, .. } => ExitCode::NotPermitted,
        AttachError::Memory { error: MemoryError::Gone, .. } => ExitCode::NotFound,
        AttachError::Memory { .. } => ExitCode::Error,
        _ => ExitCode::Unsupported,
    };
    Failure::new(code, error.to_string()).into()
}

fn to_json(thread: &ThreadStack) -> Json {
    let frames = thread.stack.frames.iter().zip(&thread.frames).map(|(frame, state)| {
        let mut map = Map::new();
        map.insert("function".into(), json!(frame.code.qualname));
        map.insert("file".into(), json!(frame.code.filename));
        map.insert("line".into(), json!(frame.line));
        map.insert("first_line".into(), json!(frame.code.first_line));
        map.insert("kind".into(), json!(frame.code.kind()));
        map.insert("changing".into(), json!(state.changing));
        if let Some(variables) = &state.variables {
            let locals: Map<String, Json> =
                variables.iter().map(|variable| (variable.name.clone(), variable_json(variable))).collect();
            map.insert("locals".into(), Json::Object(locals));
        }
        Json::Object(map)
    });
    let state = &thread.state;
    json!({
        "tid": thread.tid,
        "native_id": state.native_id,
        "thread_id": state.thread_id,
        "name": thread.name,
        "interpreter": state.interpreter,
        "holds_gil": state.holds_gil,
        "changing": thread.changing,
        "incomplete_reason": thread.stack.broken,
        "frames": frames.collect::<Vec<_>>(),
    })
}

fn variable_json(variable: &Variable) -> Json {
    let mut json = variable.value.to_json();
    if let Some(map) = json.as_object_mut().filter(|_| variable.changing) {
        map.insert("changing".into(), json!(true));
    }
    json
}

fn write(thread: &ThreadStack, out: &mut String) -> std::fmt::Result {
    let state = &thread.state;
    match thread.tid {
        Some(tid) => write!(out, "\nthread {tid}")?,
        None => write!(out, "\nthread {:#x}", state.thread_id)?,
    }
    if let Some(name) = &thread.name {
        write!(out, " \"{}\"", printable_whole(name))?;
    }
    if state.interpreter != 0 {
        write!(out, ", interpreter {}", state.interpreter)?;
    }
    if state.holds_gil == Some(true) {
        out.push_str(", holds the GIL");
    }
    if thread.changing {
        out.push_str(", may have run while it was read");
    }
    out.push('\n');
    if thread.stack.frames.is_empty() {
        out.push_str("  (no Python frames)\n");
    }
    for (frame, state) in thread.stack.frames.iter().zip(&thread.frames) {
        let line = frame.line.map_or_else(|| "?".to_owned(), |line| line.to_string());
        let kind = frame.code.kind();
        let kind = if kind.is_empty() { String::new() } else { format!("{kind} ") };
        let (function, file) = (printable_whole(&frame.code.qualname), printable_whole(&frame.code.filename));
        let changing = if state.changing { " (returned while it was read)" } else { "" };
        writeln!(out, "  {kind}{function} ({file}:{line}){changing}")?;
        for Variable { name, value, changing } in state.variables.iter().flatten() {
            let changing = if *changing { "  (changed while it was read)" } else { "" };
            writeln!(out, "      {} = {value}{changing}", printable_whole(name))?;
        }
    }
    if let Some(reason) = &thread.stack.broken {
        writeln!(out, "  (the stack could not be read further: {reason})")?;
    }
    Ok(())
}
