//! The servers under which `tests/apps/work` runs: every way in which a Python service handles requests at once.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::app::{App, Environment};
use crate::paths;
use crate::process::{Process, free_port};

/// The HTTP service that the calls go to.
#[derive(Debug)]
pub struct Upstream {
    port: u16,
    _process: Process,
}

impl Upstream {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(logs: &Path) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new("/usr/bin/python3");
        command.arg("upstream.py").arg(port.to_string()).current_dir(paths::apps().join("work"));
        let mut process = Process::start("upstream", logs, command)?;
        process.ready(Duration::from_secs(20), || {
            Ok(TcpStream::connect(("127.0.0.1", port)).map(|_| Some(()))?)
        })?;
        Ok(Self { port, _process: process })
    }

    /// Where applications find it.
    #[must_use]
    pub fn environment(&self) -> (String, String) {
        ("UPSTREAM_PORT".to_owned(), self.port.to_string())
    }
}

/// An interpreter, by the virtual environment that holds it, the servers and the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Python {
    /// Debian's `/usr/bin/python3`, which is stripped.
    Debian,
    /// pyenv's 3.13, which has its symbols.
    Pyenv,
}

impl Python {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Debian, Self::Pyenv];

    /// Name for tables and directories.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Debian => "stripped",
            Self::Pyenv => "symbols",
        }
    }

    fn venv(self) -> &'static str {
        match self {
            Self::Debian => "servers",
            Self::Pyenv => "servers-pyenv",
        }
    }
}

/// A server with the framework that it serves.
#[derive(Debug)]
pub struct Server {
    /// Name for tables and directories.
    pub name: &'static str,
    /// Program and arguments; `PORT` stands for the port.
    command: &'static [&'static str],
    /// Worker processes beside the one that is started.
    workers: usize,
    /// Library of greenlets that the application has to know of.
    greenlets: Option<&'static str>,
    /// Whether it answers a second request that comes together with the first one.
    pub pipelines: bool,
    /// The application answers `/stream/N`.
    streams: bool,
    /// The application answers `/sync/N` in a thread of the framework's.
    threadpool: bool,
    /// The application takes a websocket at `/websocket/N`.
    websockets: bool,
}

impl Server {
    const fn new(name: &'static str, command: &'static [&'static str]) -> Self {
        Self {
            name,
            command,
            workers: 0,
            greenlets: None,
            pipelines: true,
            streams: true,
            threadpool: false,
            websockets: false,
        }
    }

    const fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    const fn greenlets(mut self, library: &'static str) -> Self {
        self.greenlets = Some(library);
        self
    }

    const fn no_pipelining(mut self) -> Self {
        self.pipelines = false;
        self
    }

    const fn no_stream(mut self) -> Self {
        self.streams = false;
        self
    }

    const fn threadpool(mut self) -> Self {
        self.threadpool = true;
        self
    }

    const fn fastapi(mut self) -> Self {
        self.websockets = true;
        self.threadpool()
    }

    /// The path of request `number`: most do all kinds of work, some stream their answer, are handled in a thread, or
    /// become a websocket.
    #[must_use]
    pub fn target(&self, number: u64) -> String {
        match number % 4 {
            1 if self.streams => format!("/stream/{number}"),
            3 if self.threadpool => format!("/sync/{number}"),
            2 if self.websockets && number % 8 == 2 => format!("{WEBSOCKET}{number}"),
            _ => format!("/work/{number}"),
        }
    }

    /// Starts it on a free port and waits for the first answer.
    ///
    /// # Errors
    /// It does not start, or `cargo xtask setup` has not run.
    pub fn start(&self, name: &str, python: Python, logs: &Path, environment: &Environment) -> Result<App> {
        let port = free_port()?;
        let mut words = self.command.iter().map(|word| word.replace("PORT", &port.to_string()));
        let program = words.next().unwrap_or_default();
        let mut command = Command::new(paths::venv(python.venv(), &program)?);
        command.args(words).current_dir(paths::apps().join("work")).env("PYTHONDONTWRITEBYTECODE", "1");
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        if let Some(library) = self.greenlets {
            command.env("GREENLETS", library);
        }
        App::start(name, logs, command, port, self.workers)
    }
}

/// Begin of the path of requests that become websockets.
pub const WEBSOCKET: &str = "/websocket/";

/// What all of gunicorn's rows begin with. A connection is kept for longer than a round of the load takes.
macro_rules! gunicorn {
    ($application:literal, $($argument:literal),*) => {
        &["gunicorn", $application, "--bind", "127.0.0.1:PORT", "--workers", "2", "--worker-tmp-dir", "/dev/shm",
            "--keep-alive", "30", "--no-control-socket", $($argument),*]
    };
}

/// What all of uvicorn's rows begin with.
macro_rules! uvicorn {
    ($application:literal, $($argument:literal),*) => {
        &["uvicorn", $application, "--port", "PORT", "--log-level", "warning", "--timeout-keep-alive", "30",
            $($argument),*]
    };
}

/// Every server that is tested.
pub const SERVERS: &[Server] = &[
    Server::new("gunicorn sync, Flask", gunicorn!("flask_app:app",)).workers(2).no_pipelining(),
    Server::new("gunicorn gthread, Flask", gunicorn!("flask_app:app", "--threads", "8"))
        .workers(2)
        .no_pipelining(),
    Server::new("gunicorn gevent, Flask", gunicorn!("flask_app:app", "--worker-class", "gevent"))
        .workers(2)
        .greenlets("gevent"),
    Server::new("gunicorn eventlet, Flask", gunicorn!("flask_app:app", "--worker-class", "eventlet"))
        .workers(2)
        .greenlets("eventlet"),
    Server::new(
        "gunicorn uvicorn worker, FastAPI",
        gunicorn!("fastapi_app:app", "--worker-class", "uvicorn.workers.UvicornWorker"),
    )
    .workers(2)
    .fastapi(),
    Server::new("gunicorn gthread, Flask async views", gunicorn!("flask_async_app:app", "--threads", "8"))
        .workers(2)
        .no_pipelining()
        .no_stream(),
    Server::new("waitress, Flask", &["python", "waitress_app.py", "PORT"]),
    Server::new("uvicorn asyncio, FastAPI", uvicorn!("fastapi_app:app", "--loop", "asyncio")).fastapi(),
    Server::new("uvicorn uvloop, FastAPI", uvicorn!("fastapi_app:app", "--loop", "uvloop")).fastapi(),
    Server::new(
        "uvicorn uvloop, 2 workers, FastAPI",
        uvicorn!("fastapi_app:app", "--loop", "uvloop", "--workers", "2"),
    )
    .workers(2)
    .fastapi(),
    Server::new("uvicorn uvloop, Django async views", uvicorn!("django_app:application", "--loop", "uvloop"))
        .threadpool(),
    Server::new("hypercorn, FastAPI", &["hypercorn", "fastapi_app:app", "--bind", "127.0.0.1:PORT"])
        .workers(1)
        .fastapi(),
    Server::new(
        "daphne, Django async views",
        &["daphne", "-b", "127.0.0.1", "-p", "PORT", "-v", "0", "django_app:application"],
    )
    .threadpool(),
    Server::new("aiohttp", &["python", "aiohttp_app.py", "PORT"]),
    Server::new("Tornado", &["python", "tornado_app.py", "PORT"]),
    Server::new("Sanic", &["python", "sanic_app.py", "PORT"]),
];

/// The server of that name.
#[must_use]
pub fn server(name: &str) -> Option<&'static Server> {
    SERVERS.iter().find(|server| server.name == name)
}
