//! Expressions evaluated from outside give what `eval()` gives inside the process, or nothing.

mod hits;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Seek as _, Write as _};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use tracekit_agent::discovery::Inspector;
use tracekit_agent::discovery::proc_fs::ProcFs;
use tracekit_agent::python::memory::Image;
use tracekit_agent::python::object::{Content, Value};
use tracekit_agent::python::{MemoryError, MemorySource, Reader, Target};
use tracekit_agent::redact::Redactor;
use tracekit_agent::snapshot::expression::{Context, Expression, Limits, Scope, Template, Undefined};
use tracekit_common::watchpoint::{IMAGE_FULL, QUEUE_FULL};
use tracekit_tests::interpreters::{Interpreter, LAYOUTS, Running, installed};

const PROGRAM: &str = include_str!("../apps/expressions.py");
const EXPRESSIONS: &str = include_str!("../apps/expressions.txt");

/// Templates, which are formatted strings of Python too.
const TEMPLATES: &[&str] = &[
    "plain text",
    "{{braces}} {number}",
    "total={order.number} user={names['first']!r:>10}|",
    "{half:.2f} {big:,} {number:05d} {number:x} {ratio:.0%} {text:.5} {text:>15}|{text:^15}|",
    "{number=} {text=} {number = } {half=:.1f} {text=!s}",
    "{yes} {nothing} {cost} {cost:.1f} {ratio:e} {big:g} {infinite:8.2f}|{nan}",
    "{order.items[1].name.upper()} {len(numbers) + 1} {names['age'] if yes else 0}",
    "{numbers} {triple} {names} {number!r} {text!s:*^20}",
    "{(lambda_ is None)} {number != 7} {number == 7}",
    "{yes:5} {half:+.3} {whole} {1e22} {1234567.0:,} {0.1+0.2}",
    "{colour} {colour.value} {identifier} {my_str} {my_int:>5} {level.value:d} {cost!s:>8}",
    "{wide!r} {data} {array!r} {number:*<6} {negative:=+8}",
];

/// What the process says of an expression.
#[derive(Debug, Deserialize)]
struct Said {
    /// Its value, as [`plain`] writes it.
    plain: Option<String>,
    repr: Option<String>,
    truth: Option<bool>,
    error: Option<String>,
}

fn start(interpreter: &Interpreter, expressions: &[String]) -> Result<(Running, Vec<Said>)> {
    let mut command = interpreter.command();
    command.args(["-W", "ignore", "-c", PROGRAM]).env("PYTHONIOENCODING", "utf-8");
    // A file, because a pipe holds less than all of them.
    let mut input = tempfile::tempfile()?;
    writeln!(input, "{}", serde_json::to_string(expressions)?)?;
    input.rewind()?;
    let running = Running::start(command, input.into())?;
    let said = serde_json::from_str(&running.said)?;
    Ok((running, said))
}

/// The value as the program's `plain()` writes it, and whether it is all there.
fn plain(value: &Value) -> (String, bool) {
    let name = &value.type_name;
    let all = |items: Vec<(String, bool)>, sorted: bool| {
        let whole = value.truncated.is_none() && items.iter().all(|(_, whole)| *whole);
        let mut texts: Vec<String> = items.into_iter().map(|(text, _)| text).collect();
        if sorted {
            texts.sort();
        }
        (format!("{name}[{}]", texts.join(", ")), whole)
    };
    let simple = |text: String| (format!("{name}:{text}"), value.truncated.is_none());
    match &value.content {
        Content::None | Content::Bool(_) => (value.to_string(), true),
        Content::Int(_) | Content::Float(_) | Content::Str(_) => simple(value.to_string()),
        Content::Bytes(bytes) => simple(Value::new("bytes", Content::Bytes(bytes.clone())).to_string()),
        Content::Text(text)
            if matches!(name.as_str(), "Decimal" | "datetime" | "date" | "time" | "timedelta") =>
        {
            (text.clone(), true)
        }
        Content::Text(_) | Content::Fields(_) => (name.clone(), true),
        Content::Elements(items) => {
            all(items.iter().map(plain).collect(), matches!(name.as_str(), "set" | "frozenset"))
        }
        Content::Entries(entries) => {
            let entry = |(key, value): &(Value, Value)| {
                let (key, value) = (plain(key), plain(value));
                (format!("{}={}", key.0, value.0), key.1 && value.1)
            };
            all(entries.iter().map(entry).collect(), true)
        }
        Content::Nothing(_) => (name.clone(), false),
    }
}

