//! Head sampling by `OTEL_TRACES_SAMPLER`.
//!
//! Source: OpenTelemetry specification, "Tracing SDK", section "Sampling".

use crate::trace::span::TraceId;

/// The `sampled` flag of the `traceparent` that a request brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParentSampled(pub bool);

/// Decides which traces are exported. Metrics count them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    root: Root,
    parent_based: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    On,
    Off,
    /// Sampled if the low 63 bits of the trace id's right half are below this bound.
    Below(u64),
}

impl Default for Sampler {
    /// `parentbased_always_on`, the default of the specification.
    fn default() -> Self {
        Self { root: Root::On, parent_based: true }
    }
}

impl Sampler {
    /// `always_on`: every trace.
    pub const ALWAYS_ON: Self = Self { root: Root::On, parent_based: false };
    /// `always_off`: none.
    pub const ALWAYS_OFF: Self = Self { root: Root::Off, parent_based: false };

    /// `traceidratio`: this share of traces, between 0 and 1, chosen by trace id as the OpenTelemetry
    /// SDKs do, so that services with the same ratio choose the same traces.
    #[must_use]
    pub fn trace_id_ratio(ratio: f64) -> Self {
        const ALL: f64 = (1u64 << 63) as f64;
        let root = if ratio >= 1.0 {
            Root::On
        } else if ratio > 0.0 {
            Root::Below((ratio * ALL) as u64)
        } else {
            Root::Off
        };
        Self { root, parent_based: false }
    }

    /// `parentbased_…`: a trace that has a parent follows the parent's decision, others follow `self`.
    #[must_use]
    pub fn parent_based(self) -> Self {
        Self { parent_based: true, ..self }
    }

    /// Traces without a parent are sampled if the low 63 bits of the id's right half are below this.
    #[must_use]
    pub fn bound(&self) -> u64 {
        match self.root {
            Root::On => u64::MAX,
            Root::Off => 0,
            Root::Below(bound) => bound,
        }
    }

    /// A trace with a parent is sampled as that is.
    #[must_use]
    pub fn follows_parent(&self) -> bool {
        self.parent_based
    }

    /// Whether to export the spans of a trace. `parent` is `None` if the request brought no `traceparent`.
    #[must_use]
    pub fn decide(&self, trace_id: TraceId, parent: Option<ParentSampled>) -> bool {
        if self.parent_based
            && let Some(ParentSampled(sampled)) = parent
        {
            return sampled;
        }
        match self.root {
            Root::On => true,
            Root::Off => false,
            Root::Below(bound) => ((u128::from_be_bytes(trace_id.0) as u64) >> 1) < bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn id(low: u64) -> TraceId {
        TraceId(((0xffff_u128 << 64) | u128::from(low)).to_be_bytes())
    }

    #[test]
    fn the_parent_decides_only_when_asked_to() {
        let yes = Some(ParentSampled(true));
        let no = Some(ParentSampled(false));
        for (sampler, root, with_yes, with_no) in [
            (Sampler::ALWAYS_ON, true, true, true),
            (Sampler::ALWAYS_OFF, false, false, false),
            (Sampler::ALWAYS_ON.parent_based(), true, true, false),
            (Sampler::ALWAYS_OFF.parent_based(), false, true, false),
            (Sampler::trace_id_ratio(0.0), false, false, false),
            (Sampler::trace_id_ratio(1.0), true, true, true),
            (Sampler::trace_id_ratio(0.0).parent_based(), false, true, false),
        ] {
            assert_eq!(sampler.decide(id(u64::MAX), None), root, "{sampler:?}");
            assert_eq!(sampler.decide(id(u64::MAX), yes), with_yes, "{sampler:?}");
            assert_eq!(sampler.decide(id(u64::MAX), no), with_no, "{sampler:?}");
        }
    }

    /// The Python SDK samples if the low 64 bits are below `round(ratio * 2**64)`.
    #[test]
    fn ratio_agrees_with_the_sdks_at_the_bound() {
        let sampler = Sampler::trace_id_ratio(0.25);
        assert!(sampler.decide(id((1 << 62) - 1), None));
        assert!(!sampler.decide(id(1 << 62), None));
    }

    #[test]
    fn ratio_is_the_share_of_random_ids() {
        let mut random = StdRng::seed_from_u64(7);
        let sampler = Sampler::trace_id_ratio(0.1);
        let sampled = (0..20_000).filter(|_| sampler.decide(id(random.random()), None)).count();
        assert!((1_800..2_200).contains(&sampled), "{sampled}");
    }
}
