//! A breakpoint of the engine on a line of a program, and the hits of it.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tracekit_agent::discovery::Inspector;
use tracekit_agent::discovery::proc_fs::ProcFs;
use tracekit_agent::probes::watchpoint::HitRecords;
use tracekit_agent::probes::{ProbeOptions, Probes, Records};
use tracekit_agent::python::Reader;
use tracekit_agent::python::kernel::describe;
use tracekit_agent::python::object::Limits;
use tracekit_agent::python::runtime::Target;
use tracekit_agent::snapshot::engine::hit::{self, RawHit};
use tracekit_agent::snapshot::engine::{Engine, LineSpec};
use tracekit_tests::interpreters::{Interpreter, Running};

/// How the program is called, which comes as an argument.
const FILE: &str = "app/captured.py";
const BEGIN: &str = "import sys; exec(compile(sys.argv[1], 'app/captured.py', 'exec'))";
/// Calls of the function until the kernel side knows how all types are copied.
const ROUNDS: usize = 4;

/// The kernel side.
pub struct Stage {
    probes: Probes,
    _events: Records,
    engine: Engine,
    records: HitRecords,
}

impl Stage {
    pub fn new() -> Result<Self> {
        let options = ProbeOptions { ring_bytes: 1 << 20, ..ProbeOptions::default() };
        let (mut probes, events) = Probes::load(options).context("load the kernel side")?;
        let (watchpoints, records) = probes.watchpoints()?;
        Ok(Self { probes, _events: events, engine: Engine::new(watchpoints)?, records })
    }

    /// The last hit that waits. Decoded, so that the kernel side learns about its types.
    fn hit(&mut self) -> Option<RawHit> {
        let (mut raw, mut last) = (Vec::new(), None);
        self.records.drain(|bytes| raw.extend(hit::decode(bytes).map(|hit| (hit, ()))));
        self.engine.hits(raw, |hit, ()| {
            let _ = hit.raw.variables(hit.live, hit.limits, false);
            last = Some(hit.raw);
        });
        last
    }

    /// Runs the program, and gives `work` what it said of its expressions, the process, and the hits with images of each
    /// of these depths.
    pub fn hits(
        &mut self,
        interpreter: &Interpreter,
        source: &str,
        expressions: &[String],
        depths: &[usize],
        work: impl FnOnce(&str, &Reader<'_>, &BTreeMap<usize, RawHit>) -> Result<()>,
    ) -> Result<()> {
        let at = source.lines().position(|line| line.ends_with("# here")).context("a line is marked")?;
        let line = i32::try_from(at + 1)?;
        let mut command = interpreter.command();
        command.args(["-W", "ignore", "-c", BEGIN, source]).env("PYTHON_JIT", "0");
        let mut running = Running::start(command, Stdio::piped())?;
        let said = running.ask(&serde_json::to_string(expressions)?)?;
        let pid = running.pid();
        let inspected = Inspector::default().inspect(pid)?;
        let target = Target::open(&ProcFs::default(), &inspected)?;
        let python = describe(&target).context("it is not described")?;
        self.probes.describe(pid, &python)?;
        self.probes.select(pid)?;
        self.engine.add_process(target)?;
        let mut found = BTreeMap::new();
        for depth in depths {
            let limits = Limits { depth: *depth, items: 20, ..Limits::default() };
            let spec = LineSpec { limits, bytes: 32 * 1024, ..LineSpec::new(FILE, line) };
            let id = self.engine.add(pid, spec)?;
            for _ in 0..ROUNDS {
                ensure!(running.ask("again")?.trim() == "done", "it does not answer");
                let end = Instant::now() + Duration::from_secs(5);
                let hit = loop {
                    self.records.wait(Duration::from_millis(100));
                    if let Some(hit) = self.hit() {
                        break hit;
                    }
                    ensure!(Instant::now() < end, "no hit: {:?}", self.engine.status(id));
                };
                found.insert(*depth, hit);
            }
            self.engine.remove(id);
        }
        self.engine.remove_process(pid);
        self.probes.deselect(pid);
        let target = Target::open(&ProcFs::default(), &inspected)?;
        let live = Reader::new(&target.memory, target.layout);
        work(&said, &live, &found)
    }
}
