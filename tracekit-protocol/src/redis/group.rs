//! The commands of one exchange and the answers that they wait for.

use std::collections::VecDeque;

use super::command::{Answer, Command};
use super::resp::Value;
use crate::exchange::{Redis, RedisCommand, RedisError};
use crate::{End, Limits, Outcome, Request, Role};

/// Commands sent in one go.
pub struct Group {
    id: u64,
    start: u64,
    /// The first commands, as many as the limits let.
    commands: Vec<RedisCommand>,
    /// Commands in truth.
    sent: u64,
    /// Arguments in truth of the first command.
    argument_count: u64,
    /// Name of the last command.
    last: String,
    /// Answers to come, equal ones counted together.
    answers: VecDeque<(Answer, u64)>,
    setup: bool,
    /// More commands were sent than were captured.
    pub incomplete: bool,
    /// Bytes were missed that may have been the next commands.
    pub next_lost: bool,
    first_answer: Option<u64>,
    last_answer: u64,
    error: Option<RedisError>,
    retained: usize,
}

impl Group {
    pub fn new(id: u64, start: u64) -> Self {
        Self {
            id,
            start,
            commands: Vec::new(),
            sent: 0,
            argument_count: 0,
            last: String::new(),
            answers: VecDeque::new(),
            setup: true,
            incomplete: false,
            next_lost: false,
            first_answer: None,
            last_answer: 0,
            error: None,
            retained: 0,
        }
    }

    /// Bytes held.
    pub fn retained(&self) -> usize {
        self.retained
    }

    /// Answers that are counted one by one.
    pub fn special_answers(&self) -> usize {
        self.answers.len()
    }

    /// Adds a command, keeping at most `room` bytes of it.
    pub fn push(&mut self, command: Command, setup: bool, limits: &Limits, room: usize) {
        if self.sent == 0 {
            self.argument_count = command.argument_count;
        }
        self.sent += 1;
        self.setup &= setup;
        self.last.clone_from(&command.shown.command);
        let mut shown = command.shown;
        let mut text_left = limits.text.saturating_sub(self.retained);
        for argument in &mut shown.arguments {
            // Their number still shows when their text has no room.
            if argument.len() > text_left {
                *argument = String::new();
            }
            text_left -= argument.len();
        }
        let per_string = size_of::<String>();
        let mut cost = shown.command.len() + per_string * (2 + shown.arguments.len());
        cost += shown.arguments.iter().map(String::len).sum::<usize>();
        if self.commands.len() < limits.in_flight.max(1) && (self.commands.is_empty() || cost <= room) {
            if cost > room {
                shown.arguments = Vec::new();
                cost = shown.command.len() + 2 * per_string;
            }
            self.retained += cost;
            self.commands.push(shown);
        }
        match self.answers.back_mut() {
            Some((Answer::One, n)) if command.answer == Answer::One => *n += 1,
            _ => self.answers.push_back((command.answer, 1)),
        }
    }

    /// The answer that is due.
    pub fn expected(&self) -> Option<Answer> {
        self.answers.front().map(|(answer, _)| *answer)
    }

    /// Bytes of the answers were transferred: the first at `first`, the last at `last`.
    pub fn touch(&mut self, first: u64, last: u64) {
        self.first_answer.get_or_insert(first);
        self.last_answer = last;
    }

    /// Some of its answers were seen.
    pub fn is_begun(&self) -> bool {
        self.first_answer.is_some()
    }

    /// All known commands are answered; there may be others.
    pub fn is_exhausted(&self) -> bool {
        self.answers.is_empty()
    }

    /// All commands are answered.
    pub fn is_answered(&self) -> bool {
        self.is_exhausted() && !self.incomplete
    }

    /// Takes the next answer; `confirmed`: it confirms one channel of a subscription.
    pub fn take_answer(&mut self, value: Value, confirmed: bool) {
        let due = self.answers.front_mut();
        let is_error = matches!(value.kind, b'-' | b'!');
        let transaction = due.as_ref().is_some_and(|(answer, _)| *answer == Answer::Exec);
        if (is_error || transaction) && self.error.is_none() {
            self.error = value.error.map(|message| {
                let message = String::from_utf8_lossy(&message).into_owned();
                let prefix = message.split(' ').next().unwrap_or_default().to_owned();
                RedisError { prefix, message }
            });
        }
        match due {
            Some((Answer::Subscription(left), _)) if confirmed && *left > 1 => *left -= 1,
            Some((_, n)) if *n > 1 => *n -= 1,
            _ => {
                self.answers.pop_front();
            }
        }
    }

    /// The exchange is over; without `end`, with the last byte seen of its answers.
    pub fn end(self, role: Role, outcome: Outcome, end: Option<u64>, database: Option<u32>) -> End {
        let mut commands = self.commands;
        let mut redis = Redis { database, error: self.error, handshake: self.setup, ..Redis::default() };
        let first = commands.first().map(|c| c.command.as_str()).unwrap_or_default();
        if self.sent <= 1 {
            if let Some(only) = commands.pop() {
                redis.command = only.command;
                redis.arguments = only.arguments;
            }
            redis.argument_count = self.argument_count;
        } else if first == "MULTI" && (self.last == "EXEC" || self.incomplete) {
            redis.command = "MULTI".to_owned();
            commands.remove(0);
            redis.batch_size = self.sent - 1;
            if self.last == "EXEC" {
                redis.batch_size -= 1;
                if commands.len() as u64 == self.sent - 1 {
                    commands.pop();
                }
            }
            redis.batch = commands;
        } else {
            redis.command = "PIPELINE".to_owned();
            redis.batch_size = self.sent;
            redis.batch = commands;
        }
        End {
            id: self.id,
            role,
            start: self.start,
            first_response_byte: self.first_answer,
            end: end.unwrap_or(self.last_answer).max(self.first_answer.unwrap_or(0)).max(self.start),
            outcome,
            request: Request::Redis(redis),
        }
    }
}
