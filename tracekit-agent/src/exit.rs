//! Exit codes of the command line, and how an error gets one.

use std::{fmt, io};

use crate::discovery::{InspectError, SelectError};

/// Exit codes of `tracekit`: the same number means the same thing for every verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Did what was asked.
    Ok = 0,
    /// Failed for a reason that has no code of its own.
    Error = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The target does not exist, or nothing matches the selectors.
    NotFound = 3,
    /// A privilege is missing; the message names it.
    NotPermitted = 4,
    /// The target or the host cannot be traced; the message names the reason.
    Unsupported = 5,
    /// Ended by Ctrl-C after a clean detach (128 + SIGINT).
    Interrupted = 130,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// The exit code of a verb that has written its output: `tracekit ps | head` closes it early, which is no failure.
///
/// # Errors
/// Any other error of writing.
pub fn printed(written: io::Result<()>, code: ExitCode) -> anyhow::Result<ExitCode> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(code),
    }
}

/// An error that brings its own exit code.
#[derive(Debug)]
pub struct Failure {
    /// What the process exits with.
    pub code: ExitCode,
    /// What failed, on what, and what to do.
    pub message: String,
}

impl Failure {
    /// A failure with this code.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The exit code for an error: that of the outermost cause that has one, else [`ExitCode::Error`].
#[must_use]
pub fn code_of(error: &anyhow::Error) -> ExitCode {
    error.chain().find_map(code_of_cause).unwrap_or(ExitCode::Error)
}

fn code_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<ExitCode> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(failure.code);
    }
    if let Some(error) = cause.downcast_ref::<InspectError>() {
        return Some(match error {
            InspectError::NotFound { .. } => ExitCode::NotFound,
            InspectError::Denied { .. } => ExitCode::NotPermitted,
            InspectError::NotPython { .. } | InspectError::Unsupported { .. } => ExitCode::Unsupported,
            InspectError::NotReady { .. } | InspectError::Unreadable { .. } => ExitCode::Error,
        });
    }
    if let Some(error) = cause.downcast_ref::<SelectError>() {
        return Some(match error {
            SelectError::Empty | SelectError::Invalid { .. } => ExitCode::Usage,
            SelectError::NoMatch { .. } => ExitCode::NotFound,
            SelectError::Process(error) => return code_of_cause(error),
        });
    }
    if let Some(error) = cause.downcast_ref::<std::io::Error>()
        && error.kind() == std::io::ErrorKind::PermissionDenied
    {
        return Some(ExitCode::NotPermitted);
    }
    None
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn errors_have_codes_through_context() {
        let coded = |error: anyhow::Error| code_of(&error);
        let missing = InspectError::NotFound { pid: 7 };
        assert_eq!(coded(anyhow::Error::from(missing).context("attach")), ExitCode::NotFound);
        let no_match = SelectError::NoMatch { selector: "--name x".into() };
        assert_eq!(coded(no_match.into()), ExitCode::NotFound);
        assert_eq!(coded(SelectError::Empty.into()), ExitCode::Usage);
        let inner = SelectError::Process(InspectError::NotPython { pid: 1, exe: None });
        assert_eq!(coded(inner.into()), ExitCode::Unsupported);
        let denied: Result<(), _> = Err(std::io::Error::from(std::io::ErrorKind::PermissionDenied));
        assert_eq!(coded(denied.context("open").unwrap_err()), ExitCode::NotPermitted);
        assert_eq!(coded(anyhow::anyhow!("other")), ExitCode::Error);
        assert_eq!(coded(Failure::new(ExitCode::Unsupported, "no").into()), ExitCode::Unsupported);
    }
}
