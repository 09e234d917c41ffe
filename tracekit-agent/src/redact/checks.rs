//! What a pattern cannot say: check digits, ranges, and what stands around a match.

use std::ops::Range;

use super::kind::Kind;
use super::scan;
use super::span::Span;

type Hit = Option<Range<usize>>;

fn part<'t>(text: &'t str, range: &Range<usize>) -> &'t str {
    text.get(range.clone()).unwrap_or_default()
}

fn before<'t>(text: &'t str, range: &Range<usize>) -> &'t str {
    text.get(..range.start).unwrap_or_default()
}

fn after<'t>(text: &'t str, range: &Range<usize>) -> &'t str {
    text.get(range.end..).unwrap_or_default()
}

fn has_digit(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_digit())
}

/// With a digit in it: words joined by `_` or `-` have none.
pub(super) fn digit(text: &str, range: Range<usize>) -> Hit {
    has_digit(part(text, &range)).then_some(range)
}

/// Not a word of a message.
pub(super) fn no_word(text: &str, range: Range<usize>) -> Hit {
    let found = part(text, &range);
    (!scan::is_word(found) && !scan::is_nothing(found)).then_some(range)
}

/// With lower case, upper case and digits.
pub(super) fn mixed(text: &str, range: Range<usize>) -> Hit {
    let found = part(text, &range);
    let has = |wanted: fn(&u8) -> bool| found.as_bytes().iter().any(wanted);
    (has(u8::is_ascii_digit) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase)).then_some(range)
}

/// The token of `Bearer …`, not a word of a sentence.
pub(super) fn bearer(text: &str, range: Range<usize>) -> Hit {
    let found = part(text, &range);
    let word = found.trim_end_matches(['.', '=']).bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    (has_digit(found) || (found.len() >= 20 && !word)).then_some(range)
}

/// The token of `Basic …`: Base64 of something with a colon.
pub(super) fn basic(text: &str, range: Range<usize>) -> Hit {
    let decoded = base64(part(text, &range))?;
    let printable = decoded.iter().all(|byte| *byte >= b' ' && *byte != 0x7f);
    (printable && decoded.contains(&b':')).then_some(range)
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut bits, mut count, mut out) = (0_u32, 0, Vec::new());
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from((bits >> count) & 0xff).unwrap_or_default());
        }
    }
    Some(out)
}

/// Adds user and password of `scheme://user:password@host`, and the user of `https://token@host`. Passwords may
/// contain an `@` or a `/` that should have been encoded.
pub(super) fn authorities(text: &str, spans: &mut Vec<Span>) {
    for (at, separator) in text.match_indices("://") {
        let start = at + separator.len();
        let window = text.get(start..scan::floor(text, start + MAX_AUTHORITY)).unwrap_or_default();
        let window = window.split(char::is_whitespace).next().unwrap_or_default();
        let web = text.get(..at).is_some_and(|front| {
            let scheme = front.get(scan::floor(front, front.len().saturating_sub(5))..).unwrap_or_default();
            let scheme = scheme.to_ascii_lowercase();
            scheme.ends_with("http") || scheme.ends_with("https")
        });
        if let Some(inner) = credentials(window, web).filter(|inner| !scan::is_nothing(inner)) {
            spans.push(Span::new(start..start + inner.len(), Kind::CREDENTIALS));
        }
    }
}

/// What is in front of the host, without the `@`.
fn credentials(window: &str, web: bool) -> Option<&str> {
    let end = window.find(['/', '?', '#', '<', '>', '"', '\'']).unwrap_or(window.len());
    let (authority, behind) = window.split_at(end);
    if let Some(mut at) = authority.find('@') {
        // A further `@` belongs to the password, unless something else has begun in between.
        while let Some(next) = authority.get(at + 1..).and_then(|rest| rest.find('@')) {
            if authority.get(at + 1..at + 1 + next)?.contains([',', ';']) {
                break;
            }
            at += 1 + next;
        }
        let inner = authority.get(..at)?;
        return (web || inner.contains(':')).then_some(inner);
    }
    // `http://host:80/@name` has a port.
    let (_, port) = authority.split_once(':').filter(|_| !authority.starts_with('['))?;
    if port.bytes().all(|byte| byte.is_ascii_digit()) || !behind.starts_with(['/', '?', '#']) {
        return None;
    }
    let stop = behind.find(['<', '>', '"', '\'']).unwrap_or(behind.len());
    let at = behind.get(..stop)?.find('@')?;
    window.get(..end + at)
}

