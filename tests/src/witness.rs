//! A server that keeps account of every byte that it gets.
//!
//! It knows HTTP/1 well enough to answer, and to take `traceparent` out of heads where the agent may have put it; of the
//! rest it keeps a checksum, so that two runs of the same client can be compared.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// A running witness. It ends with the process.
#[derive(Debug)]
pub struct Witness {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    connections: Mutex<Vec<Seen>>,
    open: AtomicUsize,
    /// Answer with the context that came with the request.
    echo: AtomicBool,
}

/// What came over one connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Bytes without the lines that were put in.
    pub length: u64,
    /// Their checksum.
    pub checksum: u64,
    /// The heads of requests.
    pub heads: Vec<Head>,
}

/// The head of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// Method.
    pub method: String,
    /// Target.
    pub target: String,
    /// It has a `traceparent` of the application.
    pub own: bool,
    /// Its body comes in chunks.
    pub chunked: bool,
    /// The `traceparent` that was put in.
    pub added: Option<String>,
    /// The `tracestate` that was put in with it.
    pub state: Option<String>,
}

/// How much of a stream is what.
enum Place {
    Head,
    Body(u64),
    Chunk,
    Trailers,
    Opaque,
}

/// A `traceparent` that the client sets itself has this trace.
pub const OWN_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const HEAD_MAX: usize = 256 * 1024;