/// What differs, for one line.
fn compare(said: &Said, line: &str, context: &Context<'_>) -> Result<Option<String>> {
    let hidden = line.starts_with('?');
    let text = line.trim_start_matches('?');
    let expression = match Expression::compile(text, Redactor::standard()) {
        Ok(expression) => expression,
        Err(error) => return Ok(Some(format!("{text}: does not compile: {error}"))),
    };
    let value = expression.value(context);
    let condition = expression.condition(context);
    let difference = match (&said.error, value) {
        (_, Err(_)) if hidden => None,
        (_, Ok(value)) if hidden => Some(format!("{value} should be undefined")),
        (Some(_), Err(_)) => condition.is_ok().then(|| "the condition has a value".to_owned()),
        (Some(error), Ok(value)) => Some(format!("{value} instead of {error}")),
        (None, Err(reason)) => Some(format!("undefined ({reason}) instead of {:?}", said.repr)),
        (None, Ok(value)) => {
            let (plain, whole) = plain(&value);
            let undefined = |reason: &Undefined| {
                matches!(reason, Undefined::WouldRunCode(_) | Undefined::Unsupported(_) | Undefined::Limit(_))
            };
            if whole && said.plain.as_deref() != Some(plain.as_str()) {
                Some(format!("{plain} instead of {:?}", said.plain))
            } else if condition
                .as_ref()
                .map_or_else(|reason| !undefined(reason), |truth| Some(*truth) != said.truth)
            {
                Some(format!("as a condition {condition:?} instead of {:?}", said.truth))
            } else {
                None
            }
        }
    };
    Ok(difference.map(|what| format!("{text}: {what}")))
}

fn with_context<T>(pid: u32, work: impl FnOnce(&Context<'_>) -> Result<T>) -> Result<T> {
    with_context_of(pid, "main", work)
}

/// In the innermost frame of this function.
fn with_context_of<T>(pid: u32, function: &str, work: impl FnOnce(&Context<'_>) -> Result<T>) -> Result<T> {
    let inspected = Inspector::default().inspect(pid)?;
    let target = Target::open(&ProcFs::default(), &inspected)?;
    let reader: Reader<'_> = target.reader()?;
    let stacks = target.stacks(&reader, None, |_, _| true)?;
    let mut frames = stacks.iter().flat_map(|thread| &thread.stack.frames);
    let frame = frames.find(|frame| frame.code.name == function);
    let frame = frame.with_context(|| format!("no frame of {function}"))?;
    let scope = Scope::of_frame(&reader, frame)?;
    let limits = Limits { time: std::time::Duration::from_secs(5), ..Limits::default() };
    work(&Context { reader: &reader, scope: &scope, limits, redactor: Redactor::standard() })
}

/// Random expressions for each interpreter.
const COUNT: usize = 2500;

/// Pseudo-random numbers, the same in every run (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn one_of<'s>(&mut self, choices: &[&'s str]) -> &'s str {
        choices.get(self.below(choices.len())).copied().unwrap_or_default()
    }

    /// An expression of at most so many levels, of names that evaluating does not change.
    fn expression(&mut self, levels: usize) -> String {
        if levels == 0 || self.below(6) == 0 {
            return self.one_of(ATOMS).to_owned();
        }
        let mut part = || self.expression(levels - 1);
        let (a, b, c) = (part(), part(), part());
        match self.below(26) {
            0..=4 => format!("({a} {} {b})", self.one_of(&["+", "-", "*", "/", "//", "%", "&", "|", "^"])),
            5 => format!("({a} ** {})", self.one_of(&["2", "3", "-1", "0.5"])),
            6 => format!("({a} >> {})", self.one_of(&["1", "5", "-1"])),
            7..=10 => format!("({a} {} {b})", self.one_of(&["==", "!=", "<", "<=", ">", ">="])),
            11 => format!("({a} < {b} <= {c})"),
            12 | 13 => format!("({a} {} {b})", self.one_of(&["in", "not in"])),
            14 => format!("({a} {} {b})", self.one_of(&["and", "or"])),
            15 => format!("({a} if {b} else {c})"),
            16 => format!("({}{a})", self.one_of(&["not ", "-", "+", "~"])),
            17 => format!("{a}[{b}]"),
            18 => format!("{a}[{b}:{c}]"),
            19 => format!("{a}[::{}]", self.one_of(&["2", "-1", "-3"])),
            20 | 21 => format!(
                "{}({a})",
                self.one_of(&[
                    "len", "abs", "min", "max", "sum", "str", "int", "float", "bool", "round", "any", "all"
                ])
            ),
            22 => format!("{a}.{}", self.one_of(ATTRIBUTES)),
            23 => format!("[{a}, {b}]"),
            24 => format!("({a}, {b})"),
            _ => format!("{}({a} for x in {b} if {c})", self.one_of(&["sum", "any", "all", "max"])),
        }
    }
}

