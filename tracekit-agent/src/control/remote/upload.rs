//! Snapshots on their way to a control server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, StatusCode};
use tokio::sync::mpsc;
use url::Url;

use crate::export::otlp::WarningGate;
use crate::snapshot::limits::Breaker;

/// Before the second attempt.
const RETRY: Duration = Duration::from_secs(1);

/// Snapshots that were not sent; one process has one agent.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// A body that waits.
#[derive(Debug)]
pub struct Upload(String);

impl Upload {
    pub fn new(body: String) -> Self {
        Self(body)
    }
}

/// One more was not sent.
pub fn count_dropped() {
    DROPPED.fetch_add(1, Ordering::Relaxed);
}

/// Sends what comes, one after the other, until the queue is closed and empty. Three failures in a minute stop
/// it for five; what comes meanwhile is dropped.
pub async fn run(client: Client, target: Url, mut queue: mpsc::Receiver<Upload>, timeout: Duration) {
    let mut breaker = Breaker::default();
    let mut warnings = WarningGate::default();
    while let Some(Upload(body)) = queue.recv().await {
        if breaker.is_open(Instant::now()) {
            count_dropped();
            continue;
        }
        let mut sent = send(&client, &target, &body, timeout).await;
        if matches!(&sent, Err(failure) if failure.transient) {
            tokio::time::sleep(RETRY).await;
            sent = send(&client, &target, &body, timeout).await;
        }
        match sent {
            Ok(()) => breaker.worked(),
            Err(failure) => {
                count_dropped();
                let opened = breaker.failed(Instant::now());
                if opened || warnings.open() {
                    tracing::warn!(
                        dropped = DROPPED.load(Ordering::Relaxed),
                        "can't send snapshots to the control server: {}{}",
                        failure.problem,
                        if opened { "; not trying again for 5 minutes" } else { "" },
                    );
                }
            }
        }
    }
}

struct Failure {
    problem: String,
    /// Another attempt may succeed.
    transient: bool,
}

async fn send(client: &Client, target: &Url, body: &str, timeout: Duration) -> Result<(), Failure> {
    let request = client
        .post(target.clone())
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .timeout(timeout)
        .body(body.to_owned());
    match request.send().await {
        Ok(response) if matches!(response.status(), StatusCode::OK | StatusCode::CREATED) => Ok(()),
        Ok(response) => {
            let status = response.status();
            let transient = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            Err(Failure { problem: format!("it answered with {status}"), transient })
        }
        Err(error) => Err(Failure { problem: error.without_url().to_string(), transient: true }),
    }
}
