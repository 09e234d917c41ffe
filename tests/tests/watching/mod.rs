//! The engine of breakpoints by itself, for the tests of it.

use anyhow::{Context as _, Result};
use tracekit_agent::discovery::Inspector;
use tracekit_agent::probes::watchpoint::HitRecords;
use tracekit_agent::probes::{ProbeOptions, Probes};
use tracekit_agent::python::kernel::describe;
use tracekit_agent::python::object::Value;
use tracekit_agent::python::runtime::Target;
use tracekit_agent::snapshot::engine::Engine;
use tracekit_agent::snapshot::engine::hit::{self, RawHit};

/// The kernel side, without the records of sockets.
pub struct Stage {
    probes: Probes,
    pub engine: Engine,
    pub records: HitRecords,
}

/// A hit, decoded.
pub struct Hit {
    pub breakpoint: u32,
    pub raw: RawHit,
    pub variables: Result<Vec<(String, Value)>, String>,
}

impl Stage {
    pub fn new() -> Result<Self> {
        let options = ProbeOptions { ring_bytes: 4 << 20, ..ProbeOptions::default() };
        let (mut probes, _events) = Probes::load(options).context("load the kernel side")?;
        let (watchpoints, records) = probes.watchpoints()?;
        Ok(Self { probes, engine: Engine::new(watchpoints)?, records })
    }

    /// The hits since the last call, in their order.
    pub fn hits(&mut self, redact: bool) -> Vec<Hit> {
        let (mut raw, mut hits) = (Vec::new(), Vec::new());
        self.records.drain(|bytes| raw.extend(hit::decode(bytes).map(|hit| (hit, ()))));
        self.engine.hits(raw, |hit, ()| {
            let variables =
                hit.raw.variables(hit.live, hit.limits, redact).map_err(|error| error.to_string());
            hits.push(Hit { breakpoint: hit.breakpoint, raw: hit.raw, variables });
        });
        hits.sort_by_key(|hit| hit.raw.record.time);
        hits
    }

    pub fn attach(&mut self, pid: u32) -> Result<()> {
        let inspector = Inspector::default();
        let target = Target::open(&inspector.proc, &inspector.inspect(pid)?)?;
        let python = describe(&target).context("it is not described")?;
        self.probes.describe(pid, &python)?;
        self.probes.select(pid)?;
        self.engine.add_process(target)?;
        Ok(())
    }

    pub fn detach(&mut self, pid: u32) {
        self.engine.remove_process(pid);
        self.probes.deselect(pid);
    }
}
