//! The text form of values: what Python's `repr` prints, where there is nothing to mark.

use std::fmt::{self, Write as _};

use super::{Content, Value};

/// `repr` of a float: the shortest digits that give it again, as CPython `Python/pystrtod.c` writes them.
pub fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{value}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// `repr` of a `bytes`.
pub fn bytes(value: &[u8]) -> String {
    let quote = if value.contains(&b'\'') && !value.contains(&b'"') { '"' } else { '\'' };
    let mut out = format!("b{quote}");
    for byte in value {
        match byte {
            b'\\' => out.push_str("\\\\"),
            b'\t' => out.push_str("\\t"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            byte if char::from(*byte) == quote => {
                out.push('\\');
                out.push(quote);
            }
            b' '..=b'~' => out.push(char::from(*byte)),
            byte => {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
    out.push(quote);
    out
}

/// `repr` of a `str`; what a terminal might take for a command is escaped.
fn quoted(value: &str) -> String {
    let quote = if value.contains('\'') && !value.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            ' '..='~' => out.push(c),
            c if u32::from(c) < 0x100 && (c.is_control() || matches!(c, '\u{a0}' | '\u{ad}')) => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            // Separators, directional marks and other format characters, private use.
            '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{2000}'..='\u{200f}'
            | '\u{2028}'..='\u{202f}'
            | '\u{205f}'..='\u{206f}'
            | '\u{3000}'
            | '\u{e000}'..='\u{f8ff}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// A name of the target, for a terminal.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            Content::None => f.write_str("None"),
            Content::Bool(true) => f.write_str("True"),
            Content::Bool(false) => f.write_str("False"),
            Content::Int(digits) => f.write_str(digits),
            Content::Float(value) => f.write_str(&float(*value)),
            Content::Str(value) => {
                f.write_str(&quoted(value))?;
                self.more(f, value.chars().count(), "characters")
            }
            Content::Bytes(value) if matches!(self.type_name.as_str(), "bytearray" | "memoryview") => {
                write!(f, "{}({})", self.type_name, bytes(value))?;
                self.more(f, value.len(), "bytes")
            }
            Content::Bytes(value) => {
                f.write_str(&bytes(value))?;
                self.more(f, value.len(), "bytes")
            }
            Content::Text(text) => f.write_str(&plain(text)),
            Content::Elements(items) => self.elements(f, items),
            Content::Entries(items) => {
                let (open, close) = match self.type_name.as_str() {
                    "dict" => (String::new(), ""),
                    name => (format!("{}(", plain(name)), ")"),
                };
                write!(f, "{open}{{")?;
                for (at, (key, value)) in items.iter().enumerate() {
                    write!(f, "{}{key}: {value}", if at == 0 { "" } else { ", " })?;
                }
                self.more(f, items.len(), "")?;
                write!(f, "}}{close}")
            }
            Content::Fields(fields) => {
                write!(f, "{}(", plain(&self.type_name))?;
                for (at, (name, value)) in fields.iter().enumerate() {
                    write!(f, "{}{}={value}", if at == 0 { "" } else { ", " }, plain(name))?;
                }
                self.more(f, fields.len(), "")?;
                f.write_str(")")
            }
            Content::Nothing(reason) if self.type_name.is_empty() => write!(f, "<{}>", reason.word()),
            Content::Nothing(reason) => write!(f, "<{}: {}>", plain(&self.type_name), reason.word()),
        }
    }
}

impl Value {
    fn elements(&self, f: &mut fmt::Formatter<'_>, items: &[Self]) -> fmt::Result {
        let (open, close) = match self.type_name.as_str() {
            "list" => ("[".to_owned(), "]"),
            "tuple" if items.len() == 1 && self.truncated.is_none() => ("(".to_owned(), ",)"),
            "tuple" => ("(".to_owned(), ")"),
            "set" if items.is_empty() => ("set(".to_owned(), ")"),
            "set" => ("{".to_owned(), "}"),
            "frozenset" if items.is_empty() => ("frozenset(".to_owned(), ")"),
            "frozenset" => ("frozenset({".to_owned(), "})"),
            name => (format!("{}([", plain(name)), "])"),
        };
        f.write_str(&open)?;
        for (at, item) in items.iter().enumerate() {
            write!(f, "{}{item}", if at == 0 { "" } else { ", " })?;
        }
        self.more(f, items.len(), "")?;
        f.write_str(close)
    }

    /// `… 17 more`
    fn more(&self, f: &mut fmt::Formatter<'_>, shown: usize, what: &str) -> fmt::Result {
        let Some(length) = self.truncated else { return Ok(()) };
        let hidden = length.saturating_sub(shown as u64);
        if what.is_empty() {
            write!(f, "{}… {hidden} more", if shown == 0 { "" } else { ", " })
        } else {
            write!(f, "… {hidden} more {what}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_python_prints_them() {
        let cases = [
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (-0.0, "-0.0"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (1.5e300, "1.5e+300"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
            (5e-324, "5e-324"),
        ];
        for (value, expected) in cases {
            assert_eq!(float(value), expected);
        }
    }

    #[test]
    fn strings_as_python_prints_them() {
        assert_eq!(quoted("it's"), "\"it's\"");
        assert_eq!(quoted("'\"\\\n\u{1b}é€😀\u{202e}"), "'\\'\"\\\\\\n\\x1bé€😀\\u202e'");
        assert_eq!(bytes(b"a'\x00\xff"), "b\"a'\\x00\\xff\"");
    }
}
