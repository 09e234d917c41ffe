//! Follows a control server for one service: polls, and listens to its stream where there is one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use reqwest::header::{ACCEPT, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use serde_json::Value as Json;
use url::Url;

use super::wire::{self, Active};
use super::{RemoteConfig, Timing};
use crate::control::sse::{Parser, SseEvent};
use crate::export::otlp::WarningGate;
use crate::snapshot::breakpoint::Source;
use crate::snapshot::limits::MAX_REMOTE_BREAKPOINTS;
use crate::snapshot::registry::{Actor, Registry};

/// Bytes of an answer, and of an event.
const MAX_ANSWER: usize = 4 << 20;
/// A stream that has lived this long was a good one.
const GOOD_STREAM: Duration = Duration::from_secs(10);
/// The longest pause between two attempts at a stream that breaks.
const MAX_STREAM_RETRY: Duration = Duration::from_secs(30);
/// A server's wish for a pause is cut to this.
const MAX_WISH: Duration = Duration::from_secs(3600);
/// Problems of breakpoints that are remembered, so that each is told once.
const MAX_TOLD: usize = 1000;

/// Why a request has failed.
#[derive(Debug)]
struct Failure {
    problem: String,
    retry_after: Option<Duration>,
}

impl Failure {
    fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), retry_after: None }
    }
}

/// How a stream has ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The kill switch: poll, slowly.
    Killed,
    /// There is none: poll.
    Refused,
    /// It broke: try again soon.
    Broken,
}

/// Pauses that get longer, with jitter: a thousand agents must not come back at once.
#[derive(Debug)]
struct Pauses {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Pauses {
    fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.max);
        jittered(pause, 0.5)
    }

    fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Up to `share` more or less.
fn jittered(pause: Duration, share: f64) -> Duration {
    pause.mul_f64(1.0 - share + 2.0 * share * rand::random::<f64>())
}

pub struct Follower {
    client: Client,
    config: RemoteConfig,
    registry: Arc<Registry>,
    service: Arc<str>,
    actor: Actor,
    warnings: WarningGate,
    told: HashSet<String>,
}

impl Follower {
    pub fn new(
        client: Client,
        config: RemoteConfig,
        registry: Arc<Registry>,
        service: Arc<str>,
        actor: Actor,
    ) -> Self {
        Self {
            client,
            config,
            registry,
            service,
            actor,
            warnings: WarningGate::default(),
            told: HashSet::new(),
        }
    }

