//! Rate, errors and duration of requests: one histogram for each kind of request.
//!
//! Names, units, bucket bounds and attributes are those of the semantic conventions ("HTTP metrics",
//! "Database client metrics"): the required and recommended attributes without those whose values have no
//! bound. `network.peer.address` of databases is left out because pods change theirs.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::{DefaultHashBuilder, HashTable};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar as OtlpExemplar, Histogram as OtlpHistogram, HistogramDataPoint, Metric,
    ResourceMetrics, exemplar, metric,
};

use super::counters::{Counter, Counters};
use crate::export::otlp::encode;
use crate::trace::span::{Resource, Span, SpanId, SpanKind, TraceId, Value};

/// Series of one metric of one resource; more are counted under `otel.metric.overflow`.
pub const SERIES_PER_METRIC: usize = 2000;

/// Series of all metrics of all resources.
const SERIES: usize = 8192;

/// Resources that have metrics at the same time.
const RESOURCES: usize = 512;

/// A text attribute longer than this is no dimension: it is counted under `otel.metric.overflow`.
const VALUE_BYTES: usize = 256;

const MAX_KEYS: usize = 9;

const HTTP_BOUNDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const DB_BOUNDS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

struct Instrument {
    name: &'static str,
    description: &'static str,
    bounds: &'static [f64],
    /// Attributes of the span that are attributes of the metric; at most [`MAX_KEYS`].
    keys: &'static [&'static str],
}

const INSTRUMENTS: [Instrument; 3] = [
    Instrument {
        name: "http.server.request.duration",
        description: "Duration of HTTP server requests.",
        bounds: HTTP_BOUNDS,
        keys: &[
            "http.request.method",
            "url.scheme",
            "http.response.status_code",
            "http.route",
            "error.type",
            "network.protocol.name",
            "network.protocol.version",
        ],
    },
    Instrument {
        name: "http.client.request.duration",
        description: "Duration of HTTP client requests.",
        bounds: HTTP_BOUNDS,
        keys: &[
            "http.request.method",
            "server.address",
            "server.port",
            "http.response.status_code",
            "error.type",
            "network.protocol.name",
            "network.protocol.version",
        ],
    },
    Instrument {
        name: "db.client.operation.duration",
        description: "Duration of database client operations.",
        bounds: DB_BOUNDS,
        keys: &[
            "db.system.name",
            "db.namespace",
            "db.collection.name",
            "db.operation.name",
            "db.query.summary",
            "db.response.status_code",
            "error.type",
            "server.address",
            "server.port",
        ],
    },
];

/// Index into [`INSTRUMENTS`].
fn instrument_of(span: &Span) -> Option<usize> {
    let has = |key| span.attribute(key).is_some();
    match span.kind {
        SpanKind::Server => has("http.request.method").then_some(0),
        SpanKind::Client if has("http.request.method") => Some(1),
        SpanKind::Client => has("db.system.name").then_some(2),
    }
}

/// A sampled span behind a count.
#[derive(Debug, Clone)]
struct Exemplar {
    trace_id: TraceId,
    span_id: SpanId,
    time_unix_nano: u64,
    seconds: f64,
}

#[derive(Debug, Clone, Default)]
struct Histogram {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    /// One more than there are bounds.
    buckets: Box<[u64]>,
    /// The last of each bucket since the last collection.
    exemplars: Box<[Option<Exemplar>]>,
}

impl Histogram {
    fn new(bounds: &[f64]) -> Self {
        let buckets = bounds.len() + 1;
        Self {
            buckets: vec![0; buckets].into_boxed_slice(),
            exemplars: vec![None; buckets].into_boxed_slice(),
            ..Self::default()
        }
    }

    fn record(&mut self, bounds: &[f64], span: &Span) {
        let seconds = span.duration_nanos() as f64 / 1e9;
        if self.count == 0 {
            (self.min, self.max) = (seconds, seconds);
        }
        self.count += 1;
        self.sum += seconds;
        self.min = self.min.min(seconds);
        self.max = self.max.max(seconds);
        // Upper bounds are inclusive.
        let bucket = bounds.partition_point(|&bound| bound < seconds);
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        if span.sampled
            && let Some(exemplar) = self.exemplars.get_mut(bucket)
        {
            *exemplar = Some(Exemplar {
                trace_id: span.trace_id,
                span_id: span.span_id,
                time_unix_nano: span.end_unix_nano,
                seconds,
            });
        }
    }
}

/// The values of an instrument's keys, in their order.
type Selected<'a> = [Option<&'a Value>; MAX_KEYS];

struct Series {
    hash: u64,
    values: Box<[Option<Value>]>,
    histogram: Histogram,
}

