//! HTTP/1 requests, byte by byte: where their heads are, how long their bodies are, and where in a head the
//! headers of a trace are. Runs in the kernel, and in user space in tests.
//!
//! Strict: what is not surely HTTP/1 is [`OPAQUE`], from then on and for ever. Sources: RFC 9112 (messages), RFC 9110
//! §7.8 (upgrade), §9.3.6 (`CONNECT`).

/// A stream of requests and how far it has been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stream {
    /// Bytes of a body, or of a chunk, that come before what `phase` says.
    pub remaining: u64,
    /// Of the name or token that is being read.
    hash: u64,
    /// The number that is being read, or the length of the body.
    number: u64,
    /// [`OPAQUE`], [`START`] or one of those in between.
    pub phase: u32,
    /// Of the head that is being read: [`TRACEPARENT`] and others.
    pub flags: u32,
    /// Where the value of `traceparent` begins: what the caller said of the byte after the colon.
    pub parent_at: u32,
    /// Where the value of `tracestate` begins.
    pub state_at: u32,
    /// Where it ends.
    pub state_end: u32,
    /// Bytes of the method, digits and the like that were read.
    count: u32,
    /// For the caller: where it has come to.
    pub at: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Stream>() == 56);

/// Phase: a request begins with the next byte.
pub const START: u32 = 0;
/// Phase: not HTTP, or not any more.
pub const OPAQUE: u32 = 1;
const METHOD: u32 = 2;
const TARGET: u32 = 3;
const VERSION: u32 = 4;
const LINE_END: u32 = 5;
const LINE_START: u32 = 6;
const NAME: u32 = 7;
const VALUE: u32 = 8;
const LENGTH: u32 = 9;
const ENCODING: u32 = 10;
const STATE: u32 = 11;
const HEAD_END: u32 = 12;
const SIZE: u32 = 13;
const SIZE_REST: u32 = 14;
const SIZE_END: u32 = 15;
const CHUNK_CR: u32 = 16;
const CHUNK_LF: u32 = 17;
const TRAILER_START: u32 = 18;
const TRAILER: u32 = 19;
const TRAILER_LF: u32 = 20;
const TRAILERS_END: u32 = 21;

/// Flag: the head has a `traceparent`.
pub const TRACEPARENT: u32 = 1;
/// Flag: more than one, or more than one `tracestate`.
pub const TWICE: u32 = 2;
/// Flag: the head has a `tracestate`.
pub const TRACESTATE: u32 = 4;
/// Flag: the method is `CONNECT`.
pub const CONNECT: u32 = 8;
/// Flag: the head has an `Upgrade`.
const UPGRADE: u32 = 16;
/// Flag: the head has a `Content-Length`.
const HAS_LENGTH: u32 = 32;
/// Flag: the head has a `Transfer-Encoding`.
const HAS_ENCODING: u32 = 64;
/// Flag: the blank line's first byte was told of.
const TOLD: u32 = 128;
/// Flag: the last encoding is `chunked`.
const CHUNKED: u32 = 256;
/// Flag: the number had a digit, and nothing may follow it.
const ENDED: u32 = 512;

/// Of [`Stream::step`]: go on with the next byte.
pub const NEXT: u32 = 0;
/// Of [`Stream::step`]: this byte begins the blank line that ends a head. It was not taken: it is to be given again.
/// Headers that are put before it are the head's last.
pub const BLANK: u32 = 1;
/// Of [`Stream::step`]: this byte was the last of a head.
pub const HEAD: u32 = 2;

const METHOD_MAX: u32 = 32;
const NUMBER_MAX: u64 = 1 << 50;

/// FNV-1a, of lower-case bytes.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

const fn fnv(text: &[u8]) -> u64 {
    let (mut hash, mut at) = (BASIS, 0);
    while at < text.len() {
        hash = (hash ^ text[at] as u64).wrapping_mul(PRIME);
        at += 1;
    }
    hash
}

