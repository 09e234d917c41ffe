//! `tracekit redact`: what redaction hides of a text.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal as _, Read as _, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::redaction::pattern;
use crate::discovery::ps::Format;
use crate::exit::{ExitCode, Failure};
use crate::redact::{Counts, CustomPattern, Finding, Kind, MAX_TEXT, Redactor, Settings};

const HELP: &str = "An agent hides the same; `tracekit attach` and `tracekit run` take --redaction strict, --redact-name, \
    --redact-allow, --redact-type and --redact-pattern for all that they put out.";

/// Arguments of `tracekit redact`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct RedactArgs {
    /// The text; without it, standard input
    file: Option<PathBuf>,
    /// Print where something is hidden, and its type, instead of the text
    #[arg(short, long)]
    report: bool,
    /// Hide also the values of this name; case and separators don't matter
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Show the values of this name although it looks like a secret's
    #[arg(long = "allow", value_name = "NAME")]
    allowed: Vec<String>,
    /// Hide also what matches, or its first group; the type is what the marker says
    #[arg(long = "pattern", value_name = "TYPE=REGEX", value_parser = pattern)]
    patterns: Vec<CustomPattern>,
    /// Output format; `json` is a report
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Something hidden. The secret is not told, nor how long it is.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    /// From 1.
    line: usize,
    /// In characters, from 1.
    column: usize,
    #[serde(rename = "type")]
    kind: Kind,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    findings: Vec<Row>,
    counts: Counts,
}

/// Runs `tracekit redact`.
///
/// # Errors
/// If the text cannot be read or the result not be written, or a pattern is none.
pub fn run(args: &RedactArgs) -> anyhow::Result<ExitCode> {
    let settings = Settings {
        identifiers: args.names.clone(),
        exclude: args.allowed.clone(),
        patterns: args.patterns.clone(),
        ..Settings::default()
    };
    let redactor =
        Redactor::new(&settings).map_err(|error| Failure::new(ExitCode::Usage, error.to_string()))?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let report = args.report || args.output == Format::Json;
    let done = match &args.file {
        Some(path) => {
            let file = File::open(path).map_err(|error| unreadable(path, &error))?;
            hide(&redactor, io::BufReader::new(file), &mut out, report)
        }
        None if io::stdin().is_terminal() => {
            let message = "there is no text to redact: name a file, or use `tracekit redact < file`";
            return Err(Failure::new(ExitCode::Usage, message).into());
        }
        None => hide(&redactor, io::stdin().lock(), &mut out, report),
    };
    let written = match done {
        Err(Broken::Read(error)) => {
            return Err(
                unreadable(args.file.as_deref().unwrap_or(Path::new("standard input")), &error).into()
            );
        }
        Err(Broken::Write(error)) => Err(error),
        Ok(found) if args.output == Format::Json => serde_json::to_writer_pretty(&mut out, &found)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out)),
        Ok(found) if args.report => table(&found, &mut out),
        Ok(_) => Ok(()),
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::Ok),
        other => Ok(other.map(|()| ExitCode::Ok)?),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::NotFound => ExitCode::NotFound,
        io::ErrorKind::PermissionDenied => ExitCode::NotPermitted,
        _ => ExitCode::Error,
    };
    Failure::new(code, format!("cannot read {}: {error}", path.display()))
}

fn table(report: &Report, out: &mut impl Write) -> io::Result<()> {
    for row in &report.findings {
        writeln!(out, "{}:{}\t{}", row.line, row.column, row.kind)?;
    }
    let total: usize = report.counts.values().sum();
    let kinds: Vec<String> = report.counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let colon = if kinds.is_empty() { "" } else { ": " };
    writeln!(out, "{total} hidden{colon}{}", kinds.join(", "))
}

enum Broken {
    Read(io::Error),
    Write(io::Error),
}

/// Hides what is secret, a part of whole lines at a time, and writes the rest unless only a report is wanted.
fn hide(
    redactor: &Redactor,
    mut input: impl BufRead,
    out: &mut impl Write,
    report: bool,
) -> Result<Report, Broken> {
    let mut parts = Parts { redactor, report: Report::default(), line: 1, column: 1, block: false };
    let mut rest = Vec::new();
    loop {
        let wanted = MAX_TEXT.saturating_sub(rest.len());
        let read = (&mut input).take(wanted as u64).read_to_end(&mut rest).map_err(Broken::Read)?;
        let last = read < wanted;
        // A line that is longer than what is searched is hidden.
        let end = if last {
            rest.len()
        } else {
            rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
        };
        let shown = if end == 0 && !last {
            rest.clear();
            parts.unexamined(&mut input).map_err(Broken::Read)?
        } else {
            let part: Vec<u8> = rest.drain(..end).collect();
            parts.hide(&part)
        };
        if !report {
            out.write_all(&shown).map_err(Broken::Write)?;
        }
        if last {
            return Ok(parts.report);
        }
    }
}

