//! The endpoints: from a request to an answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::OPENAPI;
use super::body::Body;
use super::error::ApiError;
use super::events::{Feed, Only, PENDING, Wanted};
use super::guard::{self, Door, Token};
use super::route::{Endpoint, ROUTES, Routed, route};
use crate::snapshot::breakpoint::{Id, Kind, Patch, Source, Spec};
use crate::snapshot::limits::{self, TokenBucket};
use crate::snapshot::registry::{Actor, Registry, RegistryError};
use crate::snapshot::store::{Filter, Store};

/// Bytes of a request's body.
const MAX_BODY: usize = 64 * 1024;
/// For the body to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Streams of events at once.
const MAX_STREAMS: usize = 16;
/// Wrong tokens per second that are answered with more than a refusal to talk.
const WRONG_TOKENS: f64 = 10.0;

/// What the endpoints work on.
pub struct Api {
    pub registry: Arc<Registry>,
    pub store: Arc<Store>,
    pub token: Option<Token>,
    streams: Arc<Semaphore>,
    wrong_tokens: Mutex<TokenBucket>,
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct Peer {
    /// How the request has come.
    pub door: Door,
    /// For the audit log.
    pub actor: Actor,
}

/// An answer; if it goes on and on, with what tells that it has ended.
pub struct Answer {
    pub response: Response<Body>,
    pub stream_end: Option<oneshot::Receiver<()>>,
}

impl From<Response<Body>> for Answer {
    fn from(response: Response<Body>) -> Self {
        Self { response, stream_end: None }
    }
}

type Result<T> = std::result::Result<T, ApiError>;

impl Api {
    pub fn new(registry: Arc<Registry>, store: Arc<Store>, token: Option<Token>) -> Self {
        Self {
            registry,
            store,
            token,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            wrong_tokens: Mutex::new(TokenBucket::new(WRONG_TOKENS)),
        }
    }

    /// Answers a request; errors are answers too.
    pub async fn handle(self: Arc<Self>, peer: &Peer, request: Request<Incoming>) -> Answer {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let changes = !matches!(method, Method::GET | Method::HEAD);
        let result = match self.admit(peer, &request) {
            Ok(()) => self.dispatch(peer, request).await,
            Err(error) => Err(error),
        };
        result.unwrap_or_else(|error| {
            let guarded = matches!(error.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            if changes || guarded {
                let action = action(&method, &path);
                let id =
                    path.strip_prefix("/v1/breakpoints/").map(|rest| rest.split('/').next().unwrap_or(rest));
                let id = id.map(|id| id.chars().take(128).collect::<String>());
                self.registry.record_refusal(
                    &peer.actor,
                    action,
                    id.as_deref(),
                    &error.message,
                    Timestamp::now(),
                );
            }
            refusal(&error, &path).into()
        })
    }

    fn admit(&self, peer: &Peer, request: &Request<Incoming>) -> Result<()> {
        // Orchestrators ask without a token; the answer tells them nothing else.
        if peer.door != Door::Unix && request.uri().path() == "/healthz" && self.token.is_some() {
            return Ok(());
        }
        let result = guard::check(peer.door, self.token.as_ref(), request.headers());
        if !matches!(&result, Err(error) if error.status == StatusCode::UNAUTHORIZED) {
            return result;
        }
        // Whoever has the right token is not kept out by those who guess.
        let mut wrong = self.wrong_tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.take(Instant::now()) {
            return result;
        }
        Err(ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_wrong_tokens",
            "too many requests with a wrong token; try again in a second with the right one",
        ))
    }

