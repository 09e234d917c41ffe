//! Values in a text that have a name there: `password=x`, `"token": "x"`, `--api-key x`, `<pin>x</pin>`,
//! `('password', 'x')`, headers, forms, and objects such as `{"name": "password", "value": "x"}`.
//!
//! The text may be JSON, a Python `repr`, a query, a form, a header, a connection string, a command line or a
//! sentence, whole or cut anywhere; nothing is parsed as one of them. A separator is looked for; what stands
//! before it may be a name, and what follows is its value, up to where a value of its form ends.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::kind::{Kind, OPEN, marker_at};
use super::names::{Names, Verdict};
use super::scan::{self, Value};
use super::span::Span;
use super::url;

/// Bytes of a name at most.
const MAX_NAME: usize = 128;
/// Bytes between `"name": "password"` and its `"value"` at most.
const MAX_APART: usize = 200;

/// Members between them.
const MAX_BETWEEN: usize = 6;
/// Bytes of a value whose name says little.
const MAX_UNSURE: usize = 256;

/// The verdict on a name that is one in this place only.
const CERTAIN: Verdict = Verdict { kind: Kind::SENSITIVE_NAME, weak: false, family: Kind::SENSITIVE_NAME };

/// How the name is written, which says how sure it is that it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// In quotes: a key.
    Quoted,
    /// In front of `=`.
    Assigned,
    /// In front of `:`.
    Told,
    /// In front of `=`, behind `?` or `&`.
    Query,
}

/// Headers whose value is the rest of the line.
const HEADERS: &[&str] =
    &["authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-auth-token"];

/// Names of what names a value: `{"name": "password", "value": "x"}`.
const NAMING: &[&str] =
    &["field", "header", "id", "k", "key", "label", "name", "param", "parameter", "variable"];

/// Names of the value that is named by one of [`NAMING`].
pub(super) const NAMED: &[&str] = &["content", "data", "default", "v", "val", "value"];

/// This name names another value's name.
pub(crate) fn is_naming(name: &str) -> bool {
    NAMING.contains(&name.to_ascii_lowercase().as_str())
}

/// This name is that of a value with a name beside it.
pub(super) fn is_named(name: &str) -> bool {
    NAMED.contains(&name.to_ascii_lowercase().as_str())
}

/// Adds the values of names that are secrets.
pub(super) fn find(text: &str, names: &Names, spans: &mut Vec<Span>) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let found = match byte {
            b'=' | b':' => assigned(text, at, names),
            b'>' => element(text, at, names),
            b'(' => pair(text, at, names),
            b'-' => option(text, at, names),
            _ => None,
        };
        at += 1;
        if let Some(span) = found {
            // Nothing of a value is a name, so that each byte is looked at a bounded number of times.
            at = at.max(span.range.end);
            spans.push(span);
        }
    }
}

struct Name<'t> {
    text: &'t str,
    start: usize,
    style: Style,
}

