//! The threads that run the code of one process: its own, and those of processes that were forked from it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;

/// Threads that are looked at, at most.
const MAX_TASKS: usize = 4096;

/// A process and its forks.
#[derive(Debug, Clone, Default)]
pub struct Family {
    /// The process.
    pub pid: u32,
    /// Forks that are known, whoever is their parent now.
    pub forks: Vec<u32>,
    /// Processes that don't belong to it although they were forked from it: they have their own.
    pub others: HashSet<u32>,
}

impl Family {
    /// Of one process, of whose forks nothing is known.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        Self { pid, ..Self::default() }
    }

    /// All threads as they are now.
    pub(super) fn threads(&self) -> BTreeSet<i32> {
        let program = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).ok();
        let of_family = program(self.pid).or_else(|| self.forks.iter().find_map(|pid| program(*pid)));
        let mut waiting = vec![self.pid];
        waiting.extend(&self.forks);
        let (mut processes, mut threads) = (HashSet::new(), BTreeSet::new());
        while let Some(pid) = waiting.pop() {
            if self.others.contains(&pid) || !processes.insert(pid) || threads.len() >= MAX_TASKS {
                continue;
            }
            // One that runs another program since has other code.
            if program(pid) != of_family {
                continue;
            }
            for tid in tasks(pid) {
                threads.insert(tid);
                // Not there without CONFIG_PROC_CHILDREN; then forks are those that are known.
                let children = fs::read_to_string(format!("/proc/{pid}/task/{tid}/children"));
                let children = children.unwrap_or_default();
                waiting.extend(children.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
        }
        threads
    }
}

/// Which processes were forked from which: of each the first that it comes from, into whose breakpoints it runs.
#[derive(Debug, Default)]
pub struct Families(HashMap<u32, u32>);

impl Families {
    /// The process that this one comes from; itself if it was not forked.
    #[must_use]
    pub fn of(&self, pid: u32) -> u32 {
        self.0.get(&pid).copied().unwrap_or(pid)
    }

    /// A process was forked.
    pub fn forked(&mut self, parent: u32, child: u32) {
        self.0.insert(child, self.of(parent));
    }

    /// A process is gone, or runs another program.
    pub fn remove(&mut self, pid: u32) {
        self.0.remove(&pid);
    }

    /// There are processes that come from this one.
    #[must_use]
    pub fn has_forks(&self, pid: u32) -> bool {
        self.0.values().any(|family| *family == pid)
    }
}

/// Threads of a process.
fn tasks(pid: u32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).take(MAX_TASKS).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn threads_of_forks_but_not_of_other_programs() {
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = std::process::id();
        let stop = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || stop.1.recv());
        let threads = Family::of(pid).threads();
        assert!(threads.contains(&i32::try_from(pid).unwrap()));
        assert!(threads.len() >= 3, "{threads:?}");
        assert!(!threads.contains(&i32::try_from(other.id()).unwrap()));
        let family = Family { others: HashSet::from([pid]), ..Family::of(pid) };
        assert!(family.threads().is_empty());
        // Known, but with another program.
        let family = Family { forks: vec![other.id()], ..Family::of(pid) };
        assert!(!family.threads().contains(&i32::try_from(other.id()).unwrap()));
        drop(stop.0);
        let _ = thread.join();
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
