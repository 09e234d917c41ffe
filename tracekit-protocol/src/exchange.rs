//! What parsers emit: one request and its answer.

use crate::{Direction, Moment};

/// The part the traced process plays on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// It answers requests.
    Server,
    /// It sends requests.
    Client,
}

impl Role {
    /// Which way requests go.
    #[must_use]
    pub fn request_direction(self) -> Direction {
        match self {
            Self::Server => Direction::Inbound,
            Self::Client => Direction::Outbound,
        }
    }

    /// The role of the traced process if requests go in this direction.
    #[must_use]
    pub fn requesting(direction: Direction) -> Self {
        match direction {
            Direction::Outbound => Self::Client,
            Direction::Inbound => Self::Server,
        }
    }

    /// The role of the other end.
    #[must_use]
    pub fn reverse(self) -> Self {
        match self {
            Self::Server => Self::Client,
            Self::Client => Self::Server,
        }
    }

    /// When a request starts whose first byte was transferred `at`: a server has it when the read
    /// returns, a client starts to wait when it enters the write.
    #[must_use]
    pub fn request_start(self, at: &Moment) -> u64 {
        match self {
            Self::Server => at.returned,
            Self::Client => at.entered,
        }
    }

    /// When an answer starts whose first byte was transferred `at`.
    #[must_use]
    pub fn answer_start(self, at: &Moment) -> u64 {
        match self {
            Self::Server => at.entered,
            Self::Client => at.returned,
        }
    }
}

/// Something that happened on a connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A request has started: its head is complete. Exactly one [`Event::End`] with the same `id` follows.
    Begin(Begin),
    /// A request is over.
    End(Box<End>),
}

/// A request has started.
#[derive(Debug, Clone, PartialEq)]
pub struct Begin {
    /// Ordinal of the request on its connection, unique among all requests of the connection.
    pub id: u64,
    /// Whether the traced process serves or sends this request.
    pub role: Role,
    /// When its first byte was transferred: entry of the write for a client, return of the read for a
    /// server; nanoseconds of `CLOCK_MONOTONIC`.
    pub start: u64,
    /// The native thread that read or wrote the first byte.
    pub tid: u32,
    /// `traceparent` header of an HTTP request, as it stands in the message.
    pub traceparent: Option<String>,
    /// `tracestate` header, likewise.
    pub tracestate: Option<String>,
}

/// A request is over.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// The `id` of the [`Begin`].
    pub id: u64,
    /// As in [`Begin`].
    pub role: Role,
    /// As in [`Begin`], nanoseconds of `CLOCK_MONOTONIC`.
    pub start: u64,
    /// First byte of the answer, nanoseconds of `CLOCK_MONOTONIC`.
    pub first_response_byte: Option<u64>,
    /// Last byte of the answer (or of the connection), nanoseconds of `CLOCK_MONOTONIC`.
    pub end: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// What was asked and answered.
    pub request: Request,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The answer is complete.
    Complete,
    /// The traced process closed the connection before the answer was complete (its time-out, mostly).
    ClosedLocally,
    /// The peer closed the connection before the answer was complete.
    ClosedByPeer,
    /// The end was not seen: bytes are missing and the stream went on with something else.
    Unknown,
}

/// What was asked and answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// HTTP/1.0 or HTTP/1.1.
    Http(Http),
    /// PostgreSQL, MySQL or MariaDB.
    Sql(Sql),
    /// Redis (RESP2, RESP3).
    Redis(Redis),
}

/// An HTTP request and its response. Header values are as on the wire, lossily decoded as UTF-8.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Http {
    /// `0` or `1`: the minor version of the request line.
    pub minor_version: u8,
    /// The method as sent.
    pub method: String,
    /// The request target as sent: origin form mostly, absolute form towards proxies.
    pub target: String,
    /// Request header fields in order, names as sent.
    pub request_headers: Vec<(String, String)>,
    /// Status code of the final response (not 1xx, but for 101).
    pub status: Option<u16>,
    /// Response header fields in order, names as sent.
    pub response_headers: Vec<(String, String)>,
    /// Bytes of the request body on the wire, if known.
    pub request_body_size: Option<u64>,
    /// Bytes of the response body on the wire, if known.
    pub response_body_size: Option<u64>,
    /// The connection was upgraded (101, or 2xx to CONNECT); bytes after it are not HTTP.
    pub upgraded: bool,
}

