//! What has become of a breakpoint: its state, and what was counted.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How a line is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One event on every CPU.
    CpuWide,
    /// One event for every thread.
    PerTask,
    /// It shares slots with other lines: hits are missed while those have theirs.
    Rotating,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CpuWide => "cpu-wide",
            Self::PerTask => "per-task",
            Self::Rotating => "rotating",
        })
    }
}

/// Why a breakpoint rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pause {
    /// More hits than its rate, its process's or the agent's.
    Rate,
    /// The kill switch is on.
    KillSwitch,
    /// Captures failed three times in a minute.
    Breaker,
    /// Hits took more of the process's time than they may.
    Budget,
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rate => "rate",
            Self::KillSwitch => "kill-switch",
            Self::Breaker => "breaker",
            Self::Budget => "budget",
        })
    }
}

/// State of a breakpoint, as a whole or in one process. JSON: `{"state": "PAUSED", "reason": "rate"}`,
/// `{"state": "ACTIVE", "mode": "cpu-wide"}`; as text `PAUSED(rate)`, `ACTIVE (rotating)`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "UPPERCASE")]
pub enum State {
    /// No selected process has loaded the file yet.
    #[default]
    Pending,
    /// Armed.
    Active {
        /// How.
        mode: Mode,
    },
    /// Resting; it goes on by itself when the reason is gone.
    Paused {
        /// Why.
        reason: Pause,
    },
    /// Switched off.
    Disabled,
    /// Its time is over.
    Expired,
    /// It has captured as often as it should.
    Done,
    /// The code has changed since it was made, and the line can't be found again.
    Stale {
        /// What has changed.
        reason: String,
    },
    /// It cannot work.
    Error {
        /// Why, and what to do.
        reason: String,
    },
}

impl State {
    /// Whether the engine has to do with it: it is neither switched off nor over.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !matches!(self, Self::Disabled | Self::Expired | Self::Done)
    }

    /// The state of the whole from those in its processes: the most alive one, because a line that is armed
    /// in one process can be hit. Of modes the weakest, because hits may be missed.
    pub fn of_processes<'a>(states: impl Iterator<Item = &'a Self>) -> Self {
        let rank = |state: &Self| match state {
            Self::Active { mode } => (5, Some(*mode)),
            Self::Paused { .. } => (4, None),
            Self::Error { .. } => (3, None),
            Self::Stale { .. } => (2, None),
            Self::Pending => (1, None),
            Self::Disabled | Self::Expired | Self::Done => (0, None),
        };
        states.max_by_key(|state| rank(state)).cloned().unwrap_or_default()
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending => f.write_str("PENDING"),
            Self::Active { mode: Mode::Rotating } => f.write_str("ACTIVE (rotating)"),
            Self::Active { .. } => f.write_str("ACTIVE"),
            Self::Paused { reason } => write!(f, "PAUSED({reason})"),
            Self::Disabled => f.write_str("DISABLED"),
            Self::Expired => f.write_str("EXPIRED"),
            Self::Done => f.write_str("DONE(hits)"),
            Self::Stale { reason } => write!(f, "STALE({reason})"),
            Self::Error { reason } => write!(f, "ERROR({reason})"),
        }
    }
}

/// Hits of which nothing was captured, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Skipped {
    /// The condition was false or could not be evaluated.
    pub condition: u64,
    /// A rate was reached.
    pub rate: u64,
    /// The process's budget was spent.
    pub budget: u64,
    /// The capture failed.
    pub error: u64,
}

impl Skipped {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        [self.condition, self.rate, self.budget, self.error].into_iter().fold(0, u64::saturating_add)
    }
}

/// What was counted of a breakpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Executions of the line that were noticed.
    pub hits: u64,
    /// Of these, captured.
    pub captured: u64,
    /// Of these, not captured.
    pub skipped: Skipped,
    /// Expressions that could not be evaluated and were shown as `UNDEFINED`.
    pub undefined: u64,
    /// When it was hit last.
    pub last_hit: Option<Timestamp>,
    /// What hits cost the process.
    #[serde(skip_deserializing)]
    pub cost: Cost,
}

impl Counters {
    /// Adds what was counted since.
    pub fn add(&mut self, other: &Self) {
        let sum = |into: &mut u64, more: u64| *into = into.saturating_add(more);
        sum(&mut self.hits, other.hits);
        sum(&mut self.captured, other.captured);
        sum(&mut self.skipped.condition, other.skipped.condition);
        sum(&mut self.skipped.rate, other.skipped.rate);
        sum(&mut self.skipped.budget, other.skipped.budget);
        sum(&mut self.skipped.error, other.skipped.error);
        sum(&mut self.undefined, other.undefined);
        self.last_hit = self.last_hit.max(other.last_hit);
        self.cost.add(&other.cost);
    }
}

/// Buckets of a [`Cost`]: powers of the square root of two from 2^8 ns (256 ns) to 2^26 ns (67 ms).
const BUCKETS: usize = 37;
const FIRST_BUCKET: f64 = 8.0;

/// The distribution of a hit's cost: how long the thread that ran the line was held up. Exact to a factor of
/// the square root of two. JSON: `{"count", "mean_us", "p50_us", "p99_us", "max_us"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    buckets: [u32; BUCKETS],
    count: u64,
    total_nanos: u64,
    max_nanos: u64,
}

impl Default for Cost {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], count: 0, total_nanos: 0, max_nanos: 0 }
    }
}

