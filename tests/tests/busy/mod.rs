//! What must hold in every true picture of `tests/apps/busy.py`, and how many pictures were true.

use std::collections::BTreeMap;
use std::fmt;

use tracekit_agent::python::dump::ThreadStack;
use tracekit_agent::python::object::{Content, NotCaptured, Value};

const MODULUS: i128 = (1 << 61) - 1;
const SIZE: i128 = 16;
/// Messages that are kept.
const MAX_MESSAGES: usize = 20;

/// What was found in the dumps.
#[derive(Debug, Default)]
pub struct Tally {
    /// Dumps that were looked at.
    pub dumps: u64,
    /// Threads in them, and those that are marked.
    pub threads: u64,
    /// Threads whose stack changed.
    pub changing_threads: u64,
    /// Variables, and those that are marked.
    pub variables: u64,
    /// Variables that changed.
    pub changing_variables: u64,
    /// Values that were compared with their checksum and have no mark.
    pub compared: u64,
    /// Marked values that are wrong: torn, and noticed.
    pub caught: u64,
    /// Values with neither a mark nor the right checksum.
    pub wrong: u64,
    /// Of the variables without a mark of threads that have one: values with the right checksum, and others.
    pub unproven: [u64; 2],
    /// Values without a mark that could not be read.
    pub unreadable: u64,
    /// What is wrong with the first of them.
    pub messages: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} dumps: {} of {} stacks and {} of {} variables are marked as changing; {} checksums without a mark \
             compared, {} wrong, {} unreadable; {} torn values with a mark; in marked threads {} right and {} wrong values \
             without one",
            self.dumps,
            self.changing_threads,
            self.threads,
            self.changing_variables,
            self.variables,
            self.compared,
            self.wrong,
            self.unreadable,
            self.caught,
            self.unproven[0],
            self.unproven[1],
        )?;
        for message in &self.messages {
            write!(f, "\n{message}")?;
        }
        Ok(())
    }
}

impl Tally {
    /// Looks at one dump.
    pub fn add(&mut self, threads: &[ThreadStack]) {
        self.dumps += 1;
        for thread in threads {
            self.threads += 1;
            self.changing_threads += u64::from(thread.changing);
            for (frame, state) in thread.stack.frames.iter().zip(&thread.frames) {
                let variables: BTreeMap<&str, Seen<'_>> = state
                    .variables
                    .iter()
                    .flatten()
                    .map(|variable| {
                        let seen = Seen {
                            value: &variable.value,
                            changing: variable.changing,
                            ran: thread.changing,
                        };
                        (variable.name.as_str(), seen)
                    })
                    .collect();
                self.variables += variables.len() as u64;
                for (name, seen) in &variables {
                    self.changing_variables += u64::from(seen.changing);
                    if !seen.changing && !seen.ran && is_unreadable(seen.value) {
                        self.unreadable += 1;
                        self.say(|| format!("{}: {name} is {}", frame.code.name, seen.value));
                    }
                }
                match frame.code.name.as_str() {
                    "mutate" => self.mutate(&variables),
                    "down" => self.down(&variables),
                    _ => {}
                }
            }
        }
    }

    fn say(&mut self, message: impl FnOnce() -> String) {
        if self.messages.len() < MAX_MESSAGES {
            self.messages.push(message());
        }
    }

    /// One comparison. `None`: the value has another form than it must have.
    fn compare(&mut self, name: &str, seen: Seen<'_>, holds: Option<bool>) {
        let holds = holds == Some(true);
        match (seen.changing, holds) {
            (true, true) => {}
            (true, false) => self.caught += 1,
            (false, _) if seen.ran => self.unproven[usize::from(!holds)] += 1,
            (false, true) => self.compared += 1,
            (false, false) => {
                self.wrong += 1;
                self.say(|| format!("{name} is wrong and not marked: {}", seen.value));
            }
        }
    }

    /// Arguments never change.
    fn down(&mut self, variables: &BTreeMap<&str, Seen<'_>>) {
        let of = |name: &str| variables.get(name).copied();
        if let (Some(depth), Some(number), Some(check)) = (of("depth"), of("number"), of("check")) {
            let holds = || Some(int(check.value)? == int(number.value)? * 7 + int(depth.value)?);
            let changing = depth.changing || number.changing || check.changing;
            self.compare("down", Seen { changing, ..check }, holds());
        }
    }