#[derive(Default)]
struct Metrics {
    series: HashTable<Series>,
    overflow: Option<Histogram>,
}

struct PerResource {
    resource: Arc<Resource>,
    start_unix_nano: u64,
    recorded_since_collect: bool,
    metrics: [Metrics; 3],
}

#[derive(Default)]
struct State {
    /// By the address of the resource, which the entry keeps alive.
    resources: HashMap<usize, PerResource>,
    series: usize,
}

/// The histograms of all resources.
pub struct RedMetrics {
    state: Mutex<State>,
    hasher: DefaultHashBuilder,
    counters: Arc<Counters>,
}

impl RedMetrics {
    /// Without any series.
    #[must_use]
    pub fn new(counters: Arc<Counters>) -> Self {
        Self { state: Mutex::default(), hasher: DefaultHashBuilder::default(), counters }
    }

    /// Counts a span, sampled or not, that is an HTTP request or a database operation.
    pub fn record(&self, span: &Span) {
        let Some(index) = instrument_of(span) else { return };
        let Some(instrument) = INSTRUMENTS.get(index) else { return };
        let (selected, too_long) = select(span, instrument);
        let hash = hash(&self.hasher, &selected);

        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { resources, series: total } = &mut *state;
        let Some(entry) = resource_entry(resources, total, span) else {
            self.counters.add(Counter::MetricSpansUncounted, 1);
            return;
        };
        entry.recorded_since_collect = true;
        let Some(metrics) = entry.metrics.get_mut(index) else { return };
        if let Some(series) = metrics.series.find_mut(hash, |series| same(&series.values, &selected)) {
            series.histogram.record(instrument.bounds, span);
            return;
        }
        let mut histogram = Histogram::new(instrument.bounds);
        if too_long || metrics.series.len() >= SERIES_PER_METRIC || *total >= SERIES {
            self.counters.add(Counter::MetricSeriesOverflow, 1);
            metrics.overflow.get_or_insert(histogram).record(instrument.bounds, span);
        } else {
            histogram.record(instrument.bounds, span);
            let values = selected.iter().take(instrument.keys.len()).map(|value| value.cloned()).collect();
            metrics.series.insert_unique(hash, Series { hash, values, histogram }, |series| series.hash);
            *total += 1;
        }
    }

    /// The cumulative totals. Resources that nobody else holds any more and that had no span since the
    /// last call are forgotten.
    #[must_use]
    pub fn collect(&self, now_unix_nano: u64) -> Vec<ResourceMetrics> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { resources, series: total } = &mut *state;
        resources.retain(|_, entry| {
            let keep = entry.recorded_since_collect || Arc::strong_count(&entry.resource) > 1;
            if !keep {
                *total -= entry.series_count();
            }
            keep
        });
        resources
            .values_mut()
            .map(|entry| {
                entry.recorded_since_collect = false;
                let metrics = entry.collect(now_unix_nano);
                encode::resource_metrics(&entry.resource, metrics)
            })
            .collect()
    }
}

/// The entry of the span's resource, made if there is none and room for it.
fn resource_entry<'a>(
    resources: &'a mut HashMap<usize, PerResource>,
    total: &mut usize,
    span: &Span,
) -> Option<&'a mut PerResource> {
    let key = Arc::as_ptr(&span.resource) as usize;
    if !resources.contains_key(&key) {
        let equal = resources.iter().find(|(_, e)| e.resource == span.resource).map(|(&key, _)| key);
        let entry = match equal.and_then(|key| resources.remove(&key)) {
            Some(entry) => PerResource { resource: Arc::clone(&span.resource), ..entry },
            None => {
                if resources.len() >= RESOURCES {
                    let ended = resources.iter().find(|(_, e)| Arc::strong_count(&e.resource) == 1);
                    let ended = ended.map(|(&key, _)| key)?;
                    *total -= resources.remove(&ended).map_or(0, |entry| entry.series_count());
                }
                PerResource {
                    resource: Arc::clone(&span.resource),
                    start_unix_nano: span.start_unix_nano,
                    recorded_since_collect: false,
                    metrics: Default::default(),
                }
            }
        };
        resources.insert(key, entry);
    }
    resources.get_mut(&key)
}

/// The span's values for the keys of the instrument, and whether one of them is too long to be one.
fn select<'a>(span: &'a Span, instrument: &Instrument) -> (Selected<'a>, bool) {
    let mut selected = Selected::default();
    let mut too_long = false;
    for (key, value) in &span.attributes {
        if let Some(slot) = instrument.keys.iter().position(|k| k == key).and_then(|n| selected.get_mut(n)) {
            // The conventions leave `network.protocol.name` out where it is `http`.
            if *key == "network.protocol.name" && matches!(value, Value::String(name) if name == "http") {
                continue;
            }
            too_long |= match value {
                Value::String(text) => text.len() > VALUE_BYTES,
                Value::Strings(_) => true,
                Value::Int(_) | Value::Double(_) | Value::Bool(_) => false,
            };
            *slot = Some(value);
        }
    }
    (selected, too_long)
}

