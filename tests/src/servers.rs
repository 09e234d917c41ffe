//! Real servers with data of their own on ports of their own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tempfile::TempDir;

use crate::process::{Process, free_port, run};

const START: Duration = Duration::from_secs(60);

/// The shops' tables and 20 products, in SQL that PostgreSQL and MariaDB both take but for the serial key.
fn schema(serial: &str) -> String {
    let rows: Vec<String> =
        (1..=20).map(|id| format!("({id}, 'product {id}', {}, 1000000)", id * 10)).collect();
    format!(
        "CREATE TABLE products (id int PRIMARY KEY, name text NOT NULL, price int NOT NULL, stock int NOT NULL);
         CREATE TABLE orders (id {serial}, product_id int NOT NULL, quantity int NOT NULL, note text NOT NULL);
         INSERT INTO products VALUES {};",
        rows.join(", ")
    )
}

fn data_directory(owner: &str) -> Result<TempDir> {
    let directory = tempfile::Builder::new().prefix(&format!("tracekit-{owner}-")).tempdir()?;
    if is_root() {
        run(Command::new("chown").arg(owner).arg(directory.path()))?;
    }
    Ok(directory)
}

fn is_root() -> bool {
    // SAFETY: geteuid has no arguments and always succeeds.
    unsafe { libc::geteuid() == 0 }
}

/// `program` as `user` if this process is root (PostgreSQL refuses to run as root). The death signal has to be
/// set after the change of user, which clears it.
fn as_user(user: &str, program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={user}")).arg(format!("--regid={user}")).arg("--init-groups");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// PostgreSQL with the shops' tables in the database `shop`; user `postgres`, no password.
#[derive(Debug)]
pub struct Postgres {
    /// Port on 127.0.0.1.
    pub port: u16,
    _server: Process,
    _data: TempDir,
}

impl Postgres {
    /// # Errors
    /// It is not installed or does not start.
    pub fn start(logs: &Path) -> Result<Self> {
        let bin = postgres_bin()?;
        let data = data_directory("postgres")?;
        let cluster = data.path().join("cluster");
        run(as_user("postgres", &bin.join("initdb"))
            .current_dir(data.path())
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(&cluster))
        .context("make a PostgreSQL cluster")?;
        let port = free_port()?;
        let mut command = as_user("postgres", &bin.join("postgres"));
        command.current_dir(data.path()).arg("-D").arg(&cluster).args(["-p", &port.to_string(), "-k"]);
        command.arg(data.path()).args(["-c", "fsync=off", "-c", "max_connections=200"]);
        // SIGINT: fast shutdown (PostgreSQL documentation, 19.5).
        let mut server = Process::start("postgres", logs, command)?.stopped_by(libc::SIGINT);
        let psql = || {
            let mut command = Command::new("psql");
            command.args(["-h", "127.0.0.1", "-U", "postgres", "-q", "-v", "ON_ERROR_STOP=1", "-p"]);
            command.arg(port.to_string());
            command
        };
        server.ready(START, || run(psql().args(["-d", "postgres", "-c", "SELECT 1"])).map(|_| Some(())))?;
        run(psql().args(["-d", "postgres", "-c", "CREATE DATABASE shop"]))?;
        run(psql().args(["-d", "shop", "-c", &schema("serial PRIMARY KEY")]))?;
        Ok(Self { port, _server: server, _data: data })
    }
}

fn postgres_bin() -> Result<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| {
            entries
                .filter_map(|entry| {
                    let path = entry.ok()?.path();
                    let version = path.file_name()?.to_str()?.parse().ok()?;
                    path.join("bin/initdb").exists().then(|| (version, path.join("bin")))
                })
                .collect()
        })
        .unwrap_or_default();
    versions.sort();
    versions.pop().map(|(_, bin)| bin).ok_or_else(|| anyhow!("no PostgreSQL server: run `cargo xtask setup`"))
}

/// MariaDB with the shops' tables in the database `shop`; user and password `shop`.
#[derive(Debug)]
pub struct MariaDb {
    /// Port on 127.0.0.1.
    pub port: u16,
    _server: Process,
    _data: TempDir,
}

impl MariaDb {
    /// # Errors
    /// It is not installed or does not start.
    pub fn start(logs: &Path) -> Result<Self> {
        let data = data_directory("mysql")?;
        let user = if is_root() { "--user=mysql" } else { "--skip-test-db" };
        let files = data.path().join("data");
        run(Command::new("mariadb-install-db")
            .args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal", user])
            .arg(format!("--datadir={}", files.display())))
        .context("make a MariaDB data directory")?;
        let port = free_port()?;
        let socket = data.path().join("socket");
        let mut command = as_user("mysql", Path::new("/usr/sbin/mariadbd"));
        command.arg("--no-defaults").arg(format!("--datadir={}", files.display()));
        command.arg(format!("--socket={}", socket.display())).arg(format!("--port={port}"));
        command.args([
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--innodb-flush-log-at-trx-commit=0",
        ]);
        command.arg(format!("--pid-file={}", data.path().join("pid").display()));
        let mut server = Process::start("mariadb", logs, command)?;
        let client = |sql: &str| {
            run(Command::new("mariadb")
                .args(["--no-defaults", "-u", "root", "-e", sql])
                .arg(format!("--socket={}", socket.display())))
        };
        server.ready(START, || client("SELECT 1").map(|_| Some(())))?;
        client(&format!(
            "CREATE USER shop IDENTIFIED BY 'shop'; CREATE DATABASE shop; GRANT ALL ON shop.* TO shop; USE shop; {}",
            schema("int AUTO_INCREMENT PRIMARY KEY")
        ))?;
        Ok(Self { port, _server: server, _data: data })
    }
}

/// Redis without persistence.
#[derive(Debug)]
pub struct Redis {
    /// Port on 127.0.0.1.
    pub port: u16,
    _server: Process,
    data: TempDir,
}

impl Redis {
    /// # Errors
    /// It is not installed or does not start.
    pub fn start(logs: &Path) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("tracekit-redis-").tempdir()?;
        let port = free_port()?;
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]);
        command.arg(data.path()).arg("--unixsocket").arg(data.path().join("socket"));
        let mut server = Process::start("redis", logs, command)?;
        server.ready(START, || {
            let answer = run(Command::new("redis-cli").args(["-p", &port.to_string(), "ping"]))?;
            Ok((answer.trim() == "PONG").then_some(()))
        })?;
        Ok(Self { port, _server: server, data })
    }

    /// Its Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.data.path().join("socket")
    }
}
