//! Judges what client spans say of the line that made the call, by what the applications note of each call themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::parents::{call_of, sort_of};
use crate::span::Span;

/// A line of an application.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// Qualified name of the function; before Python 3.11 its name.
    pub function: String,
    /// `co_filename`
    pub file: String,
    /// Its number.
    pub number: String,
}

impl Line {
    /// What a span says.
    #[must_use]
    pub fn of(span: &Span) -> Option<Self> {
        Some(Self {
            function: span.text("code.function.name")?,
            file: span.text("code.file.path")?,
            number: span.text("code.line.number")?,
        })
    }

    fn is(&self, noted: &Self) -> bool {
        let name = self.function.rsplit('.').next();
        self.file == noted.file
            && self.number == noted.number
            && (self.function == noted.function || name == Some(&noted.function))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} {}", self.file, self.number, self.function)
    }
}

/// The calls that the processes of a run noted, with their lines.
///
/// # Errors
/// A file cannot be read, or is no such file.
pub fn noted(directory: &Path) -> Result<BTreeMap<String, Line>> {
    let mut lines = BTreeMap::new();
    for entry in std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "lines") {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        for line in text.lines() {
            let mut words = line.splitn(4, ' ');
            let mut word = || words.next().map(str::to_owned).context("a line with fewer than four words");
            let (call, number, function, file) = (word()?, word()?, word()?, word()?);
            lines.insert(call, Line { function, file, number });
        }
    }
    Ok(lines)
}

/// Client spans of one sort by what they say of their line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// That of the call.
    pub right: usize,
    /// Nothing.
    pub none: usize,
    /// Another one.
    pub wrong: usize,
}

/// What was found of one run.
#[derive(Debug, Default)]
pub struct Verdict {
    /// By kind and client.
    pub cells: BTreeMap<(String, String), Count>,
    /// What is not right.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Judges the spans of a run.
    #[must_use]
    pub fn of(spans: &[Span], noted: &BTreeMap<String, Line>) -> Self {
        let mut verdict = Self::default();
        for span in spans.iter().filter(|span| !span.is_server()) {
            let Some(call) = call_of(span) else { continue };
            let Some((expected, (kind, client))) = noted.get(call).zip(sort_of(call)) else { continue };
            let count = verdict.cells.entry((kind.to_owned(), client.to_owned())).or_default();
            let said = Line::of(span);
            match &said {
                Some(line) if line.is(expected) => count.right += 1,
                Some(line) => {
                    count.wrong += 1;
                    verdict.examples.push(format!("{call} is at {expected}, not at {line}"));
                }
                None => {
                    count.none += 1;
                    verdict.examples.push(format!("{call} is at {expected}, and the span says nothing"));
                }
            }
        }
        verdict
    }

    /// All counts.
    #[must_use]
    pub fn sum(&self) -> Count {
        self.cells.values().fold(Count::default(), |sum, count| Count {
            right: sum.right + count.right,
            none: sum.none + count.none,
            wrong: sum.wrong + count.wrong,
        })
    }
}