const ATOMS: &[&str] = &[
    "number",
    "zero",
    "negative",
    "big",
    "huge",
    "ratio",
    "half",
    "whole",
    "nan",
    "infinite",
    "yes",
    "nothing",
    "text",
    "wide",
    "empty",
    "digits",
    "data",
    "array",
    "numbers",
    "mixed",
    "nested",
    "none_list",
    "pair",
    "triple",
    "letters",
    "frozen",
    "names",
    "by_number",
    "counter",
    "ordered",
    "queue",
    "plain_dict",
    "order",
    "item",
    "slotted",
    "small",
    "my_int",
    "my_str",
    "my_list",
    "colour",
    "level",
    "plan",
    "point",
    "error",
    "cost",
    "precise",
    "moment",
    "later",
    "day",
    "clock",
    "delta",
    "function",
    "x",
    "1",
    "-3",
    "2.5",
    "0",
    "'l'",
    "'a b'",
    "None",
    "True",
    "b'y'",
    "()",
    "[]",
    "{1: 2}",
    "{3}",
    "int",
    "Colour",
    "cycle",
];

const ATTRIBUTES: &[&str] = &[
    "number",
    "total",
    "items",
    "x",
    "name",
    "value",
    "year",
    "days",
    "left",
    "args",
    "code",
    "missing",
    "lower()",
    "upper()",
    "strip()",
    "split()",
    "keys()",
    "values()",
    "items()",
    "count(1)",
    "get('first')",
    "find('l')",
    "startswith('H')",
    "endswith(('d', 'b'))",
    "replace('l', '')",
    "isdigit()",
    "method()",
    "inherited",
];

/// Random expressions: a value is that of `eval()`, or there is none; what is an error there has none.
fn check_random(interpreter: &Interpreter, seed: u64, count: usize) -> Result<(Vec<String>, usize)> {
    let mut random = Random(seed);
    let expressions: Vec<String> = (0..count).map(|_| random.expression(3)).collect();
    let compiled = |text: &String| Expression::compile(text, Redactor::standard()).is_ok();
    let expressions: Vec<String> = expressions.into_iter().filter(|text| compiled(text)).collect();
    ensure!(expressions.len() > count / 2, "only {} compile", expressions.len());
    let (running, said) = start(interpreter, &expressions)?;
    with_context(running.pid(), |context| {
        let (mut differences, mut values) = (Vec::new(), 0);
        for (said, text) in said.iter().zip(&expressions) {
            let value = Expression::compile(text, Redactor::standard())?.value(context);
            match (&said.error, value) {
                (None, Ok(_)) => {
                    values += 1;
                    differences.extend(compare(said, text, context)?);
                }
                (Some(_), Ok(_)) => differences.extend(compare(said, text, context)?),
                (None, Err(Undefined::WouldRunCode(_) | Undefined::Unsupported(_) | Undefined::Limit(_))) => {
                }
                (None, Err(_)) => differences.extend(compare(said, text, context)?),
                (Some(_), Err(_)) => {}
            }
        }
        Ok((differences, values))
    })
}

