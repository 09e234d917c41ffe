//! How much may be captured: the one table of defaults and maxima, and what enforces it.
//!
//! Everything here is pure: the time is passed in.

mod admission;
mod breaker;
mod bucket;
mod budget;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::redact::Redactor;

pub use admission::{Admission, Refused};
pub use breaker::Breaker;
pub use bucket::TokenBucket;
pub use budget::{Budget, Charge};

use super::breakpoint::Kind;
use crate::python::object::Limits as ValueLimits;

/// Default and maximum of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bound<T> {
    /// What a breakpoint has that does not say otherwise.
    pub default: T,
    /// More is refused.
    pub max: T,
}

const fn bound<T>(default: T, max: T) -> Bound<T> {
    Bound { default, max }
}

/// What may be chosen for a breakpoint of one kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Captures, then it is done.
    pub hits: Bound<u64>,
    /// Captures per second and breakpoint.
    pub rate: Bound<f64>,
    /// Seconds, then it has expired.
    pub expires_seconds: Bound<u64>,
    /// Levels of containers and instances.
    pub depth: Bound<u32>,
    /// Items of one container.
    pub items: Bound<u32>,
    /// Characters of a string.
    pub text: Bound<u32>,
    /// Attributes of one instance.
    pub fields: Bound<u32>,
    /// Frames whose variables are captured.
    pub frames: Bound<u32>,
    /// Frames of the stack.
    pub stack: Bound<u32>,
    /// Bytes of a snapshot's JSON form.
    pub payload_bytes: Bound<u32>,
}

/// A snapshot is looked at by a person.
const SNAPSHOT: Bounds = Bounds {
    hits: bound(100, 10_000),
    rate: bound(1.0, 10.0),
    expires_seconds: bound(3600, 24 * 3600),
    depth: bound(3, 6),
    items: bound(100, 1000),
    text: bound(256, 1000),
    fields: bound(20, 100),
    frames: bound(1, 1),
    stack: bound(64, 128),
    payload_bytes: bound(16 * 1024, 1024 * 1024),
};

/// A log line is read among thousands.
const LOG: Bounds =
    Bounds { hits: bound(10_000, 1_000_000), rate: bound(100.0, 5000.0), frames: bound(0, 1), ..SNAPSHOT };

/// The slowest rate: once an hour.
const MIN_RATE: f64 = 1.0 / 3600.0;

/// Breakpoints of one agent.
pub const MAX_BREAKPOINTS: usize = 1000;
/// Of these, those that control servers ask for: a server must not take a local user's means.
pub const MAX_REMOTE_BREAKPOINTS: usize = 500;

/// Captures per second of all breakpoints of a kind together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Shared {
    /// In one process.
    pub process_per_second: f64,
    /// In all processes of the agent.
    pub agent_per_second: f64,
}

impl Kind {
    /// What may be chosen for one breakpoint.
    #[must_use]
    pub const fn bounds(self) -> Bounds {
        match self {
            Self::Snapshot => SNAPSHOT,
            Self::Log => LOG,
        }
    }

    /// What all breakpoints of the kind share.
    #[must_use]
    pub const fn shared(self) -> Shared {
        match self {
            Self::Snapshot => Shared { process_per_second: 20.0, agent_per_second: 100.0 },
            Self::Log => Shared { process_per_second: 1000.0, agent_per_second: 5000.0 },
        }
    }
}

/// A limit that cannot be had.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("limits.{limit}: {asked} is not possible; use {min} to {max}")]
pub struct LimitError {
    /// Its key in the JSON form.
    pub limit: &'static str,
    /// What was asked for.
    pub asked: String,
    /// The smallest possible.
    pub min: String,
    /// The largest possible.
    pub max: String,
}

impl Eq for LimitError {}

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident: $type:ty, from $min:expr;)*) => {
        /// Limits that somebody asks for; what is absent is the default.
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct LimitsSpec {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<$type>,)*
        }

        /// The limits of one breakpoint, each within its [`Bounds`].
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub struct Limits {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl Limits {
            /// The defaults of a kind.
            #[must_use]
            pub fn of(kind: Kind) -> Self {
                let bounds = kind.bounds();
                Self { $($name: bounds.$name.default,)* }
            }

            /// These limits with those given in place of theirs.
            ///
            /// # Errors
            /// One is out of its bounds.
            pub fn with(&self, kind: Kind, spec: &LimitsSpec) -> Result<Self, LimitError> {
                let limits = Self { $($name: spec.$name.unwrap_or(self.$name),)* };
                limits.check(kind)?;
                Ok(limits)
            }

            /// Checks each against its bounds.
            ///
            /// # Errors
            /// One is out of its bounds.
            pub fn check(&self, kind: Kind) -> Result<(), LimitError> {
                let bounds = kind.bounds();
                $(
                    let (min, max): ($type, $type) = ($min, bounds.$name.max);
                    // Also false for a rate that is not a number.
                    if !(min..=max).contains(&self.$name) {
                        return Err(LimitError {
                            limit: stringify!($name),
                            asked: self.$name.to_string(),
                            min: min.to_string(),
                            max: max.to_string(),
                        });
                    }
                )*
                Ok(())
            }
        }

        impl Bounds {
            /// Name, default and maximum of each limit.
            #[must_use]
            pub fn rows(&self) -> Vec<(&'static str, Bound<f64>)> {
                vec![$((stringify!($name), bound(self.$name.default as f64, self.$name.max as f64)),)*]
            }
        }
    };
}