/// Numbers that are given out, and that stand alone.
pub(super) fn ssn(text: &str, range: Range<usize>) -> Hit {
    let found = part(text, &range);
    let (area, rest) = found.split_once('-')?;
    let (group, serial) = rest.split_once('-')?;
    let given = !matches!(area, "000" | "666") && !area.starts_with('9') && group != "00" && serial != "0000";
    (given && alone(text, &range)).then_some(range)
}

/// No digit, and no digits behind a `-` or `.`, on either side; no letter either.
fn alone(text: &str, range: &Range<usize>) -> bool {
    let joined = |c: Option<char>, next: Option<char>| match c {
        Some('-' | '.') => next.is_some_and(|c| c.is_ascii_digit()),
        Some('+') => true,
        Some(c) => c.is_alphanumeric(),
        None => false,
    };
    let (mut back, mut forth) = (before(text, range).chars().rev(), after(text, range).chars());
    !joined(back.next(), back.next()) && !joined(forth.next(), forth.next())
}

/// As many digits as telephone numbers have; numbers behind it are none of it.
pub(super) fn phone(text: &str, mut range: Range<usize>) -> Hit {
    loop {
        let found = part(text, &range);
        let digits = found.bytes().filter(u8::is_ascii_digit).count();
        if digits < 10 {
            return None;
        }
        if digits <= 15 && alone(text, &range) {
            return Some(range);
        }
        range.end = range.start + found.rfind([' ', '.', '-'])?;
    }
}

/// Endings of files and units that are no top-level domains.
const NOT_DOMAINS: &[&str] = &[
    "automount",
    "css",
    "device",
    "gif",
    "ico",
    "jpeg",
    "jpg",
    "js",
    "json",
    "mount",
    "path",
    "png",
    "scope",
    "service",
    "slice",
    "socket",
    "svg",
    "swap",
    "target",
    "timer",
    "webp",
];

/// Behind `scheme://`, in front of the path: what has an `@` there is a user and a host.
fn in_authority(text: &str, at: usize) -> bool {
    let front = text.get(scan::floor(text, at.saturating_sub(MAX_AUTHORITY))..at).unwrap_or_default();
    front.rfind("://").and_then(|scheme| front.get(scheme + 3..)).is_some_and(|authority| {
        !authority.contains(|c: char| c.is_whitespace() || "/?#\"'<>(),;".contains(c))
    })
}

/// An address of a person, not of a repository, a file or a systemd unit.
pub(super) fn email(text: &str, range: Range<usize>) -> Hit {
    let found = part(text, &range);
    let trimmed = found.trim_start_matches(['\'', '-', '.']);
    let start = range.end - trimmed.len();
    let (local, domain) = trimmed.split_once('@').or_else(|| trimmed.split_once("%40"))?;
    let top = domain.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let version = domain.starts_with(|c: char| c.is_ascii_digit())
        && domain.split('.').nth(1).is_some_and(|label| label.starts_with(|c: char| c.is_ascii_digit()));
    let unfit = local.is_empty()
        || local == "git"
        || version
        || NOT_DOMAINS.contains(&top.as_str())
        || in_authority(text, range.start);
    (!unfit).then_some(start..range.end)
}

/// Bytes of user, password and host that are looked at.
const MAX_AUTHORITY: usize = 512;

/// Groups of digits in one number at most.
const MAX_GROUPS: usize = 6;

/// Numbers of payment cards: of a known issuer, with a valid check digit (ISO/IEC 7812), alone or in the
/// groups that cards print.
pub(super) fn cards(text: &str, spans: &mut Vec<Span>) {
    let bytes = text.as_bytes();
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if !byte.is_ascii_digit() {
            at += 1;
            continue;
        }
        let end =
            bytes.iter().skip(at).position(|byte| !byte.is_ascii_digit()).map_or(bytes.len(), |n| at + n);
        groups.push(at..end);
        at = end;
    }
    let mut first = 0;
    while let Some(group) = groups.get(first) {
        let mut digits = Vec::new();
        let mut end = None;
        let mut previous: Option<&Range<usize>> = None;
        for next in groups.iter().skip(first).take(MAX_GROUPS) {
            let separated = previous
                .is_none_or(|previous| matches!(bytes.get(previous.end..next.start), Some([b' ' | b'-'])));
            if !separated || digits.len() + next.len() > 19 {
                break;
            }
            digits.extend(bytes.get(next.clone()).unwrap_or_default().iter().map(|byte| byte - b'0'));
            previous = Some(next);
            let range = group.start..next.end;
            if is_card(&digits) && shaped(&groups, first, next.end) && free(text, &range) {
                end = Some(next.end);
            }
        }
        match end {
            Some(end) => {
                spans.push(Span::new(group.start..end, Kind::CREDIT_CARD));
                first += groups.iter().skip(first).take_while(|group| group.end <= end).count();
            }
            None => first += 1,
        }
    }
}

