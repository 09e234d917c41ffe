//! The Redis serialization protocol, RESP2 and RESP3 (redis.io, "Redis serialization protocol
//! specification"), one value at a time, in pieces and with gaps.

/// Aggregates deeper than this are taken for garbage.
const MAX_DEPTH: usize = 32;
/// Longest number in a type line: a signed 64-bit integer, or a big number in a reply.
const MAX_LENGTH_LINE: usize = 24;

/// What is kept of a value.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Strings directly in the outermost aggregate, at most so many.
    pub items: usize,
    /// Bytes of one such string.
    pub item_bytes: usize,
    /// Bytes of all of them.
    pub total_bytes: usize,
}

/// Bytes of a command's name or subcommand that are taken for one, with the line end.
const MAX_NAME: u64 = 66;

/// One complete value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Value {
    /// Type byte of the outermost value: `+ - : $ * _ # , ( ! = % ~ >`.
    pub kind: u8,
    /// Elements of the outermost aggregate (for a map: keys and values).
    pub count: u64,
    /// First strings of the outermost aggregate, or the string itself, cut as [`Keep`] says.
    pub items: Vec<Vec<u8>>,
    /// The first error in it, at any depth, cut to [`MAX_ERROR`].
    pub error: Option<Vec<u8>>,
}

/// Bytes kept of an error message.
pub const MAX_ERROR: usize = 512;

/// What a piece did to a value.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// More is to come; everything was taken.
    More,
    /// The value is complete after `taken` bytes of the piece.
    Done {
        /// The value.
        value: Value,
        /// Bytes of the piece that belong to it.
        taken: usize,
    },
    /// Not RESP.
    Broken,
}

/// Decodes one value after the other.
#[derive(Debug)]
pub struct Decoder {
    keep: Keep,
    /// Only arrays of bulk strings are valid, as in requests.
    commands_only: bool,
    value: Value,
    kept: usize,
    /// Open aggregates: elements to come, and whether it is an attribute (which is no element itself).
    open: Vec<(u64, bool)>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Type byte expected.
    Type,
    /// In the line after a type byte.
    Line { kind: u8, text: Vec<u8>, cr: bool },
    /// In a bulk string: bytes to come with its CRLF.
    /// `holed`: bytes of it are missing, so that what follows isn't kept.
    Bulk { kind: u8, left: u64, item: Option<Vec<u8>>, holed: bool },
}

impl Decoder {
    /// A decoder at the start of a value.
    #[must_use]
    pub fn new(commands_only: bool, keep: Keep) -> Self {
        Self { keep, commands_only, value: Value::default(), kept: 0, open: Vec::new(), phase: Phase::Type }
    }