const N_TRACEPARENT: u64 = fnv(b"traceparent");
const N_TRACESTATE: u64 = fnv(b"tracestate");
const N_LENGTH: u64 = fnv(b"content-length");
const N_ENCODING: u64 = fnv(b"transfer-encoding");
const N_UPGRADE: u64 = fnv(b"upgrade");
const T_CHUNKED: u64 = fnv(b"chunked");
const M_CONNECT: u64 = fnv(b"connect");
/// `HTTP/1.` as a little-endian number.
const HTTP_1: u64 = u64::from_le_bytes(*b"HTTP/1.\0");

/// A member of a stream, read and written where it is: what comes out of memory is any number to the verifier, so that
/// all turns of a loop of steps look the same to it.
macro_rules! member {
    ($stream:ident . $name:ident) => {
        // SAFETY: the pointer comes from a reference.
        unsafe { (&raw const (*$stream).$name).read_volatile() }
    };
    ($stream:ident . $name:ident = $value:expr) => {{
        let value = $value;
        // SAFETY: the pointer comes from a reference.
        unsafe { (&raw mut (*$stream).$name).write_volatile(value) }
    }};
}

#[inline(always)]
fn lower(byte: u8) -> u8 {
    if byte.is_ascii_uppercase() { byte | 0x20 } else { byte }
}

impl Stream {
    /// Takes the next byte, which is `at` wherever the caller counts; [`NEXT`], [`BLANK`] or [`HEAD`]. Not to be called
    /// while there are `remaining` bytes: those are the caller's to skip.
    #[inline(always)]
    pub fn step(&mut self, byte: u8, at: u32) -> u32 {
        let stream: *mut Self = self;
        let phase = member!(stream.phase);
        match phase {
            VALUE | TRAILER | SIZE_REST => match byte {
                b'\r' => member!(
                    stream.phase = match phase {
                        VALUE => LINE_END,
                        TRAILER => TRAILER_LF,
                        _ => SIZE_END,
                    }
                ),
                b'\n' => member!(stream.phase = OPAQUE),
                _ => {}
            },
            NAME => Self::name(stream, byte, at),
            TARGET => match byte {
                b' ' => {
                    member!(stream.count = 0);
                    member!(stream.phase = VERSION);
                }
                0x21.. => {}
                _ => member!(stream.phase = OPAQUE),
            },
            START => match byte {
                // Some clients send an empty line after a body.
                b'\r' | b'\n' => {}
                b'A'..=b'Z' => {
                    member!(stream.flags = 0);
                    member!(stream.number = 0);
                    member!(stream.count = 1);
                    member!(stream.hash = (BASIS ^ u64::from(lower(byte))).wrapping_mul(PRIME));
                    member!(stream.phase = METHOD);
                }
                _ => member!(stream.phase = OPAQUE),
            },
            METHOD => {
                let count = member!(stream.count);
                match byte {
                    b'A'..=b'Z' | b'-' | b'_' if count < METHOD_MAX => {
                        member!(stream.count = count + 1);
                        let hash = member!(stream.hash);
                        member!(stream.hash = (hash ^ u64::from(lower(byte))).wrapping_mul(PRIME));
                    }
                    b' ' => {
                        if member!(stream.hash) == M_CONNECT {
                            member!(stream.flags = CONNECT);
                        }
                        member!(stream.phase = TARGET);
                    }
                    _ => member!(stream.phase = OPAQUE),
                }
            }
            VERSION => {
                let count = member!(stream.count);
                member!(stream.count = count + 1);
                let expected = (HTTP_1 >> (8 * (count & 7))) as u8;
                let good = match count {
                    0..7 => byte == expected,
                    7 => matches!(byte, b'0' | b'1'),
                    _ => byte == b'\r',
                };
                if !good {
                    member!(stream.phase = OPAQUE);
                } else if count >= 8 {
                    member!(stream.phase = LINE_END);
                }
            }
            LINE_END => member!(stream.phase = if byte == b'\n' { LINE_START } else { OPAQUE }),
            LINE_START => match byte {
                b'\r' => {
                    let flags = member!(stream.flags);
                    if flags & TOLD == 0 {
                        member!(stream.flags = flags | TOLD);
                        return BLANK;
                    }
                    member!(stream.phase = HEAD_END);
                }
                b' ' | b'\t' | b'\n' | b':' => member!(stream.phase = OPAQUE),
                _ => {
                    member!(stream.hash = (BASIS ^ u64::from(lower(byte))).wrapping_mul(PRIME));
                    member!(stream.phase = NAME);
                }
            },
            LENGTH => Self::length(stream, byte),
            ENCODING => Self::encoding(stream, byte),
            STATE => match byte {
                b'\r' => {
                    member!(stream.state_end = at);
                    member!(stream.phase = LINE_END);
                }
                b'\n' => member!(stream.phase = OPAQUE),
                _ => {}
            },
            HEAD_END => return Self::head_end(stream, byte),
            SIZE => Self::size(stream, byte),
            SIZE_END => {
                let size = member!(stream.number);
                if byte != b'\n' {
                    member!(stream.phase = OPAQUE);
                } else if size == 0 {
                    member!(stream.phase = TRAILER_START);
                } else {
                    member!(stream.remaining = size);
                    member!(stream.phase = CHUNK_CR);
                }
            }
            CHUNK_CR => member!(stream.phase = if byte == b'\r' { CHUNK_LF } else { OPAQUE }),
            CHUNK_LF => {
                member!(stream.number = 0);
                member!(stream.count = 0);
                member!(stream.phase = if byte == b'\n' { SIZE } else { OPAQUE });
            }
            TRAILER_START => {
                member!(
                    stream.phase = match byte {
                        b'\r' => TRAILERS_END,
                        b'\n' => OPAQUE,
                        _ => TRAILER,
                    }
                );
            }
            TRAILER_LF => member!(stream.phase = if byte == b'\n' { TRAILER_START } else { OPAQUE }),
            TRAILERS_END => member!(stream.phase = if byte == b'\n' { START } else { OPAQUE }),
            _ => {}
        }
        NEXT
    }

