//! What `attach` and `run` need to be controlled: breakpoints, their files, and the API.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;

use super::agent::usage;
use crate::control::address::{SocketError, default_socket, private_folder};
use crate::control::audit::{AuditLog, AuditTarget};
use crate::control::guard::Token;
use crate::control::remote::{Remote, RemoteConfig};
use crate::control::{Control, ControlConfig, ControlError};
use crate::discovery::Inspector;
use crate::exit::{ExitCode, Failure};
use crate::export::Handle;
use crate::redact::Redactor;
use crate::snapshot::language::Expressions;
use crate::snapshot::locate::Located;
use crate::snapshot::outlet::Outlet;
use crate::snapshot::persist::StateFolder;
use crate::snapshot::registry::{Audit, Registry};
use crate::snapshot::store::Store;

/// Arguments of `attach` and `run` that have to do with control.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Control")]
pub struct ControlArgs {
    /// Unix socket for `tracekit break` and others; default: /run/tracekit/agent.sock, or tracekit/agent.sock in
    /// XDG_RUNTIME_DIR
    #[arg(long, value_name = "PATH")]
    control_socket: Option<PathBuf>,
    /// Serve the control API on this TCP address, too; off this host it needs a token
    #[arg(long, value_name = "ADDRESS:PORT")]
    control_listen: Vec<SocketAddr>,
    /// File with the token that clients over TCP have to send; or set TRACEKIT_CONTROL_TOKEN
    #[arg(long, value_name = "PATH")]
    control_token_file: Option<PathBuf>,
    /// Don't let anybody control this agent
    #[arg(long, conflicts_with_all = ["control_socket", "control_listen", "control_token_file"])]
    no_control: bool,
    /// Take breakpoints and kill switch from this server, and send it their snapshots; needs TRACEKIT_API_KEY or
    /// --control-server-key-file
    #[arg(long, value_name = "URL", env = "TRACEKIT_ENDPOINT")]
    control_server: Option<String>,
    /// File with the key for the control server
    #[arg(long, value_name = "PATH", requires = "control_server")]
    control_server_key_file: Option<PathBuf>,
    /// PEM file of certificate authorities to trust for the control server instead of the system's
    #[arg(long, value_name = "PATH", requires = "control_server")]
    control_server_ca: Option<PathBuf>,
    /// Where breakpoints outlive the agent; default: /var/lib/tracekit, or tracekit in XDG_STATE_HOME
    #[arg(long, value_name = "PATH", env = "TRACEKIT_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Log of all changes, a line of JSON each; - is standard error; default: audit.jsonl in the state directory
    #[arg(long, value_name = "PATH")]
    audit_log: Option<PathBuf>,
}

/// Breakpoints and what serves them. Dropped, it saves once more and stops serving.
pub struct Debugging {
    /// The breakpoints.
    pub registry: Arc<Registry>,
    /// What they have captured.
    pub store: Arc<Store>,
    /// By whom or through what the agent is controlled; for the start message.
    pub controlled: Vec<String>,
    control: Option<Control>,
    remote: Option<Remote>,
    state: Option<Arc<StateFolder>>,
}

impl Debugging {
    /// Where snapshots go.
    #[must_use]
    pub fn outlet(&self, export: Handle) -> Outlet {
        Outlet {
            store: Arc::clone(&self.store),
            export,
            remote: self.remote.as_ref().map(Remote::uploads),
            redactor: Redactor::in_use(),
        }
    }
}

impl Drop for Debugging {
    fn drop(&mut self) {
        // First, so that nobody changes anything afterwards.
        self.control = None;
        self.remote = None;
        if let Some(state) = &self.state
            && let Err(error) = state.save(&self.registry)
        {
            tracing::error!("{error}");
        }
    }
}

impl ControlArgs {
    /// Opens the state directory, takes back the breakpoints, and serves the API.
    ///
    /// What was named and can't be had is an error; what is there by default is done without, with a warning.
    ///
    /// # Errors
    /// See above.
    pub fn start(&self, inspector: &Inspector) -> anyhow::Result<Debugging> {
        let token = self.token()?;
        // Without control nobody could take back what the last agent has left.
        let state = if self.no_control { None } else { self.state()? };
        let audit = self.audit(state.is_some())?;
        let registry = Registry::new(Box::new(Expressions), audit);
        let registry =
            Arc::new(registry.with_locate(Box::new(Located::new(Inspector::new(inspector.proc.clone())))));
        let store = Arc::new(Store::default());
        if let Some(state) = &state {
            state.restore(&registry, Timestamp::now());
        }
        let mut debugging =
            Debugging { registry, store, controlled: Vec::new(), control: None, remote: None, state };
        if !self.no_control {
            self.serve(&mut debugging, token)?;
        }
        if let Some(config) = self.remote()? {
            let server = config.url.origin().ascii_serialization();
            let started = Remote::start(config, Arc::clone(&debugging.registry));
            debugging.remote = Some(started.map_err(|error| usage(error.to_string()))?);
            debugging.controlled.push(server);
        }
        Ok(debugging)
    }

