//! What recorded connections of real clients and servers come to.

mod support;

use support::{Capture, assert_paired, ends};
use tracekit_protocol::{Event, Outcome, Request, Role};

/// One line for an exchange: what the table of each test compares.
fn line(event: &tracekit_protocol::End) -> String {
    let outcome = match event.outcome {
        Outcome::Complete => "",
        Outcome::ClosedLocally => " closed-locally",
        Outcome::ClosedByPeer => " closed-by-peer",
        Outcome::Unknown => " unknown",
    };
    match &event.request {
        Request::Http(http) => {
            let number = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
            format!(
                "{} {} {} {}>{}{outcome}",
                http.method,
                http.target,
                number(http.status.map(u64::from)),
                number(http.request_body_size),
                number(http.response_body_size),
            )
        }
        Request::Redis(redis) => {
            let text = if redis.batch.is_empty() {
                tracekit_protocol::redis::sanitize(&redis.command, &redis.arguments)
            } else {
                let names: Vec<_> = redis.batch.iter().map(|c| c.command.as_str()).take(4).collect();
                format!("{}({}: {})", redis.command, redis.batch_size, names.join(" "))
            };
            let error = redis.error.as_ref().map_or(String::new(), |e| format!(" !{}", e.prefix));
            let handshake = if redis.handshake { " handshake" } else { "" };
            format!("{text}{error}{handshake}{outcome}")
        }
        other => panic!("neither HTTP nor Redis: {other:?}"),
    }
}

/// Client and server see the same exchanges.
fn check(name: &str, expected: &[&str]) -> Vec<Event> {
    let capture = Capture::load(name);
    let events = capture.play();
    assert_paired(&events);
    let lines: Vec<_> = ends(&events).into_iter().map(line).collect();
    assert_eq!(lines, expected, "{name}");
    assert!(ends(&events).iter().all(|e| e.role == Role::Client));
    let served = capture.mirrored().play();
    assert_paired(&served);
    let swap = |l: &String| {
        let l = l.replace("closed-locally", "closed-by-");
        l.replace("closed-by-peer", "closed-locally").replace("closed-by-", "closed-by-peer")
    };
    let seen: Vec<_> = ends(&served).into_iter().map(line).collect();
    assert_eq!(seen, lines.iter().map(swap).collect::<Vec<_>>(), "{name}, from the server");
    assert!(ends(&served).iter().all(|e| e.role == Role::Server));
    events
}

#[test]
fn http_10() {
    check("http-10", &["GET /old 200 0>13"]);
}

#[test]
fn http_aiohttp() {
    check("http-aiohttp", &["GET /hello 200 0>18", "GET /stream 200 0>700", "GET /fail 500 0>265"]);
}

#[test]
fn http_client_timeout() {
    check("http-client-timeout", &["GET /slow - 0>- closed-locally"]);
}

#[test]
fn http_curl_continue() {
    check("http-curl-continue", &["POST /echo 200 5000>5000"]);
}

#[test]
fn http_curl_upgrade() {
    check("http-curl-upgrade", &["GET /hello 200 0>18", "GET /stream 200 0>700"]);
}

#[test]
fn http_httpx() {
    check(
        "http-httpx",
        &["GET /hello 200 0>18", "POST /echo 200 13>13", "GET /stream 200 0>700", "GET /missing 404 0>207"],
    );
}

#[test]
fn http_malformed() {
    check("http-malformed", &[]);
}

#[test]
fn http_requests() {
    check(
        "http-requests",
        &[
            "GET /hello?name=x 200 0>14",
            "GET /missing 404 0>207",
            "GET /fail 500 0>265",
            "POST /echo 200 3000>3000",
            "GET /stream 200 0>700",
            "GET /large 200 0>9000",
            "HEAD /hello 200 0>0",
            "GET /empty 204 0>0",
            "POST /echo 200 18>18",
        ],
    );
}

#[test]
fn http_urllib3() {
    check("http-urllib3", &["GET /hello 200 0>18", "PUT /echo 200 9000>9000", "GET /large 200 0>9000"]);
}

#[test]
fn redis_asyncio() {
    check(
        "redis-asyncio",
        &[
            "HELLO ? handshake",
            "CLIENT MAINT_NOTIFICATIONS ? ? ? !ERR handshake",
            "CLIENT SETINFO ? ? !ERR handshake",
            "CLIENT SETINFO ? ? !ERR handshake",
            "GET ?",
            "GET ?",
            "GET ?",
            "GET ?",
            "GET ?",
        ],
    );
}

