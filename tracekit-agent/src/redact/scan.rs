//! Where a value in a text ends, and whether it is one.

use std::ops::Range;

use super::kind::marker_at;

/// Spaces between a separator and its value.
const MAX_GAP: usize = 64;
/// Bytes in brackets inside a value without quotes.
const MAX_CALL: usize = 256;
/// What is longer is neither a word, nor code, nor a placeholder.
const MAX_WORD: usize = 128;

/// A value in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    /// Where it is; inside the quotes, if it has some.
    pub range: Range<usize>,
    /// It is a string in quotes.
    pub quoted: bool,
}

/// The place, or the one before it where a character begins; within the text.
pub(super) fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The rest of the line, or up to the quote around it.
pub(super) fn line(text: &str, from: usize, quote: Option<char>) -> Range<usize> {
    let rest = text.get(from..).unwrap_or_default();
    let start = from + (rest.len() - rest.trim_start_matches([' ', '\t']).len());
    let rest = text.get(start..).unwrap_or_default();
    let stop = |c: char| matches!(c, '\n' | '\r') || Some(c) == quote;
    let end = rest.find(stop).unwrap_or(rest.len());
    // In a `repr`, a line ends with an escaped line feed.
    let escaped =
        rest.get(..end).and_then(|line| [line.find("\\r"), line.find("\\n")].into_iter().flatten().min());
    start..start + escaped.unwrap_or(end)
}

/// The value that begins at `from`, behind spaces (and lines, if its name is in quotes). Not more than `limit`
/// bytes are looked at. `None` if there is none.
pub(super) fn value(text: &str, from: usize, lines: bool, limit: usize) -> Option<Value> {
    let window = text.get(from..floor(text, from.saturating_add(limit)))?;
    let mut rest = window.trim_start_matches([' ', '\t']);
    if lines {
        rest = behind_lines(rest);
    }
    let gap = window.len() - rest.len();
    if rest.is_empty() || gap > MAX_GAP || rest.starts_with(['\n', '\r']) {
        return None;
    }
    let start = from + gap;
    let at = |range: Range<usize>, quoted| Value { range: start + range.start..start + range.end, quoted };
    if let Some((_, length)) = marker_at(rest) {
        // A sentence may end behind it.
        let behind =
            rest.get(length..).unwrap_or_default().trim_start_matches(|c| ".,;:!?)]}>'\"".contains(c));
        if behind.is_empty() || behind.starts_with(char::is_whitespace) {
            return Some(at(0..length, false));
        }
    }
    if let Some(range) = block(rest) {
        return Some(at(range, true));
    }
    let prefix = rest.bytes().take(2).take_while(|byte| b"bBrRuUfF".contains(byte)).count();
    for prefix in [0, prefix] {
        if let Some(range) = quoted(rest, prefix) {
            return Some(at(range, true));
        }
    }
    if rest.starts_with(['{', '[', '(']) && marker_at(rest).is_none() {
        return Some(at(0..brackets(rest, usize::MAX).unwrap_or(rest.len()), false));
    }
    Some(at(0..unquoted(rest), false))
}

/// The lines of a block of YAML: `|`, and lines that are indented.
fn block(text: &str) -> Option<Range<usize>> {
    let rest = text.strip_prefix(['|', '>'])?;
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    let body = rest.strip_prefix('\n')?;
    let lines =
        body.split_inclusive('\n').take_while(|line| line.starts_with([' ', '\t']) || line.trim().is_empty());
    let length: usize = lines.map(str::len).sum();
    let start = text.len() - body.len();
    let inner = body.get(..length)?;
    let lead = inner.len() - inner.trim_start().len();
    Some(start + lead..start + inner.trim_end().len().max(lead))
}

