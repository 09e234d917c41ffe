//! Messages with a length in a fixed-size header, out of segments that may lack bytes.

use crate::Moment;

/// Longest header of the protocols served: type byte and 32-bit length.
const HEADER: usize = 5;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Bytes of the body on the wire.
    pub body: u64,
    /// How many of them are worth keeping.
    pub keep: usize,
}

/// A complete message.
#[derive(Debug)]
pub(crate) struct Frame {
    /// The header; only as many bytes as the framer was told are meaningful.
    pub header: [u8; HEADER],
    /// The first bytes of the body: up to [`Shape::keep`], fewer if they were not captured.
    pub body: Vec<u8>,
    /// Bytes of the body on the wire.
    pub length: u64,
    /// The system call that transferred the first byte of the header.
    pub started: Moment,
}

impl Frame {
    /// Whether `body` is the whole body.
    pub fn whole(&self) -> bool {
        self.body.len() as u64 == self.length
    }
}

/// Splits one direction into messages.
#[derive(Debug)]
pub(crate) struct Framer {
    header_length: usize,
    header: [u8; HEADER],
    have: usize,
    started: Moment,
    body: Vec<u8>,
    keep: usize,
    length: u64,
    remaining: u64,
    /// A byte of the body that should be kept was not captured: keep none after it.
    broken: bool,
}

/// The position of the next message is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfStep;

impl Framer {
    /// Starts at a message boundary.
    pub fn new(header_length: usize) -> Self {
        let at = Moment { entered: 0, returned: 0, tid: 0, first_of_call: false };
        Self {
            header_length: header_length.min(HEADER),
            header: [0; HEADER],
            have: 0,
            started: at,
            body: Vec::new(),
            keep: 0,
            length: 0,
            remaining: 0,
            broken: false,
        }
    }

    /// Takes bytes off the front of `data` until a message is complete.
    pub fn next(
        &mut self,
        data: &mut &[u8],
        at: &Moment,
        shape: impl Fn(&[u8]) -> Option<Shape>,
    ) -> Result<Option<Frame>, OutOfStep> {
        if self.have < self.header_length {
            if self.have == 0 && !data.is_empty() {
                self.started = *at;
            }
            let n = (self.header_length - self.have).min(data.len());
            let (head, rest) = data.split_at(n);
            if let Some(to) = self.header.get_mut(self.have..self.have + n) {
                to.copy_from_slice(head);
            }
            self.have += n;
            *data = rest;
            if self.have < self.header_length {
                return Ok(None);
            }
            let shape = shape(self.header.get(..self.header_length).unwrap_or_default()).ok_or(OutOfStep)?;
            self.length = shape.body;
            self.remaining = shape.body;
            self.keep = usize::try_from(shape.body).unwrap_or(usize::MAX).min(shape.keep);
            self.broken = false;
        }
        let n = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(data.len());
        let (body, rest) = data.split_at(n);
        if !self.broken {
            let wanted = self.keep.saturating_sub(self.body.len()).min(n);
            self.body.extend_from_slice(body.get(..wanted).unwrap_or_default());
        }
        self.remaining -= n as u64;
        *data = rest;
        Ok(self.finish())
    }

    /// Skips `n` bytes that were not captured. The message they complete is returned even if they
    /// reach beyond it; then the second value says that the framer is out of step.
    pub fn gap(&mut self, n: u64) -> (Option<Frame>, Result<(), OutOfStep>) {
        if n == 0 {
            return (None, Ok(()));
        }
        if self.have < self.header_length {
            return (None, Err(OutOfStep));
        }
        self.broken = true;
        let beyond = n > self.remaining;
        self.remaining = self.remaining.saturating_sub(n);
        (self.finish(), if beyond { Err(OutOfStep) } else { Ok(()) })
    }

    /// Bytes held of the message in progress.
    pub fn buffered(&self) -> usize {
        self.body.len()
    }

    fn finish(&mut self) -> Option<Frame> {
        if self.remaining > 0 {
            return None;
        }
        self.have = 0;
        Some(Frame {
            header: self.header,
            body: std::mem::take(&mut self.body),
            length: self.length,
            started: self.started,
        })
    }
}

/// The last bytes of a direction whose message boundaries are lost: where an answer ends can be proved
/// from its end.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    const KEEP: usize = 1024;

    /// Appends captured bytes.
    pub fn push(&mut self, data: &[u8]) {
        let data = data.get(data.len().saturating_sub(Self::KEEP)..).unwrap_or_default();
        let excess = (self.bytes.len() + data.len()).saturating_sub(Self::KEEP);
        self.bytes.drain(..excess.min(self.bytes.len()));
        self.bytes.extend_from_slice(data);
    }

    /// Bytes are missing after what was pushed.
    pub fn clear(&mut self) {
        self.bytes = Vec::new();
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Moment = Moment { entered: 1, returned: 2, tid: 3, first_of_call: true };

    fn shape(header: &[u8]) -> Option<Shape> {
        (header[0] == b'x').then(|| Shape { body: u64::from(header[4]), keep: 3 })
    }

    #[test]
    fn a_message_may_come_byte_by_byte() {
        let mut framer = Framer::new(5);
        let mut frames = Vec::new();
        for byte in b"x\0\0\0\x05hellox\0\0\0\0" {
            frames.extend(framer.next(&mut &[*byte][..], &AT, shape).unwrap());
        }
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[0].body, b"hel");
        assert!(!frames[0].whole());
        assert!(frames[1].whole());
    }

    #[test]
    fn gaps_inside_a_body_are_skipped_by_length() {
        let mut framer = Framer::new(5);
        assert!(framer.next(&mut &b"x\0\0\0\x09h"[..], &AT, shape).unwrap().is_none());
        let (frame, step) = framer.gap(7);
        assert!(frame.is_none() && step.is_ok());
        let frame = framer.next(&mut &b"!"[..], &AT, shape).unwrap().unwrap();
        assert_eq!(frame.body, b"h");
        assert!(framer.gap(1).1.is_err());
    }

    #[test]
    fn a_gap_beyond_a_message_completes_it_and_loses_step() {
        let mut framer = Framer::new(5);
        assert!(framer.next(&mut &b"x\0\0\0\x09h"[..], &AT, shape).unwrap().is_none());
        let (frame, step) = framer.gap(9);
        assert!(frame.is_some() && step.is_err());
    }

    #[test]
    fn a_bad_header_is_out_of_step() {
        assert!(Framer::new(5).next(&mut &b"y\0\0\0\0"[..], &AT, shape).is_err());
    }

    #[test]
    fn a_tail_is_bounded() {
        let mut tail = Tail::default();
        for _ in 0..100 {
            tail.push(&[1; 100]);
        }
        tail.push(&[2; 5]);
        assert_eq!(tail.bytes().len(), Tail::KEEP);
        assert!(tail.bytes().ends_with(&[1, 2, 2, 2, 2, 2]));
        tail.push(&[3; 5000]);
        assert_eq!(tail.bytes(), &[3; 1024]);
    }
}