    async fn dispatch(self: &Arc<Self>, peer: &Peer, request: Request<Incoming>) -> Result<Answer> {
        let path = request.uri().path().to_owned();
        let (endpoint, id) = match route(request.method(), &path) {
            Routed::To(endpoint, id) => (endpoint, id),
            Routed::WrongMethod => {
                let message = format!("{path} has no {}; see GET /openapi.json", request.method());
                return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message));
            }
            Routed::Nowhere => {
                let message = "there is no such path; see GET /openapi.json";
                return Err(ApiError::new(StatusCode::NOT_FOUND, "no_such_path", message));
            }
        };
        let query = Query::parse(request.uri().query().unwrap_or_default())?;
        let now = Timestamp::now();
        let actor = &peer.actor;
        let response = match endpoint {
            Endpoint::Health => Ok(self.health(peer)),
            Endpoint::OpenApi => Ok(text(StatusCode::OK, OPENAPI)),
            Endpoint::Limits => Ok(answer(StatusCode::OK, &limits::table())),
            Endpoint::ListBreakpoints => {
                query.only(&["kind"])?;
                let mut list = self.registry.list(now);
                if let Some(kind) = query.get("kind") {
                    let kind = match kind {
                        "snapshot" => Kind::Snapshot,
                        "log" => Kind::Log,
                        _ => return Err(ApiError::bad_request("kind must be snapshot or log")),
                    };
                    list.retain(|view| view.breakpoint.kind == kind);
                }
                Ok(answer(StatusCode::OK, &json!({ "breakpoints": list })))
            }
            Endpoint::AddBreakpoint => {
                let spec: Spec = read(request).await?;
                let (registry, actor) = (Arc::clone(&self.registry), actor.clone());
                // It may look into processes, which takes a while.
                let added = tokio::task::spawn_blocking(move || registry.add(spec, &actor, now)).await;
                let view = added.map_err(|_| internal())??;
                Ok(answer(StatusCode::CREATED, &view))
            }
            Endpoint::GetBreakpoint => {
                let id = parse_id(id)?;
                let view = self.registry.get(&id, now).ok_or(RegistryError::NotFound(id))?;
                Ok(answer(StatusCode::OK, &view))
            }
            Endpoint::UpdateBreakpoint => {
                let id = parse_id(id)?;
                let patch: Patch = read(request).await?;
                Ok(answer(StatusCode::OK, &self.registry.update(&id, &patch, actor, now)?))
            }
            Endpoint::RemoveBreakpoint => {
                Ok(answer(StatusCode::OK, &self.registry.remove(&parse_id(id)?, actor, now)?))
            }
            Endpoint::EnableBreakpoint | Endpoint::DisableBreakpoint => {
                let enabled = Some(endpoint == Endpoint::EnableBreakpoint);
                let patch = Patch { enabled, ..Patch::default() };
                Ok(answer(StatusCode::OK, &self.registry.update(&parse_id(id)?, &patch, actor, now)?))
            }
            Endpoint::ListSnapshots => self.snapshots(&query),
            Endpoint::GetSnapshot => match self.store.get(id) {
                Some(stored) => Ok(text(StatusCode::OK, &*stored.json)),
                None => {
                    let message = format!("there is no snapshot {id:?}; only recent ones are kept");
                    Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", message))
                }
            },
            Endpoint::Events => return self.events(&query),
            Endpoint::GetKillSwitch => Ok(answer(StatusCode::OK, &self.kill_switch())),
            Endpoint::SetKillSwitch => {
                let wanted: KillSwitchRequest = read(request).await?;
                let service = wanted.service.as_deref();
                if service.is_some_and(|service| service.is_empty() || service.len() > 256) {
                    return Err(ApiError::bad_request("service must have 1 to 256 bytes"));
                }
                self.registry.set_kill_switch(wanted.enabled, service, Source::Local, actor, now);
                Ok(answer(StatusCode::OK, &self.kill_switch()))
            }
        };
        response.map(Answer::from)
    }

    fn health(&self, peer: &Peer) -> Response<Body> {
        if peer.door != Door::Unix && self.token.is_some() {
            return answer(StatusCode::OK, &json!({ "status": "ok" }));
        }
        let overview = json!({
            "status": "ok",
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "services": self.registry.services().iter().map(|service| &**service).collect::<Vec<_>>(),
            "kill_switch": self.registry.kill_switch().is_on(),
        });
        answer(StatusCode::OK, &overview)
    }

    fn kill_switch(&self) -> Json {
        let switch = self.registry.kill_switch();
        json!({ "enabled": switch.is_on(), "all": switch.all, "services": switch.services, "remote": switch.remote })
    }

    fn snapshots(&self, query: &Query) -> Result<Response<Body>> {
        query.only(&["breakpoint", "service", "trace_id", "since", "limit"])?;
        let since = query.get("since").map(str::parse).transpose();
        let limit = query.get("limit").map(str::parse).transpose();
        let filter = Filter {
            breakpoint: query.get("breakpoint").map(str::to_owned),
            service: query.get("service").map(str::to_owned),
            trace_id: query.get("trace_id").map(str::to_owned),
            since: since
                .map_err(|_| ApiError::bad_request("since must be a time such as 2026-01-31T12:00:00Z"))?,
            limit: limit.map_err(|_| ApiError::bad_request("limit must be a whole number"))?,
        };
        let list = self.store.list(&filter);
        let list: Vec<_> = list.iter().map(|stored| &**stored).collect();
        Ok(answer(StatusCode::OK, &json!({ "snapshots": list, "evicted": self.store.evicted() })))
    }

    fn events(&self, query: &Query) -> Result<Answer> {
        query.only(&["breakpoint", "only"])?;
        let only = match query.get("only") {
            None => None,
            Some("snapshots") => Some(Only::Snapshots),
            Some("changes") => Some(Only::Changes),
            Some(_) => return Err(ApiError::bad_request("only must be snapshots or changes")),
        };
        let wanted = Wanted { breakpoint: query.get("breakpoint").map(str::to_owned), only };
        let Ok(permit) = Arc::clone(&self.streams).try_acquire_owned() else {
            let message =
                format!("{MAX_STREAMS} streams of events are open, which is all there may be; close one");
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_streams", message));
        };
        let feed = Feed::new(&self.registry, &self.store, wanted);
        let (sender, receiver) = mpsc::channel(PENDING);
        let (ended, stream_end) = oneshot::channel();
        tokio::spawn(async move {
            feed.run(sender).await;
            drop((permit, ended));
        });
        let mut response = Response::new(Body::Stream(receiver));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(Answer { response, stream_end: Some(stream_end) })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KillSwitchRequest {
    enabled: bool,
    #[serde(default)]
    service: Option<String>,
}

/// What the audit log calls a request.
fn action(method: &Method, path: &str) -> &'static str {
    match route(method, path) {
        Routed::To(Endpoint::AddBreakpoint, _) => "add",
        Routed::To(Endpoint::UpdateBreakpoint, _) => "update",
        Routed::To(Endpoint::RemoveBreakpoint, _) => "remove",
        Routed::To(Endpoint::EnableBreakpoint, _) => "enable",
        Routed::To(Endpoint::DisableBreakpoint, _) => "disable",
        Routed::To(Endpoint::SetKillSwitch, _) => "kill-switch",
        _ => "request",
    }
}

