//! Which processes to trace.

use std::fmt;

use clap::Args;
use glob::Pattern;
use regex::Regex;

use super::Inspected;
use super::error::InspectError;
use super::launch::base_name;
use super::proc_fs::ProcFs;

/// Selection on the command line.
#[derive(Debug, Clone, Default, Args)]
pub struct SelectorArgs {
    /// Process id; may be repeated. Its child processes are traced too
    #[arg(short, long, value_name = "PID", num_args = 1.., value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// Process, program or service name, with * ? [] wildcards
    #[arg(long, value_name = "GLOB")]
    pub name: Option<String>,
    /// Port that the process listens on, or a range: 8000-8099
    #[arg(long, value_name = "PORT|RANGE")]
    pub port: Option<String>,
    /// Regular expression that matches a part of the command line
    #[arg(long, value_name = "REGEX")]
    pub cmdline: Option<String>,
    /// Trace only the processes given with --pid, not their children
    #[arg(long, requires = "pid")]
    pub no_children: bool,
}

/// Why a selection does not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// Nothing was asked for.
    #[error("say which process to trace: --pid, --name, --port or --cmdline; `tracekit ps` lists them")]
    Empty,
    /// A value is malformed.
    #[error("--{option} {value}: {reason}")]
    Invalid {
        /// Name of the option.
        option: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No process is selected.
    #[error("no Python process matches {selector}; `tracekit ps --all` lists what runs")]
    NoMatch {
        /// The selection in words.
        selector: String,
    },
    /// A process that was asked for by its pid cannot be traced.
    #[error(transparent)]
    Process(#[from] InspectError),
}

/// A compiled selection. Pids are a union; name, port and command line must all match.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    pids: Vec<u32>,
    include_children: bool,
    name: Option<Pattern>,
    ports: Option<(u16, u16)>,
    cmdline: Option<Regex>,
}

impl SelectorArgs {
    /// Compiles the selection; `None` if nothing was asked for.
    ///
    /// # Errors
    /// [`SelectError::Invalid`]
    pub fn compile(&self) -> Result<Option<Selector>, SelectError> {
        let invalid = |option, value: &str, reason: String| {
            Err(SelectError::Invalid { option, value: value.to_owned(), reason })
        };
        let mut selector =
            Selector { pids: self.pid.clone(), include_children: !self.no_children, ..Selector::default() };
        if let Some(text) = &self.name {
            match Pattern::new(text) {
                Ok(pattern) => selector.name = Some(pattern),
                Err(error) => return invalid("name", text, error.to_string()),
            }
        }
        if let Some(text) = &self.port {
            match parse_ports(text) {
                Some(ports) => selector.ports = Some(ports),
                None => {
                    return invalid("port", text, "not a port (1-65535) or a range such as 8000-8099".into());
                }
            }
        }
        if let Some(text) = &self.cmdline {
            match Regex::new(text) {
                Ok(pattern) => selector.cmdline = Some(pattern),
                Err(error) => return invalid("cmdline", text, error.to_string()),
            }
        }
        Ok((!selector.is_empty()).then_some(selector))
    }

    /// Compiles a selection that must not be empty.
    ///
    /// # Errors
    /// [`SelectError::Empty`], [`SelectError::Invalid`]
    pub fn compile_required(&self) -> Result<Selector, SelectError> {
        self.compile()?.ok_or(SelectError::Empty)
    }
}

fn parse_ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first != 0 && first <= last).then_some((first, last))
}

impl Selector {
    /// Every Python process that can be traced.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// These processes and their children.
    #[must_use]
    pub fn pids(pids: impl Into<Vec<u32>>) -> Self {
        Self { pids: pids.into(), include_children: true, ..Self::default() }
    }