#[test]
fn random_expressions_have_the_value_of_eval_or_none() -> Result<()> {
    let mut failures = Vec::new();
    for interpreter in installed()?.iter().filter(|found| LAYOUTS.contains(&found.id.as_str())) {
        let (differences, values) = check_random(interpreter, 0x9e37_79b9_7f4a_7c15, COUNT)?;
        println!("{}: {values} values, {} differences", interpreter.id, differences.len());
        ensure!(values > 300, "only {values} expressions have a value");
        failures.extend(differences.into_iter().map(|what| format!("{}: {what}", interpreter.id)));
    }
    if !failures.is_empty() {
        bail!("{} differences:\n{}", failures.len(), failures.join("\n"));
    }
    Ok(())
}

fn check(interpreter: &Interpreter) -> Result<Vec<String>> {
    let lines: Vec<&str> =
        EXPRESSIONS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    // What would run code is not run inside either: it might leave its result behind.
    let inside = |line: &&str| if line.starts_with('?') { "None".to_owned() } else { (*line).to_owned() };
    let mut expressions: Vec<String> = lines.iter().map(inside).collect();
    // A formatted string is what a template is.
    expressions.extend(TEMPLATES.iter().map(|template| format!("f\"\"\"{template}\"\"\"")));
    let (running, said) = start(interpreter, &expressions)?;
    ensure!(said.len() == expressions.len(), "{} answers", said.len());
    with_context(running.pid(), |context| {
        let mut differences = Vec::new();
        for (said, line) in said.iter().zip(&lines) {
            differences.extend(compare(said, line, context)?);
        }
        for (said, template) in said.iter().skip(lines.len()).zip(TEMPLATES) {
            let template = Template::compile(template, Redactor::standard())?;
            let rendered = template.render(context);
            let repr = Value::new("str", Content::Str(rendered.text.clone()));
            if said.repr != Some(repr.to_string()) || !rendered.undefined.is_empty() {
                differences.push(format!("{}: {rendered:?} instead of {said:?}", template.text()));
            }
        }
        Ok(differences)
    })
}

#[test]
fn values_are_those_of_eval() -> Result<()> {
    let mut failures = Vec::new();
    let mut done = 0;
    for interpreter in installed()? {
        done += usize::from(LAYOUTS.contains(&interpreter.id.as_str()));
        let differences = check(&interpreter).with_context(|| interpreter.id.clone())?;
        println!("{}: {} differences", interpreter.id, differences.len());
        failures.extend(differences.into_iter().map(|what| format!("{}: {what}", interpreter.id)));
    }
    ensure!(done == LAYOUTS.len(), "only {done} of {} interpreters are installed", LAYOUTS.len());
    if !failures.is_empty() {
        bail!("{} differences:\n{}", failures.len(), failures.join("\n"));
    }
    Ok(())
}

/// Remembers what is read, as a capture in the kernel would have copied it.
struct Recorder<'m> {
    memory: &'m dyn MemorySource,
    ranges: RefCell<BTreeMap<u64, Vec<u8>>>,
}

impl MemorySource for Recorder<'_> {
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read(address, buf)?;
        let mut ranges = self.ranges.borrow_mut();
        let known = ranges.entry(address).or_default();
        if known.len() < buf.len() {
            *known = buf.to_vec();
        }
        Ok(())
    }
}