struct Parts<'r> {
    redactor: &'r Redactor,
    report: Report,
    line: usize,
    column: usize,
    /// The part before ended inside a private key.
    block: bool,
}

impl Parts<'_> {
    fn hide(&mut self, part: &[u8]) -> Vec<u8> {
        let mut shown = Vec::new();
        let mut part = part;
        if self.block {
            let end = find(part, b"-----END")
                .map(|at| at + part.get(at..).and_then(|rest| find(rest, b"\n")).unwrap_or(part.len() - at));
            self.block = end.is_none();
            let (hidden, rest) = part.split_at(end.unwrap_or(part.len()));
            self.advance(hidden);
            part = rest;
        }
        let (text, findings) = self.redactor.bytes(part);
        shown.extend(text);
        let mut at = 0;
        for Finding { kind, range } in findings {
            self.advance(part.get(at..range.start).unwrap_or_default());
            at = range.start;
            self.found(kind);
            self.block = kind == Kind::PRIVATE_KEY
                && range.end == part.len()
                && part.get(range).is_some_and(|key| find(key, b"-----END").is_none());
        }
        self.advance(part.get(at..).unwrap_or_default());
        shown
    }

    /// Skips the rest of a line.
    fn unexamined(&mut self, input: &mut impl BufRead) -> io::Result<Vec<u8>> {
        self.found(Kind::UNEXAMINED);
        loop {
            let buffer = input.fill_buf()?;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let length = end.map_or(buffer.len(), |at| at + 1);
            input.consume(length);
            if end.is_some() || length == 0 {
                break;
            }
        }
        self.line += 1;
        self.column = 1;
        Ok(format!("{}\n", Kind::UNEXAMINED.marker()).into_bytes())
    }

    fn found(&mut self, kind: Kind) {
        *self.report.counts.entry(kind).or_default() += 1;
        self.report.findings.push(Row { line: self.line, column: self.column, kind });
    }

    fn advance(&mut self, text: &[u8]) {
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        let tail = match text.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => {
                self.column = 1;
                text.get(at + 1..).unwrap_or_default()
            }
            None => text,
        };
        self.line += lines;
        self.column += std::str::from_utf8(tail).map_or(tail.len(), |tail| tail.chars().count());
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(text: &[u8]) -> (String, Vec<(usize, usize, &'static str)>) {
        let mut out = Vec::new();
        let report = hide(Redactor::standard(), text, &mut out, false).ok().unwrap();
        let rows = report.findings.iter().map(|row| (row.line, row.column, row.kind.name())).collect();
        (String::from_utf8_lossy(&out).into_owned(), rows)
    }

    #[test]
    fn places_are_told() {
        let (text, rows) = hidden("é bob@example.com\n\nx password=abc and 123-45-6789".as_bytes());
        assert_eq!(text, "é [REDACTED:email]\n\nx password=[REDACTED:password] and [REDACTED:ssn]");
        assert_eq!(rows, [(1, 3, "email"), (3, 12, "password"), (3, 20, "ssn")]);
        assert_eq!(hidden(b""), (String::new(), vec![]));
        assert_eq!(hidden(b"\xff a bob@example.com\n").1, [(1, 5, "email")]);
    }

    #[test]
    fn large_texts_are_read_in_parts() {
        let line = "an ordinary line of a log, 4711\n";
        let mut text = line.repeat(MAX_TEXT / line.len());
        text += "-----BEGIN PRIVATE KEY-----\n";
        text += &"MIIEvQIBADANBgkq\n".repeat(2000);
        text += "-----END PRIVATE KEY-----\nbob@example.com\n";
        let (out, rows) = hidden(text.as_bytes());
        assert!(
            out.starts_with(line) && out.ends_with("\n[REDACTED:email]\n"),
            "{}",
            &out[out.len() - 100..]
        );
        assert!(!out.contains("MIIEv"));
        let lines = text.lines().count();
        assert_eq!(rows.last(), Some(&(lines, 1, "email")));
    }

    #[test]
    fn a_line_too_long_to_be_searched_is_hidden() {
        let text = format!("{} bob@example.com\nok\n", "x".repeat(MAX_TEXT));
        assert_eq!(
            hidden(text.as_bytes()),
            ("[REDACTED:unexamined]\nok\n".into(), vec![(1, 1, "unexamined")])
        );
    }
}
