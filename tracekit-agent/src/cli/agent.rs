//! What the verbs have in common that talk to a running agent.

use std::io::{self, Write as _};

use clap::Args;
use hyper::{Method, StatusCode};
use serde_json::Value as Json;

use crate::control::address::default_socket;
use crate::control::client::{Address, Client, ClientError};
use crate::control::guard::Token;
use crate::discovery::ps::printable;
use crate::exit::{ExitCode, Failure};

/// Which agent is asked.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// The agent's socket, or http://HOST:PORT; a token for the latter is taken from TRACEKIT_CONTROL_TOKEN
    #[arg(long, value_name = "ADDRESS", env = "TRACEKIT_AGENT", global = true)]
    agent: Option<String>,
}

impl AgentArgs {
    /// A client of the agent.
    ///
    /// # Errors
    /// The address is none, or the token can't be one.
    pub fn client(&self) -> anyhow::Result<Client> {
        let address = match &self.agent {
            Some(text) => {
                Address::parse(text).map_err(|problem| usage(format!("--agent {text}: {problem}")))?
            }
            None => Address::Unix(default_socket()),
        };
        let token = match std::env::var("TRACEKIT_CONTROL_TOKEN") {
            Ok(text) if !text.trim().is_empty() => Some(
                Token::new(&text).map_err(|problem| usage(format!("TRACEKIT_CONTROL_TOKEN: {problem}")))?,
            ),
            _ => None,
        };
        Ok(Client::new(address, token))
    }

    /// Sends a request and gives the answer.
    ///
    /// # Errors
    /// With the exit code that fits.
    pub fn ask(&self, method: Method, path: &str, body: Option<&Json>) -> anyhow::Result<Json> {
        self.client()?.request(method, path, body).map_err(failure)
    }
}

/// An error of the command line.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    Failure::new(ExitCode::Usage, message).into()
}

/// The error with its exit code.
pub fn failure(error: ClientError) -> anyhow::Error {
    let code = match &error {
        ClientError::NoAgent { .. } => ExitCode::NotFound,
        ClientError::Denied { .. } => ExitCode::NotPermitted,
        ClientError::Broken { .. } | ClientError::Ended { .. } => ExitCode::Error,
        ClientError::Refused { status, code, .. } => match (*status, code.as_str()) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => ExitCode::NotPermitted,
            (_, "not_found" | "no_such_process" | "no_code" | "ambiguous_file") => ExitCode::NotFound,
            (StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY, _) => ExitCode::Usage,
            _ => ExitCode::Error,
        },
    };
    Failure::new(code, error.to_string()).into()
}

/// Prints a text; that nobody reads it any more is no error.
///
/// # Errors
/// Standard output can't be written.
pub fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::Ok),
        other => Ok(other.map(|()| ExitCode::Ok)?),
    }
}

/// JSON for people and programs.
///
/// # Errors
/// Standard output can't be written.
pub fn print_json(json: &Json) -> anyhow::Result<ExitCode> {
    print(&format!("{json:#}\n"))
}

/// A text of the answer, fit for a terminal; `-` if there is none.
pub fn text(json: &Json, pointer: &str) -> String {
    match json.pointer(pointer) {
        Some(Json::String(text)) if !text.is_empty() => printable(text),
        Some(Json::Number(number)) => number.to_string(),
        Some(Json::Bool(value)) => value.to_string(),
        _ => "-".to_owned(),
    }
}

/// A state as people read it: `PAUSED(rate)`, `ACTIVE (rotating)`.
pub fn state(json: &Json) -> String {
    match serde_json::from_value::<crate::snapshot::state::State>(json.clone()) {
        Ok(state) => printable(&state.to_string()),
        Err(_) => text(json, "/state"),
    }
}

/// Lines with aligned columns; nothing but the header if there are no rows.
pub fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    use unicode_width::UnicodeWidthStr as _;
    let mut widths = header.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let line = |cells: &[String; N]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width()) + 2));
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = line(&header.map(str::to_owned));
    text.extend(rows.iter().map(line));
    text
}

/// A time as the user's clock shows it.
pub fn local_time(json: &Json, pointer: &str) -> String {
    let time =
        json.pointer(pointer).and_then(Json::as_str).and_then(|text| text.parse::<jiff::Timestamp>().ok());
    time.map_or_else(
        || "-".to_owned(),
        |time| time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["é".to_owned(), "x".to_owned()], ["long".to_owned(), String::new()]];
        assert_eq!(table(["A", "B"], &rows), "A     B\né     x\nlong\n");
    }

    #[test]
    fn refusals_have_their_exit_codes() {
        let refused = |status: u16, code: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            crate::exit::code_of(&failure(ClientError::Refused {
                status,
                code: code.to_owned(),
                message: String::new(),
            }))
        };
        assert_eq!(refused(401, "unauthorized"), ExitCode::NotPermitted);
        assert_eq!(refused(404, "not_found"), ExitCode::NotFound);
        assert_eq!(refused(422, "no_code"), ExitCode::NotFound);
        assert_eq!(refused(422, "invalid"), ExitCode::Usage);
        assert_eq!(refused(409, "full"), ExitCode::Error);
    }
}