/// An image has what was captured and nothing else: what is missing makes values undefined, never others.
#[test]
fn on_an_image_values_are_the_same_or_undefined() -> Result<()> {
    let interpreter = installed()?.into_iter().find(|found| found.id == "3.12-pyenv");
    let (running, _) = start(&interpreter.context("3.12-pyenv is not installed")?, &["None".to_owned()])?;
    let lines = EXPRESSIONS.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '?']));
    let expressions: Vec<Expression> =
        lines.map(|text| Ok(Expression::compile(text, Redactor::standard())?)).collect::<Result<_>>()?;
    with_context(running.pid(), |live| {
        let values = |memory: &dyn MemorySource| -> Vec<Result<String, Undefined>> {
            let reader = Reader::new(memory, live.reader.layout);
            let context = Context { reader: &reader, ..*live };
            let value = |expression: &Expression| Ok(expression.value(&context)?.to_string());
            expressions.iter().map(value).collect()
        };
        let recorder = Recorder { memory: live.reader.memory, ranges: RefCell::default() };
        let expected = values(&recorder);
        let ranges: Vec<(u64, Vec<u8>)> = recorder.ranges.into_inner().into_iter().collect();
        ensure!(values(&spanning(&ranges, |_| true)) == expected, "the whole image gives other values");
        // As a hit has it: types and globals are read from the process.
        let on_hit = |image: &Image| -> Vec<Result<String, Undefined>> {
            let reader = Reader::of_image(image, live.reader);
            let context = Context { reader: &reader, ..*live };
            let value = |expression: &Expression| Ok(expression.value(&context)?.to_string());
            expressions.iter().map(value).collect()
        };
        let mut undefined = 0;
        for missing in 0..40 {
            let image = spanning(&ranges, |at| at % 40 != missing);
            // Ranges of which the second half is missing: parts of containers and of strings.
            let mut halves = ranges.clone();
            let long = halves
                .iter_mut()
                .enumerate()
                .filter(|(at, (_, bytes))| at % 4 == missing % 4 && bytes.len() > 64);
            long.for_each(|(_, (_, bytes))| bytes.truncate(bytes.len() / 16 * 8 + missing));
            for values in [values(&image), on_hit(&image), on_hit(&spanning(&halves, |_| true))] {
                for ((expression, found), expected) in expressions.iter().zip(values).zip(&expected) {
                    match (&found, expected) {
                        (Err(Undefined::Unreadable(_) | Undefined::NotCaptured), _) => undefined += 1,
                        (Err(_), Err(_)) => {}
                        // Parts of a value that are missing are marked in it.
                        (Ok(found), Ok(expected))
                            if found == expected
                                || ["unreadable", "not captured", " more"]
                                    .iter()
                                    .any(|mark| found.contains(mark)) => {}
                        _ => bail!("{}: {found:?} instead of {expected:?}", expression.text()),
                    }
                }
            }
        }
        ensure!(undefined > 100, "only {undefined} values missed what was missing");
        Ok(())
    })
}

/// The image of ranges, joined where they overlap, of which those are left out that are not wanted.
fn spanning(ranges: &[(u64, Vec<u8>)], wanted: impl Fn(usize) -> bool) -> Image {
    let mut joined: Vec<(u64, Vec<u8>)> = Vec::new();
    for (start, bytes) in ranges {
        match joined.last_mut() {
            Some((first, before)) if *start <= *first + before.len() as u64 => {
                let offset = usize::try_from(start - *first).unwrap_or(0);
                before.extend(bytes.get(before.len() - offset..).unwrap_or_default());
            }
            _ => joined.push((*start, bytes.clone())),
        }
    }
    let kept = joined.into_iter().enumerate().filter(|(at, _)| wanted(*at)).map(|(_, range)| range);
    Image::new(kept.collect())
}

const CAPTURED: &str = include_str!("../apps/captured.py");
/// One of each way in which frames and attributes are kept.
const HIT_LAYOUTS: &[&str] =
    &["3.8-pyenv", "3.10-pyenv", "3.11-pyenv", "3.12-pyenv", "3.13-pyenv", "3.14-debian-sid"];

