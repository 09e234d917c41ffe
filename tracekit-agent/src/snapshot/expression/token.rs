//! From text to tokens, as Python writes them.

use num_bigint::BigInt;
use num_traits::Num as _;

use super::syntax::CompileError;

/// A token.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Name(String),
    Int(BigInt),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
    Operator(&'static str),
    End,
}

/// Longer ones first.
const OPERATORS: &[&str] = &[
    "**=", "//=", "<<=", ">>=", "...", "**", "//", "==", "!=", "<=", ">=", "<<", ">>", ":=", "->", "+=",
    "-=", "*=", "/=", "%=", "&=", "|=", "^=", "@=", "&&", "||", "+", "-", "*", "/", "%", "<", ">", "(", ")",
    "[", "]", "{", "}", ",", ":", ".", "=", "&", "|", "^", "~", "@", ";", "!", "?", "$",
];

struct Scanner {
    characters: Vec<char>,
    at: usize,
}

/// The tokens and the column of each, counted in characters from 1; the last is [`Token::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<(Token, usize)>, CompileError> {
    let mut scanner = Scanner { characters: text.chars().collect(), at: 0 };
    let mut found = Vec::new();
    loop {
        while scanner.peek().is_some_and(|c| matches!(c, ' ' | '\t' | '\n' | '\r')) {
            scanner.at += 1;
        }
        let column = scanner.at + 1;
        let token = scanner.token()?;
        let done = token == Token::End;
        found.push((token, column));
        if done {
            return Ok(found);
        }
    }
}

impl Scanner {
    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    fn ahead(&self, by: usize) -> Option<char> {
        self.characters.get(self.at + by).copied()
    }

    fn error(&self, what: impl Into<String>) -> CompileError {
        CompileError::new(what, self.at + 1)
    }

    fn token(&mut self) -> Result<Token, CompileError> {
        let Some(first) = self.peek() else { return Ok(Token::End) };
        if matches!(first, '"' | '\'') {
            return self.string("");
        }
        if first.is_alphabetic() || first == '_' {
            let start = self.at;
            while self.peek().is_some_and(|c| c.is_alphanumeric() || c == '_') {
                self.at += 1;
            }
            let name: String = self.characters.get(start..self.at).unwrap_or_default().iter().collect();
            if matches!(self.peek(), Some('"' | '\'')) {
                let prefix = name.to_ascii_lowercase();
                return match prefix.as_str() {
                    "r" | "u" | "b" | "br" | "rb" => self.string(&prefix),
                    "f" | "fr" | "rf" | "t" => {
                        Err(CompileError::new("a formatted string is not supported", start + 1)
                            .hint("write the parts of a log template as 'text {expression}'"))
                    }
                    _ => Err(CompileError::new(format!("unknown prefix '{name}' of a string"), start + 1)),
                };
            }
            return Ok(Token::Name(name));
        }
        if first.is_ascii_digit() || (first == '.' && self.ahead(1).is_some_and(|c| c.is_ascii_digit())) {
            return self.number();
        }
        for operator in OPERATORS {
            let length = operator.chars().count();
            if operator.chars().enumerate().all(|(by, c)| self.ahead(by) == Some(c)) {
                self.at += length;
                return Ok(Token::Operator(operator));
            }
        }
        let error = self.error(format!("unexpected character {first:?}"));
        Err(match first {
            '#' => error.hint("an expression has no comments"),
            '“' | '”' | '‘' | '’' => error.hint("use straight quotes"),
            _ => error,
        })
    }

    fn digits(&mut self, radix: u32) -> String {
        let mut digits = String::new();
        while let Some(c) = self.peek() {
            let separates = c == '_' && self.ahead(1).is_some_and(|next| next.is_digit(radix));
            if c.is_digit(radix) {
                digits.push(c);
            } else if !separates {
                break;
            }
            self.at += 1;
        }
        digits
    }

    fn number(&mut self) -> Result<Token, CompileError> {
        let start = self.at;
        let invalid = || CompileError::new("not a number", start + 1);
        let radix = match (self.peek(), self.ahead(1)) {
            (Some('0'), Some('x' | 'X')) => 16,
            (Some('0'), Some('o' | 'O')) => 8,
            (Some('0'), Some('b' | 'B')) => 2,
            _ => 10,
        };
        if radix != 10 {
            self.at += 2;
            let digits = self.digits(radix);
            let value = BigInt::from_str_radix(&digits, radix).map_err(|_| invalid())?;
            self.ends()?;
            return Ok(Token::Int(value));
        }
        let mut text = self.digits(10);
        let mut float = false;
        if self.peek() == Some('.') {
            float = true;
            self.at += 1;
            text.push('.');
            text.push_str(&self.digits(10));
        }
        if matches!(self.peek(), Some('e' | 'E')) {
            let sign = usize::from(matches!(self.ahead(1), Some('+' | '-')));
            if self.ahead(1 + sign).is_some_and(|c| c.is_ascii_digit()) {
                float = true;
                text.push('e');
                if self.ahead(1) == Some('-') {
                    text.push('-');
                }
                self.at += 1 + sign;
                text.push_str(&self.digits(10));
            }
        }
        self.ends()?;
        if float {
            let value: f64 = format!("0{text}").parse().map_err(|_| invalid())?;
            return Ok(Token::Float(value));
        }
        if text.len() > 1 && text.starts_with('0') && text.bytes().any(|digit| digit != b'0') {
            return Err(invalid().hint("leading zeros are not allowed; octal numbers begin with 0o"));
        }
        Ok(Token::Int(text.parse().map_err(|_| invalid())?))
    }