/// The name in front of a separator.
fn name_before(text: &str, separator: usize) -> Option<Name<'_>> {
    let assigned = text.as_bytes().get(separator) == Some(&b'=');
    let low = scan::floor(text, separator.saturating_sub(MAX_NAME));
    let window = text.get(low..separator)?;
    // `!=`, `:=`, `+=`, `==`
    let operator =
        if assigned { window.bytes().rev().take(2).take_while(|b| b"!:+=<>".contains(b)).count() } else { 0 };
    let window = window.get(..window.len() - operator)?;
    // No marker is part of a name.
    let marker = window.rfind(OPEN).and_then(|at| Some(at + marker_at(window.get(at..)?)?.1));
    let low = low + marker.unwrap_or(0);
    let window = window.get(marker.unwrap_or(0)..)?.trim_end_matches([' ', '\t']);
    let last = window.chars().next_back()?;
    if matches!(last, '"' | '\'' | '`') {
        let inner = window.strip_suffix(last)?.trim_end_matches('\\');
        let open = inner.rfind(last)?;
        let name = inner.get(open + 1..)?;
        return Some(Name { text: name, start: low + open, style: Style::Quoted });
    }
    let brackets = last == ']';
    let part = |c: char| {
        c.is_alphanumeric()
            || matches!(c, '_' | '-' | '.' | '%' | '$' | '@')
            || (brackets && matches!(c, '[' | ']' | '"' | '\''))
    };
    let start =
        window.len() - window.chars().rev().take_while(|c| part(*c)).map(char::len_utf8).sum::<usize>();
    let edge = ['-', '.', '$', '@', '%', '"', '\''];
    let front = window.get(..start).and_then(|front| front.chars().next_back());
    let name = window.get(start..)?.trim_start_matches(edge);
    let start = window.len() - name.len();
    let name = name.trim_end_matches(edge);
    // The end of Base64 is none: `…JhYU5Pw==`.
    if name.is_empty() || (assigned && scan::is_scrambled(name)) {
        return None;
    }
    let style = match (assigned, front) {
        (true, Some('?' | '&')) => Style::Query,
        (true, _) => Style::Assigned,
        (false, _) => Style::Told,
    };
    Some(Name { text: name, start: low + start, style })
}

/// `secret access key` in front of a separator: two or three words that are one name together.
fn words_before(text: &str, name: &Name<'_>, names: &Names) -> bool {
    let low = scan::floor(text, name.start.saturating_sub(64));
    let words = text.get(low..name.start + name.text.len()).unwrap_or_default();
    (1..=2).any(|spaces| {
        let from = words.rmatch_indices(' ').nth(spaces).map_or(0, |(at, _)| at + 1);
        let run = words.get(from..).unwrap_or_default();
        let letters = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic());
        run.contains(' ') && run.split(' ').all(letters) && names.is_compound(run)
    })
}

fn assigned(text: &str, separator: usize, names: &Names) -> Option<Span> {
    let bytes = text.as_bytes();
    let colon = bytes.get(separator) == Some(&b':');
    // `::` and `://` separate no value; neither does the first half of `:=`, `==` and `=>`.
    let next = bytes.get(separator + 1);
    if colon && (matches!(next, Some(b':' | b'=')) || text.get(separator..)?.starts_with("://")) {
        return None;
    }
    match next {
        // The last of `==` and `===` is the separator.
        Some(b'=') => None,
        Some(b'>' | b'~') if !colon => value_of(text, separator, separator + 2, names),
        _ => value_of(text, separator, separator + 1, names),
    }
}

/// The value that begins behind `from`, if the name in front of the separator hides it.
fn value_of(text: &str, separator: usize, from: usize, names: &Names) -> Option<Span> {
    let name = name_before(text, separator)?;
    let unescaped = scan::unescaped(name.text);
    let header = HEADERS.iter().any(|header| unescaped.eq_ignore_ascii_case(header));
    if header && matches!(name.style, Style::Told) {
        let quote = text.get(..name.start).and_then(|front| front.chars().next_back());
        return spanned(
            text,
            scan::line(text, from, quote.filter(|c| matches!(c, '"' | '\''))),
            Kind::SENSITIVE_NAME,
        );
    }
    let mut verdict = names.verdict(&unescaped);
    if name.style == Style::Query && verdict.is_none() && url::is_secret_key(&unescaped) {
        verdict = Some(CERTAIN);
    }
    if verdict.is_none_or(|verdict| verdict.weak)
        && matches!(name.style, Style::Told | Style::Assigned)
        && words_before(text, &name, names)
    {
        verdict = Some(CERTAIN);
    }
    if is_naming(&unescaped)
        && name.style != Style::Query
        && let Some(found) = named_beside(text, &name, from, names)
    {
        return found;
    }
    let verdict = verdict?;
    let unsure = verdict.weak && !matches!(name.style, Style::Quoted | Style::Query);
    let limit = if unsure { MAX_UNSURE } else { usize::MAX };
    let value = scan::value(text, from, name.style == Style::Quoted, limit)?;
    if !is_secret(text, &name, &unescaped, &verdict, &value) {
        return None;
    }
    let kind = match verdict.kind {
        Kind::SENSITIVE_NAME if name.style != Style::Quoted => verdict.family,
        kind => kind,
    };
    let range = if rest_of_line(text, &name, &verdict, &value) {
        scan::line(text, value.range.start, None)
    } else {
        value.range
    };
    spanned(text, range, kind)
}

