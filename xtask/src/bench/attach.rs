//! `cargo xtask bench attach`: how long the first span takes.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tracekit_tests::agent;
use tracekit_tests::client::{Request, send_once};
use tracekit_tests::paths;
use tracekit_tests::process::{Process, free_port, resident_kib};
use tracekit_tests::stage::Stage;

use super::{SHOP, machine};
use crate::setup::{Profile, build_agent};

/// What to attach to, how often.
#[derive(Debug, clap::Args)]
pub struct Attach {
    /// Attaches.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Objects of 1000 bytes on the heap of the process, in thousands.
    #[arg(long, default_value_t = 500)]
    heap: usize,
}

/// An unprepared process with a heap, that answers HTTP.
const SERVICE: &str = "\
import http.server, sys
heap = [bytes(1000) for _ in range(int(sys.argv[2]) * 1000)]
address = ('127.0.0.1', int(sys.argv[1]))
http.server.ThreadingHTTPServer(address, http.server.SimpleHTTPRequestHandler).serve_forever()
";

/// How long a span may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Attaches again and again, with a request every few milliseconds, until a span is printed.
///
/// # Errors
/// Something does not start, or no span comes.
pub fn run(arguments: &Attach) -> Result<()> {
    let build = build_agent(Profile::Release)?;
    let stage = Stage::new("bench-attach")?;
    let port = free_port()?;
    let mut service = Command::new(paths::venv("web", "python")?);
    service.args(["-c", SERVICE, &port.to_string(), &arguments.heap.to_string()]);
    let mut service = Process::start("service", stage.logs(), service)?;
    let request = Request { close: true, ..Request::get("/none") };
    service.ready(LIMIT, || Ok(send_once(port, &request).is_ok().then_some(())))?;

    let mut times = Vec::with_capacity(arguments.rounds);
    for _ in 0..arguments.rounds {
        let pid = service.pid().to_string();
        let command = agent::command_of(&build, &["attach", "--print", "jsonl", "--pid", &pid]);
        let started = Instant::now();
        let mut agent = Process::start("agent", stage.logs(), command)?;
        while agent.stdout().is_empty() {
            if started.elapsed() > LIMIT {
                bail!("no span came:\n{}", agent.log_tail());
            }
            send_once(port, &request)?;
            std::thread::sleep(Duration::from_millis(5));
        }
        times.push(started.elapsed());
        agent.stop(LIMIT)?;
    }
    times.sort_unstable();
    let (Some(least), Some(median), Some(most)) = (times.first(), times.get(times.len() / 2), times.last())
    else {
        bail!("nothing to measure with --rounds 0");
    };
    println!("{}\n", machine(SHOP)?);
    println!("| resident memory, MiB | attaches | first span after: least | median | most |");
    println!("|---|---|---|---|---|");
    println!(
        "| {} | {} | {:.3} s | {:.3} s | {:.3} s |",
        resident_kib(service.pid()).unwrap_or(0) / 1024,
        times.len(),
        least.as_secs_f64(),
        median.as_secs_f64(),
        most.as_secs_f64()
    );
    service.stop(LIMIT)?;
    Ok(())
}