impl Cost {
    /// So many hits took this long each.
    pub fn record(&mut self, cost: Duration, hits: u64) {
        let nanos = u64::try_from(cost.as_nanos()).unwrap_or(u64::MAX);
        // The float is cut to the range of the index.
        let index = ((nanos.max(1) as f64).log2() - FIRST_BUCKET) * 2.0;
        let index = (index.max(0.0) as usize).min(BUCKETS - 1);
        if let Some(bucket) = self.buckets.get_mut(index) {
            *bucket = bucket.saturating_add(u32::try_from(hits).unwrap_or(u32::MAX));
        }
        self.count = self.count.saturating_add(hits);
        self.total_nanos = self.total_nanos.saturating_add(nanos.saturating_mul(hits));
        self.max_nanos = self.max_nanos.max(nanos);
    }

    fn add(&mut self, other: &Self) {
        for (into, more) in self.buckets.iter_mut().zip(other.buckets) {
            *into = into.saturating_add(more);
        }
        self.count = self.count.saturating_add(other.count);
        self.total_nanos = self.total_nanos.saturating_add(other.total_nanos);
        self.max_nanos = self.max_nanos.max(other.max_nanos);
    }

    /// The cost that this share of the hits stays below, 0 to 1; zero if there were none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        let counted: u64 = self.buckets.iter().map(|&n| u64::from(n)).sum();
        let wanted = (counted as f64 * share.clamp(0.0, 1.0)).ceil() as u64;
        let mut seen = 0;
        for (n, &count) in self.buckets.iter().enumerate() {
            seen += u64::from(count);
            if seen >= wanted && seen > 0 {
                let upper = 2f64.powf(FIRST_BUCKET + (n as f64 + 1.0) / 2.0);
                return Duration::from_nanos((upper as u64).min(self.max_nanos));
            }
        }
        Duration::ZERO
    }

    /// The mean; zero if there were none.
    #[must_use]
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.total_nanos.checked_div(self.count).unwrap_or(0))
    }
}

impl Serialize for Cost {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        // To a hundredth: more would be noise.
        let micros = |cost: Duration| (cost.as_nanos() as f64 / 10.0).round() / 100.0;
        let mut map = serializer.serialize_struct("Cost", 5)?;
        map.serialize_field("count", &self.count)?;
        map.serialize_field("mean_us", &micros(self.mean()))?;
        map.serialize_field("p50_us", &micros(self.quantile(0.5)))?;
        map.serialize_field("p99_us", &micros(self.quantile(0.99)))?;
        map.serialize_field("max_us", &micros(Duration::from_nanos(self.max_nanos)))?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_and_text() {
        let table = [
            (State::Pending, json!({"state": "PENDING"}), "PENDING"),
            (State::Active { mode: Mode::CpuWide }, json!({"state": "ACTIVE", "mode": "cpu-wide"}), "ACTIVE"),
            (
                State::Active { mode: Mode::Rotating },
                json!({"state": "ACTIVE", "mode": "rotating"}),
                "ACTIVE (rotating)",
            ),
            (
                State::Paused { reason: Pause::KillSwitch },
                json!({"state": "PAUSED", "reason": "kill-switch"}),
                "PAUSED(kill-switch)",
            ),
            (State::Done, json!({"state": "DONE"}), "DONE(hits)"),
            (
                State::Error { reason: "no slot".into() },
                json!({"state": "ERROR", "reason": "no slot"}),
                "ERROR(no slot)",
            ),
        ];
        for (state, json, text) in table {
            assert_eq!(serde_json::to_value(&state).unwrap(), json);
            assert_eq!(serde_json::from_value::<State>(json).unwrap(), state);
            assert_eq!(state.to_string(), text);
        }
    }

    #[test]
    fn the_most_alive_process_counts() {
        let active = |mode| State::Active { mode };
        let error = State::Error { reason: "x".into() };
        let paused = State::Paused { reason: Pause::Budget };
        for (states, whole) in [
            (vec![], State::Pending),
            (vec![State::Pending, error.clone()], error.clone()),
            (vec![error, paused.clone()], paused.clone()),
            (vec![active(Mode::CpuWide), paused], active(Mode::CpuWide)),
            (vec![active(Mode::Rotating), active(Mode::PerTask)], active(Mode::Rotating)),
        ] {
            assert_eq!(State::of_processes(states.iter()), whole, "{states:?}");
        }
    }

    #[test]
    fn costs_are_right_within_a_bucket() {
        let mut cost = Cost::default();
        assert_eq!(cost.quantile(0.5), Duration::ZERO);
        for n in 1..=1000 {
            cost.record(Duration::from_micros(n), 1);
        }
        for (share, micros) in [(0.5, 500.0), (0.99, 990.0)] {
            let ratio = cost.quantile(share).as_secs_f64() * 1e6 / micros;
            assert!((1.0..1.45).contains(&ratio), "{share}: {ratio}");
        }
        assert_eq!(cost.mean(), Duration::from_nanos(500_500));
        cost.record(Duration::MAX, 1);
        cost.record(Duration::ZERO, 1);
        assert_eq!(serde_json::to_value(cost).unwrap()["count"], 1002);
    }

    #[test]
    fn counters_add_up() {
        let one =
            Counters { hits: 2, captured: 1, last_hit: Some(Timestamp::UNIX_EPOCH), ..Default::default() };
        let mut sum = Counters::default();
        sum.add(&one);
        sum.add(&Counters { hits: u64::MAX, last_hit: None, ..Default::default() });
        assert_eq!((sum.hits, sum.captured, sum.last_hit), (u64::MAX, 1, Some(Timestamp::UNIX_EPOCH)));
        // What is read from a file is what was written, without the distribution.
        let json = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<Counters>(&json).unwrap(), one);
    }
}