    /// What follows a number is no part of it.
    fn ends(&self) -> Result<(), CompileError> {
        match self.peek() {
            Some('j' | 'J') => Err(self.error("complex numbers are not supported")),
            Some(c) if c.is_alphanumeric() || c == '_' => {
                Err(self.error(format!("unexpected {c:?} after a number")))
            }
            _ => Ok(()),
        }
    }

    fn string(&mut self, prefix: &str) -> Result<Token, CompileError> {
        let start = self.at;
        let open = CompileError::new("the string has no end", start + 1);
        let Some(quote) = self.peek() else { return Err(open) };
        let triple = self.ahead(1) == Some(quote) && self.ahead(2) == Some(quote);
        let quotes = if triple { 3 } else { 1 };
        self.at += quotes;
        let (raw, bytes) = (prefix.contains('r'), prefix.contains('b'));
        let mut text = String::new();
        loop {
            let Some(c) = self.peek() else { return Err(open) };
            if c == quote && (0..quotes).all(|by| self.ahead(by) == Some(quote)) {
                self.at += quotes;
                break;
            }
            if c == '\n' && !triple {
                return Err(open);
            }
            if bytes && !c.is_ascii() {
                return Err(self
                    .error("bytes can only contain ASCII characters")
                    .hint("use an escape: \\xff"));
            }
            self.at += 1;
            if c != '\\' {
                text.push(c);
                continue;
            }
            let Some(escaped) = self.peek() else { return Err(open) };
            self.at += 1;
            if raw {
                text.push('\\');
                text.push(escaped);
            } else {
                self.escape(escaped, bytes, &mut text)?;
            }
        }
        Ok(if bytes {
            // Every character is below 256.
            Token::Bytes(text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or_default()).collect())
        } else {
            Token::Str(text)
        })
    }

    fn escape(&mut self, escaped: char, bytes: bool, text: &mut String) -> Result<(), CompileError> {
        let simple = match escaped {
            '\n' => return Ok(()),
            '\\' | '\'' | '"' => escaped,
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'v' => '\x0b',
            '0'..='7' => {
                let mut code = escaped.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    self.at += 1;
                }
                let code = if bytes { code & 0xff } else { code };
                char::from_u32(code).unwrap_or_default()
            }
            'x' => self.code(2)?,
            'u' if !bytes => self.code(4)?,
            'U' if !bytes => self.code(8)?,
            'N' if !bytes => {
                return Err(self.error("characters by name are not supported").hint("write the character"));
            }
            other => {
                text.push('\\');
                other
            }
        };
        text.push(simple);
        Ok(())
    }

    fn code(&mut self, length: usize) -> Result<char, CompileError> {
        let mut code = 0_u32;
        for _ in 0..length {
            let digit = self.peek().and_then(|c| c.to_digit(16));
            let digit =
                digit.ok_or_else(|| self.error(format!("an escape needs {length} hexadecimal digits")))?;
            code = code.saturating_mul(16).saturating_add(digit);
            self.at += 1;
        }
        char::from_u32(code).ok_or_else(|| self.error("not a character"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<Token> {
        tokens(text).unwrap().into_iter().map(|(token, _)| token).collect()
    }

    #[test]
    fn numbers_and_strings() {
        assert_eq!(
            all("0x_ff 1_000 .5 1e3 1.e-2 0b11 0o17")[..7],
            [
                Token::Int(255.into()),
                Token::Int(1000.into()),
                Token::Float(0.5),
                Token::Float(1000.0),
                Token::Float(0.01),
                Token::Int(3.into()),
                Token::Int(15.into()),
            ]
        );
        assert_eq!(
            all(r#"'a\n\x41\u00e9\q\101' r'\n' b'\xff\0' '''x'y''' u"z""#)[..5],
            [
                Token::Str("a\nAé\\qA".into()),
                Token::Str("\\n".into()),
                Token::Bytes(vec![255, 0]),
                Token::Str("x'y".into()),
                Token::Str("z".into()),
            ]
        );
    }

    #[test]
    fn errors_say_where() {
        let cases = [
            ("f'x'", "a formatted string is not supported at column 1"),
            ("x + 'abc", "the string has no end at column 5"),
            ("1j", "complex numbers are not supported at column 2"),
            ("é + 007", "not a number at column 5"),
            ("x # y", "unexpected character '#' at column 3"),
            ("12abc", "unexpected 'a' after a number at column 3"),
            ("'\\xg0'", "an escape needs 2 hexadecimal digits at column 4"),
        ];
        for (text, expected) in cases {
            let error = tokens(text).unwrap_err();
            assert_eq!(error.to_string().split(": ").next().unwrap(), expected, "{text}");
        }
    }
}