    /// Never returns.
    pub async fn run(mut self) {
        let Timing { poll, poll_killed, retry, max_retry, .. } = self.config.timing;
        let mut after_errors = Pauses::new(retry, max_retry);
        let mut after_streams = Pauses::new(retry, MAX_STREAM_RETRY.max(retry));
        loop {
            let pause = match self.poll().await {
                Err(failure) => {
                    let pause = after_errors.next().max(failure.retry_after.unwrap_or_default());
                    self.warn(&failure);
                    pause
                }
                Ok(active) => {
                    after_errors.reset();
                    if self.warnings.reset() {
                        tracing::info!(service = &*self.service, "the control server answers again");
                    }
                    let stream = active.sse_endpoint.as_deref().map(|path| self.stream_url(path));
                    let killed = active.kill_switch;
                    self.apply(&active);
                    match stream {
                        _ if killed => jittered(poll_killed, 0.1),
                        None => jittered(poll, 0.1),
                        Some(Err(failure)) => {
                            self.warn(&failure);
                            jittered(poll, 0.1)
                        }
                        Some(Ok(url)) => {
                            let began = Instant::now();
                            let ended = self.follow(url).await;
                            if began.elapsed() >= GOOD_STREAM {
                                after_streams.reset();
                            }
                            match ended {
                                Ended::Killed => jittered(poll_killed, 0.1),
                                Ended::Refused => jittered(poll, 0.1),
                                Ended::Broken => after_streams.next(),
                            }
                        }
                    }
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn poll(&self) -> Result<Active, Failure> {
        let url = self.config.at(&["sdk", "snapshots", "active", &self.service]);
        let whole = async {
            let response = self.get(url, "application/json").await?;
            if response.status() != StatusCode::OK {
                return Err(refused(&response));
            }
            let body = read(response).await?;
            serde_json::from_slice(&body)
                .map_err(|error| Failure::new(format!("the answer is not as it should be: {error}")))
        };
        let timeout = self.config.timing.timeout;
        let in_time = tokio::time::timeout(timeout, whole).await;
        in_time.unwrap_or_else(|_| Err(Failure::new(format!("no answer within {} s", timeout.as_secs_f32()))))
    }

    async fn get(&self, url: Url, accept: &str) -> Result<Response, Failure> {
        let request = self.client.get(url).header(ACCEPT, accept);
        request.send().await.map_err(|error| Failure::new(chain(&error.without_url())))
    }

    /// The key goes to the server only, wherever the path claims to lead.
    fn stream_url(&self, path: &str) -> Result<Url, Failure> {
        let elsewhere = || Failure::new(format!("its stream {path:?} is not on the same server"));
        let below = self.config.url.path().trim_end_matches('/');
        let url = match path.strip_prefix('/') {
            // As the SDK does it: appended to the base.
            Some(rest) if !path.starts_with("//") => self.config.url.join(&format!("{below}/{rest}")),
            _ => self.config.url.join(path),
        };
        let url = url.map_err(|_| elsewhere())?;
        if url.origin() == self.config.url.origin() { Ok(url) } else { Err(elsewhere()) }
    }

    async fn follow(&mut self, url: Url) -> Ended {
        let timing = self.config.timing;
        let response = match tokio::time::timeout(timing.timeout, self.get(url, "text/event-stream")).await {
            Ok(Ok(response)) => response,
            Ok(Err(failure)) => {
                self.warn(&failure);
                return Ended::Broken;
            }
            Err(_) => {
                self.warn(&Failure::new("its stream did not begin in time"));
                return Ended::Refused;
            }
        };
        if response.status() != StatusCode::OK {
            self.warn(&refused(&response));
            return Ended::Refused;
        }
        let mut response = response;
        let mut parser = Parser::new(MAX_ANSWER);
        loop {
            let chunk = match tokio::time::timeout(timing.silence, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                // It is over, it broke, or nothing has come for long.
                Ok(Ok(None) | Err(_)) | Err(_) => return Ended::Broken,
            };
            if let Err(error) = parser.push(&chunk) {
                self.warn(&Failure::new(error.to_string()));
                return Ended::Broken;
            }
            while let Some(event) = parser.next_event() {
                if self.event(&event) {
                    return Ended::Killed;
                }
            }
        }
    }

    /// True if the kill switch is on now.
    fn event(&mut self, event: &SseEvent) -> bool {
        let now = Timestamp::now();
        let data: Json = match serde_json::from_str(&event.data) {
            Ok(data) => data,
            Err(_) if matches!(event.name.as_str(), "heartbeat" | "sdk_count" | "message") => return false,
            Err(error) => {
                self.tell(format!("the data of an event {:?} is not JSON: {error}", printable(&event.name)));
                return false;
            }
        };
        match event.name.as_str() {
            "init" => match serde_json::from_value::<Active>(data) {
                Ok(active) => {
                    self.apply(&active);
                    return active.kill_switch;
                }
                Err(error) => self.tell(format!("the event init is not as it should be: {error}")),
            },
            "breakpoint_created" | "breakpoint_updated" => match wire::breakpoint(&data, &self.service) {
                Ok(wanted) => {
                    if let Err(error) = self.registry.upsert_remote(&wanted, &self.actor, now) {
                        self.tell(format!("its breakpoint {} can't be one here: {error}", wanted.id));
                    }
                }
                Err(error) => self.tell(format!("one of its breakpoints can't be one here: {error}")),
            },
            "breakpoint_deleted" => match wire::deleted(&data) {
                Ok(id) => self.registry.remove_remote(&id, &self.actor, now),
                Err(error) => self.tell(format!("a deletion can't be understood: {error}")),
            },
            "kill_switch" => {
                let on = data.get("enabled").and_then(Json::as_bool).unwrap_or(false);
                self.set_kill_switch(on, now);
                return on;
            }
            // `heartbeat`, `sdk_count`, and what later servers say to later clients.
            _ => {}
        }
        false
    }

    fn apply(&mut self, active: &Active) {
        let now = Timestamp::now();
        // First, so that nothing is armed in between.
        self.set_kill_switch(active.kill_switch, now);
        let mut wanted = Vec::new();
        for json in active.breakpoints.iter().take(MAX_REMOTE_BREAKPOINTS) {
            match wire::breakpoint(json, &self.service) {
                Ok(breakpoint) => wanted.push(breakpoint),
                Err(error) => self.tell(format!("one of its breakpoints can't be one here: {error}")),
            }
        }
        if active.breakpoints.len() > MAX_REMOTE_BREAKPOINTS {
            self.tell(format!("only the first {MAX_REMOTE_BREAKPOINTS} of its breakpoints are taken"));
        }
        for (id, error) in self.registry.sync_remote(&self.service, &wanted, &self.actor, now) {
            self.tell(format!("its breakpoint {id} can't be one here: {error}"));
        }
    }

    fn set_kill_switch(&self, on: bool, now: Timestamp) {
        self.registry.set_kill_switch(on, Some(&self.service), Source::Remote, &self.actor, now);
    }

    /// Once, and again only after a thousand others.
    fn tell(&mut self, problem: String) {
        if self.told.len() >= MAX_TOLD {
            self.told.clear();
        }
        if !self.told.contains(&problem) {
            tracing::warn!(server = self.actor.who, service = &*self.service, "{problem}");
            self.told.insert(problem);
        }
    }

    fn warn(&mut self, failure: &Failure) {
        if self.warnings.open() {
            tracing::warn!(
                server = self.actor.who,
                service = &*self.service,
                "can't ask the control server: {}; trying again",
                failure.problem
            );
        }
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// An error with its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn refused(response: &Response) -> Failure {
    let status = response.status();
    let wish = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::trim);
    let retry_after = wish.and_then(|value| match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).ok(),
    });
    let hint = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ": check TRACEKIT_API_KEY",
        StatusCode::NOT_FOUND => ": check the URL, and whether the server knows the service",
        _ => "",
    };
    let problem = format!("it answered with {status}{hint}");
    Failure { problem, retry_after: retry_after.map(|wish| wish.min(MAX_WISH)) }
}

async fn read(mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_ANSWER => {
                return Err(Failure::new(format!("the answer is larger than {} MiB", MAX_ANSWER >> 20)));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(error) => return Err(Failure::new(chain(&error.without_url()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::language::Expressions;

    fn follower(url: &str) -> Follower {
        let registry = Arc::new(Registry::new(Box::new(Expressions), Box::new(())));
        let config = RemoteConfig::new(url, "k").unwrap();
        Follower::new(
            Client::new(),
            config,
            registry,
            "shop".into(),
            Actor { who: url.to_owned(), via: "remote" },
        )
    }

    #[test]
    fn the_key_stays_with_the_server() {
        let follower = follower("https://control.example/base");
        let url = |path: &str| {
            follower.stream_url(path).map(|url| url.to_string()).map_err(|failure| failure.problem)
        };
        assert_eq!(url("/sdk/events?s=shop").unwrap(), "https://control.example/base/sdk/events?s=shop");
        assert_eq!(url("https://control.example/x").unwrap(), "https://control.example/x");
        for path in [
            "//evil.example/x",
            "https://evil.example/x",
            "http://control.example/x",
            "https://control.example:444/",
            "ftp://x",
            "",
        ] {
            let problem = url(path);
            assert!(problem.is_err() || path.is_empty(), "{path}: {problem:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_are_not_all_the_same() {
        let mut pauses = Pauses::new(Duration::from_secs(1), Duration::from_secs(300));
        let seconds: Vec<f64> = (0..12).map(|_| pauses.next().as_secs_f64()).collect();
        for (n, pause) in seconds.iter().enumerate() {
            let middle = f64::from(1 << n.min(20)).min(300.0);
            assert!((middle * 0.5..=middle * 1.5).contains(pause), "{n}: {pause}");
        }
        pauses.reset();
        assert!(pauses.next().as_secs_f64() <= 1.5);
    }

    #[test]
    fn events_change_the_registry() {
        let mut follower = follower("https://control.example");
        let registry = Arc::clone(&follower.registry);
        let mut event = |name: &str, data: &str| {
            follower.event(&SseEvent { name: name.to_owned(), data: data.to_owned() })
        };
        let ids = || -> Vec<String> {
            registry.list(Timestamp::now()).iter().map(|view| view.breakpoint.id.to_string()).collect()
        };
        let one = r#"{"id": "b1", "file_path": "a.py", "line_number": 1}"#;
        let two = r#"{"breakpoint": {"id": "b2", "file_path": "a.py", "line_number": 2}}"#;
        assert!(!event("init", &format!(r#"{{"breakpoints": [{one}, 7, {{}}], "kill_switch": false}}"#)));
        assert_eq!(ids(), ["b1"]);
        assert!(!event("breakpoint_created", two));
        assert_eq!(ids(), ["b1", "b2"]);
        for (name, data) in [
            ("breakpoint_created", "{"),
            ("breakpoint_created", "[]"),
            ("breakpoint_updated", r#"{"id": "b1"}"#),
            ("breakpoint_deleted", r#"{"id": []}"#),
            ("breakpoint_deleted", r#"{"id": "never"}"#),
            ("init", "null"),
            ("heartbeat", "…"),
            ("kill_switch", r#"{"enabled": "maybe"}"#),
            ("something new", "{}"),
        ] {
            assert!(!event(name, data), "{name} {data}");
        }
        assert_eq!(ids(), ["b1", "b2"]);
        assert!(!event("breakpoint_deleted", r#"{"id": "b1"}"#));
        assert_eq!(ids(), ["b2"]);
        assert!(event("kill_switch", r#"{"enabled": true}"#));
        assert!(registry.kill_switch().is_on_for("shop") && !registry.kill_switch().is_on_for("cart"));
        assert!(!event("kill_switch", r#"{"enabled": false}"#));
        assert!(!registry.kill_switch().is_on());
        assert!(!event("init", r#"{"breakpoints": null}"#));
        assert!(ids().is_empty());
    }
}