    /// Between values: nothing of the next one was seen.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open.is_empty() && matches!(self.phase, Phase::Type) && self.value.kind == 0
    }

    /// The array that is being read, with the strings that are complete, if it has any.
    pub fn take_cut(&mut self) -> Option<Value> {
        let value = std::mem::take(&mut self.value);
        self.reset();
        (!value.items.is_empty()).then_some(value)
    }

    /// Forgets the current value.
    pub fn reset(&mut self) {
        *self = Self::new(self.commands_only, self.keep);
    }

    /// Bytes held.
    #[must_use]
    pub fn buffered(&self) -> usize {
        let current = match &self.phase {
            Phase::Type => 0,
            Phase::Line { text, .. } => text.len(),
            Phase::Bulk { item, .. } => item.as_ref().map_or(0, Vec::len),
        };
        self.kept + current + self.value.error.as_ref().map_or(0, Vec::len)
    }

    /// Takes the next bytes.
    pub fn data(&mut self, bytes: &[u8]) -> Progress {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let complete = match &mut self.phase {
                Phase::Type => {
                    at += 1;
                    if !self.starts(byte) {
                        return Progress::Broken;
                    }
                    self.phase = Phase::Line { kind: byte, text: Vec::new(), cr: false };
                    false
                }
                Phase::Line { kind, text, cr } => {
                    at += 1;
                    let limit = match kind {
                        b'+' | b'-' | b',' | b'(' => MAX_ERROR,
                        _ => MAX_LENGTH_LINE,
                    };
                    match byte {
                        b'\n' if *cr => {
                            let (kind, text) = (*kind, std::mem::take(text));
                            match self.line(kind, text) {
                                Some(complete) => complete,
                                None => return Progress::Broken,
                            }
                        }
                        _ if *cr => return Progress::Broken,
                        b'\r' => {
                            *cr = true;
                            false
                        }
                        b'\n' => return Progress::Broken,
                        _ if counts(*kind) && !byte.is_ascii_digit() && byte != b'-' => {
                            return Progress::Broken;
                        }
                        _ if text.len() < limit => {
                            text.push(byte);
                            false
                        }
                        // The rest of a long message isn't kept; a long number is none.
                        _ if limit == MAX_ERROR => false,
                        _ => return Progress::Broken,
                    }
                }
                Phase::Bulk { kind, left, item, holed } => {
                    let rest = bytes.get(at..).unwrap_or_default();
                    let taken = (*left).min(rest.len() as u64) as usize;
                    // The last two bytes are the line end.
                    let content = (left.saturating_sub(2)).min(taken as u64) as usize;
                    let limit = if *kind == b'!' { MAX_ERROR } else { self.keep.item_bytes };
                    if let Some(item) = item
                        && !*holed
                    {
                        let room = limit.saturating_sub(item.len()).min(content);
                        item.extend_from_slice(rest.get(..room).unwrap_or_default());
                    }
                    for (offset, wanted) in [(2, b'\r'), (1, b'\n')] {
                        let Some(index) = left.checked_sub(offset) else { continue };
                        if let Some(&got) = usize::try_from(index).ok().and_then(|i| rest.get(i))
                            && got != wanted
                        {
                            return Progress::Broken;
                        }
                    }
                    *left -= taken as u64;
                    at += taken;
                    if *left == 0 {
                        let (kind, item) = (*kind, item.take());
                        self.scalar(kind, item)
                    } else {
                        false
                    }
                }
            };
            if complete {
                let value = std::mem::take(&mut self.value);
                self.kept = 0;
                return Progress::Done { value, taken: at };
            }
        }
        Progress::More
    }

    /// Takes `n` bytes that were not captured; harmless inside one bulk string only.
    pub fn gap(&mut self, n: u64) -> Progress {
        match &mut self.phase {
            // A name or subcommand with a hole is none.
            Phase::Bulk { left, .. }
                if self.commands_only && self.value.items.len() < 2 && *left < MAX_NAME =>
            {
                Progress::Broken
            }
            Phase::Bulk { kind, left, item, holed } if n <= *left => {
                *holed = true;
                *left -= n;
                if *left > 0 {
                    return Progress::More;
                }
                let (kind, item) = (*kind, item.take());
                if self.scalar(kind, item) {
                    let value = std::mem::take(&mut self.value);
                    self.kept = 0;
                    return Progress::Done { value, taken: 0 };
                }
                Progress::More
            }
            _ => Progress::Broken,
        }
    }

    fn starts(&mut self, kind: u8) -> bool {
        let outermost = self.open.is_empty();
        if self.commands_only {
            if kind != if outermost { b'*' } else { b'$' } {
                return false;
            }
        } else if !is_type(kind) {
            return false;
        }
        if outermost && kind != b'|' {
            self.value.kind = kind;
        }
        true
    }

    /// A line is complete. `Some(true)`: so is the outermost value.
    fn line(&mut self, kind: u8, text: Vec<u8>) -> Option<bool> {
        match kind {
            b'$' | b'=' | b'!' => match length(&text)? {
                None => Some(self.scalar(kind, None)),
                Some(n) => {
                    let wanted = kind == b'!' || self.wants_item();
                    let left = n.checked_add(2)?;
                    self.phase = Phase::Bulk { kind, left, item: wanted.then(Vec::new), holed: false };
                    Some(false)
                }
            },
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let Some(n) = length(&text)? else { return Some(self.scalar(kind, None)) };
                let n = if matches!(kind, b'%' | b'|') { n.checked_mul(2)? } else { n };
                if self.open.is_empty() && kind != b'|' {
                    self.value.count = n;
                }
                if self.open.len() >= MAX_DEPTH {
                    return None;
                }
                self.phase = Phase::Type;
                self.open.push((n, kind == b'|'));
                Some(self.close_complete())
            }
            b'+' | b'-' => Some(self.scalar(kind, Some(text))),
            b':' | b'(' => number(&text).then(|| self.scalar(kind, None)),
            b'_' => text.is_empty().then(|| self.scalar(kind, None)),
            b'#' => matches!(text.as_slice(), b"t" | b"f").then(|| self.scalar(kind, None)),
            // Double: digits, sign, exponent, inf, nan.
            b',' => (!text.is_empty()
                && text.iter().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b)))
            .then(|| self.scalar(kind, None)),
            _ => None,
        }
    }

    fn wants_item(&self) -> bool {
        let direct = match self.open.as_slice() {
            [] => true,
            [(_, attribute)] => !attribute,
            _ => false,
        };
        direct && self.value.items.len() < self.keep.items
    }

    /// A value that isn't an aggregate is complete. True: so is the outermost one.
    fn scalar(&mut self, kind: u8, text: Option<Vec<u8>>) -> bool {
        self.phase = Phase::Type;
        if matches!(kind, b'-' | b'!') {
            if self.value.error.is_none() {
                self.value.error = Some(text.unwrap_or_default());
            }
        } else if let Some(mut text) = text
            && self.wants_item()
        {
            text.truncate(self.keep.item_bytes.min(self.keep.total_bytes.saturating_sub(self.kept)));
            self.kept += text.len();
            self.value.items.push(text);
        }
        if let Some((left, _)) = self.open.last_mut() {
            *left = left.saturating_sub(1);
        }
        self.close_complete()
    }

    /// Closes aggregates that have all their elements. True: nothing is open any more.
    fn close_complete(&mut self) -> bool {
        while let Some(&(left, attribute)) = self.open.last() {
            if left > 0 {
                return false;
            }
            self.open.pop();
            if attribute {
                // The value that it describes follows.
                return false;
            }
            if let Some((left, _)) = self.open.last_mut() {
                *left = left.saturating_sub(1);
            }
        }
        true
    }
}

