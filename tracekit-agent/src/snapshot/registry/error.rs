//! Why the registry does not do what it is asked for.

use super::MAX_TEXT;
use crate::snapshot::breakpoint::{Id, SpecError};

/// A line that cannot be armed as it was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misplaced {
    /// Several files end like this.
    #[error("{file} is ambiguous: {}; give more of the path", candidates.join(", "))]
    Ambiguous {
        /// What was given.
        file: String,
        /// The files that match.
        candidates: Vec<String>,
    },
    /// The line has no instructions.
    #[error("no code on line {line} of {file}; the nearest lines with code are {}", lines(nearest))]
    NoCode {
        /// The file that was found.
        file: String,
        /// What was given.
        line: u32,
        /// Lines that can be armed, ascending.
        nearest: Vec<u32>,
    },
}

fn lines(nearest: &[u32]) -> String {
    nearest.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

/// Why the registry does not do what it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// A field cannot be used.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The line cannot be armed.
    #[error(transparent)]
    Misplaced(#[from] Misplaced),
    /// There is no such breakpoint.
    #[error("there is no breakpoint {0}; `tracekit break ls` lists them")]
    NotFound(Id),
    /// There is one already.
    #[error("there is a breakpoint {0} already")]
    Exists(Id),
    /// There are too many.
    #[error("there are {count} breakpoints, which is all that {whose} may have; remove some first")]
    Full {
        /// How many there are.
        count: usize,
        /// `this agent` or `a control server`
        whose: &'static str,
    },
    /// Their texts are too large.
    #[error("the texts of all breakpoints would take more than {} KiB; remove some first", MAX_TEXT / 1024)]
    TooLarge,
    /// The process is not traced.
    #[error("process {0} is not traced by this agent; `tracekit ps` lists Python processes")]
    NoProcess(u32),
    /// It is the control server's.
    #[error("{0} belongs to a control server and can only be changed there; it can be disabled here")]
    Remote(Id),
}
