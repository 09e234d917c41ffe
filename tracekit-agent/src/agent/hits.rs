//! Hits of breakpoints, and the requests that they belong to.

use std::collections::VecDeque;

use tracekit_protocol::exchange::Http;

use super::clock::monotonic_nanos;
use crate::{
    net::{Connection, Connections},
    probes::{record::Endpoint, watchpoint::HitRecords},
    snapshot::{
        debugger::Moment,
        engine::hit::{self, RawHit},
        record::Request,
    },
    trace::correlator::Correlator,
};

/// Hits that wait for the records before them, in the order of time. None, before breakpoints are loaded.
#[derive(Default)]
pub struct Waiting {
    records: Option<HitRecords>,
    hits: VecDeque<RawHit>,
    /// Until when they have been taken over: nanoseconds of `CLOCK_MONOTONIC`.
    until: u64,
}

impl Waiting {
    /// Of these records.
    pub fn new(records: HitRecords) -> Self {
        Self { records: Some(records), ..Self::default() }
    }

    /// Takes over what the kernel side has reported.
    pub fn read(&mut self) {
        let Some(records) = &mut self.records else { return };
        self.until = monotonic_nanos();
        let hits = &mut self.hits;
        records.drain(|bytes| match hit::decode(bytes) {
            Some(hit) => hits.push_back(hit),
            None => tracing::error!(
                length = bytes.len(),
                "malformed hit from the kernel side; please report this"
            ),
        });
        self.hits.make_contiguous().sort_by_key(|hit| hit.record.time);
    }

    /// As [`Waiting::read`], unless everything until this time has been taken over.
    pub fn read_until(&mut self, time: u64) {
        if self.until < time {
            self.read();
        }
    }

    /// The next one before this time, in nanoseconds of `CLOCK_MONOTONIC`.
    pub fn before(&mut self, time: u64) -> Option<RawHit> {
        self.hits.front().filter(|hit| hit.record.time < time)?;
        self.hits.pop_front()
    }
}

/// The request for which a line ran, as far as that is known now.
pub fn moment(hit: &RawHit, correlator: &Correlator, connections: &Connections) -> Moment {
    let Some((exchange, span)) = correlator.serving(hit.record.tgid, hit.record.tid, &hit.record.by) else {
        return Moment::default();
    };
    let request = connections.request(exchange.0, exchange.1);
    Moment { request: request.map(|(connection, http)| of_http(connection, http)), span }
}

fn of_http(connection: &Connection, http: &Http) -> Request {
    let client = match connection.ends.as_ref().map(|(_, remote)| remote) {
        Some(Endpoint::Ip(address)) => Some(address.ip().to_string()),
        _ => None,
    };
    let headers = http.request_headers.iter();
    Request {
        method: http.method.clone(),
        url: http.target.clone(),
        route: None,
        headers: headers.map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect(),
        client,
    }
}