/// 4-4-4-4, with a last group of any length, or 4-6-4 and 4-6-5.
fn shaped(groups: &[Range<usize>], first: usize, end: usize) -> bool {
    let lengths: Vec<usize> =
        groups.iter().skip(first).take_while(|group| group.end <= end).map(ExactSizeIterator::len).collect();
    match lengths.as_slice() {
        [_] | [4, 6, 4 | 5] => true,
        [most @ .., _] => most.len() >= 3 && most.iter().all(|length| *length == 4),
        [] => false,
    }
}

/// Not part of a word, a decimal fraction, or a longer code.
fn free(text: &str, range: &Range<usize>) -> bool {
    let mut back = before(text, range).chars().rev();
    let mut forth = after(text, range).chars();
    let joined = |c: Option<char>, next: Option<char>| match c {
        Some('.') => next.is_some_and(|c| c.is_ascii_digit()),
        Some(c) => c.is_alphanumeric(),
        None => false,
    };
    !joined(back.next(), back.next()) && !joined(forth.next(), forth.next())
}

/// The text is the number of a card, all of it.
pub(super) fn is_card_number(digits: &str) -> bool {
    (13..=19).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && is_card(&digits.bytes().map(|byte| byte - b'0').collect::<Vec<_>>())
}

fn is_card(digits: &[u8]) -> bool {
    let prefix =
        |count: usize| digits.iter().take(count).fold(0_u32, |sum, digit| sum * 10 + u32::from(*digit));
    let issued = match digits.len() {
        // Diners Club
        14 => matches!(prefix(3), 300..=305 | 309 | 360..=369 | 380..=399),
        // American Express
        15 => matches!(prefix(2), 34 | 37),
        // Visa, Mastercard, Discover, JCB, UnionPay, Maestro
        16 => {
            prefix(1) == 4
                || matches!(prefix(2), 51..=55 | 62 | 65)
                || matches!(prefix(3), 644..=649)
                || matches!(prefix(4), 2221..=2720 | 3528..=3589 | 6011 | 5018 | 5020 | 5038 | 6304 | 6759..=6763)
        }
        13 => prefix(1) == 4,
        19 => prefix(1) == 4 || prefix(2) == 62 || prefix(4) == 6011,
        17 | 18 => prefix(2) == 62,
        _ => false,
    };
    issued && digits.iter().any(|digit| digits.first() != Some(digit)) && luhn(digits)
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| {
            let digit = u32::from(*digit);
            match at % 2 {
                0 => digit,
                _ => digit * 2 / 10 + digit * 2 % 10,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<&str> {
        let mut spans = Vec::new();
        cards(text, &mut spans);
        spans.into_iter().map(|span| &text[span.range]).collect()
    }

    #[test]
    fn cards_are_found() {
        for number in [
            "4111111111111111",
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "5555555555554444",
            "2223003122003222",
            "378282246310005",
            "3782 822463 10005",
            "6011111111111117",
            "3530111333300000",
            "30569309025904",
            "4222222222222",
        ] {
            for (before, after) in
                [("", ""), ("card ", "."), ("12 ", " 123"), ("(", ")"), ("x:", ", cvc 123")]
            {
                let text = format!("{before}{number}{after}");
                assert_eq!(found(&text), [number], "{text}");
            }
        }
    }

    #[test]
    fn other_numbers_are_not() {
        for text in [
            "4111111111111112",
            "1234567890123456",
            "0000000000000000",
            "1700000000000000000",
            "0.4111111111111111",
            "a4111111111111111",
            "4111111111111111f",
            "4111.1111.1111.1111",
            "41-11111111111111-1",
            "2024-01-01 12:00:00",
        ] {
            assert_eq!(found(text), Vec::<&str>::new(), "{text}");
        }
        assert!(is_card_number("4111111111111111"));
        assert!(!is_card_number("4111 1111 1111 1111"));
    }

    #[test]
    fn decoded_base64() {
        assert_eq!(base64("dXNlcjpwYXNz").unwrap(), b"user:pass");
        assert_eq!(base64("YQ==").unwrap(), b"a");
        assert_eq!(base64("a!"), None);
    }
}