fn hash(hasher: &DefaultHashBuilder, selected: &Selected<'_>) -> u64 {
    let mut hasher = hasher.build_hasher();
    for value in selected {
        match value {
            None => hasher.write_u8(0),
            Some(Value::String(text)) => text.hash(&mut hasher),
            Some(Value::Int(int)) => int.hash(&mut hasher),
            Some(Value::Double(double)) => double.to_bits().hash(&mut hasher),
            Some(Value::Bool(bool)) => bool.hash(&mut hasher),
            Some(Value::Strings(texts)) => texts.hash(&mut hasher),
        }
    }
    hasher.finish()
}

fn same(values: &[Option<Value>], selected: &Selected<'_>) -> bool {
    values.iter().map(Option::as_ref).eq(selected.iter().take(values.len()).copied())
}

impl PerResource {
    fn series_count(&self) -> usize {
        self.metrics.iter().map(|metrics| metrics.series.len()).sum()
    }

    fn collect(&mut self, now: u64) -> Vec<Metric> {
        let start = self.start_unix_nano;
        let mut otlp = Vec::new();
        for (instrument, metrics) in INSTRUMENTS.iter().zip(&mut self.metrics) {
            let mut data_points = Vec::with_capacity(metrics.series.len() + 1);
            for series in &mut metrics.series {
                let attributes = instrument.keys.iter().zip(&series.values);
                let attributes = attributes.filter_map(|(&key, value)| Some((key, value.as_ref()?)));
                data_points.push(data_point(instrument, &mut series.histogram, attributes, start, now));
            }
            if let Some(histogram) = &mut metrics.overflow {
                let attributes = [("otel.metric.overflow", &Value::Bool(true))];
                data_points.push(data_point(instrument, histogram, attributes.into_iter(), start, now));
            }
            if !data_points.is_empty() {
                let data = metric::Data::Histogram(OtlpHistogram {
                    data_points,
                    aggregation_temporality: AggregationTemporality::Cumulative.into(),
                });
                otlp.push(encode::metric(instrument.name, instrument.description, "s", data));
            }
        }
        otlp
    }
}

