//! `cargo xtask bench reader`: how long it takes to read a CPython from outside.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value as Json;
use tracekit_tests::app::App;
use tracekit_tests::client::Request;
use tracekit_tests::paths;
use tracekit_tests::process::{Process, free_port, resident_kib, run as output_of, wait_for};
use tracekit_tests::stage::Stage;

use super::{SHOP, build_example, machine, median, number, read_process};
use crate::setup::{Profile, build_agent, step};

/// What to read, how often.
#[derive(Debug, clap::Args)]
pub struct Reader {
    /// Processes that are started and read, one after the other.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Dumps of each.
    #[arg(long, default_value_t = 100)]
    dumps: usize,
    /// Threads of the Django process, each in a request.
    #[arg(long, default_value_t = 64)]
    threads: usize,
    /// Objects on the heap of the process that is searched for code, in thousands.
    #[arg(long, default_value_t = 1050)]
    objects: usize,
}

/// A process with much code and a heap of small objects.
const HEAP: &str = "\
import asyncio, sys, time, unittest, urllib.request
import django.db.models, flask
heap = [(i, 'text %d' % i, [i], {'k': i}) for i in range(int(sys.argv[1]) * 1000)]
print('ready', flush=True)
time.sleep(1e6)
";

const LIMIT: Duration = Duration::from_secs(60);

/// Times of one kind, in milliseconds, one of each round.
#[derive(Debug, Default)]
struct Times {
    open: Vec<f64>,
    first: Vec<f64>,
    later: Vec<f64>,
    worst: Vec<f64>,
    processor: Vec<f64>,
    /// `tracekit` as a command.
    verb: Vec<f64>,
    pyspy: Vec<f64>,
}

/// Starts, reads, and prints tables.
///
/// # Errors
/// Something does not start or cannot be read.
pub fn run(arguments: &Reader) -> Result<()> {
    let agent = build_agent(Profile::Release)?;
    let reader = build_example("reader")?;
    let stage = Stage::new("bench-reader")?;
    let (mut plain, mut locals, mut code) = (Times::default(), Times::default(), Times::default());
    let mut shape = [0_u64; 5];
    for round in 1..=arguments.rounds {
        step(&format!("round {round} of {}", arguments.rounds));
        let app = django(&stage, arguments.threads)?;
        let pid = app.worker_pids().first().copied().unwrap_or_default();
        let _clients = ask(app.port, arguments.threads)?;
        let all_asleep = || Ok((asleep(&agent, pid)? >= arguments.threads).then_some(()));
        wait_for("threads in requests", LIMIT, all_asleep)?;
        let count = arguments.dumps.to_string();
        for (times, options, verb, pyspy) in [
            (&mut plain, &["--count", &count][..], &["--all-threads"][..], &["dump"][..]),
            (
                &mut locals,
                &["--count", &count, "--locals"],
                &["--all-threads", "--locals"],
                &["dump", "--locals"],
            ),
        ] {
            let measured = read_process(&reader, pid, options)?;
            times.add(&measured)?;
            shape = shape_of(&measured, shape);
            times.verb.push(wall(Command::new(&agent).args(["dump", "--pid", &pid.to_string()]).args(verb))?);
            let mut command = Command::new(paths::venv("pyspy", "py-spy")?);
            times.pyspy.push(wall(command.args(pyspy).args(["--pid", &pid.to_string()]))?);
        }
        drop(_clients);
        app.process.signal_group(libc::SIGKILL);
        drop(app);

        let heap = heap(&stage, arguments.objects)?;
        let measured = read_process(&reader, heap.pid(), &["--code", "--count", "5"])?;
        code.add(&measured)?;
        shape[3] = measured["sizes"][0].as_u64().unwrap_or(0);
        shape[4] = resident_kib(heap.pid()).unwrap_or(0) / 1024;
        let pid = heap.pid().to_string();
        code.verb.push(wall(Command::new(&agent).args(["code", "--pid", &pid, "*"]))?);
    }
    print(arguments, &plain, &locals, &code, shape)
}

