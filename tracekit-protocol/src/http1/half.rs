//! One direction of a connection: the search for messages and the collection of heads.

use super::body::Body;
use super::head;
use crate::{Limits, Moment};

/// One direction.
#[derive(Default)]
pub struct Half {
    pub state: State,
    /// Bytes of the head that is being collected.
    head: Vec<u8>,
    /// Its first line is complete and is a start line.
    started: bool,
    /// When its first byte was transferred.
    head_at: Option<Moment>,
    /// Id of the exchange that the current body belongs to.
    pub exchange: Option<u64>,
    /// The last bytes of the stream, while the framing is lost.
    pub tail: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum State {
    /// Somewhere in the stream: a message is looked for at the start of a system call.
    #[default]
    Seek,
    /// Inside a message whose end can't be told by its framing. `chunked`: its last bytes may tell.
    Adrift { chunked: bool },
    /// The next byte starts a message.
    Boundary,
    /// Collecting a head. `before`: where to go back to if it turns out to be none.
    Head { before: Lost },
    /// In a body.
    Body(Body),
}

/// What is known if the bytes taken for a head are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    Seek,
    Adrift { chunked: bool },
}

impl From<Lost> for State {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Seek => Self::Seek,
            Lost::Adrift { chunked } => Self::Adrift { chunked },
        }
    }
}

/// What became of bytes offered to a head.
pub enum Collected {
    /// All taken, more are needed.
    More,
    /// The head is complete with the first `taken` of them.
    Complete { taken: usize },
    /// It doesn't fit [`Limits::buffer`].
    TooLong,
    /// This is no head.
    NotAHead,
}

impl Half {
    pub fn adrift(&self) -> bool {
        matches!(self.state, State::Adrift { .. })
    }

    pub fn begin_head(&mut self) {
        let before = match self.state {
            State::Adrift { chunked } => Lost::Adrift { chunked },
            _ => Lost::Seek,
        };
        self.state = State::Head { before };
        self.head.clear();
        self.started = false;
        self.head_at = None;
        self.tail.clear();
    }

    pub fn collect_head(
        &mut self,
        bytes: &[u8],
        at: &Moment,
        limits: &Limits,
        start_line: fn(&[u8]) -> Option<bool>,
    ) -> Collected {
        self.head_at.get_or_insert(*at);
        let had = self.head.len();
        let room = limits.buffer.saturating_sub(had).min(bytes.len());
        self.head.extend_from_slice(bytes.get(..room).unwrap_or_default());
        if !self.started {
            match start_line(&self.head) {
                Some(complete) => self.started = complete,
                None => return Collected::NotAHead,
            }
        }
        match head::end_of_head(&self.head, had) {
            Some(end) => {
                self.head.truncate(end);
                Collected::Complete { taken: end.saturating_sub(had) }
            }
            None if room < bytes.len() => Collected::TooLong,
            None => Collected::More,
        }
    }

    pub fn take_head(&mut self, now: &Moment) -> (Vec<u8>, Moment) {
        (std::mem::take(&mut self.head), self.head_at.take().unwrap_or(*now))
    }

    /// Bytes collected turned out to be no head. True if they came from an earlier system call, so that
    /// the present one may start a message.
    pub fn restart(&mut self, at: &Moment) -> bool {
        let (_, moment) = self.take_head(at);
        moment != *at
    }

    /// Keeps the last bytes; true if they are the end of a chunked body.
    pub fn drift(&mut self, bytes: &[u8]) -> bool {
        const END: &[u8] = b"\r\n0\r\n\r\n";
        if self.state != (State::Adrift { chunked: true }) {
            return false;
        }
        // A call of its own for the last chunk, whatever was before it.
        let alone = bytes == END.get(2..).unwrap_or_default() && self.tail.is_empty();
        let from = bytes.len().saturating_sub(END.len());
        self.tail.extend_from_slice(bytes.get(from..).unwrap_or_default());
        let excess = self.tail.len().saturating_sub(END.len());
        self.tail.drain(..excess);
        alone || self.tail == END
    }

    pub fn buffered(&self) -> usize {
        self.head.len() + self.tail.len()
    }
}
