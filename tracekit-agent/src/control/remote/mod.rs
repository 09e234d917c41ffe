//! The client of a control server: takes breakpoints and kill switch from it, and sends it their snapshots.
//!
//! The contract is that of the TraceKit SDKs (tracekit-apm 1.4.1): for each traced service, `GET
//! /sdk/snapshots/active/{service}` every 30 s, every 60 s while its kill switch is on; where the answer names
//! a stream of server-sent events that stream is followed instead, and polling starts again when it ends. What
//! the SDK waits for before it follows the stream, a first breakpoint, is not waited for here: the first one is
//! in force at once, too.
//!
//! The server is not trusted further than its purpose: what it sends is bounded and checked like a user's wish,
//! it has at most half of the breakpoints, and users can switch each of its breakpoints off.

mod service;
mod upload;
mod wire;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Client, redirect};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use url::Url;

use crate::export::SCOPE_VERSION;
use crate::export::otlp::is_local;
use crate::snapshot::breakpoint::Source;
use crate::snapshot::record::Snapshot;
use crate::snapshot::registry::{Actor, Registry};
use service::Follower;
use upload::Upload;

/// Services that are asked for; each is a request every 30 s and a connection.
const MAX_SERVICES: usize = 64;
/// How often the traced services are looked at.
const SERVICES: Duration = Duration::from_millis(500);
/// Snapshots that wait to be sent.
const QUEUE: usize = 256;
/// For the last snapshots to leave.
const FLUSH: Duration = Duration::from_secs(2);
/// Bytes of a certificate file.
const MAX_PEM: u64 = 1 << 20;

/// When the client does what. The defaults are those of the contract; tests have less patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two polls.
    pub poll: Duration,
    /// Between two polls while the kill switch is on.
    pub poll_killed: Duration,
    /// The first pause after an error or a broken stream; each further one is twice as long.
    pub retry: Duration,
    /// The longest pause after errors.
    pub max_retry: Duration,
    /// For a connection, and for a whole answer (streams excepted).
    pub timeout: Duration,
    /// A stream on which nothing comes for this long is taken for dead: servers send heartbeats.
    pub silence: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(30),
            poll_killed: Duration::from_secs(60),
            retry: Duration::from_secs(1),
            max_retry: Duration::from_secs(5 * 60),
            timeout: Duration::from_secs(10),
            silence: Duration::from_secs(120),
        }
    }
}

/// Which server, and how.
#[derive(Clone)]
pub struct RemoteConfig {
    /// Scheme, host and port; a path is put before those of the contract.
    pub url: Url,
    /// Sent as `X-API-Key`.
    pub api_key: String,
    /// PEM file of certificate authorities to trust instead of the system's.
    pub certificate: Option<PathBuf>,
    /// When the client does what.
    pub timing: Timing,
}

/// Why there can be no client.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The URL can't be used.
    #[error("the control server {url:?} can't be used: {problem}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong, and what to give.
        problem: &'static str,
    },
    /// The key can't be a header.
    #[error("the key of the control server has characters that a header may not have")]
    Key,
    /// The certificates can't be used.
    #[error("can't use the certificates in {}: {problem}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// TLS can't be set up.
    #[error("can't set up connections to the control server: {0}")]
    Client(String),
    /// No thread or event loop.
    #[error("can't start the thread for the control server: {0}; check the limits on threads and open files")]
    Thread(#[from] io::Error),
}

impl RemoteConfig {
    /// With the timing of the contract. The URL is that of any endpoint of the server, as the SDKs take it: its
    /// path counts only if it is not one of theirs.
    ///
    /// # Errors
    /// The URL can't be used.
    pub fn new(url: &str, api_key: &str) -> Result<Self, RemoteError> {
        let wrong = |problem| RemoteError::Url { url: url.to_owned(), problem };
        let with_scheme = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
        let mut parsed: Url =
            with_scheme.parse().map_err(|_| wrong("give a URL such as https://control.example"))?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none_or(str::is_empty) {
            return Err(wrong("give a URL such as https://control.example"));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(wrong("give the key as TRACEKIT_API_KEY, not in the URL"));
        }
        // The SDKs are given the URL of traces, and take scheme and host of it.
        let path = parsed.path().trim_end_matches('/').trim_end_matches("/v1/traces").to_owned();
        parsed.set_path(&path);
        parsed.set_query(None);
        parsed.set_fragment(None);
        Ok(Self {
            url: parsed,
            api_key: api_key.trim().to_owned(),
            certificate: None,
            timing: Timing::default(),
        })
    }