/// Takes the exemplars out of the histogram.
fn data_point<'a>(
    instrument: &Instrument,
    histogram: &mut Histogram,
    attributes: impl Iterator<Item = (&'a str, &'a Value)>,
    start: u64,
    now: u64,
) -> HistogramDataPoint {
    let exemplars = histogram.exemplars.iter_mut().filter_map(Option::take).map(|exemplar| OtlpExemplar {
        filtered_attributes: Vec::new(),
        time_unix_nano: exemplar.time_unix_nano,
        span_id: exemplar.span_id.0.to_vec(),
        trace_id: exemplar.trace_id.0.to_vec(),
        value: Some(exemplar::Value::AsDouble(exemplar.seconds)),
    });
    HistogramDataPoint {
        attributes: attributes.map(|(key, value)| encode::key_value(key, value)).collect(),
        start_time_unix_nano: start,
        time_unix_nano: now.max(start),
        count: histogram.count,
        sum: Some(histogram.sum),
        bucket_counts: histogram.buckets.to_vec(),
        explicit_bounds: instrument.bounds.to_vec(),
        exemplars: exemplars.collect(),
        flags: 0,
        min: Some(histogram.min),
        max: Some(histogram.max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::testing::{resource, server_span, sql_span};

    fn points(metrics: &ResourceMetrics, name: &str) -> Vec<HistogramDataPoint> {
        let metrics = &metrics.scope_metrics[0].metrics;
        let metric = metrics.iter().find(|metric| metric.name == name).expect(name);
        assert_eq!(metric.unit, "s");
        match metric.data.clone() {
            Some(metric::Data::Histogram(histogram)) => {
                assert_eq!(histogram.aggregation_temporality, AggregationTemporality::Cumulative as i32);
                histogram.data_points
            }
            other => panic!("{other:?}"),
        }
    }

    fn keys(point: &HistogramDataPoint) -> Vec<&str> {
        point.attributes.iter().map(|attribute| attribute.key.as_str()).collect()
    }

    #[test]
    fn spans_fall_into_the_bucket_whose_upper_bound_includes_them() {
        let shop = resource("shop");
        let red = RedMetrics::new(Arc::new(Counters::new()));
        for (millis, _) in [(5, "first bucket"), (6, "second"), (20_000, "last")] {
            let mut span = server_span(1, "/orders/7", &shop);
            span.end_unix_nano = span.start_unix_nano + millis * 1_000_000;
            span.sampled = false;
            red.record(&span);
        }
        let collected = red.collect(u64::MAX);
        let points = points(&collected[0], "http.server.request.duration");
        assert_eq!(points.len(), 1);
        let point = &points[0];
        assert_eq!(point.explicit_bounds.len(), 14);
        assert_eq!(point.bucket_counts, [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!((point.count, point.min, point.max), (3, Some(0.005), Some(20.0)));
        assert!((point.sum.unwrap() - 20.011).abs() < 1e-9);
        assert!(point.start_time_unix_nano > 0 && point.time_unix_nano == u64::MAX);
        let expected =
            ["http.request.method", "url.scheme", "http.response.status_code", "network.protocol.version"];
        assert_eq!(keys(point), expected, "neither path nor server address");
    }

    #[test]
    fn exemplars_lead_to_sampled_spans_of_the_last_interval() {
        let red = RedMetrics::new(Arc::new(Counters::new()));
        let shop = resource("shop");
        for (id, sampled) in [(1, true), (2, true), (3, false)] {
            red.record(&Span { sampled, ..sql_span(id, None, &shop) });
        }
        let point = points(&red.collect(1)[0], "db.client.operation.duration").remove(0);
        let ids: Vec<_> = point.exemplars.iter().map(|exemplar| exemplar.span_id[7]).collect();
        assert_eq!(ids, [2]);
        let point = points(&red.collect(2)[0], "db.client.operation.duration").remove(0);
        assert!(point.exemplars.is_empty());
    }

    #[test]
    fn totals_are_cumulative_and_per_resource() {
        let red = RedMetrics::new(Arc::new(Counters::new()));
        let (shop, cart) = (resource("shop"), resource("cart"));
        red.record(&sql_span(1, None, &shop));
        let _ = red.collect(1);
        red.record(&sql_span(2, None, &shop));
        red.record(&sql_span(3, None, &cart));
        let collected = red.collect(2);
        assert_eq!(collected.len(), 2);
        let mut counts: Vec<_> = collected
            .iter()
            .map(|metrics| points(metrics, "db.client.operation.duration")[0].count)
            .collect();
        counts.sort_unstable();
        assert_eq!(counts, [1, 2]);
    }

    #[test]
    fn an_equal_resource_goes_on_with_the_same_series() {
        let red = RedMetrics::new(Arc::new(Counters::new()));
        red.record(&sql_span(1, None, &resource("shop")));
        red.record(&sql_span(2, None, &resource("shop")));
        let collected = red.collect(1);
        assert_eq!(collected.len(), 1);
        assert_eq!(points(&collected[0], "db.client.operation.duration")[0].count, 2);
    }

    #[test]
    fn a_resource_that_is_gone_is_forgotten() {
        let red = RedMetrics::new(Arc::new(Counters::new()));
        red.record(&sql_span(1, None, &resource("shop")));
        assert_eq!(red.collect(1).len(), 1, "its last spans are still told");
        assert_eq!(red.collect(2).len(), 0);
        assert_eq!(red.state.lock().unwrap().series, 0);
    }

    #[test]
    fn cardinality_is_bounded() {
        let counters = Arc::new(Counters::new());
        let red = RedMetrics::new(Arc::clone(&counters));
        let shop = resource("shop");
        let mut span = sql_span(1, None, &shop);
        for n in 0..SERIES_PER_METRIC + 10 {
            span.attributes[1].1 = Value::from(format!("SELECT t{n}"));
            red.record(&span);
        }
        span.attributes[1].1 = Value::from("x".repeat(VALUE_BYTES + 1));
        red.record(&span);
        let points = points(&red.collect(1)[0], "db.client.operation.duration");
        assert_eq!(points.len(), SERIES_PER_METRIC + 1);
        let overflow = points.iter().find(|point| keys(point) == ["otel.metric.overflow"]).unwrap();
        assert_eq!(overflow.count, 11);
        assert_eq!(counters.get(Counter::MetricSeriesOverflow), 11);
    }

    #[test]
    fn the_number_of_resources_is_bounded() {
        let counters = Arc::new(Counters::new());
        let red = RedMetrics::new(Arc::clone(&counters));
        let held: Vec<_> = (0..RESOURCES + 3).map(|n| resource(&n.to_string())).collect();
        for resource in &held {
            red.record(&sql_span(1, None, resource));
        }
        assert_eq!(red.collect(1).len(), RESOURCES);
        assert_eq!(counters.get(Counter::MetricSpansUncounted), 3);
    }
}
