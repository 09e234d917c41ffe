//! The text without its literals.

use std::fmt::Write;

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::exchange::SqlSystem;

/// What stands for a literal.
const MASK: &str = "?";

/// Cuts the tokens behind a string whose end depends on a server setting; true if there is none.
pub(super) fn cut_ambiguous(tokens: &mut Vec<TokenWithSpan>, system: SqlSystem) -> bool {
    if system != SqlSystem::PostgreSql {
        return true;
    }
    let mut escape = false;
    let ambiguous = tokens.iter().position(|token| match &token.token {
        Token::Whitespace(_) => false,
        // With `standard_conforming_strings = off` the string would go on. `ESCAPE '\'` is no data.
        Token::SingleQuotedString(text) | Token::NationalStringLiteral(text) => {
            text.ends_with('\\') && !std::mem::take(&mut escape)
        }
        Token::Word(word) => {
            escape = word.keyword == Keyword::ESCAPE;
            false
        }
        _ => {
            escape = false;
            false
        }
    });
    match ambiguous {
        Some(at) => {
            tokens.truncate(at);
            false
        }
        None => true,
    }
}

/// Writes the tokens with one space for white space and comments and `?` for literals, and a last `?`
/// if they are not the whole text.
pub(super) fn redact(tokens: &[TokenWithSpan], complete: bool) -> String {
    let mut writer = Writer::default();
    let mut index = 0;
    while let Some(token) = tokens.get(index) {
        index += 1;
        match &token.token {
            Token::Whitespace(_) => writer.space(),
            Token::EOF => {}
            Token::Word(word) if word.quote_style.is_none() && writer.after_number => {
                // `0b1011` and the like: the tail of a number.
            }
            Token::Word(word) => {
                writer.word(&token.token);
                if word.keyword == Keyword::IN
                    && word.quote_style.is_none()
                    && let Some(end) = in_list(tokens.get(index..).unwrap_or_default())
                {
                    writer.text(" (?)");
                    index += end;
                }
            }
            Token::Number(..) => writer.number(),
            token => match punctuation(token) {
                Some(text) => writer.text(&text),
                None => writer.text(MASK),
            },
        }
    }
    if !complete {
        writer.space();
        writer.text(MASK);
    }
    writer.out
}

#[derive(Default)]
struct Writer {
    out: String,
    space: bool,
    after_number: bool,
}

impl Writer {
    fn space(&mut self) {
        self.space = !self.out.is_empty();
        self.after_number = false;
    }

    fn text(&mut self, text: &str) {
        if std::mem::take(&mut self.space) && !text.starts_with(' ') {
            self.out.push(' ');
        }
        self.out.push_str(text);
        self.after_number = false;
    }

    fn word(&mut self, token: &Token) {
        self.text("");
        // Writing to a String does not fail.
        let _ = write!(self.out, "{token}");
    }

    fn number(&mut self) {
        if !self.after_number {
            self.text(MASK);
        }
        self.after_number = true;
    }
}

/// An operator or a placeholder as it is written; `None` for what may hold data.
fn punctuation(token: &Token) -> Option<String> {
    match token {
        Token::Placeholder(name) => Some(name.clone()),
        Token::Comma => Some(",".to_owned()),
        Token::LParen => Some("(".to_owned()),
        Token::RParen => Some(")".to_owned()),
        Token::Period => Some(".".to_owned()),
        Token::Eq => Some("=".to_owned()),
        token => {
            let text = token.to_string();
            text.bytes().all(|byte| byte.is_ascii_punctuation() && !b"'\"`".contains(&byte)).then_some(text)
        }
    }
}

/// Behind `IN`: how many tokens a list in parentheses of literals and `?` only has.
fn in_list(tokens: &[TokenWithSpan]) -> Option<usize> {
    let mut depth = 0;
    let mut values = 0;
    for (index, token) in tokens.iter().enumerate() {
        match &token.token {
            Token::Whitespace(_) => {}
            Token::LParen if depth == 0 => depth = 1,
            _ if depth == 0 => return None,
            Token::RParen => return (values > 0).then_some(index + 1),
            Token::Comma | Token::Minus | Token::Plus | Token::Question => {}
            Token::Number(..) => values += 1,
            Token::Placeholder(name) if name == "?" => values += 1,
            Token::Word(word) if word.keyword == Keyword::NULL => values += 1,
            Token::Word(_) | Token::Placeholder(_) => return None,
            token => {
                if punctuation(token).is_some() {
                    return None;
                }
                values += 1;
            }
        }
    }
    None
}
