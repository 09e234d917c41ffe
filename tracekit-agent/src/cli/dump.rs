//! `tracekit dump`: the stacks of a process, with local variables, like a debugger's backtrace.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use clap::Args;
use serde_json::{Map, Value as Json, json};

use crate::discovery::Inspector;
use crate::discovery::ps::Format;
use crate::exit::{ExitCode, Failure};
use crate::python::frame::{Frame, locals, locals_dict};
use crate::python::object::{Content, Decoder, Limits, Value};
use crate::python::reader::Reader;
use crate::python::runtime::{AttachError, Target, ThreadStack};

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
    let stacks = target.stacks(&reader, |_, tid| args.all_threads || tid == Some(args.pid));
    let mut stacks = stacks.map_err(failure)?;
    if stacks.is_empty() {
        // The main thread may have left Python, or cannot be told from others: then all are of interest.
        stacks = target.stacks(&reader, |_, _| true).map_err(failure)?;
    }
    let mut decoder = args.locals.then(|| {
        let limits = Limits { depth: args.depth.into(), ..Limits::default() };
        Decoder::new(&reader, limits, !args.show_secrets)
    });
    let threads: Vec<Thread<'_>> =
        stacks.iter().map(|stack| Thread::new(&target, stack, &reader, decoder.as_mut())).collect();
    let hidden = decoder.map(|decoder| decoder.hidden().clone()).unwrap_or_default();
    let text = match args.output {
        Format::Json => {
            let process = json!({
                "pid": args.pid,
                "version": inspected.interpreter.version_text(),
                "threads": threads.iter().map(Thread::json).collect::<Vec<_>>(),
                "hidden": hidden,
            });
            serde_json::to_string_pretty(&process)? + "\n"
        }
        Format::Table => {
            let mut text = format!("process {}: Python {}\n", args.pid, inspected.interpreter.version_text());
            for thread in &threads {
                thread.write(&mut text)?;
            }
            if !hidden.is_empty() {
                let kinds: Vec<String> =
                    hidden.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
                writeln!(text, "\nhidden: {}; --show-secrets shows them", kinds.join(", "))?;
            }
            text
        }
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::Ok),
        other => Ok(other.map(|()| ExitCode::Ok)?),
    }
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

struct Thread<'s> {
    stack: &'s ThreadStack,
    /// Variables of each frame; `None` if they were not asked for.
    locals: Vec<Option<Vec<(String, Value)>>>,
    /// It ran on while its stack or variables were read.
    changing: bool,
}

impl<'s> Thread<'s> {
    fn new(
        target: &Target,
        stack: &'s ThreadStack,
        reader: &Reader<'_>,
        mut decoder: Option<&mut Decoder<'_, '_>>,
    ) -> Self {
        let frames = &stack.stack.frames;
        let with_locals = decoder.is_some();
        let locals =
            frames.iter().map(|frame| Some(variables(reader, frame, decoder.as_deref_mut()?))).collect();
        let changing =
            stack.changing || (with_locals && target.has_moved(reader, &stack.state, &stack.stack));
        Self { stack, locals, changing }
    }

    fn json(&self) -> Json {
        let frames = self.stack.stack.frames.iter().zip(&self.locals).map(|(frame, variables)| {
            let mut map = Map::new();
            map.insert("function".into(), json!(frame.code.qualname));
            map.insert("file".into(), json!(frame.code.filename));
            map.insert("line".into(), json!(frame.line));
            map.insert("first_line".into(), json!(frame.code.first_line));
            map.insert("kind".into(), json!(frame.code.kind()));
            if let Some(variables) = variables {
                let locals: Map<String, Json> =
                    variables.iter().map(|(name, value)| (name.clone(), value.to_json())).collect();
                map.insert("locals".into(), Json::Object(locals));
            }
            Json::Object(map)
        });
        let state = &self.stack.state;
        json!({
            "tid": self.stack.tid,
            "native_id": state.native_id,
            "thread_id": state.thread_id,
            "name": self.stack.name,
            "interpreter": state.interpreter,
            "holds_gil": state.holds_gil,
            "changing": self.changing,
            "incomplete_reason": self.stack.stack.broken,
            "frames": frames.collect::<Vec<_>>(),
        })
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let state = &self.stack.state;
        match self.stack.tid {
            Some(tid) => write!(out, "\nthread {tid}")?,
            None => write!(out, "\nthread {:#x}", state.thread_id)?,
        }
        if let Some(name) = &self.stack.name {
            write!(out, " \"{}\"", plain(name))?;
        }
        if state.interpreter != 0 {
            write!(out, ", interpreter {}", state.interpreter)?;
        }
        if state.holds_gil == Some(true) {
            out.push_str(", holds the GIL");
        }
        if self.changing {
            out.push_str(", ran while it was read");
        }
        out.push('\n');
        if self.stack.stack.frames.is_empty() {
            out.push_str("  (no Python frames)\n");
        }
        for (frame, variables) in self.stack.stack.frames.iter().zip(&self.locals) {
            let line = frame.line.map_or_else(|| "?".to_owned(), |line| line.to_string());
            let kind = frame.code.kind();
            let kind = if kind.is_empty() { String::new() } else { format!("{kind} ") };
            let (function, file) = (plain(&frame.code.qualname), plain(&frame.code.filename));
            writeln!(out, "  {kind}{function} ({file}:{line})")?;
            for (name, value) in variables.iter().flatten() {
                writeln!(out, "      {} = {value}", plain(name))?;
            }
        }
        if let Some(reason) = &self.stack.stack.broken {
            writeln!(out, "  (the stack could not be read further: {reason})")?;
        }
        Ok(())
    }
}

/// The variables of a frame. Of modules' and classes' bodies, names with two underscores are left out.
fn variables(reader: &Reader<'_>, frame: &Frame, decoder: &mut Decoder<'_, '_>) -> Vec<(String, Value)> {
    if let Ok(Some(dict)) = locals_dict(reader, frame) {
        let Content::Entries(entries) = decoder.value(dict).content else { return Vec::new() };
        let named = entries.into_iter().filter_map(|(key, value)| match key.content {
            Content::Str(name) if !name.starts_with("__") => Some((name, value)),
            _ => None,
        });
        return named.collect();
    }
    let locals = locals(reader, frame).unwrap_or_default();
    decoder.variables(locals.into_iter().map(|local| (local.name, local.object)).collect())
}

/// Text of the target, for a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
