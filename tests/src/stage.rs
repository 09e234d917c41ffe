//! Directory and servers of one test.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::app::Environment;
use crate::paths;
use crate::process::{Process, free_port, wait_for};
use crate::servers::{MariaDb, Postgres, Redis};

/// Where a test keeps its logs, and the servers that it has started.
#[derive(Debug)]
pub struct Stage {
    logs: PathBuf,
    /// PostgreSQL, if asked for.
    pub postgres: Option<Postgres>,
    /// MariaDB, if asked for.
    pub mariadb: Option<MariaDb>,
    /// Redis, if asked for.
    pub redis: Option<Redis>,
    /// The service that applications call.
    pub backend: Option<Backend>,
}

/// `tests/apps/backend.py`.
#[derive(Debug)]
pub struct Backend {
    /// Port on 127.0.0.1.
    pub port: u16,
    _process: Process,
}

impl Stage {
    /// An empty stage with the directory `target/e2e/<name>`, emptied.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let logs = paths::target().join("e2e").join(name);
        if logs.exists() {
            std::fs::remove_dir_all(&logs).with_context(|| format!("empty {}", logs.display()))?;
        }
        std::fs::create_dir_all(&logs).with_context(|| format!("make {}", logs.display()))?;
        Ok(Self { logs, postgres: None, mariadb: None, redis: None, backend: None })
    }

    /// Runs one test on an empty stage. If it fails, the ends of all logs follow on standard error.
    ///
    /// # Errors
    /// Those of the test.
    pub fn run(name: &str, test: impl FnOnce(Self) -> Result<()>) -> Result<()> {
        let stage = Self::new(name)?;
        let logs = stage.logs.clone();
        let result = test(stage);
        if result.is_err() {
            eprintln!("{}", log_tails(&logs));
        }
        result
    }

    /// Directory of the logs.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Adds PostgreSQL.
    ///
    /// # Errors
    /// It does not start.
    pub fn with_postgres(mut self) -> Result<Self> {
        self.postgres = Some(Postgres::start(&self.logs)?);
        Ok(self)
    }

    /// Adds MariaDB.
    ///
    /// # Errors
    /// It does not start.
    pub fn with_mariadb(mut self) -> Result<Self> {
        self.mariadb = Some(MariaDb::start(&self.logs)?);
        Ok(self)
    }

    /// Adds Redis.
    ///
    /// # Errors
    /// It does not start.
    pub fn with_redis(mut self) -> Result<Self> {
        self.redis = Some(Redis::start(&self.logs)?);
        Ok(self)
    }

    /// Adds the HTTP service that applications call.
    ///
    /// # Errors
    /// It does not start.
    pub fn with_backend(mut self) -> Result<Self> {
        let port = free_port()?;
        let mut command = std::process::Command::new("/usr/bin/python3");
        command.arg(paths::apps().join("backend.py")).arg(port.to_string());
        let process = Process::start("backend", &self.logs, command)?;
        wait_for("the backend's port", std::time::Duration::from_secs(20), || {
            Ok(std::net::TcpStream::connect(("127.0.0.1", port)).map(Some)?)
        })?;
        self.backend = Some(Backend { port, _process: process });
        Ok(self)
    }

    /// The ports of the servers, as applications find them in their environment.
    #[must_use]
    pub fn environment(&self) -> Environment {
        let mut variables = Vec::new();
        let ports = [
            ("PG_PORT", self.postgres.as_ref().map(|server| server.port)),
            ("MYSQL_PORT", self.mariadb.as_ref().map(|server| server.port)),
            ("REDIS_PORT", self.redis.as_ref().map(|server| server.port)),
            ("BACKEND_PORT", self.backend.as_ref().map(|server| server.port)),
        ];
        for (name, port) in ports {
            if let Some(port) = port {
                variables.push((name.to_owned(), port.to_string()));
            }
        }
        variables
    }
}

/// The last lines of every log of a stage that has any.
fn log_tails(logs: &Path) -> String {
    let mut files: Vec<PathBuf> = std::fs::read_dir(logs)
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "err"));
    files.sort();
    let mut text = String::new();
    for file in files {
        let content = std::fs::read(&file).unwrap_or_default();
        let content = String::from_utf8_lossy(&content).into_owned();
        let lines: Vec<&str> = content.lines().collect();
        if !lines.is_empty() {
            let tail = &lines[lines.len().saturating_sub(15)..];
            text.push_str(&format!("--- {}\n{}\n", file.display(), tail.join("\n")));
        }
    }
    text
}
