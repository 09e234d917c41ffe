//! How long the kernel side's programs run: the kernel counts it while `kernel.bpf_stats_enabled` is set.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value as Json;
use tracekit_tests::process::run as output_of;

/// Where the kernel is told to count. Source: kernel, admin-guide/sysctl/kernel.rst, `bpf_stats_enabled`.
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Of one program: its name, how often it ran, and for how many nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    name: String,
    count: u64,
    nanos: u64,
}

/// By program id.
pub type Runs = BTreeMap<u64, Run>;

/// The programs of one agent, at the begin and at the end of a measurement. Dropping it ends the counting.
#[derive(Debug, Default)]
pub struct Programs {
    begin: Runs,
    end: Runs,
}

impl Programs {
    /// All programs that are loaded now.
    ///
    /// # Errors
    /// bpftool fails.
    pub fn read() -> Result<Runs> {
        parse(&output_of(Command::new("bpftool").args(["-j", "prog", "show"]))?)
    }

    /// Starts to count those that were not there `before`.
    ///
    /// # Errors
    /// bpftool fails, or the kernel does not count.
    pub fn begin(&mut self, before: &Runs) -> Result<()> {
        std::fs::write(SWITCH, "1").with_context(|| format!("write {SWITCH}"))?;
        self.begin = Self::read()?;
        self.begin.retain(|id, _| !before.contains_key(id));
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// bpftool fails, or the switch cannot be written.
    pub fn end(&mut self) -> Result<()> {
        self.end = Self::read()?;
        std::fs::write(SWITCH, "0").with_context(|| format!("write {SWITCH}"))
    }

    /// A table for so many requests.
    #[must_use]
    pub fn markdown(&self, requests: f64) -> String {
        let mut text =
            String::from("\n| program | runs a request | ns a run | µs a request |\n|---|---|---|---|\n");
        for (id, begin) in &self.begin {
            let Some(end) = self.end.get(id) else { continue };
            let count = end.count.saturating_sub(begin.count) as f64;
            let nanos = end.nanos.saturating_sub(begin.nanos) as f64;
            if count > 0.0 {
                text.push_str(&format!(
                    "| {} | {:.1} | {:.0} | {:.2} |\n",
                    end.name,
                    count / requests,
                    nanos / count,
                    nanos / requests / 1e3
                ));
            }
        }
        text.push_str(
            "\nRuns on the whole machine: the databases, the load and the collector are in them.\n",
        );
        text
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        // A measurement that failed halfway must not leave the kernel counting; it may be off already.
        let _ = std::fs::write(SWITCH, "0");
    }
}

fn parse(text: &str) -> Result<Runs> {
    let programs: Vec<Json> = serde_json::from_str(text).context("read what bpftool says")?;
    let number = |program: &Json, key: &str| program[key].as_u64().unwrap_or(0);
    Ok(programs
        .iter()
        .filter_map(|program| {
            let name = program["name"].as_str().unwrap_or("").to_owned();
            let run = Run { name, count: number(program, "run_cnt"), nanos: number(program, "run_time_ns") };
            Some((program["id"].as_u64()?, run))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_bpftool_says() {
        let text =
            r#"[{"id":7,"type":"raw_tracepoint","name":"sys_exit","run_time_ns":500,"run_cnt":4},{"id":9}]"#;
        let runs = parse(text).unwrap();
        assert_eq!(runs.get(&7), Some(&Run { name: "sys_exit".into(), count: 4, nanos: 500 }));
        let programs = Programs { begin: parse(r#"[{"id":7,"name":"sys_exit"}]"#).unwrap(), end: runs };
        assert!(programs.markdown(2.0).contains("| sys_exit | 2.0 | 125 | 0.25 |"));
    }
}
