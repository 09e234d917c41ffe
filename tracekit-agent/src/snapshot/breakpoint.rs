//! A breakpoint as a user or a control server wants it, and its JSON form.
//!
//! The JSON form is stable: it is that of the control API, of `-o json` and of the state directory. Keys
//! without a value are `null`, times are RFC 3339 in UTC, durations are seconds.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use super::limits::{LimitError, Limits, LimitsSpec};

/// Bytes of a `file`: Linux has no longer path.
const MAX_FILE: usize = 4096;
/// Lines of a file, as CPython counts them (`int`, 3.8–3.15 `PyCodeObject.co_firstlineno`).
const MAX_LINE: u32 = i32::MAX as u32;
/// Bytes of a condition or watch expression.
const MAX_EXPRESSION: usize = 1024;
/// Watch expressions of one breakpoint.
const MAX_EXPRESSIONS: usize = 16;
/// Bytes of a log template.
const MAX_TEMPLATE: usize = 4096;
/// Bytes of a label, a service, a function.
const MAX_NAME: usize = 256;

/// Names a breakpoint: letters, digits and `._:-`, at most 128 of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Id(String);

impl Id {
    /// An id that no other breakpoint has: `bp-` and eight hexadecimal digits.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("bp-{:08x}", rand::random::<u32>()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Id {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
        if text.is_empty() || text.len() > 128 || !text.chars().all(allowed) {
            return Err(SpecError::invalid("id", "use 1 to 128 letters, digits and the characters ._:-"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What is made of a hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Stack and variables.
    #[default]
    Snapshot,
    /// A line of text.
    Log,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Snapshot => "snapshot",
            Self::Log => "log",
        })
    }
}

/// Severity of a log breakpoint's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// `DEBUG`
    Debug,
    /// `INFO`
    #[default]
    Info,
    /// `WARN`
    Warn,
    /// `ERROR`
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        })
    }
}

/// Who asked for a breakpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A user, through the agent's own API.
    #[default]
    Local,
    /// A control server.
    Remote,
}

/// What is wrong with a breakpoint that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A field cannot be used.
    #[error("{field}: {problem}")]
    Field {
        /// Its key in the JSON form.
        field: &'static str,
        /// What is wrong and what to write instead.
        problem: String,
    },
    /// A limit is out of bounds.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

impl SpecError {
    /// A field cannot be used.
    pub fn invalid(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Field { field, problem: problem.into() }
    }
}

/// What a client sends to make a breakpoint. Only `file` and `line` are required; unknown keys are errors,
/// so that a misspelt condition is not a breakpoint without one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spec {
    /// Snapshot or log.
    pub kind: Kind,
    /// The end of the source file's path: `orders.py`, `app/orders.py`.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// Only hits for which this expression is true count as captures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Expressions whose values are captured beside the variables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expressions: Vec<String>,
    /// Text with `{expression}` in it; for `log` only, and required there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Severity; for `log` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// A name for people, and for control servers that match by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The function, as the control server knows it; information only, the line decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// Only processes of the service with this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Only this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What is not given is the default of the kind.
    pub limits: LimitsSpec,
    /// Begin switched off.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
}

/// A change to a breakpoint. What is absent stays; an empty text takes away. File and line cannot change:
/// remove the breakpoint and add another.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Patch {
    /// As in [`Spec`]; empty: no condition.
    pub condition: Option<String>,
    /// As in [`Spec`]; replaces all.
    pub expressions: Option<Vec<String>>,
    /// As in [`Spec`].
    pub template: Option<String>,
    /// As in [`Spec`].
    pub level: Option<Level>,
    /// As in [`Spec`]; empty: no label.
    pub label: Option<String>,
    /// Those given change. Giving `expires_seconds` counts from now.
    pub limits: Option<LimitsSpec>,
    /// On or off.
    pub enabled: Option<bool>,
}

/// A valid breakpoint: made by [`Breakpoint::new`] and [`Breakpoint::patched`]; one that was read from a file is
/// to be checked with [`Breakpoint::check`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Breakpoint {
    /// Its name.
    pub id: Id,
    /// Snapshot or log.
    pub kind: Kind,
    /// The end of the source file's path.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// Hits for which this is not true are skipped.
    pub condition: Option<String>,
    /// Captured beside the variables.
    pub expressions: Vec<String>,
    /// Of a log breakpoint; always there for those, never for others.
    pub template: Option<String>,
    /// Of a log breakpoint; always there for those, never for others.
    pub level: Option<Level>,
    /// A name for people.
    pub label: Option<String>,
    /// What the control server calls the function.
    pub function: Option<String>,
    /// Only processes of this service.
    pub service: Option<String>,
    /// Only this process.
    pub pid: Option<u32>,
    /// How much it may capture.
    pub limits: Limits,
    /// Switched on.
    pub enabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops by itself.
    pub expires_at: Timestamp,
    /// Who made it: a user, an address, a control server.
    pub created_by: String,
    /// Local or remote.
    pub source: Source,
}