/// What is behind spaces and lines, which may be escaped, more than once.
fn behind_lines(mut text: &str) -> &str {
    loop {
        let line = text.trim_start_matches('\\');
        let escaped = line.len() < text.len() && line.starts_with(['n', 'r', 't']);
        let next = match escaped {
            true => line.get(1..).unwrap_or_default(),
            false => text.trim_start_matches(['\n', '\r', ' ', '\t']),
        };
        if next.len() == text.len() {
            return text;
        }
        text = next;
    }
}

/// The inside of a string whose quote is behind `prefix` letters; up to the end if it is not closed.
fn quoted(text: &str, prefix: usize) -> Option<Range<usize>> {
    let rest = text.get(prefix..)?;
    let escapes = rest.bytes().take_while(|byte| *byte == b'\\').count();
    let quote = *rest.as_bytes().get(escapes)?;
    if !matches!(quote, b'"' | b'\'' | b'`') {
        return None;
    }
    let start = prefix + escapes + 1;
    let unit = text.get(prefix..start)?;
    let inner = text.get(start..)?;
    if let Some(body) = inner.strip_prefix(unit).and_then(|inner| inner.strip_prefix(unit)) {
        // Three quotes.
        let start = text.len() - body.len();
        return Some(start..start + body.find(&unit.repeat(3)).unwrap_or(body.len()));
    }
    let mut backslashes = 0;
    for (at, byte) in inner.bytes().enumerate() {
        if byte == b'\\' {
            backslashes += 1;
            continue;
        }
        // An escaped quote inside has more backslashes than the quotes around, by an even multiple of theirs.
        if byte == quote
            && (backslashes <= escapes || (backslashes - escapes).is_multiple_of(2 * (escapes + 1)))
        {
            if escapes == 0 && backslashes % 2 == 1 {
                backslashes = 0;
                continue;
            }
            return Some(start..start + at.saturating_sub(escapes.min(backslashes)));
        }
        backslashes = 0;
    }
    Some(start..text.len())
}

/// The length of what is in brackets, with the brackets; `None` if they are not closed within the limit.
fn brackets(text: &str, limit: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut quote = None;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().take(limit) {
        match (quote, byte) {
            _ if escaped => escaped = false,
            (_, b'\\') => escaped = true,
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'{' | b'[' | b'(') => depth += 1,
            (None, b'}' | b']' | b')') => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// The length of a value without quotes. A delimiter ends it only where the text goes on as it would behind a
/// value, for passwords have such characters too.
fn unquoted(text: &str) -> usize {
    let mut at = marker_at(text).map_or(0, |(_, length)| length);
    while let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) {
        let rest = text.get(at + c.len_utf8()..).unwrap_or_default();
        let next = rest.chars().next();
        let closes = next.is_none_or(|c| c.is_whitespace() || ",;.:)]}>'\"&<|\\".contains(c));
        let ends = match c {
            c if c.is_whitespace() => true,
            '&' => rest.is_empty() || rest.starts_with("amp;") || names_follow(rest),
            ';' | ',' | '|' => next.is_none_or(char::is_whitespace) || names_follow(rest),
            ')' | ']' | '}' | '>' | '"' | '\'' | '`' => closes,
            '\\' => matches!(next, Some('"' | '\'' | 'n' | 'r' | 't')),
            '<' => next.is_some_and(|c| c == '/' || c.is_ascii_alphabetic()),
            _ => false,
        };
        if ends {
            break;
        }
        let call =
            matches!(c, '(' | '[' | '{').then(|| brackets(text.get(at..).unwrap_or_default(), MAX_CALL));
        at += call.flatten().unwrap_or(c.len_utf8());
    }
    at
}

/// A name and a separator.
fn names_follow(text: &str) -> bool {
    let text = text.trim_start_matches([' ', '"', '\'']);
    let part = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.-%[]".contains(byte);
    let length = text.bytes().take(MAX_WORD).take_while(part).count();
    length > 0 && matches!(text.as_bytes().get(length), Some(b'=' | b':' | b'"' | b'\''))
}

/// A name with its escapes resolved: `pass\u0077ord`, `user%5Bpassword%5D`.
pub(super) fn unescaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let digits = match c {
            '%' => rest.get(1..3).map(|digits| (digits, 3)),
            '\\' => {
                // Escaped more than once, it has more backslashes.
                let escape = rest.trim_start_matches('\\');
                let length = rest.len() - escape.len() + 5;
                escape.starts_with('u').then(|| escape.get(1..5)).flatten().map(|digits| (digits, length))
            }
            _ => None,
        };
        let resolved = digits.and_then(|(digits, length)| {
            let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
            Some((c, length))
        });
        let (c, length) = resolved.unwrap_or((c, c.len_utf8()));
        out.push(c);
        rest = rest.get(length..).unwrap_or_default();
    }
    out
}