fn parse_id(text: &str) -> Result<Id> {
    text.parse().map_err(|_| {
        let message = "there is no breakpoint with this name; `tracekit break ls` lists them";
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
    })
}

/// The body as JSON.
async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // A form of a foreign web page can't have this type without asking first.
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        let message = "send JSON with Content-Type: application/json";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", message));
    }
    let too_large = || {
        let message = format!("the body is larger than {} KiB", MAX_BODY / 1024);
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    };
    if request.body().size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    let body = tokio::time::timeout(BODY_TIME, Limited::new(request.into_body(), MAX_BODY).collect()).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(_)) => return Err(ApiError::bad_request("the body broke off")),
        Err(_) => {
            let message = format!("the body did not arrive within {} s", BODY_TIME.as_secs());
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message));
        }
    };
    serde_json::from_slice(&body)
        .map_err(|error| ApiError::bad_request(format!("the body is not right: {error}")))
}

/// Query parameters, each at most once.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Result<Self> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (key, value) in url::form_urlencoded::parse(text.as_bytes()) {
            if pairs.iter().any(|(known, _)| *known == key) {
                return Err(ApiError::bad_request(format!("the query has {key:?} twice")));
            }
            pairs.push((key.into_owned(), value.into_owned()));
        }
        Ok(Self(pairs))
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    fn only(&self, known: &[&str]) -> Result<()> {
        match self.0.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            Some((key, _)) => {
                let message = format!("there is no parameter {key:?}; known are {}", known.join(", "));
                Err(ApiError::bad_request(message))
            }
            None => Ok(()),
        }
    }
}

fn internal() -> ApiError {
    let message = "the agent failed at this; see its log, and please report it";
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
}

fn answer(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // Fails only for maps with keys that are no texts.
    let json = serde_json::to_string(value).unwrap_or_default();
    text(status, json)
}

fn text(status: StatusCode, json: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::full(json.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    response
}

fn refusal(error: &ApiError, path: &str) -> Response<Body> {
    let mut response = answer(error.status, &error.to_json());
    let headers = response.headers_mut();
    match error.status {
        StatusCode::UNAUTHORIZED => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::TOO_MANY_REQUESTS => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            let methods = ROUTES.iter().map(|(method, _, _)| method);
            let allowed: Vec<&str> = methods
                .filter(|method| matches!(route(method, path), Routed::To(..)))
                .map(Method::as_str)
                .collect();
            let mut allowed = allowed;
            allowed.sort_unstable();
            allowed.dedup();
            if let Ok(value) = HeaderValue::try_from(allowed.join(", ")) {
                headers.insert(ALLOW, value);
            }
        }
        _ => {}
    }
    response
}
