//! Which answer belongs to which command (MySQL documentation, "Command Phase").
//!
//! Every statement is one exchange: `COM_QUERY` with all its result sets, and each execution of a
//! prepared statement. Preparing one is an exchange only if it fails. Commands without a statement
//! (`COM_PING`, `COM_INIT_DB` …) are none.

use std::collections::VecDeque;
use std::sync::Arc;

use super::message::{self, Conclusion, command};
use crate::exchange::SqlSystem;
use crate::framing::Frame;
use crate::statement::{Exchange, Peer, Statement, Statements, ended_by};
use crate::{Close, Event, Limits, Moment, Outcome, Role};

/// MariaDB: the statement prepared last, which may not be answered yet.
const LAST_PREPARED: u32 = u32::MAX;

#[derive(Debug)]
enum Kind {
    /// A statement; its answer is OK or result sets.
    Statement,
    /// `COM_STMT_PREPARE`.
    Prepare { statement: Arc<Statement>, start: u64, tid: u32 },
    /// `COM_STMT_FETCH`: rows only.
    Fetch,
    /// `COM_PROCESS_INFO`: result set of no statement.
    Rows,
    /// `COM_FIELD_LIST`: column definitions until EOF.
    Definitions,
    /// One packet.
    One,
    /// `COM_INIT_DB`: one packet, and on success another database.
    Database(Option<String>),
    /// `COM_CHANGE_USER`: authentication until OK.
    User { user: Option<String>, database: Option<String> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The first packet of a result.
    First,
    /// So many column or parameter definitions are to come.
    Definitions(u64),
    /// Rows, or the EOF between definitions and rows.
    Rows { between: bool },
}

#[derive(Debug)]
struct Command {
    kind: Kind,
    state: State,
    exchange: Option<Exchange>,
}

/// What the flow says about a packet of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// Understood.
    Fine,
    /// Not a command.
    Nonsense,
    /// Replication: nothing to follow any more.
    Stream,
}

/// The conversation on one connection.
#[derive(Debug)]
pub(super) struct Flow {
    pub peer: Peer,
    limits: Limits,
    queue: VecDeque<Command>,
    statements: Statements<u32>,
    last_prepared: Option<Arc<Statement>>,
    /// The client sends a file.
    pub infile: bool,
    /// The server's packet is continued in the next.
    continued: bool,
}

impl Flow {
    pub fn new(role: Role, limits: Limits) -> Self {
        Self {
            peer: Peer::new(role, SqlSystem::MySql),
            limits,
            queue: VecDeque::new(),
            statements: Statements::new(limits.statements),
            last_prepared: None,
            infile: false,
            continued: false,
        }
    }

    pub fn idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// The client sent a packet.
    pub fn request(&mut self, frame: &Frame, events: &mut Vec<Event>) -> Said {
        let [_, _, _, sequence, _] = frame.header;
        if self.infile {
            // File content, until an empty packet.
            self.infile = frame.length > 0;
            return Said::Fine;
        }
        if sequence != 0 {
            // The continuation of a large packet, or authentication.
            return Said::Fine;
        }
        let Some((code, body)) = frame.body.split_first() else { return Said::Nonsense };
        if self.queue.len() >= self.limits.in_flight.max(1) {
            self.give_up(frame.started.entered, events);
        }
        let start = self.peer.role.request_start(&frame.started);
        let tid = frame.started.tid;
        let (kind, state) = match *code {
            command::QUERY => {
                let statement = message::query_text(body).map(|text| self.statement(text, frame.whole()));
                self.push_statement(start, tid, statement, false, events);
                return Said::Fine;
            }
            command::STMT_EXECUTE | command::STMT_BULK_EXECUTE => {
                let statement = message::u32_at(body, 0).and_then(|id| self.prepared(id));
                self.push_statement(start, tid, statement, true, events);
                return Said::Fine;
            }
            command::STMT_PREPARE => {
                let statement = self.statement(body, frame.whole());
                (Kind::Prepare { statement, start, tid }, State::First)
            }
            command::STMT_FETCH => (Kind::Fetch, State::Rows { between: false }),
            command::STMT_CLOSE => {
                if let Some(id) = message::u32_at(body, 0) {
                    self.statements.remove(&id);
                }
                return Said::Fine;
            }
            command::STMT_SEND_LONG_DATA | command::QUIT => return Said::Fine,
            command::FIELD_LIST => (Kind::Definitions, State::Rows { between: false }),
            command::PROCESS_INFO => (Kind::Rows, State::First),
            command::INIT_DB => {
                (Kind::Database(Some(String::from_utf8_lossy(body).into_owned())), State::First)
            }
            command::CHANGE_USER => {
                let (user, database) = message::change_user(body).unwrap_or_default();
                (Kind::User { user, database }, State::First)
            }
            command::RESET_CONNECTION => {
                self.statements.clear();
                (Kind::One, State::First)
            }
            command::BINLOG_DUMP | command::TABLE_DUMP | command::BINLOG_DUMP_GTID => {
                self.give_up(frame.started.entered, events);
                return Said::Stream;
            }
            // COM_CREATE_DB … COM_SET_OPTION
            0x05..=0x1b => (Kind::One, State::First),
            _ => return Said::Nonsense,
        };
        self.queue.push_back(Command { kind, state, exchange: None });
        Said::Fine
    }

