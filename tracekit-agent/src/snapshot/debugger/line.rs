//! A line of a process, and the breakpoints that are on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracekit_common::watchpoint::{Bucket, Hits, MAX_IMAGE};

use super::capture::Captured;
use crate::probes::watchpoint::Scope;
use crate::python::object::Limits;
use crate::redact::Redactor;
use crate::snapshot::breakpoint::Breakpoint;
use crate::snapshot::engine::anchor::Anchor;
use crate::snapshot::engine::{LineSpec, State as Armed};
use crate::snapshot::expression::{Expression, Template};
use crate::snapshot::limits::{Admission, Breaker};
use crate::snapshot::outlet::Outlet;
use crate::snapshot::registry::Registry;
use crate::snapshot::state::{Counters, Mode, Skipped, State};

/// Images a second that a condition is evaluated on: some 30 µs each, which is within the budget of a process.
const EVALUATED: f64 = 200.0;
/// Levels below local variables that are captured at most.
const MAX_DEPTH: usize = 10;
/// A rate that was reached is said for so long.
const LIMITED: Duration = Duration::from_secs(1);

/// A breakpoint, ready to be evaluated.
pub struct Member {
    pub breakpoint: Arc<Breakpoint>,
    pub condition: Option<Expression>,
    pub watches: Vec<Expression>,
    pub template: Option<Template>,
    pub breaker: Breaker,
    /// Counted, and not yet reported.
    counted: Counters,
    /// Since the last capture.
    pub skipped: Skipped,
    /// When a rate was reached last.
    limited: Option<Instant>,
    /// It has captured all that it should.
    done: bool,
    /// The state that the registry was told last.
    pub told: Option<State>,
}

impl Member {
    /// Compiles the texts of a breakpoint.
    pub fn new(breakpoint: Arc<Breakpoint>, redactor: &Redactor) -> Result<Self, String> {
        let compile = |source: &String| {
            Expression::compile(source, redactor).map_err(|error| format!("{source:?}: {error}"))
        };
        let condition = breakpoint.condition.as_ref().map(compile).transpose()?;
        let watches = breakpoint.expressions.iter().map(compile).collect::<Result<_, _>>()?;
        let template = breakpoint.template.as_ref().map(|source| {
            Template::compile(source, redactor).map_err(|error| format!("{source:?}: {error}"))
        });
        let template = template.transpose()?;
        Ok(Self {
            breakpoint,
            condition,
            watches,
            template,
            breaker: Breaker::default(),
            counted: Counters::default(),
            skipped: Skipped::default(),
            limited: None,
            done: false,
            told: None,
        })
    }

    /// Levels below local variables that it needs.
    fn depth(&self) -> usize {
        let shown = self.breakpoint.limits.of_values().depth;
        let watched = self.watches.iter().map(|watch| watch.depth().saturating_add(shown));
        let variables = if self.breakpoint.limits.frames > 0 { shown } else { 0 };
        let condition = self.condition.iter().map(Expression::depth);
        let template = self.template.iter().map(Template::depth);
        watched.chain(condition).chain(template).fold(variables, usize::max)
    }

    /// A rate was reached lately.
    pub fn is_limited(&self, now: Instant) -> bool {
        self.limited.is_some_and(|at| now.saturating_duration_since(at) < LIMITED)
    }

    fn skip(&mut self, count: u64, of: fn(&mut Skipped) -> &mut u64) {
        for skipped in [&mut self.skipped, &mut self.counted.skipped] {
            let counter = of(skipped);
            *counter = counter.saturating_add(count);
        }
    }

    /// What becomes of a hit.
    fn hit(
        &mut self,
        pid: u32,
        hits: u64,
        hit: &Captured<'_>,
        admission: &mut Admission,
        registry: &Registry,
        outlet: &Outlet,
    ) {
        let now = Instant::now();
        if self.done || self.breaker.is_open(now) || self.breakpoint.has_expired(Timestamp::now()) {
            return;
        }
        if let Some(condition) = &self.condition {
            match hit.context(outlet.redactor, |context| condition.condition(context)) {
                Some(Ok(true)) => {}
                outcome => {
                    if matches!(outcome, Some(Err(_))) {
                        self.counted.undefined += 1;
                    }
                    self.skip(1, |skipped| &mut skipped.condition);
                    return;
                }
            }
        }
        if admission.admit(&self.breakpoint, hit.hit.raw.record.tgid, now).is_err() {
            self.limited = Some(now);
            self.skip(1, |skipped| &mut skipped.rate);
            return;
        }
        match hit.snapshot(self, hits, outlet.redactor) {
            Ok((snapshot, undefined)) => {
                self.counted.undefined += undefined;
                self.counted.captured += 1;
                self.breaker.worked();
                self.skipped = Skipped::default();
                outlet.publish(snapshot);
            }
            Err(error) => {
                tracing::debug!(breakpoint = %self.breakpoint.id, pid, %error, "a capture failed");
                self.skip(1, |skipped| &mut skipped.error);
                if self.breaker.failed(now) {
                    tracing::warn!(breakpoint = %self.breakpoint.id, pid, %error, "captures fail; paused");
                }
            }
        }
        self.report(pid, registry);
    }

    /// Tells the registry what was counted.
    fn report(&mut self, pid: u32, registry: &Registry) {
        if self.counted != Counters::default() {
            let counted = std::mem::take(&mut self.counted);
            self.done = registry.report_hits(&self.breakpoint.id, pid, &counted, Timestamp::now()) == 0;
        }
    }
}

/// A line that is armed, or to be when its file is loaded.
pub struct Line {
    pub pid: u32,
    pub members: Vec<Member>,
    /// Counters of the kernel side at the last look.
    last: Hits,
}

