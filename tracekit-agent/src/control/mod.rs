//! The control of a running agent: its API over HTTP, for the command line, for programs and for web pages.
//!
//! One thread with an event loop serves a Unix socket, which only the agent's own user and root can reach,
//! and TCP addresses when asked. Everything a client sends is bounded in size and time.

pub mod address;
mod api;
pub mod audit;
mod body;
pub mod client;
mod error;
mod events;
pub mod guard;
pub mod remote;
mod route;
mod server;
pub mod sse;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::snapshot::persist::StateFolder;
use crate::snapshot::registry::Registry;
use crate::snapshot::store::Store;
use address::SocketError;
use api::Api;
use guard::{Door, Token};

/// The OpenAPI document of the API, as `GET /openapi.json` gives it.
pub const OPENAPI: &str = include_str!("openapi.json");

/// How long running answers may take when the agent ends.
const SHUTDOWN: Duration = Duration::from_millis(500);

/// Where the API is served.
#[derive(Debug, Clone, Default)]
pub struct ControlConfig {
    /// Path of the Unix socket.
    pub socket: Option<PathBuf>,
    /// TCP addresses.
    pub listen: Vec<SocketAddr>,
    /// The secret for TCP.
    pub token: Option<Token>,
}

/// Why the API can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The Unix socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// An address.
    #[error("can't listen on {address}: {error}; choose another with --control-listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// Others could reach it.
    #[error(
        "{0} can be reached by other hosts, so the API needs a token there: set TRACEKIT_CONTROL_TOKEN or \
         --control-token-file, or listen on 127.0.0.1"
    )]
    NoToken(SocketAddr),
    /// No thread or event loop.
    #[error("can't start the control thread: {0}; check the limits on threads and open files")]
    Thread(#[from] io::Error),
}

/// The running API; dropped, it ends, and the socket is removed.
#[derive(Debug)]
pub struct Control {
    socket: Option<PathBuf>,
    addresses: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Control {
    /// Listens, and serves from a thread of its own, which also keeps the breakpoints in `state`.
    ///
    /// # Errors
    /// Something can't be listened on.
    pub fn start(
        config: &ControlConfig,
        registry: Arc<Registry>,
        store: Arc<Store>,
        state: Option<Arc<StateFolder>>,
    ) -> Result<Self, ControlError> {
        let mut tcp = Vec::new();
        for &address in &config.listen {
            let door = if address.ip().is_loopback() { Door::Loopback } else { Door::Network };
            if door == Door::Network && config.token.is_none() {
                return Err(ControlError::NoToken(address));
            }
            let failed = |error| ControlError::Listen { address, error };
            let listener = std::net::TcpListener::bind(address).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            tcp.push((listener, door));
        }
        let addresses = tcp.iter().filter_map(|(listener, _)| listener.local_addr().ok()).collect();
        let unix = config.socket.as_deref().map(address::bind).transpose()?;

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, mut stopped) = watch::channel(false);
        let api = Arc::new(Api::new(Arc::clone(&registry), store, config.token.clone()));
        let serve = async move {
            if let Some(state) = state {
                tokio::spawn(state.keep(registry));
            }
            if let Some(unix) = unix {
                let listener = tokio::net::UnixListener::from_std(unix)?;
                tokio::spawn(server::serve_unix(listener, Arc::clone(&api)));
            }
            for (listener, door) in tcp {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                tokio::spawn(server::serve_tcp(listener, door, Arc::clone(&api)));
            }
            // Fails when the sender is gone, which means the same.
            let _ = stopped.wait_for(|stop| *stop).await;
            Ok::<_, io::Error>(())
        };
        let run = move || {
            if let Err(error) = runtime.block_on(serve) {
                tracing::error!(%error, "the control API can't be served");
            }
            runtime.shutdown_timeout(SHUTDOWN);
        };
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(run)?;
        Ok(Self { socket: config.socket.clone(), addresses, stop, thread: Some(thread) })
    }

    /// The TCP addresses, with the ports that the system has chosen.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(socket);
        }
        // Fails if the thread has ended.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control thread has panicked; please report this");
        }
    }
}