    fn statement(&self, text: &[u8], whole: bool) -> Arc<Statement> {
        let cut = text.get(..self.limits.text).unwrap_or(text);
        Arc::new(Statement::new(None, cut, whole && cut.len() == text.len()))
    }

    fn prepared(&self, id: u32) -> Option<Arc<Statement>> {
        if id != LAST_PREPARED {
            return self.statements.get(&id);
        }
        let pending = self.queue.iter().rev().find_map(|command| match &command.kind {
            Kind::Prepare { statement, .. } => Some(Arc::clone(statement)),
            _ => None,
        });
        pending.or_else(|| self.last_prepared.clone())
    }

    fn push_statement(
        &mut self,
        start: u64,
        tid: u32,
        statement: Option<Arc<Statement>>,
        parameterized: bool,
        events: &mut Vec<Event>,
    ) {
        let exchange = Exchange::begin(&mut self.peer, start, tid, statement, parameterized, events);
        self.queue.push_back(Command {
            kind: Kind::Statement,
            state: State::First,
            exchange: Some(exchange),
        });
    }

    /// The server sent a packet.
    pub fn answer(&mut self, frame: &Frame, at: &Moment, events: &mut Vec<Event>) {
        let continuation = std::mem::replace(&mut self.continued, frame.length == message::FULL_PACKET);
        if continuation {
            return;
        }
        self.note_first_byte(&frame.started);
        // Without a command: the end of an answer that was taken for complete, or joined late.
        let Some(command) = self.queue.front_mut() else { return };
        let body = frame.body.as_slice();
        let first = body.first().copied().unwrap_or(0);
        if first == message::ERR && !matches!(command.state, State::Definitions(_)) {
            self.error(body, at, events);
            return;
        }
        match command.state {
            State::First => self.first(body, frame.length, at, events),
            State::Definitions(left) => {
                if first == message::EOF && frame.length == 5 {
                    // Between the definitions of parameters and of columns.
                    return;
                }
                let left = left.saturating_sub(1);
                command.state = match (left, &command.kind) {
                    (0, Kind::Prepare { .. }) => {
                        self.conclude(at, events);
                        return;
                    }
                    (0, _) => State::Rows { between: true },
                    _ => State::Definitions(left),
                };
            }
            State::Rows { between } => match message::end_of_rows(body, frame.length) {
                Some(end) if between && frame.length == 5 && end.status & message::CURSOR_EXISTS == 0 => {
                    command.state = State::Rows { between: false };
                }
                Some(end) => {
                    // With a cursor the rows are fetched later.
                    let cursor = between && end.status & message::CURSOR_EXISTS != 0;
                    if let Some(exchange) = &mut command.exchange {
                        let rows = std::mem::take(&mut exchange.counted);
                        if !cursor && !exchange.uncounted {
                            exchange.returned(rows);
                        }
                    }
                    self.end_of_result(end, at, events);
                }
                None => {
                    command.state = State::Rows { between: false };
                    if let Some(exchange) = &mut command.exchange {
                        exchange.counted += 1;
                    }
                }
            },
        }
    }

    /// Bytes of the answer to the first command in flight came.
    pub fn note_first_byte(&mut self, at: &Moment) {
        if let Some(exchange) = self.queue.front_mut().and_then(|command| command.exchange.as_mut()) {
            exchange.answered(self.peer.role, at);
        }
    }