impl Line {
    pub fn new(pid: u32, members: Vec<Member>) -> Self {
        Self { pid, members, last: Hits::default() }
    }

    /// This breakpoint is on it, as it is now.
    pub fn has(&self, breakpoint: &Breakpoint) -> bool {
        self.members.iter().any(|member| *member.breakpoint == *breakpoint)
    }

    /// This breakpoint names the same line, whether or not its file is loaded.
    pub fn is_at(&self, breakpoint: &Breakpoint) -> bool {
        let same = |member: &Member| {
            (&member.breakpoint.file, member.breakpoint.line) == (&breakpoint.file, breakpoint.line)
        };
        self.members.iter().any(same)
    }

    /// All its breakpoints are paused by their breakers.
    pub fn is_broken(&self, now: Instant) -> bool {
        self.members.iter().all(|member| member.breaker.is_open(now))
    }

    /// Takes over the counters of the kernel side; what all accesses since have cost. `trap`: what one costs before
    /// the kernel side's program begins and after it ends.
    pub fn account(&mut self, now: &Hits, trap: Duration, unix_offset: u64) -> Duration {
        let since = |of: fn(&Hits) -> u64| of(now).saturating_sub(of(&self.last));
        let hits = since(|hits| hits.hits);
        let accesses = hits + since(|hits| hits.spurious) + since(|hits| hits.unknown);
        let nanoseconds = since(|hits| hits.nanoseconds);
        let cost = Duration::from_nanos(nanoseconds)
            .saturating_add(trap.saturating_mul(u32::try_from(accesses).unwrap_or(u32::MAX)));
        let (limited, lost) = (since(|hits| hits.limited), since(|hits| hits.lost));
        let each = cost / u32::try_from(accesses.max(1)).unwrap_or(u32::MAX);
        let last_hit = Timestamp::from_nanosecond(i128::from(now.last.saturating_add(unix_offset))).ok();
        for member in &mut self.members {
            if hits > 0 {
                member.counted.hits += hits;
                member.counted.last_hit = last_hit;
                member.counted.cost.record(each, hits);
            }
            if limited > 0 {
                // On a line with several breakpoints it is not known for which of them there was no time.
                member.limited = Some(Instant::now());
                member.skip(limited, |skipped| &mut skipped.rate);
            }
            if lost > 0 {
                member.skip(lost, |skipped| &mut skipped.error);
            }
        }
        // Only of a line with one breakpoint the kernel side decides the condition.
        let unmet = since(|hits| hits.unmet);
        if unmet > 0
            && let Some(member) = self.members.first_mut()
        {
            member.skip(unmet, |skipped| &mut skipped.condition);
        }
        self.last = *now;
        cost
    }

    pub fn report(&mut self, registry: &Registry) {
        self.members.iter_mut().for_each(|member| member.report(self.pid, registry));
    }

    /// What becomes of a hit.
    pub fn hit(
        &mut self,
        hit: &Captured<'_>,
        admission: &mut Admission,
        registry: &Registry,
        outlet: &Outlet,
    ) {
        let hits = self.last.hits;
        for member in &mut self.members {
            member.hit(self.pid, hits, hit, admission, registry, outlet);
        }
    }
}

/// What the engine is to capture for these breakpoints: as much as the one that wants most.
pub fn spec(members: &[Member], anchor: Option<Anchor>) -> LineSpec {
    let values = members.iter().map(|member| member.breakpoint.limits.of_values());
    let most = |of: fn(Limits) -> usize| values.clone().map(of).max().unwrap_or(0);
    let rate = members.iter().map(|member| {
        let rate = member.breakpoint.limits.rate;
        if member.condition.is_some() { rate.max(EVALUATED) } else { rate }
    });
    let rate = rate.fold(0.0_f64, f64::max).clamp(1e-4, 1e4);
    let interval = (1e9 / rate) as u64;
    let burst = rate.max(1.0) as u64;
    let limits = Limits {
        depth: members.iter().map(Member::depth).max().unwrap_or(0).min(MAX_DEPTH),
        items: most(|limits| limits.items),
        fields: most(|limits| limits.fields),
        text: most(|limits| limits.text),
        ..Limits::default()
    };
    let first = members.first().map(|member| &member.breakpoint);
    // What is left undecided needs as many images as any other condition, so the rate stays what it is.
    let condition = match members {
        [only] => only.condition.as_ref().and_then(Expression::decision),
        _ => None,
    };
    LineSpec {
        capture: true,
        limits,
        bytes: MAX_IMAGE,
        bucket: Some(Bucket {
            interval,
            tolerance: interval.saturating_mul(burst.saturating_sub(1)),
            due: 0,
            left: u64::MAX,
        }),
        anchor,
        condition,
        ..LineSpec::new(
            first.map(|breakpoint| breakpoint.file.clone()).unwrap_or_default(),
            first.and_then(|breakpoint| i32::try_from(breakpoint.line).ok()).unwrap_or(0),
        )
    }
}

/// The engine's state, as users see it.
pub fn state(armed: &Armed) -> State {
    match armed {
        Armed::Pending | Armed::Paused => State::Pending,
        Armed::Active { rotating: true, .. } => State::Active { mode: Mode::Rotating },
        Armed::Active { scope: Scope::Processors, .. } => State::Active { mode: Mode::CpuWide },
        Armed::Active { scope: Scope::Tasks(_), .. } => State::Active { mode: Mode::PerTask },
        Armed::Stale(reason) => State::Stale { reason: reason.clone() },
        Armed::Error(reason) => State::Error { reason: reason.clone() },
    }
}
