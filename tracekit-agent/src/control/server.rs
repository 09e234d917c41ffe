//! Listeners and connections.
//!
//! One request a connection: it is dropped when its head has not arrived in five seconds or the answer has not
//! left in thirty, so that whoever is slow on purpose holds a place for seconds only. Every listener has places
//! of its own: nobody on the network keeps a local user out.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::api::{Api, Peer};
use super::guard::Door;
use crate::snapshot::registry::Actor;

/// Connections of one listener.
const MAX_CONNECTIONS: usize = 64;
/// For a request's head.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// For a whole exchange, streams of events excepted.
const EXCHANGE_TIME: Duration = Duration::from_secs(30);
/// Bytes of a request's head; also of the buffer for its body.
const MAX_HEAD: usize = 32 * 1024;
/// After a failed accept (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a Unix socket. Never returns.
pub async fn serve_unix(listener: UnixListener, api: Arc<Api>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let own = rustix::process::geteuid().as_raw();
    loop {
        // Fails only for a semaphore that is closed, which nobody does.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection to the control socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // The file's permissions say the same; they can be changed, and this can't.
        let Some(peer) = stream.peer_cred().ok().filter(|peer| peer.uid() == 0 || peer.uid() == own) else {
            tracing::warn!("a connection of another user to the control socket was refused");
            continue;
        };
        let pid = peer.pid().map_or(String::new(), |pid| format!(", pid {pid}"));
        let actor = Actor { who: format!("uid {}{pid}", peer.uid()), via: "unix" };
        let api = Arc::clone(&api);
        tokio::spawn(async move {
            connection(stream, api, Peer { door: Door::Unix, actor }).await;
            drop(place);
        });
    }
}

/// Serves a TCP address. Never returns.
pub async fn serve_tcp(listener: TcpListener, door: Door, api: Arc<Api>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, address): (_, SocketAddr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection to the control address");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let actor = Actor { who: address.to_string(), via: "tcp" };
        let api = Arc::clone(&api);
        tokio::spawn(async move {
            connection(stream, api, Peer { door, actor }).await;
            drop(place);
        });
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, api: Arc<Api>, peer: Peer) {
    let stream_end = Arc::new(Mutex::new(None));
    let service = service_fn(|request| {
        let (api, peer, stream_end) = (Arc::clone(&api), peer.clone(), Arc::clone(&stream_end));
        async move {
            let answer = api.handle(&peer, request).await;
            *stream_end.lock().unwrap_or_else(PoisonError::into_inner) = answer.stream_end;
            Ok::<_, Infallible>(answer.response)
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(MAX_HEAD).keep_alive(false);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let too_long = async {
        tokio::time::sleep(EXCHANGE_TIME).await;
        let end = stream_end.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(end) = end {
            // Fails when its sender is dropped, which is what it waits for. What was sent last may still leave.
            let _ = end.await;
            tokio::time::sleep(HEAD_TIME).await;
        }
    };
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(who = peer.actor.who, %error, "a control connection has ended early");
        },
        () = too_long => tracing::debug!(who = peer.actor.who, "a control connection took too long"),
    }
}