    /// A byte of a header's name, or the colon after it.
    #[inline(always)]
    fn name(stream: *mut Self, byte: u8, at: u32) {
        let hash = member!(stream.hash);
        if byte != b':' {
            if byte > b' ' {
                member!(stream.hash = (hash ^ u64::from(lower(byte))).wrapping_mul(PRIME));
            } else {
                member!(stream.phase = OPAQUE);
            }
            return;
        }
        let flags = member!(stream.flags);
        let mut phase = VALUE;
        let mut more = 0;
        match hash {
            N_TRACEPARENT => {
                more = if flags & TRACEPARENT == 0 { TRACEPARENT } else { TWICE };
                member!(stream.parent_at = at + 1);
            }
            N_TRACESTATE => {
                more = if flags & TRACESTATE == 0 { TRACESTATE } else { TWICE };
                member!(stream.state_at = at + 1);
                phase = STATE;
            }
            N_LENGTH => {
                // Twice, or beside an encoding: whoever reads it may take either.
                phase = if flags & (HAS_LENGTH | HAS_ENCODING) == 0 { LENGTH } else { OPAQUE };
                more = HAS_LENGTH;
                member!(stream.number = 0);
                member!(stream.count = 0);
            }
            N_ENCODING => {
                phase = if flags & (HAS_LENGTH | HAS_ENCODING) == 0 { ENCODING } else { OPAQUE };
                more = HAS_ENCODING;
                member!(stream.hash = BASIS);
            }
            N_UPGRADE => more = UPGRADE,
            _ => {}
        }
        member!(stream.flags = flags | more);
        member!(stream.phase = phase);
    }