#[test]
fn redis_auth_2() {
    check(
        "redis-auth-2",
        &[
            "HELLO handshake",
            "CLIENT MAINT_NOTIFICATIONS ? ? ? !ERR handshake",
            "CLIENT SETINFO ? ? !ERR handshake",
            "CLIENT SETINFO ? ? !ERR handshake",
            "SELECT ? handshake",
            "PING",
        ],
    );
}

#[test]
fn redis_auth() {
    check("redis-auth", &["HELLO !WRONGPASS handshake"]);
}

#[test]
fn redis_pipeline_resp2() {
    check(
        "redis-pipeline-resp2",
        &[
            "CLIENT SETINFO ? ? !ERR handshake",
            "CLIENT SETINFO ? ? !ERR handshake",
            "PIPELINE(4: SET GET LPOP INCRBY) !WRONGTYPE",
            "MULTI(2: SET INCRBY)",
            "MULTI(2: SET INCRBY) !ERR",
            "PIPELINE(400: SET SET SET SET)",
            "WATCH ?",
            "GET ?",
            "MULTI(1: SET)",
        ],
    );
}

#[test]
fn redis_pipeline_resp3() {
    check(
        "redis-pipeline-resp3",
        &[
            "HELLO ? handshake",
            "CLIENT MAINT_NOTIFICATIONS ? ? ? !ERR handshake",
            "CLIENT SETINFO ? ? !ERR handshake",
            "CLIENT SETINFO ? ? !ERR handshake",
            "PIPELINE(4: SET GET LPOP INCRBY) !WRONGTYPE",
            "MULTI(2: SET INCRBY)",
            "MULTI(2: SET INCRBY) !ERR",
            "PIPELINE(400: SET SET SET SET)",
            "WATCH ?",
            "GET ?",
            "MULTI(1: SET)",
        ],
    );
}

#[test]
fn redis_pubsub_resp2() {
    check(
        "redis-pubsub-resp2",
        &[
            "CLIENT SETINFO ? ? !ERR handshake",
            "CLIENT SETINFO ? ? !ERR handshake",
            "SUBSCRIBE ? ?",
            "PSUBSCRIBE ?",
            "PING",
            "UNSUBSCRIBE",
        ],
    );
}

#[test]
fn redis_pubsub_resp3() {
    check(
        "redis-pubsub-resp3",
        &[
            "HELLO ? handshake",
            "CLIENT MAINT_NOTIFICATIONS ? ? ? !ERR handshake",
            "CLIENT SETINFO ? ? !ERR handshake",
            "CLIENT SETINFO ? ? !ERR handshake",
            "SUBSCRIBE ? ?",
            "PSUBSCRIBE ?",
            "PING",
            "UNSUBSCRIBE",
        ],
    );
}

/// What the recorded client does once it is connected, whichever protocol version it speaks.
const REDIS_WORK: &[&str] = &[
    "SELECT ? handshake",
    "FLUSHDB",
    "SET ? ?",
    "GET ?",
    "GET ?",
    "INCRBY ? ?",
    "LPUSH ? ? ? ? ? ? ? ? ? ? ? ? ? ? ? ? ? ? ? ? ?",
    "LRANGE ? ? ?",
    "HSET ? ? ? ? ?",
    "HGETALL ?",
    "SADD ? ? ?",
    "SMEMBERS ?",
    "ZADD ? ? ?",
    "ZSCORE ? ?",
    "CONFIG GET ?",
    "EXISTS ? ?",
    "EVAL ? ?",
    "INCRBY ? ? !ERR",
    "LPOP ? !WRONGTYPE",
    "NOPE ? !ERR",
    "SET ? ?",
    "GET ?",
    "BLPOP ? ?",
];

#[test]
fn redis_resp2() {
    check(
        "redis-resp2",
        &[
            &[
                "CLIENT SETNAME ? handshake",
                "CLIENT SETINFO ? ? !ERR handshake",
                "CLIENT SETINFO ? ? !ERR handshake",
            ],
            REDIS_WORK,
        ]
        .concat(),
    );
}

#[test]
fn redis_resp3() {
    check(
        "redis-resp3",
        &[
            &[
                "HELLO ? handshake",
                "CLIENT MAINT_NOTIFICATIONS ? ? ? !ERR handshake",
                "CLIENT SETNAME ? handshake",
                "CLIENT SETINFO ? ? !ERR handshake",
                "CLIENT SETINFO ? ? !ERR handshake",
            ],
            REDIS_WORK,
        ]
        .concat(),
    );
}

#[test]
fn redis_timeout() {
    check(
        "redis-timeout",
        &[
            "HELLO ? handshake",
            "CLIENT MAINT_NOTIFICATIONS ? ? ? !ERR handshake",
            "CLIENT SETINFO ? ? !ERR handshake",
            "CLIENT SETINFO ? ? !ERR handshake",
            "BLPOP ? ? closed-locally",
        ],
    );
}