    fn first(&mut self, body: &[u8], length: u64, at: &Moment, events: &mut Vec<Event>) {
        let Some(command) = self.queue.front_mut() else { return };
        let first = body.first().copied().unwrap_or(0);
        match (&mut command.kind, first) {
            // The late end of the definitions of a statement that was prepared before.
            (Kind::Statement | Kind::Rows | Kind::Prepare { .. }, message::EOF) if length == 5 => {}
            (Kind::Statement, message::OK) => {
                let end = message::ok(body).unwrap_or(Conclusion { affected: 0, status: 0 });
                if let Some(exchange) = &mut command.exchange {
                    exchange.affected(end.affected);
                }
                self.end_of_result(end, at, events);
            }
            (Kind::Statement, message::LOCAL_INFILE) => self.infile = true,
            (Kind::Statement | Kind::Rows, _) => {
                let (columns, rest) = message::lenenc(body).unwrap_or((0, &[]));
                // MariaDB, MARIADB_CLIENT_CACHE_METADATA: 0 if the definitions are left out.
                command.state = match (columns, rest.first()) {
                    (0, _) | (_, Some(0)) => State::Rows { between: true },
                    _ => State::Definitions(columns),
                };
            }
            (Kind::Prepare { statement, .. }, message::OK) => {
                let statement = Arc::clone(statement);
                let columns = message::u16_at(body, 5).unwrap_or(0);
                let parameters = message::u16_at(body, 7).unwrap_or(0);
                command.state = State::Definitions(u64::from(columns) + u64::from(parameters));
                if let Some(id) = message::u32_at(body, 1) {
                    self.statements.insert(id, Arc::clone(&statement));
                }
                self.last_prepared = Some(statement);
                if columns == 0 && parameters == 0 {
                    self.conclude(at, events);
                }
            }
            (Kind::Database(name), message::OK) => {
                self.peer.database = name.take();
                self.conclude(at, events);
            }
            (Kind::User { user, database }, message::OK) => {
                self.peer.user = user.take();
                self.peer.database = database.take();
                self.statements.clear();
                self.conclude(at, events);
            }
            // Another round of authentication.
            (Kind::User { .. }, _) => {}
            _ => self.conclude(at, events),
        }
    }

    fn end_of_result(&mut self, end: Conclusion, at: &Moment, events: &mut Vec<Event>) {
        if end.status & message::MORE_RESULTS == 0 {
            self.conclude(at, events);
        } else if let Some(command) = self.queue.front_mut() {
            command.state = State::First;
        }
    }

    fn error(&mut self, body: &[u8], at: &Moment, events: &mut Vec<Event>) {
        let Some((number, error)) = message::error(body) else { return };
        if number == message::PROGRESS_REPORT {
            return;
        }
        let cancelled = message::CANCELLED.contains(&number);
        self.infile = false;
        let Some(mut command) = self.queue.pop_front() else { return };
        if let Kind::Prepare { statement, start, tid } = command.kind {
            let exchange = Exchange::begin(&mut self.peer, start, tid, Some(statement), true, events);
            command.exchange = Some(exchange);
        }
        if let Some(mut exchange) = command.exchange {
            exchange.answered(self.peer.role, at);
            exchange.fail(error, cancelled);
            exchange.end(&self.peer, at.returned, Outcome::Complete, events);
        }
    }

    /// The answer to the first command in flight is complete.
    fn conclude(&mut self, at: &Moment, events: &mut Vec<Event>) {
        let Some(command) = self.queue.pop_front() else { return };
        if let Some(exchange) = command.exchange {
            let database = exchange.text().and_then(used_database);
            exchange.end(&self.peer, at.returned, Outcome::Complete, events);
            if database.is_some() {
                self.peer.database = database;
            }
        }
    }

    /// Bytes of the answer are missing: rows can't be counted.
    pub fn uncount(&mut self) {
        self.continued = false;
        for exchange in self.queue.iter_mut().filter_map(|command| command.exchange.as_mut()) {
            exchange.uncounted = true;
        }
    }

    /// The end of an answer was found after missing bytes: the next packet is a row or that end.
    /// False: whose end it is can't be known.
    pub fn resume(&mut self) -> bool {
        match self.queue.make_contiguous() {
            [command] => {
                command.state = State::Rows { between: false };
                true
            }
            _ => false,
        }
    }

    /// What is in flight can't be followed any more.
    pub fn give_up(&mut self, end: u64, events: &mut Vec<Event>) {
        self.finish(end, Outcome::Unknown, events);
    }

    /// The connection ended.
    pub fn close(&mut self, close: Close, end: u64, events: &mut Vec<Event>) {
        let Some(outcome) = ended_by(close) else { return };
        self.finish(end, outcome, events);
        self.statements.clear();
        self.last_prepared = None;
    }

    fn finish(&mut self, end: u64, outcome: Outcome, events: &mut Vec<Event>) {
        for command in std::mem::take(&mut self.queue) {
            if let Some(exchange) = command.exchange {
                exchange.end(&self.peer, end, outcome, events);
            }
        }
        self.infile = false;
        self.continued = false;
    }
}

/// The database that a `USE` statement names.
fn used_database(text: &str) -> Option<String> {
    let text = text.trim_start();
    let (verb, name) = text.split_once(char::is_whitespace)?;
    if !verb.eq_ignore_ascii_case("use") {
        return None;
    }
    let name = name.trim().trim_end_matches(';').trim_end().trim_matches('`');
    (!name.is_empty() && !name.contains(char::is_whitespace)).then(|| name.to_owned())
}