    fn mutate(&mut self, variables: &BTreeMap<&str, Seen<'_>>) {
        for (name, rule) in ALWAYS {
            if let Some(seen) = variables.get(name) {
                self.compare(name, *seen, rule(seen.value));
            }
        }
        if let Some(shared) = variables.get("shared") {
            let number = || int(field(shared.value, "started")?);
            let whole = || Some(number()? == int(field(shared.value, "finished")?)?);
            // It is in the middle of a change, or has not begun.
            if whole() == Some(true) && number() != Some(0) {
                self.compare("shared", *shared, number().and_then(|number| account(shared.value, number)));
            }
        }
        let (Some(started), Some(finished)) = (variables.get("started"), variables.get("finished")) else {
            return;
        };
        let Some(number) = int(started.value).filter(|number| *number > 0) else { return };
        if int(finished.value) != Some(number) {
            return;
        }
        for (name, rule) in WHOLE {
            if let Some(seen) = variables.get(name) {
                let changing = seen.changing || started.changing || finished.changing;
                self.compare(name, Seen { changing, ..*seen }, rule(seen.value, number));
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Seen<'v> {
    value: &'v Value,
    changing: bool,
    /// Its thread is marked.
    ran: bool,
}

/// Whether a value agrees with itself; `None` if it has another form than it must have.
type Agrees = fn(&Value) -> Option<bool>;

/// What agrees with itself at any moment.
const ALWAYS: &[(&str, Agrees)] = &[
    ("pair", |value| {
        let pair = ints(value)?;
        Some(pair.len() == 2 && *pair.get(1)? == pair.first()? * 5)
    }),
    ("large", |value| {
        let pair = ints(value)?;
        Some(pair.len() == 2 && *pair.get(1)? == pair.first()? % MODULUS)
    }),
    ("text", |value| {
        let Content::Str(text) = &value.content else { return None };
        let (number, check) = text.split_once(':')?;
        Some(check.parse::<i128>().ok()? == number.parse::<i128>().ok()? * 11)
    }),
];

/// Whether a value is of the round with this number.
type Rule = fn(&Value, i128) -> Option<bool>;

/// What is of the round with this number when the round is over.
const WHOLE: &[(&str, Rule)] = &[
    ("left", |value, number| Some(int(value)? == number + 1)),
    ("right", |value, number| Some(int(value)? == number * 3)),
    ("check", |value, number| Some(int(value)? == number * 4 + 1)),
    ("pair", |value, number| Some(*ints(value)?.first()? == number)),
    ("large", |value, number| Some(*ints(value)?.first()? == number.pow(3))),
    ("text", |value, number| Some(text(value)? == format!("{number}:{}", number * 11))),
    ("items", is_run),
    ("queue", is_run),
    ("numbers", |value, number| {
        let mut found = ints(value)?;
        found.sort_unstable();
        Some(found == run(number))
    }),
    ("mapping", |value, number| {
        let Content::Entries(entries) = &value.content else { return None };
        let mut sum = 0;
        for (key, value) in entries {
            let (key, value) = (text(key)?, int(value)?);
            if key == "sum" {
                sum = value;
            } else if key != format!("key{}", value % 40) || !run(number).contains(&value) {
                return Some(false);
            }
        }
        Some(entries.len() as i128 == SIZE + 1 && sum == run(number).iter().sum())
    }),
    ("buffer", |value, number| {
        let Content::Bytes(bytes) = &value.content else { return None };
        let words = bytes.chunks_exact(8).map(|word| word.try_into().map(u64::from_le_bytes));
        let words: Vec<i128> = words.map(|word| word.map(i128::from)).collect::<Result<_, _>>().ok()?;
        Some(words == [number, number * 2, number * 3])
    }),
    ("slots", |value, number| {
        let of = |name: &str| int(field(value, name)?);
        Some(of("left")? == number && of("right")? == number * 2 && of("check")? == number * 3)
    }),
    ("account", account),
    ("nested", |value, number| {
        let Content::Entries(entries) = &value.content else { return None };
        let Content::Elements(rows) = &entries.first()?.1.content else { return None };
        let wanted: Vec<Vec<i128>> = run(number).into_iter().map(|item| vec![item, item * 13]).collect();
        Some(rows.iter().map(ints).collect::<Option<Vec<_>>>()? == wanted)
    }),
];

fn account(value: &Value, number: i128) -> Option<bool> {
    let of = |name: &str| int(field(value, name)?);
    let (left, right) = (of("left")?, of("right")?);
    let check = (left + right + run(number).iter().sum::<i128>()) % MODULUS;
    Some(
        left == number + 1
            && right == number * 3
            && of("started")? == number
            && of("finished")? == number
            && is_run(field(value, "items")?, number)?
            && of("check")? == check,
    )
}

/// The numbers of a round.
fn run(number: i128) -> Vec<i128> {
    (number..number + SIZE).collect()
}

fn is_run(value: &Value, number: i128) -> Option<bool> {
    Some(ints(value)? == run(number))
}

fn int(value: &Value) -> Option<i128> {
    match &value.content {
        Content::Int(digits) => digits.parse().ok(),
        _ => None,
    }
}

fn ints(value: &Value) -> Option<Vec<i128>> {
    match &value.content {
        Content::Elements(items) => items.iter().map(int).collect(),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match &value.content {
        Content::Str(text) => Some(text),
        _ => None,
    }
}

fn field<'v>(value: &'v Value, wanted: &str) -> Option<&'v Value> {
    match &value.content {
        Content::Fields(fields) => fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value),
        _ => None,
    }
}

fn is_unreadable(value: &Value) -> bool {
    match &value.content {
        Content::Nothing(reason) => *reason == NotCaptured::Unreadable,
        Content::Elements(items) => items.iter().any(is_unreadable),
        Content::Entries(items) => {
            items.iter().any(|(key, value)| is_unreadable(key) || is_unreadable(value))
        }
        Content::Fields(fields) => fields.iter().any(|(_, value)| is_unreadable(value)),
        _ => false,
    }
}