/// Expressions, and how they are answered from the image of a hit: as `eval()` does; "late": so too, with values that were
/// read after the hit; "missing": undefined, because it was not captured, and so said; "undefined": for another reason.
const ON_HITS: &[(&str, &str)] = &[
    ("number + 1", ""),
    ("big", ""),
    ("half * 2 > 4", ""),
    ("yes and not nothing", ""),
    ("nothing is None", ""),
    ("text.lower() + '!'", ""),
    ("wide", ""),
    ("data", ""),
    ("order.total > 100 and order.customer.name == 'Ada'", ""),
    ("order.customer.address.country", ""),
    ("order.customer.address.lines[1]", ""),
    ("order.customer.address.lines", ""),
    ("len(order.customer.address.lines)", ""),
    ("any(line.startswith('W') for line in order.customer.address.lines)", ""),
    ("order.missing", "undefined"),
    ("hasattr(order, 'missing')", ""),
    ("getattr(order, 'missing', 4)", ""),
    ("order.customer.upper", "undefined"),
    ("order.customer.method", "undefined"),
    ("order.customer.kind", "late"),
    ("order.currency", "late"),
    ("order.taxes['DE']", "late"),
    ("kind.currency", "late"),
    ("order.tags", ""),
    ("'paid' in order.tags", ""),
    ("'lost' in order.tags", ""),
    ("order.lines['pen'] * 2", ""),
    ("order.lines.get('cup', 0)", ""),
    ("sum(order.lines.values())", ""),
    ("any(key == 'book' and value == 1 for key, value in order.lines.items())", ""),
    ("max(numbers) - min(numbers)", ""),
    ("numbers[-1]", ""),
    ("numbers == [5, 3, 9]", ""),
    ("sum(number * 2 for number in numbers if number > 3)", ""),
    ("len(many)", ""),
    ("many[3]", ""),
    ("many[99]", "missing"),
    ("many[-1]", "missing"),
    ("many[100]", "undefined"),
    ("1005 in many", ""),
    ("1090 in many", "missing"),
    ("5 in many", "missing"),
    ("any(item > 1003 for item in many)", ""),
    ("all(item > 1003 for item in many)", ""),
    ("all(item >= 1000 for item in many)", "missing"),
    ("any(item > 1050 for item in many)", "missing"),
    ("sum(many)", "missing"),
    ("max(many)", "missing"),
    ("many == numbers", ""),
    ("many[2:4]", "missing"),
    ("len(table)", ""),
    ("table['row3']", ""),
    ("table['row59']", "missing"),
    ("table.get('row59')", "missing"),
    ("table.get('no')", "missing"),
    ("'row2' in table", ""),
    ("'row59' in table", "missing"),
    ("'no' in table", "missing"),
    ("'no' in order.lines", ""),
    ("numbered[1] + numbered[(1, 2)]", ""),
    ("numbered[None]", ""),
    ("'x' in letters", ""),
    ("'q' in letters", ""),
    ("len(crowd)", ""),
    ("sum(crowd)", "missing"),
    ("5 in crowd", "missing"),
    ("queue[1]", ""),
    ("page == 'short'", ""),
    ("len(page)", ""),
    ("page.startswith('<html>')", ""),
    ("page.startswith('<xml>')", ""),
    ("'html' in page", ""),
    ("'</html>' in page", "missing"),
    ("page is not None and bool(page)", ""),
    ("page.upper()", "missing"),
    ("colour.name", ""),
    ("colour.value == 1", ""),
    ("colour == Colour.RED", ""),
    ("colour is Colour.BLUE", ""),
    ("point.x + point.y", ""),
    ("point == (3, 4)", ""),
    ("slotted.left", ""),
    ("slotted.unset", "undefined"),
    ("cost > 10", ""),
    ("moment.year", ""),
    ("str(identifier)", ""),
    ("error.args[1]", ""),
    ("captured[0]", ""),
    ("values", "undefined"),
    ("isinstance(order, Order)", ""),
    ("isinstance(error, (KeyError, ValueError))", ""),
    ("type(number) is int", ""),
    ("LIMIT + number", "late"),
    ("NAMES['global'][1]", "late"),
    ("no_such_name", "undefined"),
];

fn check_hits(stage: &mut hits::Stage, interpreter: &Interpreter) -> Result<Vec<String>> {
    let expressions: Vec<String> = ON_HITS.iter().map(|(text, _)| (*text).to_owned()).collect();
    let mut differences = Vec::new();
    stage.hits(interpreter, CAPTURED, &expressions, &[3, 1], |said, live, hits| {
        let said: Vec<Said> = serde_json::from_str(said)?;
        for (depth, hit) in hits {
            let reader = Reader::of_image(&hit.image, live);
            let scope = Scope::of_frame(&reader, &hit.frame(live)?)?;
            let limits = Limits { time: std::time::Duration::from_secs(5), ..Limits::default() };
            let context = Context { reader: &reader, scope: &scope, limits, redactor: Redactor::standard() };
            for (said, (text, wanted)) in said.iter().zip(ON_HITS) {
                let outcome = Expression::compile(text, Redactor::standard())?.evaluate(&context);
                let deep = Expression::compile(text, Redactor::standard())?.depth() > *depth;
                let found = match &outcome.value {
                    Ok(_) if outcome.late => "late",
                    Ok(_) => "",
                    Err(Undefined::NotCaptured) => "missing",
                    Err(_) => "undefined",
                };
                let difference = if deep && found == "missing" {
                    None
                } else if found != *wanted {
                    Some(format!("{text}: {found:?}, not {wanted:?}: {:?}", outcome.value))
                } else if outcome.value.is_ok() {
                    compare(said, text, &context)?
                } else {
                    None
                };
                differences.extend(difference.map(|what| format!("depth {depth}: {what}")));
            }
            if hit.record.flags & (IMAGE_FULL | QUEUE_FULL) != 0 {
                differences.push(format!("the image is not complete: {:?}", hit.record));
            }
        }
        ensure!(hits.len() == 2, "{} images", hits.len());
        Ok(())
    })?;
    Ok(differences)
}

