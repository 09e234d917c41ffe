//! Requests at once, each with a number of its own, over connections that are kept, closed and pipelined.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Barrier;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::client::{Connection, Request, connect, read_response};
use crate::work::{Server, WEBSOCKET};

/// How long an answer may take: a hundred of them wait for each other, where other things run too.
const PATIENCE: Duration = Duration::from_secs(90);

/// How much to send.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Requests that are open at the same time.
    pub clients: u64,
    /// How often each client sends one.
    pub rounds: u64,
    /// The number of the first request.
    pub first: u64,
}

impl Load {
    /// The numbers of all requests.
    #[must_use]
    pub fn numbers(&self) -> std::ops::Range<u64> {
        self.first..self.first + self.clients * self.rounds
    }

    /// Sends everything and checks that it is answered with 200. A round begins when all clients are ready.
    ///
    /// # Errors
    /// A request is not answered, or not with 200.
    pub fn send(&self, server: &Server, port: u16) -> Result<()> {
        let barrier = Barrier::new(usize::try_from(self.clients)?);
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..self.clients)
                .map(|index| {
                    let barrier = &barrier;
                    scope.spawn(move || self.client(index, server, port, barrier))
                })
                .collect();
            let mut failures = Vec::new();
            for client in clients {
                failures.extend(client.join().map_err(|_| anyhow!("a client panicked"))?);
            }
            if let Some(first) = failures.first() {
                bail!("{} of {} requests failed: {first:#}", failures.len(), self.clients * self.rounds);
            }
            Ok(())
        })
    }

    /// One client. Every tenth sends two requests at once in every second round and none in the others; every fifth
    /// asks the server to close.
    fn client(&self, index: u64, server: &Server, port: u16, barrier: &Barrier) -> Vec<anyhow::Error> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut connection = Connection::new(address).waiting(PATIENCE);
        let pipelined = server.pipelines && index % 10 == 9;
        let mut failures = Vec::new();
        for round in 0..self.rounds {
            let number = self.first + round * self.clients + index;
            barrier.wait();
            let last = round + 1 == self.rounds;
            let result = match (pipelined, round % 2) {
                (true, 0) if !last => pipeline(address, &[number, number + self.clients]),
                (true, 1) => Ok(()),
                _ => single(&mut connection, server, number, index.is_multiple_of(5)),
            };
            failures.extend(result.err());
        }
        failures
    }
}

fn single(connection: &mut Connection, server: &Server, number: u64, close: bool) -> Result<()> {
    if server.target(number).starts_with(WEBSOCKET) {
        return websocket(connection.address(), &server.target(number));
    }
    let request = Request { close, ..Request::get(&server.target(number)) };
    let response = connection.send(&request)?.context("no answer")?;
    ensure!(response.status == 200, "{}: status {}", request.target, response.status);
    Ok(())
}

/// Sends requests together on a connection of their own, and reads the answers. Not those that are streamed: some
/// servers end the connection with the answer.
fn pipeline(address: SocketAddr, numbers: &[u64]) -> Result<()> {
    let mut stream = connect(address, PATIENCE)?;
    let requests: Vec<Request> =
        numbers.iter().map(|number| Request::get(&format!("/work/{number}"))).collect();
    let bytes: Vec<u8> = requests.iter().flat_map(|request| request.bytes(&address.to_string())).collect();
    stream.get_mut().write_all(&bytes)?;
    for request in &requests {
        let (response, _) = read_response(&mut stream, false)
            .with_context(|| format!("pipelined answer to {}", request.target))?;
        ensure!(response.status == 200, "pipelined {}: status {}", request.target, response.status);
    }
    Ok(())
}

/// Opens a websocket, asks for a call in each of two messages, and closes it (RFC 6455).
fn websocket(address: SocketAddr, target: &str) -> Result<()> {
    let mut stream = connect(address, PATIENCE)?;
    let fields = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let headers = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let request = Request { headers, ..Request::get(target) };
    stream.get_mut().write_all(&request.bytes(&address.to_string()))?;
    let (response, _) = read_response(&mut stream, true).with_context(|| format!("answer to {target}"))?;
    ensure!(response.status == 101, "{target}: status {}", response.status);
    // Final frame, text or close; masked, with a mask of zeroes.
    let frame = |opcode: u8, text: &str| -> Result<Vec<u8>> {
        let length = u8::try_from(text.len())?;
        Ok([&[0x80 | opcode, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat())
    };
    for client in ["asyncpg", "httpxasync"] {
        stream.get_mut().write_all(&frame(1, client)?)?;
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).with_context(|| format!("message of {target}"))?;
        ensure!(answer == *b"\x81\x04done", "{target} said {answer:?}");
    }
    stream.get_mut().write_all(&frame(8, "")?)?;
    Ok(())
}
