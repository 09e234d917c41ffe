//! Where a message body ends (RFC 9112, sections 6 and 7).

/// Longest chunk-size line (with extensions) and longest trailer line that is followed.
const MAX_LINE: usize = 8 * 1024;

/// Position in a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// There is none, or it is over.
    Empty,
    /// This many bytes are to come.
    Length(u64),
    /// Chunked transfer coding.
    Chunked(Chunk),
    /// The end of the connection ends it.
    UntilClose,
}

/// Position in a chunked body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// In the line with the size; digits so far.
    Size { value: u64, digits: u8, line: usize, extension: bool },
    /// In the data: this many bytes to come.
    Data(u64),
    /// In the line end after the data.
    DataEnd,
    /// In the trailer section; length of the current line without its line end.
    Trailer { line: usize },
}

/// What a piece of a body did to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More is to come; everything was taken.
    More,
    /// The body is over after this many bytes of the piece.
    Done(usize),
    /// Not a valid body, or its framing is lost in a gap.
    Broken,
}

impl Body {
    /// A body of `n` bytes.
    #[must_use]
    pub fn length(n: u64) -> Self {
        if n == 0 { Self::Empty } else { Self::Length(n) }
    }

    /// A chunked body at its start.
    #[must_use]
    pub fn chunked() -> Self {
        Self::Chunked(Chunk::START)
    }

    /// Takes the next bytes and adds to `size` those of the content (chunk framing left out).
    pub fn data(&mut self, bytes: &[u8], size: &mut u64) -> Progress {
        match self {
            Self::Empty => Progress::Done(0),
            Self::UntilClose => {
                *size = size.saturating_add(bytes.len() as u64);
                Progress::More
            }
            Self::Length(left) => {
                let taken = (*left).min(bytes.len() as u64);
                *left -= taken;
                *size = size.saturating_add(taken);
                if *left == 0 {
                    *self = Self::Empty;
                    Progress::Done(taken as usize)
                } else {
                    Progress::More
                }
            }
            Self::Chunked(chunk) => chunk.data(bytes, size),
        }
    }

    /// Takes `n` bytes that were not captured. `Done(k)`: the body was over after `k` of them.
    pub fn gap(&mut self, n: u64, size: &mut u64) -> GapProgress {
        match self {
            Self::Empty => GapProgress::Done { left_over: n },
            Self::UntilClose => {
                *size = size.saturating_add(n);
                GapProgress::More
            }
            Self::Length(left) => {
                let taken = (*left).min(n);
                *left -= taken;
                *size = size.saturating_add(taken);
                if *left == 0 {
                    *self = Self::Empty;
                    GapProgress::Done { left_over: n - taken }
                } else {
                    GapProgress::More
                }
            }
            Self::Chunked(Chunk::Data(left)) if n <= *left => {
                *left -= n;
                *size = size.saturating_add(n);
                if *left == 0 {
                    *self = Self::Chunked(Chunk::DataEnd);
                }
                GapProgress::More
            }
            Self::Chunked(_) => GapProgress::Broken,
        }
    }
}

/// What a gap did to a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapProgress {
    /// More of the body is to come.
    More,
    /// It ended inside the gap, this many bytes before the gap's end.
    Done {
        /// Bytes of the gap that belong to what follows.
        left_over: u64,
    },
    /// The framing is lost.
    Broken,
}

impl Chunk {
    const START: Self = Self::Size { value: 0, digits: 0, line: 0, extension: false };

    fn data(&mut self, bytes: &[u8], size: &mut u64) -> Progress {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self {
                Self::Size { value, digits, line, extension } => {
                    at += 1;
                    *line += 1;
                    if *line > MAX_LINE {
                        return Progress::Broken;
                    }
                    let digit = char::from(byte).to_digit(16);
                    match (byte, digit) {
                        (b'\n', _) if *digits > 0 => {
                            *self = if *value == 0 { Self::Trailer { line: 0 } } else { Self::Data(*value) };
                        }
                        (_, Some(digit)) if !*extension => {
                            if *digits >= 16 {
                                return Progress::Broken;
                            }
                            *value = (*value << 4) | u64::from(digit);
                            *digits += 1;
                        }
                        (b'\r' | b';' | b' ' | b'\t', _) if *digits > 0 => *extension = true,
                        _ if *extension && byte != b'\n' => {}
                        _ => return Progress::Broken,
                    }
                }
                Self::Data(left) => {
                    let available = (bytes.len() - at) as u64;
                    let taken = (*left).min(available);
                    *left -= taken;
                    *size = size.saturating_add(taken);
                    at += taken as usize;
                    if *left == 0 {
                        *self = Self::DataEnd;
                    }
                }
                Self::DataEnd => {
                    at += 1;
                    match byte {
                        b'\r' => {}
                        b'\n' => *self = Self::START,
                        _ => return Progress::Broken,
                    }
                }
                Self::Trailer { line } => {
                    at += 1;
                    match byte {
                        b'\n' if *line == 0 => return Progress::Done(at),
                        b'\n' => *line = 0,
                        b'\r' => {}
                        _ => *line += 1,
                    }
                    if *line > MAX_LINE {
                        return Progress::Broken;
                    }
                }
            }
        }
        Progress::More
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunked(bytes: &[u8]) -> (Progress, u64) {
        let (mut body, mut size) = (Body::chunked(), 0);
        (body.data(bytes, &mut size), size)
    }

    #[test]
    fn chunks_extensions_and_trailers() {
        assert_eq!(chunked(b"3\r\nabc\r\n0\r\n\r\nNEXT"), (Progress::Done(13), 3));
        assert_eq!(chunked(b"A;name=\"v\"\r\n0123456789\r\n0\r\n\r\n"), (Progress::Done(29), 10));
        assert_eq!(chunked(b"1\r\nx\r\n0\r\nX-Sum: 1\r\nB: 2\r\n\r\n"), (Progress::Done(27), 1));
        assert_eq!(chunked(b"3\r\nabc\r\n0\r\n"), (Progress::More, 3));
        assert_eq!(chunked(b"x\r\n").0, Progress::Broken);
        assert_eq!(chunked(b"\r\n").0, Progress::Broken);
        assert_eq!(chunked(b"2\r\nabc\r\n").0, Progress::Broken);
        assert_eq!(chunked(b"11111111111111111\r\n").0, Progress::Broken);
    }

    #[test]
    fn any_split_of_a_chunked_body_is_the_same() {
        let whole = b"3;e=1\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nT: x\r\n\r\n";
        for cut in 0..whole.len() {
            let (mut body, mut size) = (Body::chunked(), 0);
            assert_eq!(body.data(&whole[..cut], &mut size), Progress::More);
            assert_eq!(body.data(&whole[cut..], &mut size), Progress::Done(whole.len() - cut));
            assert_eq!(size, 19);
        }
    }

    #[test]
    fn gaps() {
        let mut size = 0;
        let mut body = Body::length(100);
        assert_eq!(body.gap(60, &mut size), GapProgress::More);
        assert_eq!(body.gap(60, &mut size), GapProgress::Done { left_over: 20 });
        assert_eq!(size, 100);
        // A gap inside one chunk loses nothing; one that reaches past it loses the framing.
        let (mut body, mut size) = (Body::chunked(), 0);
        assert_eq!(body.data(b"64\r\nabc", &mut size), Progress::More);
        assert_eq!(body.clone().gap(98, &mut 0), GapProgress::Broken);
        assert_eq!(body.gap(97, &mut size), GapProgress::More);
        assert_eq!(body.data(b"\r\n0\r\n\r\n", &mut size), Progress::Done(7));
        assert_eq!(size, 100);
    }
}
