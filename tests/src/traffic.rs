//! The mixed requests that the parity tests send: the same ones for the same seed.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use crate::client::{Connection, Request};

/// A request with an id of its own (in the query as `id`, and in `X-Request-Id`) and the answer it must get.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Unique among the requests of a plan.
    pub id: String,
    /// The request.
    pub request: Request,
    /// The status that the shop answers; `None` for a request that is abandoned.
    pub expected: Option<u16>,
}

/// xorshift64*: enough to shuffle with, and the same everywhere.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit.max(1)
    }
}

/// Every kind of request that the shops know: method, path, body length, status.
const KINDS: &[(&str, &str, usize, u16)] = &[
    ("GET", "/ping", 0, 200),
    ("GET", "/products/3", 0, 200),
    ("GET", "/products/4", 0, 200),
    ("HEAD", "/products/5", 0, 200),
    ("GET", "/products/99", 0, 404),
    ("POST", "/orders", 40, 201),
    ("POST", "/orders", 20_000, 201),
    ("GET", "/gone", 0, 404),
    ("GET", "/no/such/page", 0, 404),
    ("GET", "/boom", 0, 500),
    ("GET", "/sql-error", 0, 500),
    ("GET", "/conflict", 0, 409),
    ("GET", "/redis-error", 0, 500),
    ("GET", "/pipeline", 0, 200),
    ("GET", "/transaction", 0, 200),
    ("GET", "/call/requests/status/200", 0, 200),
    ("GET", "/call/requests/status/404", 0, 200),
    ("GET", "/call/requests/status/500", 0, 200),
    ("GET", "/call/requests/slow/0.5", 0, 502),
    ("GET", "/call/requests/drop", 0, 502),
    ("GET", "/call/requests/chunked/10", 0, 200),
    ("GET", "/call/requests/big/300000", 0, 200),
    ("GET", "/call/urllib3/status/200", 0, 200),
    ("GET", "/call/urllib3/status/404", 0, 200),
    ("GET", "/call/urllib3/status/500", 0, 200),
    ("GET", "/call/urllib3/slow/0.5", 0, 502),
    ("GET", "/call/urllib3/drop", 0, 502),
    ("GET", "/call/http.client/status/200", 0, 200),
    ("GET", "/call/http.client/status/404", 0, 200),
    ("GET", "/call/http.client/status/500", 0, 200),
    ("GET", "/call/http.client/slow/0.5", 0, 502),
    ("GET", "/call/http.client/drop", 0, 502),
    ("GET", "/call/http.client/half", 0, 502),
    ("POST", "/forward/requests", 100 * 1024, 200),
    ("POST", "/forward/urllib3", 300, 200),
    ("POST", "/forward/http.client", 5000, 200),
    ("GET", "/checkout/7", 0, 200),
    ("GET", "/stream", 0, 200),
    ("POST", "/upload", 100 * 1024, 200),
    ("GET", "/sleep/0.2", 0, 0),
];

/// `count` requests: every kind, again and again, in an order that `seed` decides.
#[must_use]
pub fn plan(seed: u64, count: usize) -> Vec<Planned> {
    let mut random = Random::new(seed);
    let mut plan: Vec<Planned> = (0..count)
        .map(|index| {
            let (method, path, body, status) = KINDS[index % KINDS.len()];
            let id = format!("r{seed}x{index:04}");
            let abandoned = status == 0;
            let request = Request {
                method: method.into(),
                target: format!("{path}?id={id}"),
                headers: vec![("X-Request-Id".into(), id.clone())],
                body: (0..body).map(|position| b'a' + ((position + index) % 26) as u8).collect(),
                abandon_after: abandoned.then_some(Duration::from_millis(80)),
                close: random.below(3) == 0,
            };
            Planned { id, request, expected: (!abandoned).then_some(status) }
        })
        .collect();
    for position in (1..plan.len()).rev() {
        plan.swap(position, random.below(position + 1));
    }
    plan
}

/// Sends the plan over `clients` connections at once and checks every status.
///
/// # Errors
/// A request is not answered, or not with the status of the plan.
pub fn send(plan: &[Planned], port: u16, clients: usize) -> Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..clients.max(1))
            .map(|client| {
                scope.spawn(move || -> Result<()> {
                    let mut connection = Connection::new(address);
                    for planned in plan.iter().skip(client).step_by(clients.max(1)) {
                        let request = &planned.request;
                        let what = || format!("{} {}", request.method, request.target);
                        let response = connection.send(request).with_context(what)?;
                        if response.as_ref().map(|response| response.status) != planned.expected {
                            let body =
                                response.as_ref().map(|r| String::from_utf8_lossy(&r.body).into_owned());
                            let got = response.map(|response| response.status);
                            return Err(anyhow!(
                                "{}: expected status {:?}, got {got:?}: {}",
                                what(),
                                planned.expected,
                                body.unwrap_or_default()
                            ));
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        Ok(())
    })
}