impl Seen {
    fn take(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        for byte in bytes {
            self.checksum = (self.checksum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl Witness {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// There is none.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("bind the witness")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let index = {
                    let mut all = served.connections.lock().unwrap_or_else(PoisonError::into_inner);
                    all.push(Seen::default());
                    all.len() - 1
                };
                served.open.fetch_add(1, Ordering::SeqCst);
                let shared = Arc::clone(&served);
                std::thread::spawn(move || {
                    let mut seen = Seen::default();
                    // A connection that breaks is seen by the client, too.
                    let _ = serve(stream, &mut seen, &shared);
                    if let Some(place) =
                        shared.connections.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index)
                    {
                        *place = seen;
                    }
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Ok(Self { address, shared })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on answers have the `traceparent` and `tracestate` of the request in their bodies.
    pub fn echo(&self) {
        self.shared.echo.store(true, Ordering::SeqCst);
    }

    /// What was seen since the last time, in the order of accepting; waits until all connections are closed.
    ///
    /// # Errors
    /// They are not, after half a minute.
    pub fn finish(&self) -> Result<Vec<Seen>> {
        crate::process::wait_for("connections to the witness to be closed", Duration::from_secs(30), || {
            Ok((self.shared.open.load(Ordering::SeqCst) == 0).then_some(()))
        })?;
        let mut all = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *all))
    }
}

fn serve(mut stream: TcpStream, seen: &mut Seen, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut place = Place::Head;
    let mut waiting: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut closing = false;
    loop {
        let at = advance(&mut place, &waiting, seen, &mut stream, shared)?;
        if at > 0 {
            waiting.drain(..at);
            continue;
        }
        if closing {
            seen.take(&waiting);
            return Ok(());
        }
        let count = stream.read(&mut buffer).unwrap_or(0);
        closing = count == 0;
        waiting.extend_from_slice(buffer.get(..count).unwrap_or_default());
    }
}

/// Takes what it can of the bytes that wait; says how many.
fn advance(
    place: &mut Place,
    waiting: &[u8],
    seen: &mut Seen,
    stream: &mut TcpStream,
    shared: &Shared,
) -> Result<usize> {
    let line = || waiting.windows(2).position(|two| two == b"\r\n").map(|at| at + 2);
    match place {
        _ if waiting.is_empty() => Ok(0),
        Place::Opaque => {
            seen.take(waiting);
            Ok(waiting.len())
        }
        Place::Body(left) => {
            let count = waiting.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
            seen.take(waiting.get(..count).unwrap_or_default());
            *left -= count as u64;
            if *left == 0 {
                *place = Place::Head;
                answer(seen, stream, shared)?;
            }
            Ok(count)
        }
        Place::Chunk => {
            let Some(end) = line() else { return Ok(0) };
            let text = String::from_utf8_lossy(waiting.get(..end - 2).unwrap_or_default()).into_owned();
            let size = usize::from_str_radix(text.split(';').next().unwrap_or_default().trim(), 16)?;
            let whole = if size == 0 { end } else { end + size + 2 };
            if waiting.len() < whole {
                return Ok(0);
            }
            seen.take(waiting.get(..whole).unwrap_or_default());
            if size == 0 {
                *place = Place::Trailers;
            }
            Ok(whole)
        }
        Place::Trailers => {
            let Some(end) = line() else { return Ok(0) };
            seen.take(waiting.get(..end).unwrap_or_default());
            if end == 2 {
                *place = Place::Head;
                answer(seen, stream, shared)?;
            }
            Ok(end)
        }
        Place::Head => {
            if waiting.starts_with(b"\r\n") {
                seen.take(b"\r\n");
                return Ok(2);
            }
            if !waiting.first().is_some_and(u8::is_ascii_uppercase) {
                *place = Place::Opaque;
                return advance(place, waiting, seen, stream, shared);
            }
            let end = waiting.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
            match end {
                Some(end) => {
                    *place = head(waiting.get(..end).unwrap_or_default(), seen, stream, shared)?;
                    Ok(end)
                }
                None if waiting.len() > HEAD_MAX => {
                    *place = Place::Opaque;
                    advance(place, waiting, seen, stream, shared)
                }
                None => Ok(0),
            }
        }
    }
}

/// One whole head, with its blank line.
fn head(bytes: &[u8], seen: &mut Seen, stream: &mut TcpStream, shared: &Shared) -> Result<Place> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let mut lines: Vec<&str> = text.trim_end_matches("\r\n").split("\r\n").collect();
    let mut words = lines.first().copied().unwrap_or_default().split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let token = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
    if !method.is_some_and(|method| method.bytes().all(token))
        || !matches!(version, Some("HTTP/1.0" | "HTTP/1.1"))
        || text.replace("\r\n", "").contains('\n')
    {
        seen.take(bytes);
        return Ok(Place::Opaque);
    }
    let field = |name: &str, lines: &[&str]| {
        let mut values = lines.iter().skip(1).filter_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        });
        (values.next(), values.count())
    };
    let own = field("traceparent", &lines).0.is_some_and(|value| value.contains(OWN_TRACE));
    let mut found = Head {
        method: method.unwrap_or_default().to_owned(),
        target: target.unwrap_or_default().to_owned(),
        own,
        ..Head::default()
    };
    // The agent's lines are the last, and `tracestate` comes after `traceparent`.
    if let [.., parent, state] = lines.as_slice()
        && parent.starts_with("traceparent: ")
        && !own
        && let Some(value) = state.strip_prefix("tracestate: ")
    {
        found.state = Some(value.to_owned());
        lines.pop();
    }
    if !own && let Some(value) = lines.last().and_then(|line| line.strip_prefix("traceparent: ")) {
        found.added = Some(value.to_owned());
        lines.pop();
    }
    seen.take(lines.join("\r\n").as_bytes());
    seen.take(b"\r\n\r\n");
    let (length, more_lengths) = field("content-length", &lines);
    let encoding = field("transfer-encoding", &lines).0;
    let upgrade = field("upgrade", &lines).0.is_some();
    let expects = field("expect", &lines).0.is_some();
    let connect = found.method == "CONNECT";
    let slow = found.target.starts_with("/slow");
    found.chunked = encoding.is_some();
    seen.heads.push(found);
    if more_lengths > 0 || length.is_some() && encoding.is_some() {
        return Ok(Place::Opaque);
    }
    if upgrade {
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")?;
        return Ok(Place::Opaque);
    }
    if connect {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        return Ok(Place::Opaque);
    }
    if expects {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if slow {
        std::thread::sleep(Duration::from_millis(20));
    }
    if encoding.is_some() {
        return Ok(Place::Chunk);
    }
    match length.map(|length| length.parse()).transpose()? {
        None | Some(0) => {
            answer(seen, stream, shared)?;
            Ok(Place::Head)
        }
        Some(length) => Ok(Place::Body(length)),
    }
}

fn answer(seen: &Seen, stream: &mut TcpStream, shared: &Shared) -> Result<()> {
    let mut body = String::new();
    if shared.echo.load(Ordering::SeqCst)
        && let Some(head) = seen.heads.last()
    {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        body = format!("{} {}", text(&head.added), text(&head.state));
    }
    stream
        .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
    Ok(())
}