impl Times {
    fn add(&mut self, measured: &Json) -> Result<()> {
        self.open.push(number(measured, "open_ms")?);
        self.first.push(number(measured, "first_ms")?);
        self.later.push(number(measured, "median_ms")?);
        self.worst.push(number(measured, "p99_ms")?);
        self.processor.push(number(measured, "processor_ms")?);
        Ok(())
    }

    fn row(&self) -> String {
        let cell = |values: &Vec<f64>| match values.is_empty() {
            true => "–".to_owned(),
            false => format!("{:.1}", median(values.clone())),
        };
        let columns =
            [&self.open, &self.first, &self.later, &self.worst, &self.processor, &self.verb, &self.pyspy];
        columns.map(cell).join(" | ")
    }
}

/// Threads, frames and variables that a dump had.
fn shape_of(measured: &Json, before: [u64; 5]) -> [u64; 5] {
    let size = |at: usize| measured["sizes"][at].as_u64().unwrap_or(0).max(before[at]);
    [size(0), size(1), size(2), before[3], before[4]]
}

/// Wall time of a command, in milliseconds.
fn wall(command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    output_of(command)?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// `shop_django` under gunicorn with threads, which needs no database for what is asked of it.
fn django(stage: &Stage, threads: usize) -> Result<App> {
    let port = free_port()?;
    let mut command = Command::new(paths::venv("web", "gunicorn")?);
    command.args(["--bind", &format!("127.0.0.1:{port}"), "--worker-tmp-dir", "/dev/shm"]);
    command.args(["--no-control-socket", "--worker-class", "gthread", "--threads", &threads.to_string()]);
    command.arg("shop_django.wsgi:application").current_dir(paths::apps());
    command.env("DJANGO_SETTINGS_MODULE", "shop_django.settings").env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("PG_PORT", "1").env("REDIS_PORT", "1").env("BACKEND_PORT", "1").env("SHOP_DB", "psycopg");
    App::start("django", stage.logs(), command, port, 1)
}

/// A request for every thread, which takes longer than the benchmark.
fn ask(port: u16, count: usize) -> Result<Vec<TcpStream>> {
    let host = format!("127.0.0.1:{port}");
    let bytes = Request::get("/sleep/3600").bytes(&host);
    let send = || -> Result<TcpStream> {
        let mut stream = TcpStream::connect(&host)?;
        std::io::Write::write_all(&mut stream, &bytes)?;
        Ok(stream)
    };
    (0..count).map(|_| send()).collect()
}

/// Threads that are in the view.
fn asleep(agent: &Path, pid: u32) -> Result<usize> {
    let text = output_of(Command::new(agent).args(["dump", "--all-threads", "--pid", &pid.to_string()]))?;
    Ok(text.lines().filter(|line| line.contains("views.py")).count())
}

fn heap(stage: &Stage, objects: usize) -> Result<Process> {
    let mut command = Command::new(paths::venv("web", "python")?);
    command.args(["-c", HEAP, &objects.to_string()]);
    let mut process = Process::start("heap", stage.logs(), command)?;
    let out = process.stdout_path().to_owned();
    process.ready(LIMIT, || Ok((!std::fs::read(&out)?.is_empty()).then_some(())))?;
    Ok(process)
}

fn print(arguments: &Reader, plain: &Times, locals: &Times, code: &Times, shape: [u64; 5]) -> Result<()> {
    ensure!(arguments.rounds > 0, "nothing to measure with --rounds 0");
    let [threads, frames, variables, codes, resident] = shape;
    println!("{}\n", machine(SHOP)?);
    println!(
        "{} rounds; medians of the rounds, milliseconds; {} dumps or 5 searches in each.\n",
        arguments.rounds, arguments.dumps
    );
    println!(
        "| what | attach | first | later, median | later, p99 | later, processor time | as a command | py-spy, as a command |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    println!("| stacks of {threads} threads, {frames} frames | {} |", plain.row());
    println!("| the same with {variables} variables | {} |", locals.row());
    println!("| {codes} code objects in {resident} MiB | {} |", code.row());
    Ok(())
}