limits! {
    /// Captures, then the breakpoint is done.
    hits: u64, from 1;
    /// Captures per second.
    rate: f64, from MIN_RATE;
    /// Seconds until it expires.
    expires_seconds: u64, from 1;
    /// Levels of containers and instances.
    depth: u32, from 0;
    /// Items of one container.
    items: u32, from 1;
    /// Characters of a string.
    text: u32, from 1;
    /// Attributes of one instance.
    fields: u32, from 1;
    /// Frames whose variables are captured.
    frames: u32, from 0;
    /// Frames of the stack.
    stack: u32, from 1;
    /// Bytes of a snapshot's JSON form.
    payload_bytes: u32, from 512;
}

impl Limits {
    /// The defaults of a kind with those given in their place.
    ///
    /// # Errors
    /// One is out of its bounds.
    pub fn resolve(kind: Kind, spec: &LimitsSpec) -> Result<Self, LimitError> {
        Self::of(kind).with(kind, spec)
    }

    /// What of this bounds a value.
    #[must_use]
    pub fn of_values(&self) -> ValueLimits {
        let small = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        ValueLimits {
            depth: small(self.depth),
            items: small(self.items),
            fields: small(self.fields),
            text: small(self.text),
            ..ValueLimits::default()
        }
    }
}

/// The whole table, as `tracekit limits` and `GET /v1/limits` show it.
#[must_use]
pub fn table() -> Json {
    let of = |kind: Kind| {
        let bounds = kind.bounds();
        let mut rows: serde_json::Map<String, Json> =
            bounds.rows().into_iter().map(|(name, bound)| (name.to_owned(), bounds_json(bound))).collect();
        rows.insert("per_process_rate".to_owned(), json!(kind.shared().process_per_second));
        rows.insert("per_agent_rate".to_owned(), json!(kind.shared().agent_per_second));
        Json::Object(rows)
    };
    json!({
        "snapshot": of(Kind::Snapshot),
        "log": of(Kind::Log),
        "breakpoints": { "max": MAX_BREAKPOINTS, "max_remote": MAX_REMOTE_BREAKPOINTS },
        "breaker": {
            "failures": breaker::FAILURES,
            "window_seconds": breaker::WINDOW.as_secs(),
            "pause_seconds": breaker::PAUSE.as_secs(),
        },
        "cpu_budget": {
            "percent_of_one_cpu": budget::SHARE * 100.0,
            "pause_seconds": budget::PAUSE.as_secs(),
            "max_pause_seconds": budget::MAX_PAUSE.as_secs(),
        },
        "redaction": { "mode": Redactor::in_use().mode() },
    })
}

/// Whole numbers without a point.
fn bounds_json(bound: Bound<f64>) -> Json {
    let number = |value: f64| {
        if value.fract() == 0.0 { json!(value as u64) } else { json!(value) }
    };
    json!({ "default": number(bound.default), "max": number(bound.max) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_within_bounds() {
        for kind in [Kind::Snapshot, Kind::Log] {
            Limits::of(kind).check(kind).unwrap();
            for (name, bound) in kind.bounds().rows() {
                assert!(bound.default <= bound.max, "{name}");
            }
        }
    }

    /// The numbers of the design, section 8.
    #[test]
    fn the_design_is_kept() {
        let limits = Limits::of(Kind::Snapshot);
        assert_eq!((limits.rate, limits.hits, limits.expires_seconds), (1.0, 100, 3600));
        assert_eq!((limits.depth, limits.items, limits.text, limits.fields), (3, 100, 256, 20));
        assert_eq!(limits.payload_bytes, 16 * 1024);
        let shared = Kind::Snapshot.shared();
        assert_eq!((shared.process_per_second, shared.agent_per_second), (20.0, 100.0));
        assert_eq!(table()["breaker"], json!({"failures": 3, "window_seconds": 60, "pause_seconds": 300}));
    }

    #[test]
    fn out_of_bounds_is_said_with_the_bounds() {
        let spec = LimitsSpec { depth: Some(7), ..LimitsSpec::default() };
        let error = Limits::resolve(Kind::Snapshot, &spec).unwrap_err();
        assert_eq!(error.to_string(), "limits.depth: 7 is not possible; use 0 to 6");
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 11.0] {
            let spec = LimitsSpec { rate: Some(rate), ..LimitsSpec::default() };
            assert!(Limits::resolve(Kind::Snapshot, &spec).is_err(), "{rate}");
        }
        let spec = LimitsSpec { rate: Some(11.0), ..LimitsSpec::default() };
        assert_eq!(Limits::resolve(Kind::Log, &spec).unwrap().rate, 11.0);
    }
}
