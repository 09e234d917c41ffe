//! A client of the API, for the command line.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::guard::Token;
use super::sse::Parser;

/// For a connection and for an answer; adding a breakpoint may have to look into many processes.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer: a list of a thousand breakpoints at their largest stays below.
const MAX_ANSWER: usize = 64 << 20;

/// Where an agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// `host:port`, over plain HTTP.
    Tcp(String),
}

impl Address {
    /// `/run/tracekit/agent.sock`, `unix:///run/tracekit/agent.sock`, `http://127.0.0.1:9999`,
    /// `127.0.0.1:9999`.
    ///
    /// # Errors
    /// It is none of these.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            return Ok(Self::Unix(path.into()));
        }
        if text.starts_with("https://") {
            return Err("the agent's API has no TLS of its own; use http:// to what terminates it".to_owned());
        }
        let rest = text.strip_prefix("http://").unwrap_or(text);
        if rest == text && text.contains('/') {
            return Ok(Self::Unix(text.into()));
        }
        let host = rest.trim_end_matches('/');
        match host.rsplit_once(':') {
            Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok() && !host.contains('/') => {
                Ok(Self::Tcp(host.to_owned()))
            }
            _ => Err("give the path of a socket, or http://HOST:PORT".to_owned()),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp(host) => write!(f, "http://{host}"),
        }
    }
}

/// Why there is no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no agent answers on {address} ({error}); start one with `tracekit attach --pid PID` or `tracekit run`, or \
         name the one you mean with --agent"
    )]
    NoAgent {
        /// Where.
        address: Address,
        /// What the system says.
        error: io::Error,
    },
    /// The socket is another user's.
    #[error("not permitted to use {address}: run tracekit as the user that the agent runs as, or as root")]
    Denied {
        /// Where.
        address: Address,
    },
    /// The connection broke, or what came is no answer.
    #[error("the agent on {address} did not answer as it should: {problem}")]
    Broken {
        /// Where.
        address: Address,
        /// What happened.
        problem: String,
    },
    /// A stream of events is over.
    #[error("the agent on {address} has ended, or the connection to it is broken")]
    Ended {
        /// Where.
        address: Address,
    },
    /// The agent says no.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Of the API's error.
        code: String,
        /// Of the API's error.
        message: String,
    },
}

type Result<T> = std::result::Result<T, ClientError>;

/// Asks one agent; a connection for each request.
#[derive(Debug, Clone)]
pub struct Client {
    address: Address,
    token: Option<Token>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Client {
    /// A client; nothing is sent yet.
    #[must_use]
    pub fn new(address: Address, token: Option<Token>) -> Self {
        Self { address, token }
    }

    /// Sends a request and gives the answer's JSON.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn request(&self, method: Method, path: &str, body: Option<&Json>) -> Result<Json> {
        let whole = async {
            let response = self.send(method, path, body).await?;
            let body = self.collect(response.into_body()).await?;
            serde_json::from_slice(&body).map_err(|error| self.broken(&error))
        };
        self.block_on(async { tokio::time::timeout(TIMEOUT, whole).await.map_err(|_| self.timeout())? })
    }

    /// Follows the stream of events until `on_event` says that it is enough.
    ///
    /// # Errors
    /// See [`ClientError`]; also if the agent ends.
    pub fn events(&self, path: &str, mut on_event: impl FnMut(&str, &Json) -> bool) -> Result<()> {
        self.block_on(async {
            let response = tokio::time::timeout(TIMEOUT, self.send(Method::GET, path, None));
            let mut body = response.await.map_err(|_| self.timeout())??.into_body();
            let mut parser = Parser::new(MAX_ANSWER);
            while let Some(frame) = body.frame().await {
                // The end of the agent is an end in the middle of the stream.
                let Ok(frame) = frame else { break };
                let Some(data) = frame.data_ref() else { continue };
                parser.push(data).map_err(|error| self.broken(&error))?;
                while let Some(event) = parser.next_event() {
                    let data = serde_json::from_str(&event.data).map_err(|error| self.broken(&error))?;
                    if !on_event(&event.name, &data) {
                        return Ok(());
                    }
                }
            }
            Err(ClientError::Ended { address: self.address.clone() })
        })
    }

    fn block_on<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| self.broken(&error))?.block_on(future)
    }

    async fn connect(&self) -> Result<Box<dyn Stream>> {
        let stream: io::Result<Box<dyn Stream>> = match &self.address {
            Address::Unix(path) => UnixStream::connect(path).await.map(|stream| Box::new(stream) as _),
            Address::Tcp(host) => TcpStream::connect(host).await.map(|stream| Box::new(stream) as _),
        };
        let address = self.address.clone();
        stream.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied { address },
            _ => ClientError::NoAgent { address, error },
        })
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Json>) -> Result<Response<Incoming>> {
        let stream = self.connect().await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        // Its errors are also those of the request.
        tokio::spawn(connection);
        let host = match &self.address {
            Address::Unix(_) => "localhost",
            Address::Tcp(host) => host,
        };
        let mut request =
            Request::builder().method(method).uri(path).header(HOST, host).header(ACCEPT, "*/*");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(token) = self.token.as_ref().and_then(Token::header) {
            request = request.header(AUTHORIZATION, token);
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let request = request.body(Full::new(body)).map_err(|error| self.broken(&error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = self.collect(response.into_body()).await?;
        let json: Json = serde_json::from_slice(&body).unwrap_or_default();
        let text = |key: &str| json.pointer(key).and_then(Json::as_str).map(str::to_owned);
        Err(ClientError::Refused {
            status,
            code: text("/error/code").unwrap_or_default(),
            message: text("/error/message").unwrap_or_else(|| format!("the agent answered with {status}")),
        })
    }

    async fn collect(&self, body: Incoming) -> Result<Bytes> {
        let body = http_body_util::Limited::new(body, MAX_ANSWER).collect().await;
        Ok(body.map_err(|error| self.broken(&error))?.to_bytes())
    }

    fn broken(&self, problem: &dyn std::fmt::Display) -> ClientError {
        ClientError::Broken { address: self.address.clone(), problem: problem.to_string() }
    }

    fn timeout(&self) -> ClientError {
        self.broken(&format!("nothing came within {} s", TIMEOUT.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let unix = |path: &str| Ok(Address::Unix(path.into()));
        let tcp = |host: &str| Ok(Address::Tcp(host.to_owned()));
        for (text, expected) in [
            ("/run/tracekit/agent.sock", unix("/run/tracekit/agent.sock")),
            ("unix:///run/x.sock", unix("/run/x.sock")),
            ("./x.sock", unix("./x.sock")),
            ("http://127.0.0.1:9999", tcp("127.0.0.1:9999")),
            ("http://[::1]:9999/", tcp("[::1]:9999")),
            ("host:9999", tcp("host:9999")),
        ] {
            assert_eq!(Address::parse(text), expected, "{text}");
        }
        for text in ["", "host", "http://host", "http://host:1/path", "https://host:1", "host:99999", ":1"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
