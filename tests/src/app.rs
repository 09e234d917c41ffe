//! The applications under test, with and without the OpenTelemetry SDK.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::client::{Request, send_once};
use crate::paths;
use crate::process::{Process, children, free_port, wait_for};

/// Environment variables of an application.
pub type Environment = Vec<(String, String)>;

/// An application and the server that runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// `shop_flask.py` under gunicorn's sync worker, psycopg2.
    FlaskSync,
    /// `shop_flask.py` under gunicorn's gthread worker, psycopg 3.
    FlaskGthread,
    /// `shop_django` under gunicorn's sync worker, ORM over psycopg 3.
    Django,
    /// `plain_http.py` on `http.server`, PyMySQL.
    PlainHttp,
    /// `shop_fastapi.py` under uvicorn with uvloop, asyncpg and httpx.
    FastApi,
}

/// What records the requests.
#[derive(Debug, Clone)]
pub enum Tracing {
    /// Nothing in the application.
    None,
    /// `opentelemetry-instrument`, exporting OTLP over HTTP to this port.
    Sdk {
        /// Port of the collector.
        collector: u16,
        /// Also trace `http.server` and `http.client`, which the SDK has no instrumentation for.
        stdlib: bool,
    },
}

/// A running application that answers requests.
#[derive(Debug)]
pub struct App {
    /// Port on 127.0.0.1.
    pub port: u16,
    /// The process that was started: gunicorn's arbiter, or the application itself.
    pub process: Process,
    workers: usize,
}

impl Setup {
    /// Name of the setup, for directories and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::FlaskSync => "flask-sync",
            Self::FlaskGthread => "flask-gthread",
            Self::Django => "django",
            Self::PlainHttp => "plain-http",
            Self::FastApi => "fastapi",
        }
    }

    fn driver(self) -> &'static str {
        match self {
            Self::FlaskSync => "psycopg2",
            Self::FlaskGthread | Self::Django => "psycopg",
            Self::PlainHttp => "pymysql",
            Self::FastApi => "asyncpg",
        }
    }

    /// The program that serves it.
    fn server(self) -> &'static str {
        match self {
            Self::FlaskSync | Self::FlaskGthread | Self::Django => "gunicorn",
            Self::PlainHttp => "python",
            Self::FastApi => "uvicorn",
        }
    }

    /// Where that is installed, alone and with the SDK.
    fn venvs(self) -> (&'static str, &'static str) {
        if self == Self::FastApi { ("servers", "otel-fastapi") } else { ("web", "otel") }
    }

    /// Starts it on a free port and waits for the first answer.
    ///
    /// # Errors
    /// It does not start, or `cargo xtask setup` has not run.
    pub fn start(self, logs: &Path, environment: &Environment, tracing: &Tracing) -> Result<App> {
        self.start_on(free_port()?, logs, environment, tracing)
    }

    /// Starts it on this port of 127.0.0.1 and waits for the first answer.
    ///
    /// # Errors
    /// As [`Setup::start`].
    pub fn start_on(
        self,
        port: u16,
        logs: &Path,
        environment: &Environment,
        tracing: &Tracing,
    ) -> Result<App> {
        let mut arguments: Vec<String> = Vec::new();
        let server = self.server();
        if server == "gunicorn" {
            arguments.extend(["--bind".into(), format!("127.0.0.1:{port}"), "--workers".into(), "2".into()]);
            arguments.extend(["--worker-tmp-dir".into(), "/dev/shm".into(), "--no-control-socket".into()]);
            if self == Self::FlaskGthread {
                arguments.extend(["--worker-class", "gthread", "--threads", "4"].map(String::from));
            }
            arguments.push(match self {
                Self::Django => "shop_django.wsgi:application".into(),
                _ => "shop_flask:app".into(),
            });
        } else if server == "uvicorn" {
            arguments
                .extend(["shop_fastapi:app", "--loop", "uvloop", "--log-level", "warning"].map(String::from));
            arguments.extend(["--port".into(), port.to_string()]);
        } else {
            let script = match tracing {
                Tracing::Sdk { .. } => "reference_stdlib.py",
                Tracing::None => "plain_http.py",
            };
            arguments.extend([paths::apps().join(script).display().to_string(), port.to_string()]);
        }
        let (plain, instrumented) = self.venvs();
        let mut command = match tracing {
            Tracing::None => Command::new(paths::venv(plain, server)?),
            Tracing::Sdk { collector, .. } => {
                let mut command = Command::new(paths::venv(instrumented, "opentelemetry-instrument")?);
                command.arg(paths::venv(instrumented, server)?);
                for (key, value) in sdk_environment(*collector) {
                    command.env(key, value);
                }
                command
            }
        };
        command.args(arguments).current_dir(paths::apps()).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("SHOP_DB", self.driver());
        if self == Self::Django {
            command.env("DJANGO_SETTINGS_MODULE", "shop_django.settings");
        }
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        if matches!(tracing, Tracing::Sdk { stdlib: true, .. }) {
            // On the command line opentelemetry-instrument would take it for an option of its own.
            command.env("GUNICORN_CMD_ARGS", "--config python:reference_stdlib");
        }
        let workers = if server == "gunicorn" { 2 } else { 0 };
        App::start(self.name(), logs, command, port, workers)
    }
}

/// What makes the SDK say the stable conventions, and export soon.
fn sdk_environment(collector: u16) -> [(&'static str, String); 8] {
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{collector}")),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".into()),
        ("OTEL_TRACES_EXPORTER", "otlp".into()),
        ("OTEL_METRICS_EXPORTER", "none".into()),
        ("OTEL_LOGS_EXPORTER", "none".into()),
        ("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database".into()),
        ("OTEL_BSP_SCHEDULE_DELAY", "500".into()),
        ("OTEL_SERVICE_NAME", "shop".into()),
    ]
}

impl App {
    /// Starts `command`, which serves `/ping` on `port` with this many `workers` (0: by itself).
    ///
    /// # Errors
    /// It does not start.
    pub fn start(name: &str, logs: &Path, command: Command, port: u16, workers: usize) -> Result<Self> {
        let mut process = Process::start(name, logs, command)?;
        process.ready(Duration::from_secs(60), || {
            let answer = send_once(port, &Request { close: true, ..Request::get("/ping") })?;
            if answer.status != 200 {
                bail!("GET /ping: status {}", answer.status);
            }
            Ok(Some(()))
        })?;
        let app = Self { port, process, workers };
        wait_for(&format!("{workers} workers of {name}"), Duration::from_secs(20), || {
            Ok((app.worker_pids().len() >= workers).then_some(()))
        })?;
        Ok(app)
    }

    /// Worker processes: gunicorn's children.
    #[must_use]
    pub fn worker_pids(&self) -> Vec<u32> {
        if self.workers == 0 { Vec::new() } else { children(self.process.pid()) }
    }

    /// All of its processes.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = vec![self.process.pid()];
        pids.extend(self.worker_pids());
        pids
    }

    /// Ends it, so that an SDK in it exports what it still has.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(mut self) -> Result<()> {
        self.process.stop(Duration::from_secs(15))?;
        Ok(())
    }
}
