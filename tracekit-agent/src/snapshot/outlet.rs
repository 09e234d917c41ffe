//! Where a snapshot goes when it has been made.

use std::sync::Arc;

use jiff::Timestamp;

use super::record::{Snapshot, log_record};
use super::store::Store;
use crate::control::remote::Uploads;
use crate::export::{Handle, LogItem};
use crate::redact::Redactor;

/// The ways out of the agent. None of them waits.
#[derive(Clone)]
pub struct Outlet {
    /// The recent ones, for API and command line.
    pub store: Arc<Store>,
    /// OTLP.
    pub export: Handle,
    /// The control server.
    pub remote: Option<Uploads>,
    /// What nothing leaves without.
    pub redactor: &'static Redactor,
}

impl Outlet {
    /// Hands a snapshot out, without secrets and cut to its payload.
    pub fn publish(&self, mut snapshot: Snapshot) {
        snapshot.redact(self.redactor);
        snapshot.fit();
        self.store.add(&snapshot);
        let observed = u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(0);
        let resource = Arc::clone(&snapshot.process.resource);
        self.export.submit_log(LogItem { resource, record: log_record(&snapshot, observed) });
        if let Some(remote) = &self.remote {
            remote.submit(&snapshot);
        }
    }
}
