//! Text too random to be words, ids or paths: keys without a form of their own.
//!
//! A run of Base64 letters is such text if it is long, has lower case, upper case and digits, changes between
//! them about as often as chance does, and uses many letters. Hexadecimal digits, UUIDs and hashes have one
//! case, names and paths change rarely.

use super::kind::Kind;
use super::span::Span;

/// Letters at least. 128 bits of a key are 22; a key of 192 bits is 32, of AWS 40, of Fernet 44.
const MIN: usize = 32;
/// Letters that are looked at: a longer run is data, such as an image.
const MAX: usize = 256;

/// What stands in front of digests and data that are published as they are; the first are letters themselves.
const DIGESTS: &[&[u8]] = &[b"sha256-", b"sha384-", b"sha512-"];
const PUBLIC: &[&[u8]] = &[b"SHA256:", b"base64,"];

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'_' | b'-')
}

/// Adds runs that are too random.
pub(super) fn find(text: &str, spans: &mut Vec<Span>) {
    let bytes = text.as_bytes();
    let mut start = 0;
    while start < bytes.len() {
        let run = bytes.iter().skip(start).take_while(|byte| is_letter(**byte)).count();
        if run == 0 {
            start += 1;
            continue;
        }
        let mut end = start + run;
        let word = bytes.get(start..end).unwrap_or_default();
        let front = bytes.get(..start).unwrap_or_default();
        let public = DIGESTS.iter().any(|digest| word.starts_with(digest))
            || PUBLIC.iter().any(|public| front.ends_with(public));
        if (MIN..=MAX).contains(&run) && !public && is_random(word) {
            while bytes.get(end) == Some(&b'=') {
                end += 1;
            }
            spans.push(Span::new(start..end, Kind::HIGH_ENTROPY));
        }
        start = end;
    }
}

fn is_random(word: &[u8]) -> bool {
    #[derive(PartialEq, Clone, Copy)]
    enum Class {
        Lower,
        Upper,
        Digit,
        Other,
    }
    let class = |byte: &u8| match byte {
        b'a'..=b'z' => Class::Lower,
        b'A'..=b'Z' => Class::Upper,
        b'0'..=b'9' => Class::Digit,
        _ => Class::Other,
    };
    let classes: Vec<Class> = word.iter().map(class).collect();
    let count = |wanted: Class| classes.iter().filter(|class| **class == wanted).count();
    let changes = classes.windows(2).filter(|pair| pair.first() != pair.last()).count();
    let words: usize =
        classes.split(|class| *class != Class::Lower).map(<[Class]>::len).filter(|length| *length >= 4).sum();
    // By chance Base64 changes 64 times in 100, a tenth of it is in four or more small letters in a row, and 10 in
    // 64 are digits. In words and their joints (`_`, `-`, `/`) it is the other way round.
    count(Class::Lower) >= 4
        && count(Class::Upper) >= 4
        && count(Class::Digit) >= 1
        && count(Class::Other) * 8 <= word.len()
        && changes * 100 >= word.len() * 33
        && words * 4 <= word.len()
        && entropy(word) >= 4.0
}

/// Bits for each byte (Shannon).
fn entropy(word: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in word {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
    }
    let total = u32::try_from(word.len()).unwrap_or(u32::MAX);
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / f64::from(total);
            -share * share.log2()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<&str> {
        let mut spans = Vec::new();
        find(text, &mut spans);
        spans.into_iter().map(|span| &text[span.range]).collect()
    }

    #[test]
    fn keys() {
        for key in [
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "Zk8vQ2xN7pRt4WsYb1HcGd6JfKm3LoPq",
            "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=",
        ] {
            assert_eq!(found(&format!("({key})")), [key]);
        }
    }

    #[test]
    fn ordinary() {
        for text in [
            "d41d8cd98f00b204e9800998ecf8427e",
            "123e4567-e89b-12d3-a456-426614174000",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "/usr/lib/python3.12/site-packages/SQLAlchemy/Dialects/PostgreSQL2",
            "src/components/UserProfile2/ButtonGroup3/IndexPageV2",
            "AbstractSingletonProxyFactoryBean2ForHttp11Requests",
            "test_that_HTTP2_And_TLS13_Are_Both_Spoken_By_Server42",
            "sha384-oqVuAfXRKap7fdgcCY5uykM6+R9GqQ8K/uxy9rx7HNQlGYl1kPzQho1wx4JwY8wC",
            "SHA256:nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8",
            "2026-11-21T10-46-50-123456789Z-worker-0001-of-0128",
        ] {
            assert_eq!(found(text), Vec::<&str>::new(), "{text}");
        }
    }
}