    /// A byte of the value of `Content-Length`.
    #[inline(always)]
    fn length(stream: *mut Self, byte: u8) {
        let (number, count, flags) = (member!(stream.number), member!(stream.count), member!(stream.flags));
        match byte {
            b'0'..=b'9' if number < NUMBER_MAX && flags & ENDED == 0 => {
                member!(stream.number = number * 10 + u64::from(byte - b'0'));
                member!(stream.count = count | 1);
            }
            b' ' | b'\t' => {
                if count != 0 {
                    member!(stream.flags = flags | ENDED);
                }
            }
            b'\r' if count != 0 => {
                member!(stream.flags = flags & !ENDED);
                member!(stream.phase = LINE_END);
            }
            _ => member!(stream.phase = OPAQUE),
        }
    }

    /// A byte of the value of `Transfer-Encoding`.
    #[inline(always)]
    fn encoding(stream: *mut Self, byte: u8) {
        match byte {
            b'\r' => {
                let chunked = member!(stream.hash) == T_CHUNKED;
                let flags = member!(stream.flags);
                member!(stream.flags = flags | if chunked { CHUNKED } else { 0 });
                member!(stream.phase = LINE_END);
            }
            b',' => member!(stream.hash = BASIS),
            b' ' | b'\t' => {}
            0x21.. => {
                let hash = member!(stream.hash);
                member!(stream.hash = (hash ^ u64::from(lower(byte))).wrapping_mul(PRIME));
            }
            _ => member!(stream.phase = OPAQUE),
        }
    }

    /// The last byte of a head: what comes after it.
    #[inline(always)]
    fn head_end(stream: *mut Self, byte: u8) -> u32 {
        let flags = member!(stream.flags);
        let number = member!(stream.number);
        member!(stream.count = 0);
        let phase = if byte != b'\n' || flags & (CONNECT | UPGRADE) != 0 {
            // A tunnel, or perhaps another protocol.
            OPAQUE
        } else if flags & HAS_ENCODING != 0 {
            member!(stream.number = 0);
            // A body that is not chunked has no end.
            if flags & CHUNKED != 0 { SIZE } else { OPAQUE }
        } else {
            member!(stream.remaining = number);
            START
        };
        member!(stream.phase = phase);
        if byte == b'\n' { HEAD } else { NEXT }
    }

    /// A byte of the size of a chunk.
    #[inline(always)]
    fn size(stream: *mut Self, byte: u8) {
        let (number, count) = (member!(stream.number), member!(stream.count));
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => 16,
        };
        if digit < 16 && number < NUMBER_MAX {
            member!(stream.number = number * 16 + u64::from(digit));
            member!(stream.count = count | 1);
            return;
        }
        member!(
            stream.phase = match byte {
                b'\r' if count != 0 => SIZE_END,
                b';' | b' ' | b'\t' if count != 0 => SIZE_REST,
                _ => OPAQUE,
            }
        );
    }

    /// [`Stream::at`]
    #[inline(always)]
    pub fn position(&mut self) -> u32 {
        let stream: *mut Self = self;
        member!(stream.at)
    }

    /// Sets [`Stream::at`].
    #[inline(always)]
    pub fn set_position(&mut self, at: u32) {
        let stream: *mut Self = self;
        member!(stream.at = at);
    }

    /// See [`OPAQUE`].
    #[inline(always)]
    pub fn is_opaque(&mut self) -> bool {
        let stream: *mut Self = self;
        member!(stream.phase) == OPAQUE
    }

    /// The next bytes are of a body or a chunk; takes as many of `available` as are, and says how many.
    #[inline(always)]
    pub fn skip(&mut self, available: u64) -> u64 {
        let stream: *mut Self = self;
        let remaining = member!(stream.remaining);
        let taken = if remaining < available { remaining } else { available };
        member!(stream.remaining = remaining - taken);
        taken
    }
}