impl Breakpoint {
    /// Checks the specification and fills in defaults.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn new(
        id: Id,
        spec: Spec,
        created_by: &str,
        source: Source,
        now: Timestamp,
    ) -> Result<Self, SpecError> {
        let limits = Limits::resolve(spec.kind, &spec.limits)?;
        let log = spec.kind == Kind::Log;
        let breakpoint = Self {
            id,
            kind: spec.kind,
            file: spec.file,
            line: spec.line,
            condition: not_empty(spec.condition),
            expressions: spec.expressions,
            template: not_empty(spec.template),
            level: if log { Some(spec.level.unwrap_or_default()) } else { spec.level },
            label: not_empty(spec.label),
            function: not_empty(spec.function),
            service: not_empty(spec.service),
            pid: spec.pid,
            enabled: !spec.disabled,
            created_at: now,
            expires_at: later(now, limits.expires_seconds),
            limits,
            created_by: created_by.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect(),
            source,
        };
        breakpoint.check()?;
        Ok(breakpoint)
    }

    /// The breakpoint with a change.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn patched(&self, patch: &Patch, now: Timestamp) -> Result<Self, SpecError> {
        let mut new = self.clone();
        if let Some(condition) = &patch.condition {
            new.condition = not_empty(Some(condition.clone()));
        }
        if let Some(expressions) = &patch.expressions {
            new.expressions.clone_from(expressions);
        }
        if let Some(template) = &patch.template {
            new.template = not_empty(Some(template.clone()));
        }
        if patch.level.is_some() {
            new.level = patch.level;
        }
        if let Some(label) = &patch.label {
            new.label = not_empty(Some(label.clone()));
        }
        if let Some(limits) = &patch.limits {
            new.limits = self.limits.with(self.kind, limits)?;
            if limits.expires_seconds.is_some() {
                new.expires_at = later(now, new.limits.expires_seconds);
            }
        }
        if let Some(enabled) = patch.enabled {
            new.enabled = enabled;
        }
        new.check()?;
        Ok(new)
    }

    /// The breakpoint with its whole time before it again.
    #[must_use]
    pub fn renewed(&self, now: Timestamp) -> Self {
        Self { expires_at: later(now, self.limits.expires_seconds), ..self.clone() }
    }

    /// `orders.py:42`
    #[must_use]
    pub fn location(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    /// Its time is over.
    #[must_use]
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at <= now
    }

    /// It is meant for this process.
    #[must_use]
    pub fn selects(&self, pid: u32, service: &str) -> bool {
        self.pid.is_none_or(|wanted| wanted == pid)
            && self.service.as_deref().is_none_or(|wanted| wanted == service)
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn check(&self) -> Result<(), SpecError> {
        self.limits.check(self.kind)?;
        text("file", &self.file, MAX_FILE)?;
        if self.file.is_empty() || self.file.ends_with('/') {
            return Err(SpecError::invalid("file", "name a source file, such as app/orders.py"));
        }
        if self.line == 0 || self.line > MAX_LINE {
            return Err(SpecError::invalid("line", format!("must be between 1 and {MAX_LINE}")));
        }
        if let Some(condition) = &self.condition {
            text("condition", condition, MAX_EXPRESSION)?;
        }
        if self.expressions.len() > MAX_EXPRESSIONS {
            return Err(SpecError::invalid(
                "expressions",
                format!("there are {}, at most {MAX_EXPRESSIONS} are allowed", self.expressions.len()),
            ));
        }
        for expression in &self.expressions {
            text("expressions", expression, MAX_EXPRESSION)?;
            if expression.trim().is_empty() {
                return Err(SpecError::invalid("expressions", "one of them is empty"));
            }
        }
        match (self.kind, &self.template) {
            (Kind::Log, None) => {
                return Err(SpecError::invalid(
                    "template",
                    "a log breakpoint needs a text, such as 'total={total}'",
                ));
            }
            (Kind::Log, Some(template)) => text("template", template, MAX_TEMPLATE)?,
            (Kind::Snapshot, Some(_)) => {
                return Err(SpecError::invalid("template", "only breakpoints of kind log have one"));
            }
            (Kind::Snapshot, None) => {}
        }
        if self.kind == Kind::Snapshot && self.level.is_some() {
            return Err(SpecError::invalid("level", "only breakpoints of kind log have one"));
        }
        for (field, name) in
            [("label", &self.label), ("function", &self.function), ("service", &self.service)]
        {
            if let Some(name) = name {
                text(field, name, MAX_NAME)?;
            }
        }
        // The kernel's largest pid_max is 2^22.
        if self.pid.is_some_and(|pid| pid == 0 || pid > 1 << 22) {
            return Err(SpecError::invalid("pid", "is not a process id"));
        }
        Ok(())
    }
}

fn not_empty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

/// Never fails: the end of time is far enough.
fn later(now: Timestamp, seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// Control characters would reach terminals and logs.
fn text(field: &'static str, text: &str, limit: usize) -> Result<(), SpecError> {
    if text.len() > limit {
        return Err(SpecError::invalid(
            field,
            format!("has {} bytes, at most {limit} are allowed", text.len()),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(SpecError::invalid(field, "has control characters"));
    }
    Ok(())
}
