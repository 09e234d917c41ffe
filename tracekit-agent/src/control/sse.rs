//! Server-sent events, as a client reads them.
//!
//! Source: WHATWG HTML, section 9.2.6 "Interpreting an event stream". `id` and `retry` are not used here.

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// `message` if it has none.
    pub name: String,
    /// Lines are joined by line feeds.
    pub data: String,
}

/// An event larger than the parser may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {0} bytes")]
pub struct TooLarge(pub usize);

/// Takes bytes as they come.
#[derive(Debug)]
pub struct Parser {
    limit: usize,
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed after it ends no further line.
    after_return: bool,
    started: bool,
    name: String,
    data: Option<String>,
    ready: std::collections::VecDeque<SseEvent>,
}

impl Parser {
    /// Holds at most `limit` bytes of an event that is not complete.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            after_return: false,
            started: false,
            name: String::new(),
            data: None,
            ready: std::collections::VecDeque::new(),
        }
    }

    /// Takes what has come.
    ///
    /// # Errors
    /// An event is too large; the stream cannot be read any further.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        for &byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => self.end_line(),
                byte => {
                    if self.line.len() + self.data.as_ref().map_or(0, String::len) >= self.limit {
                        return Err(TooLarge(self.limit));
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(())
    }

    /// The next complete event.
    pub fn next_event(&mut self) -> Option<SseEvent> {
        self.ready.pop_front()
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let mut line = String::from_utf8_lossy(&line).into_owned();
        if !std::mem::replace(&mut self.started, true) && line.starts_with('\u{feff}') {
            line.remove(0);
        }
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            if let Some(data) = self.data.take() {
                let name = if name.is_empty() { "message".to_owned() } else { name };
                self.ready.push_back(SseEvent { name, data });
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = value.to_owned(),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(chunks: &[&[u8]]) -> Vec<(String, String)> {
        let mut parser = Parser::new(1 << 20);
        let mut events = Vec::new();
        for chunk in chunks {
            parser.push(chunk).unwrap();
            while let Some(event) = parser.next_event() {
                events.push((event.name, event.data));
            }
        }
        events
    }

    #[test]
    fn streams() {
        for (text, expected) in [
            ("event: init\ndata: {}\n\n", &[("init", "{}")][..]),
            ("data:a\ndata: b\n\n", &[("message", "a\nb")]),
            ("\u{feff}data: x\r\n\r\ndata: y\r\r", &[("message", "x"), ("message", "y")]),
            (": comment\n\nevent: no data\n\nid: 1\nretry: 5\ndata\n\n", &[("message", "")]),
            ("data: not ended\n", &[]),
        ] {
            let expected: Vec<(String, String)> =
                expected.iter().map(|(name, data)| ((*name).to_owned(), (*data).to_owned())).collect();
            assert_eq!(parse(&[text.as_bytes()]), expected, "{text:?}");
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(parse(&bytes), expected, "{text:?} byte by byte");
        }
    }

    #[test]
    fn an_event_without_end() {
        let mut parser = Parser::new(1000);
        let endless =
            std::iter::repeat_with(|| parser.push(b"data: 0123456789\n")).take(1000).find(Result::is_err);
        assert_eq!(endless, Some(Err(TooLarge(1000))));
        assert_eq!(Parser::new(10).push(&[b'x'; 11]), Err(TooLarge(10)));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces(bytes in prop::collection::vec(any::<u8>(), 0..500), size in 1usize..50) {
            let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
            prop_assert_eq!(parse(&chunks), parse(&[&bytes]));
        }
    }
}
