//! One line of the terminal: text with colours, cut to columns.

use std::borrow::Cow;

use unicode_width::UnicodeWidthChar;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Dim,
    Bold,
    Red,
    Green,
    Yellow,
    Cyan,
}

impl Paint {
    /// Select Graphic Rendition, ECMA-48.
    fn sgr(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Dim => Some("\x1b[2m"),
            Self::Bold => Some("\x1b[1m"),
            Self::Red => Some("\x1b[31m"),
            Self::Green => Some("\x1b[32m"),
            Self::Yellow => Some("\x1b[33m"),
            Self::Cyan => Some("\x1b[36m"),
        }
    }
}

/// A line under construction at the end of a text.
pub struct Row<'a> {
    text: &'a mut String,
    color: bool,
    column: usize,
}

impl<'a> Row<'a> {
    pub fn new(text: &'a mut String, color: bool) -> Self {
        Self { text, color, column: 0 }
    }

    /// The column after the last character.
    pub fn column(&self) -> usize {
        self.column
    }

    /// Appends text that ends before the column `limit`, cut with an ellipsis if it must be.
    pub fn push(&mut self, paint: Paint, text: &str, limit: usize) {
        let text = clean(text);
        let room = limit.saturating_sub(self.column);
        let (text, cut) = fit(&text, room);
        if text.is_empty() && !cut {
            return;
        }
        let sgr = paint.sgr().filter(|_| self.color);
        self.text.push_str(sgr.unwrap_or_default());
        self.text.push_str(text);
        self.column += width(text);
        if cut && room > 0 {
            self.text.push('…');
            self.column += 1;
        }
        if sgr.is_some() {
            self.text.push_str("\x1b[0m");
        }
    }

    /// Appends blanks up to a column.
    pub fn pad_to(&mut self, column: usize) {
        while self.column < column {
            self.text.push(' ');
            self.column += 1;
        }
    }

    /// Ends the line.
    pub fn end(self) {
        let end = self.text.trim_end_matches(' ').len();
        self.text.truncate(end);
        self.text.push('\n');
    }
}

/// Columns that a text takes.
pub fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// The longest start of the text that fits, with room for an ellipsis if it is not the whole.
fn fit(text: &str, room: usize) -> (&str, bool) {
    let mut used = 0;
    let mut with_ellipsis = 0;
    for (at, c) in text.char_indices() {
        let width = c.width().unwrap_or(0);
        if used + width > room {
            return (text.get(..with_ellipsis).unwrap_or_default(), true);
        }
        used += width;
        if used < room {
            with_ellipsis = at + c.len_utf8();
        }
    }
    (text, false)
}

/// Text from the network must not steer the terminal: control characters, which start escape sequences,
/// and characters that reverse the direction of text are replaced.
fn clean(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let replace = |c| match c {
        '\n' | '\r' | '\t' => ' ',
        c if steers(c) => '\u{fffd}',
        c => c,
    };
    Cow::Owned(text.chars().map(replace).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(color: bool, paint: Paint, text: &str, limit: usize) -> String {
        let mut out = String::new();
        let mut row = Row::new(&mut out, color);
        row.push(paint, text, limit);
        row.end();
        out
    }

    #[test]
    fn long_text_is_cut_to_columns() {
        for (text, limit, expected) in [
            ("orders", 6, "orders\n"),
            ("orders", 5, "orde…\n"),
            ("orders", 1, "…\n"),
            ("orders", 0, "\n"),
            ("日本語", 6, "日本語\n"),
            ("日本語", 5, "日本…\n"),
            ("日本語", 4, "日…\n"),
        ] {
            assert_eq!(row(false, Paint::Red, text, limit), expected, "{text} in {limit}");
        }
    }

    #[test]
    fn colours_end_with_their_text() {
        assert_eq!(row(true, Paint::Red, "ab", 9), "\x1b[31mab\x1b[0m\n");
        assert_eq!(row(true, Paint::Plain, "ab", 9), "ab\n");
    }

    #[test]
    fn text_cannot_steer_the_terminal() {
        assert_eq!(row(false, Paint::Plain, "a\x1b[2J\nb\u{202e}c", 40), "a\u{fffd}[2J b\u{fffd}c\n");
    }
}