impl Http {
    /// The first request header field of that name, compared without case.
    #[must_use]
    pub fn request_header(&self, name: &str) -> Option<&str> {
        find(&self.request_headers, name)
    }

    /// The first response header field of that name, compared without case.
    #[must_use]
    pub fn response_header(&self, name: &str) -> Option<&str> {
        find(&self.response_headers, name)
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
}

/// Which database a SQL connection speaks to. The names are those of `db.system.name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SqlSystem {
    /// `postgresql`
    PostgreSql,
    /// `mysql`
    MySql,
    /// `mariadb`
    MariaDb,
}

impl SqlSystem {
    /// The value of `db.system.name`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PostgreSql => "postgresql",
            Self::MySql => "mysql",
            Self::MariaDb => "mariadb",
        }
    }
}

/// One statement round trip.
#[derive(Debug, Clone, PartialEq)]
pub struct Sql {
    /// The server's kind.
    pub system: SqlSystem,
    /// The statement as sent, **with its literals**: pass it through [`crate::sql::sanitize`] before it
    /// goes anywhere. `None` if it was prepared before the agent came or not captured.
    pub text: Option<String>,
    /// The text was cut at [`crate::Limits::text`] or by the capture.
    pub text_truncated: bool,
    /// Name of the prepared statement, if the client gave it one.
    pub statement_name: Option<String>,
    /// Sent as a prepared statement or with separate parameters.
    pub parameterized: bool,
    /// The database of the connection, if its start was seen.
    pub database: Option<String>,
    /// The user of the connection, if its start was seen.
    pub user: Option<String>,
    /// Rows returned, if the answer says so.
    pub returned_rows: Option<u64>,
    /// Rows inserted, updated or deleted, if the answer says so.
    pub affected_rows: Option<u64>,
    /// The server's error.
    pub error: Option<SqlError>,
    /// The statement was cancelled by the client or its time-out (SQLSTATE 57014, MySQL 1317).
    pub cancelled: bool,
}

/// An error that a SQL server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlError {
    /// SQLSTATE (PostgreSQL: field `C`), or for MySQL the error number in decimal.
    pub code: String,
    /// MySQL also sends a SQLSTATE.
    pub sqlstate: Option<String>,
    /// The message; may hold data of the application.
    pub message: String,
}

/// One command round trip.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Redis {
    /// The command name, upper case, with its subcommand where it has one (`CLIENT SETINFO`, `GET`).
    pub command: String,
    /// The arguments as sent, **with their values**, each bounded; see [`crate::redis::sanitize`].
    pub arguments: Vec<String>,
    /// How many arguments there were in truth.
    pub argument_count: u64,
    /// Number of the database, if a SELECT or HELLO was seen on this connection.
    pub database: Option<u32>,
    /// Error answer: its first word (`WRONGTYPE`, `ERR`) and the whole message.
    pub error: Option<RedisError>,
    /// Connection set-up that the client library does on its own (HELLO, AUTH, CLIENT SETINFO, SELECT
    /// before the first other command).
    pub handshake: bool,
    /// The commands of a pipeline (`command` is then `PIPELINE`) or of a transaction sent in one go
    /// (`command` is then `MULTI`; `MULTI` and `EXEC` themselves are left out). Empty for a single
    /// command. Bounded by [`crate::Limits::in_flight`].
    pub batch: Vec<RedisCommand>,
    /// How many commands the batch had in truth; 0 for a single command.
    pub batch_size: u64,
}

/// One command of a pipeline.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RedisCommand {
    /// As in [`Redis::command`].
    pub command: String,
    /// As in [`Redis::arguments`].
    pub arguments: Vec<String>,
}

/// An error that Redis answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisError {
    /// The first word: `ERR`, `WRONGTYPE`, `MOVED` …
    pub prefix: String,
    /// The whole message; may hold data of the application.
    pub message: String,
}