    fn serve(&self, debugging: &mut Debugging, token: Option<Token>) -> anyhow::Result<()> {
        let socket = self.control_socket.clone().unwrap_or_else(default_socket);
        let mut config = ControlConfig { socket: Some(socket), listen: self.control_listen.clone(), token };
        let start = |config: &ControlConfig| {
            let (registry, store) = (Arc::clone(&debugging.registry), Arc::clone(&debugging.store));
            Control::start(config, registry, store, debugging.state.clone())
        };
        let named = self.control_socket.is_some() || !self.control_listen.is_empty();
        let mut control = start(&config);
        if let (Err(ControlError::Socket(SocketError::Taken(path))), None) = (&control, &self.control_socket)
        {
            let own = path.with_file_name(format!("agent-{}.sock", std::process::id()));
            tracing::warn!(
                "another agent listens on {}; this one listens on {}",
                path.display(),
                own.display()
            );
            config.socket = Some(own);
            control = start(&config);
        }
        match control {
            Ok(control) => {
                let socket = config.socket.iter().map(|path| path.display().to_string());
                let tcp = control.addresses().iter().map(|address| format!("http://{address}"));
                debugging.controlled = socket.chain(tcp).collect();
                if config.token.is_none() && !config.listen.is_empty() {
                    tracing::warn!(
                        "every user of this host can control the agent through {}: set TRACEKIT_CONTROL_TOKEN to \
                         demand a token",
                        config.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                    );
                }
                debugging.control = Some(control);
                Ok(())
            }
            Err(error) if named => {
                let code = match &error {
                    ControlError::NoToken(_) => ExitCode::Usage,
                    _ => ExitCode::Error,
                };
                Err(Failure::new(code, error.to_string()).into())
            }
            Err(error) => {
                tracing::warn!("{error}; the agent goes on without control");
                Ok(())
            }
        }
    }

    fn remote(&self) -> anyhow::Result<Option<RemoteConfig>> {
        let Some(url) = self.control_server.as_deref().filter(|url| !url.trim().is_empty()) else {
            return Ok(None);
        };
        // The SDKs' own switch.
        if std::env::var("TRACEKIT_CODE_MONITORING_ENABLED")
            .is_ok_and(|value| value.eq_ignore_ascii_case("false"))
        {
            return Ok(None);
        }
        let key = match &self.control_server_key_file {
            Some(path) => read_text(path)?,
            None => std::env::var("TRACEKIT_API_KEY").unwrap_or_default(),
        };
        if key.trim().is_empty() {
            return Err(usage(format!(
                "the control server {url} needs a key: set TRACEKIT_API_KEY or --control-server-key-file"
            )));
        }
        let mut config = RemoteConfig::new(url, &key).map_err(|error| usage(error.to_string()))?;
        config.certificate.clone_from(&self.control_server_ca);
        Ok(Some(config))
    }

    fn token(&self) -> anyhow::Result<Option<Token>> {
        let (from, text) = match (&self.control_token_file, std::env::var("TRACEKIT_CONTROL_TOKEN")) {
            (Some(path), _) => (path.display().to_string(), read_text(path)?),
            (None, Ok(text)) if !text.trim().is_empty() => ("TRACEKIT_CONTROL_TOKEN".to_owned(), text),
            (None, _) => return Ok(None),
        };
        Token::new(&text).map(Some).map_err(|problem| usage(format!("{from}: {problem}")))
    }

    fn state(&self) -> anyhow::Result<Option<Arc<StateFolder>>> {
        match (StateFolder::open(&self.state_path()), &self.state_dir) {
            (Ok(state), _) => Ok(Some(Arc::new(state))),
            (Err(error), Some(_)) => Err(Failure::new(ExitCode::Error, error.to_string()).into()),
            (Err(error), None) => {
                tracing::warn!("{error}");
                Ok(None)
            }
        }
    }

    fn state_path(&self) -> PathBuf {
        if let Some(path) = &self.state_dir {
            return path.clone();
        }
        if rustix::process::geteuid().is_root() {
            return PathBuf::from("/var/lib/tracekit");
        }
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
        base.unwrap_or_else(|| PathBuf::from("/var/tmp")).join("tracekit")
    }

    fn audit(&self, has_state: bool) -> anyhow::Result<Box<dyn Audit>> {
        let target = match &self.audit_log {
            Some(path) if path.as_os_str() == "-" => AuditTarget::Stderr,
            Some(path) => AuditTarget::File(path.clone()),
            // An agent without one shares that of the other: lines are appended as a whole.
            None if has_state || private_folder(&self.state_path()).is_ok() => {
                AuditTarget::File(self.state_path().join("audit.jsonl"))
            }
            None => AuditTarget::Stderr,
        };
        let failed = |error: std::io::Error| {
            let path = match &target {
                AuditTarget::File(path) => path.display().to_string(),
                AuditTarget::Stderr => "standard error".to_owned(),
            };
            let message = format!("can't write the audit log {path}: {error}; name another with --audit-log");
            Failure::new(ExitCode::Error, message)
        };
        match AuditLog::open(&target) {
            Ok(log) => Ok(Box::new(log)),
            Err(error) if self.audit_log.is_some() => Err(failed(error).into()),
            Err(error) => {
                tracing::warn!("{}; changes are logged to standard error", failed(error));
                let log = AuditLog::open(&AuditTarget::Stderr).map_err(failed)?;
                Ok(Box::new(log))
            }
        }
    }
}

/// A secret of one line.
fn read_text(path: &Path) -> anyhow::Result<String> {
    let bytes = crate::discovery::proc_fs::read_bounded(path, 64 << 10)
        .map_err(|error| usage(format!("can't read {}: {error}", path.display())))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