    /// No condition: everything matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pids.is_empty() && !self.has_conditions()
    }

    /// The processes that were asked for by pid.
    #[must_use]
    pub fn requested_pids(&self) -> &[u32] {
        &self.pids
    }

    /// Whether a child that a selected process forks is selected with it.
    #[must_use]
    pub fn inherits(&self) -> bool {
        self.include_children || self.pids.is_empty()
    }

    fn has_conditions(&self) -> bool {
        self.name.is_some() || self.ports.is_some() || self.cmdline.is_some()
    }

    /// Whether the process may be selected, told by its pid and parents alone: spares a closer look at
    /// every process of the host when only one was asked for.
    #[must_use]
    pub fn may_match(&self, proc: &ProcFs, pid: u32) -> bool {
        self.pids.is_empty()
            || self.has_conditions()
            || self.pids.contains(&pid)
            || (self.include_children && proc.ancestors(pid).iter().any(|parent| self.pids.contains(parent)))
    }

    /// Whether the process is selected.
    #[must_use]
    pub fn matches(&self, inspected: &Inspected) -> bool {
        if self.is_empty() {
            return true;
        }
        let process = &inspected.process;
        let by_pid = self.pids.contains(&process.pid)
            || (self.include_children && process.ancestors.iter().any(|pid| self.pids.contains(pid)));
        by_pid || (self.has_conditions() && self.conditions_match(inspected))
    }

    fn conditions_match(&self, inspected: &Inspected) -> bool {
        let process = &inspected.process;
        let name = self.name.as_ref().is_none_or(|pattern| {
            let argv0 = process.argv.first().map(|first| base_name(first)).unwrap_or_default();
            [
                process.comm.as_str(),
                process.exe_name(),
                argv0,
                inspected.launch.tool().unwrap_or_default(),
                inspected.service.name.as_str(),
            ]
            .iter()
            .any(|candidate| !candidate.is_empty() && pattern.matches(candidate))
        });
        let port = self.ports.is_none_or(|(first, last)| {
            inspected.listeners.iter().filter_map(|l| l.port()).any(|port| (first..=last).contains(&port))
        });
        let cmdline = self.cmdline.as_ref().is_none_or(|pattern| pattern.is_match(&process.argv.join(" ")));
        name && port && cmdline
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = self.pids.iter().map(|pid| format!("--pid {pid}")).collect();
        words.extend(self.name.as_ref().map(|name| format!("--name {name}")));
        words.extend(self.ports.map(|(first, last)| {
            if first == last { format!("--port {first}") } else { format!("--port {first}-{last}") }
        }));
        words.extend(self.cmdline.as_ref().map(|pattern| format!("--cmdline {pattern}")));
        if words.is_empty() {
            f.write_str("the selection (all processes)")
        } else {
            f.write_str(&words.join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::listeners::Listener;
    use super::super::testing::inspected;
    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        selector: SelectorArgs,
    }

    fn selector(line: &str) -> Result<Option<Selector>, SelectError> {
        let words = std::iter::once("t").chain(line.split_whitespace());
        Cli::try_parse_from(words).unwrap().selector.compile()
    }

    #[test]
    fn combinations() {
        let mut app = inspected(50, "python /v/bin/gunicorn app:wsgi -b :8000");
        app.process.ancestors = vec![40, 1];
        app.listeners = vec![Listener::Tcp("0.0.0.0:8000".parse().unwrap())];
        for (line, expected) in [
            ("--pid 50", true),
            ("--pid 7,50", true),
            ("--pid 40", true),
            ("--pid 40 --no-children", false),
            ("--pid 8", false),
            ("--name gunicorn", true),
            ("--name gun*", true),
            ("--name app", true),
            ("--name python3", true),
            ("--name nothing", false),
            ("--port 8000", true),
            ("--port 7000-8000", true),
            ("--port 8001", false),
            ("--cmdline app:w", true),
            ("--name gun* --port 9", false),
            ("--name gun* --port 8000 --cmdline wsgi", true),
            ("--pid 50 --port 9", true),
        ] {
            assert_eq!(selector(line).unwrap().unwrap().matches(&app), expected, "{line}");
        }
        assert!(selector("").unwrap().is_none());
        assert!(Selector::all().matches(&app));
    }

    #[test]
    fn malformed_values_are_usage_errors() {
        for line in ["--port x", "--port 0", "--port 9-8", "--port 70000", "--cmdline (", "--name [a"] {
            assert!(matches!(selector(line), Err(SelectError::Invalid { .. })), "{line}");
        }
        assert_eq!(SelectorArgs::default().compile_required().unwrap_err(), SelectError::Empty);
    }
}