/// Does a length follow this type byte?
fn counts(kind: u8) -> bool {
    b"$=!*~>%|".contains(&kind)
}

/// Is this the type byte of a reply?
#[must_use]
pub fn is_type(byte: u8) -> bool {
    b"+-:$*_#,(!=%~>|".contains(&byte)
}

/// A length: `Some(None)` is the null of RESP2 (`-1`).
#[allow(clippy::option_option, reason = "invalid, null and a length are three things")]
fn length(text: &[u8]) -> Option<Option<u64>> {
    if text == b"-1" {
        return Some(None);
    }
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Redis takes lengths up to 2^31 elements and 512 MB by default; far beyond that it is garbage.
    let value: u64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (value <= 1 << 40).then_some(Some(value))
}

fn number(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Keep = Keep { items: 2, item_bytes: 8, total_bytes: 100 };

    fn replies() -> Decoder {
        Decoder::new(false, KEEP)
    }

    fn whole(bytes: &[u8]) -> Option<Value> {
        match replies().data(bytes) {
            Progress::Done { value, taken } if taken == bytes.len() => Some(value),
            _ => None,
        }
    }

    #[test]
    fn every_type_of_both_versions() {
        for bytes in [
            &b"+OK\r\n"[..],
            b"-ERR bad\r\n",
            b":-12\r\n",
            b"$0\r\n\r\n",
            b"$-1\r\n",
            b"$3\r\nab\n\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n",
            b"_\r\n",
            b"#t\r\n",
            b",-1.5e3\r\n",
            b",inf\r\n",
            b"(3492890328409238509324850943850943825024385\r\n",
            b"!5\r\nERR x\r\n",
            b"=7\r\ntxt:abc\r\n",
            b"%1\r\n+k\r\n*1\r\n:1\r\n",
            b"~2\r\n:1\r\n:2\r\n",
            b">2\r\n+message\r\n+x\r\n",
            b"|1\r\n+ttl\r\n:3\r\n$1\r\nx\r\n",
            b"*2\r\n:1\r\n|1\r\n+a\r\n:3\r\n:2\r\n",
        ] {
            assert!(whole(bytes).is_some(), "{}", String::from_utf8_lossy(bytes));
            // Any split gives the same.
            for cut in 1..bytes.len() {
                let mut decoder = replies();
                assert_eq!(decoder.data(&bytes[..cut]), Progress::More);
                assert!(matches!(decoder.data(&bytes[cut..]), Progress::Done { .. }));
                assert!(decoder.is_idle());
            }
        }
    }

    #[test]
    fn garbage_is_refused() {
        for bytes in [
            &b"HTTP"[..],
            b"*x\r\n",
            b"$3\r\nabcd\r\n",
            b"+OK\n",
            b":1a\r\n",
            b"#x\r\n",
            b"*99999999999999999999\r\n",
            b"$-2\r\n",
        ] {
            assert_eq!(replies().data(bytes), Progress::Broken, "{}", String::from_utf8_lossy(bytes));
        }
        let deep = b"*1\r\n".repeat(100);
        assert_eq!(replies().data(&deep), Progress::Broken);
    }

    #[test]
    fn keeps_little() {
        let value = whole(b"*3\r\n$10\r\n0123456789\r\n$1\r\nb\r\n$1\r\nc\r\n").unwrap();
        assert_eq!(value.items, [b"01234567".to_vec(), b"b".to_vec()]);
        assert_eq!(value.count, 3);
        let nested = whole(b"*2\r\n-ERR one\r\n-ERR two\r\n").unwrap();
        assert_eq!(nested.error.as_deref(), Some(&b"ERR one"[..]));
    }

    #[test]
    fn gaps_inside_a_string_are_counted() {
        let mut decoder = replies();
        assert_eq!(decoder.data(b"*2\r\n$100\r\nab"), Progress::More);
        assert_eq!(decoder.gap(98), Progress::More);
        assert!(matches!(decoder.data(b"\r\n:1\r\n"), Progress::Done { .. }));
        assert_eq!(decoder.data(b"$100\r\nab"), Progress::More);
        assert!(matches!(decoder.gap(100), Progress::Done { .. }));
        assert_eq!(decoder.data(b"$10\r\n"), Progress::More);
        assert_eq!(decoder.gap(20), Progress::Broken);
    }
}