fn spanned(text: &str, range: Range<usize>, kind: Kind) -> Option<Span> {
    let value = text.get(range.clone())?;
    (!scan::is_nothing(value)).then(|| Span::new(range, kind))
}

/// `password: correct horse` and `password = correct horse` at the beginning of a line: the rest of it is the value.
fn rest_of_line(text: &str, name: &Name<'_>, verdict: &Verdict, value: &Value) -> bool {
    let front = text.get(..name.start).unwrap_or_default();
    let line = front.rfind('\n').map_or(front, |at| front.get(at + 1..).unwrap_or_default());
    let spaced = text.get(..value.range.start).is_some_and(|front| front.ends_with(' '));
    (name.style == Style::Told || (name.style == Style::Assigned && spaced))
        && !value.quoted
        && !verdict.weak
        && verdict.family == Kind::PASSWORD
        && line.bytes().all(|byte| matches!(byte, b' ' | b'\t' | b'-' | b'*'))
}

/// The value is one that a secret may have, as sure as the name is one.
fn is_secret(text: &str, name: &Name<'_>, unescaped: &str, verdict: &Verdict, value: &Value) -> bool {
    let found = text.get(value.range.clone()).unwrap_or_default();
    if scan::is_nothing(found) {
        return false;
    }
    let key = unescaped.eq_ignore_ascii_case("key");
    match name.style {
        Style::Quoted | Style::Query => true,
        Style::Assigned if !key => {
            value.quoted || !(scan::is_code(found) || (verdict.weak && scan::is_word(found)))
        }
        _ if verdict.weak => scan::looks_random(found, key),
        _ => value.quoted || !(scan::is_word(found) || scan::is_code(found)),
    }
}

/// An empty line, and the line that ends a part of a form; both may be escaped.
static FORM: LazyLock<Option<(Regex, Regex)>> = LazyLock::new(|| {
    let gap = Regex::new(r"(?:\r?\n|(?:\\+r)?\\+n){2}").ok()?;
    Some((gap, Regex::new(r"(?:\r?\n|(?:\\+r)?\\+n)--").ok()?))
});

/// `"name": "password", "value": "x"`: the value of what is named, if it is a secret. Also the part of a multipart
/// form, and an input of HTML. `None` if nothing is named.
fn named_beside(text: &str, name: &Name<'_>, from: usize, names: &Names) -> Option<Option<Span>> {
    let secret = scan::value(text, from, name.style == Style::Quoted, MAX_NAME)?;
    let named = scan::unescaped(text.get(secret.range.clone())?);
    let start = secret.range.end;
    let rest = text.get(start..scan::floor(text, start + MAX_APART))?;
    let front = text.get(scan::floor(text, name.start.saturating_sub(40))..name.start).unwrap_or_default();
    if front.contains("form-data") {
        let (gap, stop) = FORM.as_ref()?;
        let begin = start + gap.find(rest)?.end();
        let Some(verdict) = names.verdict(&named) else { return Some(None) };
        let body = text.get(begin..)?;
        let end = stop.find(body).map_or(body.len(), |found| found.start());
        return Some(spanned(text, begin..begin + end, verdict.kind));
    }
    let mut at = 0;
    for _ in 0..MAX_BETWEEN {
        let separator = at + rest.get(at..)?.find(['=', ':', '}', '>', '{', '[', ']', '(', ')'])?;
        if !matches!(rest.as_bytes().get(separator), Some(b'=' | b':')) {
            return None;
        }
        let beside = name_before(text, start + separator)?;
        if beside.start >= start.saturating_sub(1) && is_named(beside.text) {
            let value = scan::value(text, start + separator + 1, true, usize::MAX)?;
            // Alone, a `key` is a secret; as the name of a value it is one only if it looks like one.
            let plain = !scan::looks_random(&named, true);
            return match names.verdict(&named) {
                Some(verdict) => Some(spanned(text, value.range, verdict.kind)),
                None => plain.then_some(None),
            };
        }
        at = separator + 1;
    }
    None
}