    /// The URL of a path of the contract, below the server's own.
    fn at(&self, segments: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    fn client(&self) -> Result<Client, RemoteError> {
        let mut key = HeaderValue::try_from(&self.api_key).map_err(|_| RemoteError::Key)?;
        key.set_sensitive(true);
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-api-key"), key)]);
        let mut builder = Client::builder()
            .user_agent(format!("tracekit/{SCOPE_VERSION}"))
            .default_headers(headers)
            .connect_timeout(self.timing.timeout)
            .tcp_keepalive(Duration::from_secs(30))
            // A redirect would carry the key to somewhere else.
            .redirect(redirect::Policy::none());
        if is_local(&self.url) {
            builder = builder.no_proxy();
        }
        if let Some(path) = &self.certificate {
            let failed = |problem: String| RemoteError::Certificate { path: path.clone(), problem };
            builder = builder.tls_built_in_root_certs(false);
            for certificate in authorities(path).map_err(failed)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        builder.build().map_err(|error| RemoteError::Client(error.to_string()))
    }
}

fn authorities(path: &Path) -> Result<Vec<Certificate>, String> {
    let pem = crate::discovery::proc_fs::read_bounded(path, MAX_PEM).map_err(|error| error.to_string())?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| error.to_string())?;
    if certificates.is_empty() { Err("it holds none".to_owned()) } else { Ok(certificates) }
}

/// Takes snapshots for the server; cheap to clone. Never waits.
#[derive(Debug, Clone)]
pub struct Uploads {
    queue: mpsc::Sender<Upload>,
}

impl Uploads {
    /// Sends a snapshot, if its breakpoint is the server's. What does not fit into the queue is dropped and
    /// counted.
    pub fn submit(&self, snapshot: &Snapshot) {
        if snapshot.breakpoint.source != Source::Remote {
            return;
        }
        let upload = Upload::new(wire::snapshot(snapshot).to_string());
        if self.queue.try_send(upload).is_err() {
            upload::count_dropped();
        }
    }
}

/// The running client. Dropped, it sends what waits for two seconds at most, and ends.
#[derive(Debug)]
pub struct Remote {
    uploads: Uploads,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Remote {
    /// Starts a thread that follows the server. That the server is away is no error.
    ///
    /// # Errors
    /// Key or certificates can't be used.
    pub fn start(config: RemoteConfig, registry: Arc<Registry>) -> Result<Self, RemoteError> {
        if config.url.scheme() == "http" && !is_local(&config.url) {
            tracing::warn!("the key of the control server goes over the network in clear: use https://");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = {
            let _context = runtime.enter();
            config.client()?
        };
        let (queue, waiting) = mpsc::channel(QUEUE);
        let (stop, mut stopped) = watch::channel(false);
        let run = move || {
            runtime.block_on(async {
                let target = config.at(&["sdk", "snapshots", "capture"]);
                let uploads =
                    tokio::spawn(upload::run(client.clone(), target, waiting, config.timing.timeout));
                let following = follow_services(&client, &config, &registry);
                tokio::select! {
                    () = following => {}
                    // Fails when the sender is gone, which means the same.
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
                // Ends when the queue's senders are gone and it is empty.
                let _ = tokio::time::timeout(FLUSH, uploads).await;
            });
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("control-server".to_owned()).spawn(run)?;
        Ok(Self { uploads: Uploads { queue }, stop, thread: Some(thread) })
    }

    /// Where snapshots are handed in.
    #[must_use]
    pub fn uploads(&self) -> Uploads {
        self.uploads.clone()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // Without its sender the queue is at its end.
        let (closed, _) = mpsc::channel(1);
        self.uploads.queue = closed;
        // Fails if the thread has ended.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control server's thread has panicked; please report this");
        }
    }
}

/// A task for each traced service. Never returns.
async fn follow_services(client: &Client, config: &RemoteConfig, registry: &Arc<Registry>) {
    let actor = Actor { who: config.url.origin().ascii_serialization(), via: "remote" };
    let mut tasks: HashMap<Arc<str>, JoinHandle<()>> = HashMap::new();
    let mut too_many = false;
    loop {
        let services = registry.services();
        let gone: Vec<Arc<str>> =
            tasks.keys().filter(|service| services.binary_search(service).is_err()).cloned().collect();
        for service in gone {
            if let Some(task) = tasks.remove(&service) {
                task.abort();
                // What it was about to change it has changed now, or never will.
                let _ = task.await;
            }
            let now = Timestamp::now();
            registry.sync_remote(&service, &[], &actor, now);
            registry.set_kill_switch(false, Some(&service), Source::Remote, &actor, now);
        }
        for service in services {
            if tasks.contains_key(&service) {
                continue;
            }
            if tasks.len() >= MAX_SERVICES {
                if !std::mem::replace(&mut too_many, true) {
                    tracing::warn!("only {MAX_SERVICES} services are asked for at the control server");
                }
                break;
            }
            let follower = Follower::new(
                client.clone(),
                config.clone(),
                Arc::clone(registry),
                Arc::clone(&service),
                actor.clone(),
            );
            tasks.insert(service, tokio::spawn(follower.run()));
        }
        tokio::time::sleep(SERVICES).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let at =
            |url: &str| RemoteConfig::new(url, "k").map(|config| config.at(&["sdk", "a b/c"]).to_string());
        for (url, expected) in [
            ("https://app.tracekit.dev", "https://app.tracekit.dev/sdk/a%20b%2Fc"),
            ("app.tracekit.dev", "https://app.tracekit.dev/sdk/a%20b%2Fc"),
            ("http://localhost:8081/v1/traces", "http://localhost:8081/sdk/a%20b%2Fc"),
            ("http://localhost:8081/below/?q#f", "http://localhost:8081/below/sdk/a%20b%2Fc"),
        ] {
            assert_eq!(at(url).unwrap(), expected, "{url}");
        }
        for url in ["", "ftp://x", "https://", "https://user:secret@host", "unix:///x"] {
            assert!(at(url).is_err(), "{url}");
        }
    }

    #[test]
    fn keys_and_certificates_are_checked_at_once() {
        let registry =
            || Arc::new(Registry::new(Box::new(crate::snapshot::language::Expressions), Box::new(())));
        let config = RemoteConfig::new("https://localhost:1", "a\nb").unwrap();
        assert!(matches!(Remote::start(config, registry()), Err(RemoteError::Key)));
        let config = RemoteConfig {
            certificate: Some("/does/not/exist.pem".into()),
            ..RemoteConfig::new("https://localhost:1", "k").unwrap()
        };
        let error = Remote::start(config, registry()).unwrap_err().to_string();
        assert!(error.contains("/does/not/exist.pem"), "{error}");
    }
}
