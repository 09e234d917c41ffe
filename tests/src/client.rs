//! A small HTTP/1.1 client that can also misbehave.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// One request.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `GET`, `HEAD`, `POST` …
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Further header fields.
    pub headers: Vec<(String, String)>,
    /// The body; sent with its length.
    pub body: Vec<u8>,
    /// Close the connection after this long without waiting for the answer.
    pub abandon_after: Option<Duration>,
    /// Ask for `Connection: close`.
    pub close: bool,
}

impl Request {
    /// A GET.
    #[must_use]
    pub fn get(target: &str) -> Self {
        Self { method: "GET".into(), target: target.into(), ..Self::default() }
    }

    /// The bytes of it, for the server at `host` (`address:port`).
    #[must_use]
    pub fn bytes(&self, host: &str) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", self.method, self.target);
        head.push_str("User-Agent: tracekit-tests/1\r\n");
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() || self.method == "POST" {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        if self.close {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, decoded.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header field of that name (lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// How long an answer may take, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection that is kept if the server keeps it.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
    patience: Duration,
}

impl Connection {
    /// For requests to `address`; connects with the first one.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None, patience: PATIENCE }
    }

    /// Waits this long for an answer.
    #[must_use]
    pub fn waiting(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Where it leads.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a request and reads the answer. `None` if the request was abandoned.
    ///
    /// # Errors
    /// No connection, or an answer that is none.
    pub fn send(&mut self, request: &Request) -> Result<Option<Response>> {
        // A kept connection may have been closed meanwhile: look before sending, as clients do.
        let mut stream = match self.stream.take() {
            Some(stream) if is_open(stream.get_ref()) => stream,
            _ => connect(self.address, self.patience)?,
        };
        stream.get_mut().write_all(&request.bytes(&self.address.to_string())).context("send the request")?;
        if let Some(patience) = request.abandon_after {
            std::thread::sleep(patience);
            return Ok(None);
        }
        let (response, keep) = read_response(&mut stream, request.method == "HEAD")
            .with_context(|| format!("answer to {} {}", request.method, request.target))?;
        if keep && !request.close {
            self.stream = Some(stream);
        }
        Ok(Some(response))
    }
}

/// Sends one request on a connection of its own.
///
/// # Errors
/// As [`Connection::send`], and if the request was abandoned.
pub fn send_once(port: u16, request: &Request) -> Result<Response> {
    let mut connection = Connection::new(SocketAddr::from(([127, 0, 0, 1], port)));
    connection.send(request)?.context("the request was abandoned")
}

/// Connects; reads give up after this long.
///
/// # Errors
/// Nobody listens there.
pub fn connect(address: SocketAddr, patience: Duration) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
        .with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

fn is_open(stream: &TcpStream) -> bool {
    let mut byte = [0];
    let open = stream.set_nonblocking(true).is_ok()
        && matches!(stream.peek(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).is_ok() && open
}

/// Reads one answer; also says whether the connection stays.
///
/// # Errors
/// The connection ends early or the answer is malformed.
pub fn read_response(stream: &mut BufReader<TcpStream>, head_only: bool) -> Result<(Response, bool)> {
    let mut response = Response::default();
    let status_line = line(stream)?;
    let mut words = status_line.split(' ');
    let http_10 = words.next() == Some("HTTP/1.0");
    response.status = words
        .next()
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("no status line: {status_line:?}"))?;
    loop {
        let field = line(stream)?;
        if field.is_empty() {
            break;
        }
        let (name, value) = field.split_once(':').with_context(|| format!("no header field: {field:?}"))?;
        response.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    if (100..200).contains(&response.status) && response.status != 101 {
        return read_response(stream, head_only);
    }
    let connection = response.header("connection").unwrap_or("").to_ascii_lowercase();
    let mut keep = connection != "close" && (!http_10 || connection == "keep-alive");
    if head_only || matches!(response.status, 204 | 304) {
        return Ok((response, keep));
    }
    if response.header("transfer-encoding") == Some("chunked") {
        loop {
            let size = usize::from_str_radix(line(stream)?.trim(), 16).context("chunk size")?;
            let start = response.body.len();
            response.body.resize(start + size, 0);
            stream.read_exact(&mut response.body[start..])?;
            line(stream)?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = response.header("content-length") {
        let length: usize = length.parse().context("content length")?;
        response.body.resize(length, 0);
        stream.read_exact(&mut response.body)?;
    } else {
        stream.read_to_end(&mut response.body)?;
        keep = false;
    }
    Ok((response, keep))
}

fn line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut text = String::new();
    if stream.read_line(&mut text)? == 0 {
        bail!("the connection was closed");
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
