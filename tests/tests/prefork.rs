//! Line breakpoints in workers that were found one by one and have their code at the same addresses, with registers to
//! spare and without. Through the agent: `snapshots_workers.rs`.

mod watching;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tracekit_agent::probes::watchpoint::Scope;
use tracekit_agent::snapshot::engine::{LineSpec, State};
use tracekit_tests::app::App;
use tracekit_tests::client::{Request, send_once};
use tracekit_tests::debug_registers::with_debug_registers;
use tracekit_tests::paths;
use tracekit_tests::process::{free_port, wait_for};
use tracekit_tests::stage::Stage;

use self::watching::Stage as Watching;

const SOON: Duration = Duration::from_secs(30);

/// Breakpoints on the counted line of processes, each of which stands for those that are forked from it later.
struct Counted {
    watching: Watching,
    /// Processes and their breakpoints.
    breakpoints: Vec<(u32, u32)>,
}

impl Counted {
    /// With `crowded`, more lines than fit are armed, so that each process gets watchpoints of its own.
    fn new(pids: &[u32], crowded: bool) -> Result<Self> {
        let source = std::fs::read_to_string(paths::apps().join("counted.py"))?;
        let at =
            source.lines().position(|line| line.ends_with("# armed")).context("there is no such line")?;
        let line = i32::try_from(at + 1)?;
        let mut watching = Watching::new()?;
        let mut breakpoints = Vec::new();
        for pid in pids {
            watching.attach(*pid)?;
            let id = watching.engine.add(*pid, LineSpec::new("apps/counted.py", line))?;
            breakpoints.push((*pid, id));
        }
        if crowded {
            // Of the application's other function, which does not run: the first process has as many as fit, the last
            // one has another one.
            let first =
                source.lines().position(|line| line.starts_with("async def")).context("no function")?;
            let mut lines = (i32::try_from(first + 2)?..).take(source.lines().count() - first - 1);
            let (one, other) = (pids[0], pids[pids.len() - 1]);
            let mut left = watching.engine.registers();
            while left > 0 {
                let line = lines.next().context("there are not enough lines")?;
                let spec = LineSpec { capture: false, ..LineSpec::new("apps/counted.py", line) };
                left -= usize::from(watching.engine.add(if left > 1 { one } else { other }, spec).is_ok());
            }
        }
        Ok(Self { watching, breakpoints })
    }

    /// All hits and captures of the line.
    fn counts(&self) -> (u64, u64) {
        let status = self.breakpoints.iter().filter_map(|(_, id)| self.watching.engine.status(*id));
        status.fold((0, 0), |(hits, captured), status| {
            (hits + status.hits.hits, captured + status.hits.captured)
        })
    }

    /// The line is hit so often by `work`, and its variable is captured each time.
    fn expect(&mut self, count: u64, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.watching.hits(false);
        let before = self.counts();
        work()?;
        let after = self.counts();
        ensure!(after.0 - before.0 == count, "{} hits of {count}", after.0 - before.0);
        let hits = self.watching.hits(false);
        let of_line = |id: u32| self.breakpoints.iter().any(|(_, known)| *known == id);
        let is_right = |variables: &[(String, _)]| variables.iter().any(|(name, _)| name == "path");
        let captured = hits
            .iter()
            .filter(|hit| of_line(hit.breakpoint) && hit.variables.as_deref().is_ok_and(is_right))
            .count();
        ensure!(captured as u64 == after.1 - before.1, "{captured} of {} captures", after.1 - before.1);
        ensure!(after.1 - before.1 == count, "{} captures of {count}", after.1 - before.1);
        Ok(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.breakpoints.iter().for_each(|(pid, _)| self.watching.detach(*pid));
    }
}

/// Requests of several clients at once.
fn requests(port: u16, count: u64) -> Result<()> {
    const CLIENTS: u64 = 4;
    std::thread::scope(|scope| {
        let send = move || -> Result<()> {
            for _ in 0..count / CLIENTS {
                let answer = send_once(port, &Request { close: true, ..Request::get("/counted") })?;
                ensure!(answer.status == 200, "status {}", answer.status);
            }
            Ok(())
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(send)).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("a client does not panic"))
    })
}

#[test]
fn gunicorn_that_loads_before_it_forks() -> Result<()> {
    with_debug_registers(|| {
        for crowded in [false, true] {
            Stage::run("prefork-preload", |stage| {
                let port = free_port()?;
                let mut command = Command::new(paths::venv("web", "gunicorn")?);
                command.args(["--workers", "4", "--preload", "--no-control-socket", "--bind"]);
                command.arg(format!("127.0.0.1:{port}")).arg("counted:wsgi");
                command.current_dir(paths::apps()).env("PYTHONDONTWRITEBYTECODE", "1");
                let app = App::start("gunicorn", stage.logs(), command, port, 4)?;
                let arbiter = app.process.pid();
                // As the agent meets them: the arbiter and each worker, all with the same addresses.
                let mut counted = Counted::new(&app.pids(), crowded)?;
                let state =
                    counted.watching.engine.status(counted.breakpoints[0].1).map(|status| status.state);
                let scope = if crowded { Scope::Tasks(arbiter) } else { Scope::Processors };
                ensure!(state == Some(State::Active { scope, rotating: false }), "{state:?}");
                counted.expect(200, || requests(port, 200))?;
                // One that is forked later.
                let worker = *app.worker_pids().first().context("there is no worker")?;
                // SAFETY: a signal to a process that this test has started.
                unsafe { libc::kill(i32::try_from(worker)?, libc::SIGKILL) };
                wait_for("another worker", SOON, || {
                    let now = app.worker_pids();
                    Ok((now.len() == 4 && !now.contains(&worker)).then_some(()))
                })?;
                std::thread::sleep(Duration::from_millis(500));
                counted.expect(200, || requests(port, 200))
            })?;
        }
        Ok(())
    })
}
