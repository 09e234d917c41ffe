//! Whether a hit may be captured: rates of the breakpoint, of its process and of the agent.

use std::collections::HashMap;
use std::time::Instant;

use super::TokenBucket;
use crate::snapshot::breakpoint::{Breakpoint, Id, Kind};

/// Which rate has been reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// That of the breakpoint.
    Breakpoint,
    /// That of its process.
    Process,
    /// That of the agent.
    Agent,
}

/// The buckets of one agent. Holds one for each breakpoint and process that has been captured from until it is
/// told that they are gone.
#[derive(Debug)]
pub struct Admission {
    agent: [TokenBucket; 2],
    processes: HashMap<(u32, Kind), TokenBucket>,
    breakpoints: HashMap<Id, (f64, TokenBucket)>,
}

impl Default for Admission {
    fn default() -> Self {
        let agent = [Kind::Snapshot, Kind::Log].map(|kind| TokenBucket::new(kind.shared().agent_per_second));
        Self { agent, processes: HashMap::new(), breakpoints: HashMap::new() }
    }
}

impl Admission {
    /// Takes a token from each of the three buckets, or from none.
    ///
    /// # Errors
    /// Which bucket is empty, the narrowest first.
    pub fn admit(&mut self, breakpoint: &Breakpoint, pid: u32, now: Instant) -> Result<(), Refused> {
        let kind = breakpoint.kind;
        let rate = breakpoint.limits.rate;
        let own = self
            .breakpoints
            .entry(breakpoint.id.clone())
            .and_modify(|(of, bucket)| {
                if *of != rate {
                    (*of, *bucket) = (rate, TokenBucket::new(rate));
                }
            })
            .or_insert_with(|| (rate, TokenBucket::new(rate)));
        let process = self
            .processes
            .entry((pid, kind))
            .or_insert_with(|| TokenBucket::new(kind.shared().process_per_second));
        let [snapshots, logs] = &mut self.agent;
        let agent = match kind {
            Kind::Snapshot => snapshots,
            Kind::Log => logs,
        };
        if !own.1.has(now) {
            return Err(Refused::Breakpoint);
        }
        if !process.has(now) {
            return Err(Refused::Process);
        }
        if !agent.take(now) {
            return Err(Refused::Agent);
        }
        own.1.take(now);
        process.take(now);
        Ok(())
    }

    /// A process is gone.
    pub fn forget_process(&mut self, pid: u32) {
        for kind in [Kind::Snapshot, Kind::Log] {
            self.processes.remove(&(pid, kind));
        }
    }

    /// A breakpoint is gone.
    pub fn forget_breakpoint(&mut self, id: &Id) {
        self.breakpoints.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::breakpoint::{Source, Spec};
    use crate::snapshot::limits::LimitsSpec;

    fn breakpoint(name: &str, rate: f64) -> Breakpoint {
        let limits = LimitsSpec { rate: Some(rate), ..LimitsSpec::default() };
        let spec = Spec { file: "a.py".to_owned(), line: 1, limits, ..Spec::default() };
        Breakpoint::new(name.parse().unwrap(), spec, "test", Source::Local, Timestamp::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn each_level_has_its_rate() {
        let now = Instant::now();
        let mut admission = Admission::default();
        let all: Vec<Breakpoint> = (0..30).map(|n| breakpoint(&format!("b{n}"), 10.0)).collect();
        let mut outcomes = HashMap::new();
        for pid in 1..10 {
            for breakpoint in &all {
                *outcomes.entry(admission.admit(breakpoint, pid, now)).or_insert(0) += 1;
            }
        }
        // 100 for the agent in five processes of 20; then nobody gets any.
        assert_eq!(outcomes[&Ok(())], 100);
        assert_eq!(outcomes[&Err(Refused::Process)], 50);
        assert_eq!(outcomes[&Err(Refused::Agent)], 270 - 150);
        let one = breakpoint("one", 1.0);
        let later = now + Duration::from_secs(1);
        assert_eq!(admission.admit(&one, 1, later), Ok(()));
        assert_eq!(admission.admit(&one, 2, later), Err(Refused::Breakpoint));
        // Another rate is in force at once.
        assert_eq!(admission.admit(&breakpoint("one", 2.0), 2, later), Ok(()));
    }

    proptest! {
        #[test]
        fn no_level_lets_more_through(hits in prop::collection::vec((0usize..40, 1u32..8, 0u64..20), 1..500)) {
            let start = Instant::now();
            let all: Vec<Breakpoint> = (0..40).map(|n| breakpoint(&format!("b{n}"), 1.0)).collect();
            let mut admission = Admission::default();
            let (mut now, mut taken) = (0, Vec::new());
            for (n, pid, step) in hits {
                now += step;
                if admission.admit(&all[n], pid, start + Duration::from_millis(now)).is_ok() {
                    taken.push((n, pid, now));
                }
            }
            for &(_, _, from) in &taken {
                let second: Vec<_> = taken.iter().filter(|(_, _, at)| (from..from + 1000).contains(at)).collect();
                // A bucket that was full, and what came in the second.
                prop_assert!(second.len() <= 200);
                for pid in 1..8 {
                    prop_assert!(second.iter().filter(|(_, of, _)| *of == pid).count() <= 40);
                }
                for breakpoint in 0..40 {
                    prop_assert!(second.iter().filter(|(of, _, _)| *of == breakpoint).count() <= 1);
                }
            }
        }
    }
}
