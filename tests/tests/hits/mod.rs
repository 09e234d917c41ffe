//! A breakpoint of the engine on a line of a program, and the hits of it.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tracekit_agent::discovery::Inspector;
use tracekit_agent::discovery::proc_fs::ProcFs;
use tracekit_agent::probes::{ProbeOptions, Probes, Records};
use tracekit_agent::python::Reader;
use tracekit_agent::python::kernel::describe;
use tracekit_agent::python::object::Limits;
use tracekit_agent::python::runtime::Target;
use tracekit_agent::snapshot::engine::hit::RawHit;
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
    _records: Records,
    engine: Engine,
}

impl Stage {
    pub fn new() -> Result<Self> {
        let options = ProbeOptions { ring_bytes: 1 << 20, ..ProbeOptions::default() };
        let (mut probes, records) = Probes::load(options).context("load the kernel side")?;
        let engine = Engine::start(&mut probes)?;
        Ok(Self { probes, _records: records, engine })
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
                    self.engine.wait(Duration::from_millis(100));
                    if let Some(hit) = self.engine.hits(false).pop() {
                        break hit;
                    }
                    ensure!(Instant::now() < end, "no hit: {:?}", self.engine.status(id));
                };
                found.insert(*depth, hit.raw);
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