/// Nothing that could be a secret: absent, masked, hidden already, or a placeholder.
pub(super) fn is_nothing(value: &str) -> bool {
    let value = value.trim();
    if value.len() > MAX_WORD {
        return false;
    }
    if marker_at(value).is_some_and(|(_, length)| length == value.len()) {
        return true;
    }
    let word = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b))
    };
    let lower =
        |text: &str| word(text) && !text.bytes().any(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    let upper = |text: &str| word(text) && !text.bytes().any(|b| b.is_ascii_lowercase());
    let between =
        |open: &str, close: &str| value.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    let absent = ["", "none", "null", "nil", "undefined", "true", "false", "not set", "unset"];
    let hidden =
        ["redacted", "[redacted]", "<redacted>", "[filtered]", "redacted:redacted", "<hidden>", "<secret>"];
    absent.iter().chain(&hidden).any(|word| value.eq_ignore_ascii_case(word))
        || value.chars().all(|c| "*•.…-_●".contains(c))
        || (value.len() >= 4 && (value.bytes().all(|b| b == b'x') || value.bytes().all(|b| b == b'X')))
        || matches!(value, "?" | "%s" | "{}" | "[]" | "()" | "{" | "[" | "(")
        || between("%(", ")s").is_some_and(lower)
        || between("{", "}").is_some_and(|name| lower(name.trim_matches(['{', '}', ' '])))
        || between("${", "}").is_some_and(word)
        || value.strip_prefix('$').is_some_and(upper)
        || value.strip_prefix(':').is_some_and(lower)
}

/// A word that stands behind `password:` in a message.
pub(super) fn is_word(value: &str) -> bool {
    const WORDS: &[&str] = &[
        "a",
        "an",
        "are",
        "at",
        "basic",
        "bearer",
        "can",
        "can't",
        "cannot",
        "changed",
        "does",
        "doesn't",
        "empty",
        "error",
        "expected",
        "expired",
        "failed",
        "field",
        "has",
        "incorrect",
        "invalid",
        "is",
        "malformed",
        "may",
        "mismatch",
        "missing",
        "must",
        "no",
        "not",
        "ok",
        "optional",
        "provided",
        "rejected",
        "required",
        "reset",
        "should",
        "string",
        "the",
        "this",
        "too",
        "unknown",
        "unset",
        "updated",
        "use",
        "value",
        "was",
        "will",
        "wrong",
        "yes",
        "you",
        "your",
    ];
    let word = value.trim_matches(|c: char| !c.is_alphabetic()).to_ascii_lowercase();
    value.len() <= MAX_WORD && WORDS.binary_search(&word.as_str()).is_ok()
}

/// A type, or an object that was printed without its contents.
pub(super) fn is_code(value: &str) -> bool {
    let value = value.trim_end_matches([',', ')', ':', ';']);
    let types = ["str", "int", "bytes", "bool", "float", "any", "string", "object", "dict", "list", "tuple"];
    value.len() <= MAX_WORD
        && (types.iter().any(|name| value.eq_ignore_ascii_case(name))
            || value.starts_with("Optional[")
            || (value.starts_with('<') && (value.contains("object") || value.contains("class"))))
}