/// `<password>x</password>`
fn element(text: &str, at: usize, names: &Names) -> Option<Span> {
    let low = scan::floor(text, at.saturating_sub(MAX_NAME));
    let tag = text.get(low..at)?;
    let tag = tag.get(tag.rfind('<')? + 1..)?;
    let name = tag.split([' ', '\t', '\n']).next()?;
    let name = name.rsplit(':').next()?;
    if tag.starts_with('/') || tag.ends_with('/') {
        return None;
    }
    let verdict = names.verdict(name)?;
    let inner = text.get(at + 1..)?;
    let data = inner.strip_prefix("<![CDATA[");
    let inner = data.unwrap_or(inner);
    let start = text.len() - inner.len();
    let end = start + inner.find(if data.is_some() { ']' } else { '<' }).unwrap_or(inner.len());
    if verdict.weak { None } else { spanned(text, start..end, verdict.kind) }
}

/// `('password', 'x')`, also of bytes.
fn pair(text: &str, at: usize, names: &Names) -> Option<Span> {
    if !text.as_bytes().get(at + 1).is_some_and(|byte| b"'\"\\bBuU".contains(byte)) {
        return None;
    }
    let first = scan::value(text, at + 1, false, MAX_NAME).filter(|value| value.quoted)?;
    let name = text.get(first.range.clone())?;
    let verdict = names.verdict(name)?;
    let behind = text.get(first.range.end + 1..)?;
    let comma = behind.strip_prefix(',')?;
    let second = scan::value(text, text.len() - comma.len(), false, usize::MAX)?;
    let plain = comma.trim_start().starts_with(|c: char| c.is_ascii_digit() || matches!(c, '[' | '(' | '{'));
    // A list of names is no pair; what is long is hidden at any rate, so that it is read once.
    let behind = text.get(second.range.end..)?.trim_start_matches(['"', '\'', ',', ' ']);
    let closed = behind.is_empty() || behind.starts_with(')') || second.range.len() > MAX_UNSURE;
    if (second.quoted || plain) && closed { spanned(text, second.range, verdict.kind) } else { None }
}

/// `--password x`, `'--password', 'x'`. `--password=x` is an assignment.
fn option(text: &str, at: usize, names: &Names) -> Option<Span> {
    let rest = text.get(at..)?.strip_prefix("--")?;
    let front = text.get(..at).and_then(|front| front.chars().next_back());
    if front.is_some_and(|c| !(c.is_whitespace() || matches!(c, '"' | '\'' | '[' | '(' | ','))) {
        return None;
    }
    let length =
        rest.bytes().take(MAX_NAME).take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let length = length.count();
    let verdict = names.verdict(rest.get(..length)?)?;
    let behind = rest.get(length..)?;
    let gap = behind.trim_start_matches(['"', '\'']).trim_start_matches(',');
    let value_text = gap.trim_start_matches([' ', '\t']);
    if value_text.len() == behind.len() || value_text.starts_with('-') || gap.len() == value_text.len() {
        return None;
    }
    let limit = if verdict.weak { MAX_UNSURE } else { usize::MAX };
    let value = scan::value(text, text.len() - value_text.len(), false, limit)?;
    let found = text.get(value.range.clone())?;
    if verdict.weak && !(value.quoted || scan::looks_random(found, false)) {
        return None;
    }
    spanned(text, value.range, verdict.kind)
}
