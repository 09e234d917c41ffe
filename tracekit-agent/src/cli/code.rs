//! `tracekit code`: the files, functions and breakable lines that a process has loaded.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::rc::Rc;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::dump::failure;
use crate::discovery::Inspector;
use crate::discovery::ps::{Format, printable_whole};
use crate::exit::{ExitCode, Failure, printed};
use crate::python::code::{Found, ScanError, is_library, qualified_names, scan};
use crate::python::reader::{Code, Reader};
use crate::python::runtime::Target;

/// Arguments of `tracekit code`.
#[derive(Debug, Args)]
pub struct CodeArgs {
    /// The process
    #[arg(short, long)]
    pid: u32,
    /// Only files whose path or name matches, such as `views.py` or `*/shop/*`; without it, those of the
    /// application
    glob: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Serialize)]
struct FileRow {
    file: String,
    library: bool,
    functions: Vec<FunctionRow>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct FunctionRow {
    first_line: i32,
    name: String,
    /// `async`, `generator`, `async generator` or empty
    kind: &'static str,
    /// Lines that have instructions, ascending.
    lines: Vec<i32>,
}

/// Runs `tracekit code`.
///
/// # Errors
/// If the process cannot be read, or nothing matches.
pub fn run(args: &CodeArgs) -> anyhow::Result<ExitCode> {
    let pattern = args.glob.as_deref().map(glob::Pattern::new).transpose();
    let pattern = pattern
        .map_err(|error| Failure::new(ExitCode::Usage, error.to_string()))
        .with_context(|| format!("`{}` is not a pattern", args.glob.as_deref().unwrap_or_default()))?;
    let inspector = Inspector::default();
    let inspected = inspector.inspect(args.pid)?;
    let target = Target::open(&inspector.proc, &inspected).map_err(failure)?;
    let reader = target.reader().map_err(failure)?;
    let found = scan(&target, &reader).map_err(|error| match error {
        ScanError::Proc { ref error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
            anyhow::Error::from(Failure::new(
                ExitCode::NotPermitted,
                format!("{error}: run tracekit as root, or with CAP_SYS_PTRACE"),
            ))
        }
        error => error.into(),
    })?;
    let wanted = |file: &str| match &pattern {
        Some(pattern) => {
            let name = file.rsplit('/').next().unwrap_or(file);
            pattern.matches(file) || pattern.matches(name)
        }
        None => !is_library(file),
    };
    let files = rows(&reader, &found, wanted);
    if files.is_empty() {
        let what = args.glob.as_deref().unwrap_or("files of the application");
        return Err(Failure::new(
            ExitCode::NotFound,
            format!(
                "process {} has loaded no code that matches {what}; `tracekit code --pid {} '*'` lists all",
                args.pid, args.pid
            ),
        )
        .into());
    }
    let text = match args.output {
        Format::Json => serde_json::to_string_pretty(&files)? + "\n",
        Format::Table => table(&files, &found)?,
    };
    printed(io::stdout().lock().write_all(text.as_bytes()), ExitCode::Ok)
}

fn rows(reader: &Reader<'_>, found: &Found, wanted: impl Fn(&str) -> bool) -> Vec<FileRow> {
    let codes: Vec<Rc<Code>> = found.codes.iter().filter(|code| wanted(&code.filename)).cloned().collect();
    let names = qualified_names(reader, &codes);
    let mut files: BTreeMap<&str, Vec<FunctionRow>> = BTreeMap::new();
    for code in &codes {
        files.entry(&code.filename).or_default().push(FunctionRow {
            first_line: code.first_line,
            name: names.get(&code.address).unwrap_or(&code.name).clone(),
            kind: code.kind(),
            lines: code.breakable_lines(),
        });
    }
    files
        .into_iter()
        .map(|(file, mut functions)| {
            functions.sort();
            // A function that was compiled twice, or copied with other constants, is one to the reader.
            functions.dedup();
            FileRow { file: file.to_owned(), library: is_library(file), functions }
        })
        .collect()
}

fn table(files: &[FileRow], found: &Found) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    for file in files {
        writeln!(out, "{}{}", printable_whole(&file.file), if file.library { " (library)" } else { "" })?;
        for function in &file.functions {
            let kind = if function.kind.is_empty() { String::new() } else { format!("{} ", function.kind) };
            writeln!(
                out,
                "  {:>5}  {kind}{}  lines {}",
                function.first_line,
                printable_whole(&function.name),
                ranges(&function.lines)
            )?;
        }
    }
    if found.swapped > 0 {
        let mib = found.swapped >> 20;
        writeln!(out, "({mib} MiB of the process are swapped out and were not searched)")?;
    }
    Ok(out)
}

/// `3-5,9`
fn ranges(lines: &[i32]) -> String {
    let mut parts: Vec<(i32, i32)> = Vec::new();
    for line in lines {
        match parts.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*line) => *last = *line,
            _ => parts.push((*line, *line)),
        }
    }
    let parts = parts.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    parts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_ranges() {
        assert_eq!(ranges(&[3, 4, 5, 9, 11, 12]), "3-5,9,11-12");
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[i32::MAX]), i32::MAX.to_string());
    }
}