#[test]
fn on_hits_values_are_those_of_eval_or_not_captured() -> Result<()> {
    let (mut stage, mut failures) = (hits::Stage::new()?, Vec::new());
    for interpreter in installed()?.iter().filter(|found| HIT_LAYOUTS.contains(&found.id.as_str())) {
        let differences = check_hits(&mut stage, interpreter).with_context(|| interpreter.id.clone())?;
        println!("{}: {} differences", interpreter.id, differences.len());
        failures.extend(differences.into_iter().map(|what| format!("{}: {what}", interpreter.id)));
    }
    ensure!(failures.is_empty(), "{} differences:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

/// A program with a frame of every kind on its stack: a method that closes over names, called by a generator, called by
/// a comprehension, called by a class body, in a module.
const FRAMES: &str = r#"
import sys, time
module_name = "module"
shadowed = "global"

class Shop:
    def __init__(self):
        self.limit = 3

    def method(self, argument, *rest, **named):
        cell = argument * 2
        shadowed = "local"
        def inner(own):
            print("ready", flush=True)
            time.sleep(60)
            return cell, self, own, unset
        inner([argument])
        unset = 1

def generator():
    step = 1
    shop = Shop()
    yield shop.method(step, "r", word="k")

class Body:
    in_body = 7
    made = [item for item in generator()]
"#;

#[test]
fn names_of_every_kind_of_frame() -> Result<()> {
    let cases: &[(&str, &[(&str, &str)])] = &[
        (
            "inner",
            &[
                ("own", "[1]"),
                ("cell", "2"),
                ("self.limit", "3"),
                ("module_name", "'module'"),
                ("unset", "?"),
            ],
        ),
        (
            "method",
            &[
                ("argument + cell", "3"),
                ("rest", "('r',)"),
                ("named['word']", "'k'"),
                ("shadowed", "'local'"),
                ("unset", "?"),
                ("isinstance(self, Shop)", "True"),
                ("isinstance(self, NoSuchName)", "False"),
                ("step", "?"),
            ],
        ),
        ("generator", &[("step", "1"), ("shadowed", "'global'"), ("shop.limit", "3"), ("cell", "?")]),
        ("Body", &[("in_body", "7"), ("shadowed", "'global'"), ("len('ab')", "2"), ("made", "?")]),
        (
            "<module>",
            &[
                ("module_name", "'module'"),
                ("__name__", "'__main__'"),
                ("in_body", "?"),
                ("int is None", "False"),
            ],
        ),
    ];
    let mut failures = Vec::new();
    for interpreter in installed()? {
        let mut command = interpreter.command();
        command.args(["-c", FRAMES]);
        let running = Running::start(command, Stdio::null())?;
        // The line is printed before it sleeps; until it does, its stack changes.
        std::thread::sleep(std::time::Duration::from_millis(100));
        for (function, expressions) in cases {
            with_context_of(running.pid(), function, |context| {
                for (text, expected) in *expressions {
                    let value = Expression::compile(text, Redactor::standard())?.value(context);
                    let told = value.as_ref().map_or_else(|_| "?".to_owned(), ToString::to_string);
                    if told != *expected {
                        failures.push(format!("{}: {function}: {text}: {value:?}", interpreter.id));
                    }
                }
                Ok(())
            })?;
        }
    }
    ensure!(failures.is_empty(), "{} differences:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}