/// How often letters and digits of different kinds stand side by side.
fn changes(text: &str) -> usize {
    let class = |byte: u8| match byte {
        b'a'..=b'z' => 0,
        b'A'..=b'Z' => 1,
        _ => 2,
    };
    let classes: Vec<u8> = text.bytes().filter(u8::is_ascii_alphanumeric).map(class).collect();
    classes.windows(2).filter(|pair| pair.first() != pair.last()).count()
}

fn digits(text: &str) -> usize {
    text.bytes().filter(u8::is_ascii_digit).count()
}

/// Letters and digits as no name has them.
pub(super) fn is_scrambled(name: &str) -> bool {
    digits(name) >= 2 && changes(name) >= 8 && !name.contains(['_', '-', '.', '['])
}

/// A value that is more likely a secret than a word, for names that say little.
pub(super) fn looks_random(value: &str, key: bool) -> bool {
    let letters = value.bytes().filter(u8::is_ascii_alphabetic).count();
    let random = changes(value) >= 4 && value.len() >= 10;
    let digits = digits(value);
    if key { random && digits >= 2 && letters >= 2 } else { random || (digits >= 1 && value.len() >= 4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<&str> {
        value(text, 0, false, usize::MAX).map(|value| &text[value.range])
    }

    #[test]
    fn where_values_end() {
        for (text, expected) in [
            ("abc", Some("abc")),
            (" abc def", Some("abc")),
            ("abc&b=1", Some("abc")),
            ("a&b,c;d)e f", Some("a&b,c;d)e")),
            ("abc, x=1)", Some("abc")),
            ("abc;User=sa", Some("abc")),
            ("abc)", Some("abc")),
            ("abc\", ", Some("abc")),
            ("abc\\nX", Some("abc")),
            ("'a b' c", Some("a b")),
            (r#""a\"b" c"#, Some(r#"a\"b"#)),
            (r#"\"a b\", c"#, Some("a b")),
            (r#"\"a\\\"b\", c"#, Some(r#"a\\\"b"#)),
            ("b'a b' c", Some("a b")),
            ("'''a b''' c", Some("a b")),
            ("'' x", Some("")),
            ("'unclosed x", Some("unclosed x")),
            ("[1, ']', 2] c", Some("[1, ']', 2]")),
            ("{\"a\": {\"b\": 1}} c", Some("{\"a\": {\"b\": 1}}")),
            ("SecretStr('a b'), c", Some("SecretStr('a b')")),
            ("a(b c", Some("a(b")),
            ("[REDACTED:jwt]", Some("[REDACTED:jwt]")),
            ("[REDACTED:jwt]x y", Some("[REDACTED:jwt]x")),
            ("x</b>", Some("x")),
            ("", None),
            ("\nx", None),
        ] {
            assert_eq!(found(text), expected, "{text}");
        }
        assert_eq!(value("ab", 0, false, 1).unwrap().range, 0..1);
    }

    #[test]
    fn values_that_are_none() {
        for text in [
            "", "None", "null", "****", "xxxx", "?", "%s", "%(a)s", "${A_b}", "$TOKEN", ":name", "{name}",
            "...",
        ] {
            assert!(is_nothing(text), "{text}");
        }
        for text in ["x", "hunter2", "$ecret", "[REDACTED:jwt]x", "{a1}", ":A"] {
            assert!(!is_nothing(text), "{text}");
        }
        assert!(
            is_word("required.") && is_code("Optional[str]") && !is_word("hunter2") && !is_code("hunter2")
        );
    }

    #[test]
    fn escapes() {
        assert_eq!(unescaped(r"pass\u0077ord"), "password");
        assert_eq!(unescaped("user%5Bpassword%5D"), "user[password]");
        assert_eq!(unescaped("100%"), "100%");
        assert_eq!(unescaped("%ZZ\\u"), "%ZZ\\u");
    }
}
