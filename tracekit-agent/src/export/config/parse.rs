//! Values of single variables.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::{
    BatchConfig, ClientIdentity, Compression, ConfigError, ExportConfig, Exporters, OtlpConfig, Protocol,
};
use crate::export::{Signal, sampler::Sampler};

/// The default of the specification.
const DEFAULT_BATCH_SIZE: usize = 512;

/// More than this would not protect memory any more.
const MAX_COUNT: usize = 1 << 20;

/// A "no limit" that clocks can still add to.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// A signal has its own variables, which win over the general ones.
impl Signal {
    fn infix(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
            Self::Logs => "LOGS",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Traces => "v1/traces",
            Self::Metrics => "v1/metrics",
            Self::Logs => "v1/logs",
        }
    }
}

/// The variables.
pub struct Env<'a> {
    variables: &'a HashMap<String, String>,
}

impl<'a> Env<'a> {
    pub fn new(variables: &'a HashMap<String, String>) -> Self {
        Self { variables }
    }

    fn get(&self, variable: &str) -> Option<&'a str> {
        self.variables.get(variable).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// `OTEL_EXPORTER_OTLP_TRACES_X`, else `OTEL_EXPORTER_OTLP_X`, with the name of which it is.
    fn get_otlp(&self, signal: Signal, suffix: &str) -> Option<(String, &'a str)> {
        [format!("OTEL_EXPORTER_OTLP_{}_{suffix}", signal.infix()), format!("OTEL_EXPORTER_OTLP_{suffix}")]
            .into_iter()
            .find_map(|variable| self.get(&variable).map(|value| (variable, value)))
    }

    pub fn error(&self, variable: &str, remedy: &str) -> ConfigError {
        let secret = variable.ends_with("_HEADERS");
        let value = if secret { "…" } else { self.get(variable).unwrap_or_default() };
        ConfigError { variable: variable.to_owned(), value: value.to_owned(), remedy: remedy.to_owned() }
    }

    pub fn boolean(&self, variable: &str) -> Result<Option<bool>, ConfigError> {
        match self.get(variable) {
            None => Ok(None),
            Some(value) if value.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Some(value) if value.eq_ignore_ascii_case("false") => Ok(Some(false)),
            Some(_) => Err(self.error(variable, "set it to true or false")),
        }
    }

    pub fn count(&self, variable: &str) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.get(variable) else { return Ok(None) };
        match value.parse() {
            Ok(count) if (1..=MAX_COUNT).contains(&count) => Ok(Some(count)),
            _ => Err(self.error(variable, &format!("set it to a whole number between 1 and {MAX_COUNT}"))),
        }
    }

    pub fn millis(&self, variable: &str) -> Result<Option<Duration>, ConfigError> {
        let Some(value) = self.get(variable) else { return Ok(None) };
        match value.parse() {
            Ok(millis) => Ok(Some(Duration::from_millis(millis).min(FOREVER))),
            Err(_) => Err(self.error(variable, "set it to a whole number of milliseconds, for example 5000")),
        }
    }

    /// Like [`Self::millis`], but zero means no limit.
    pub fn timeout(&self, variable: &str) -> Result<Option<Duration>, ConfigError> {
        let timeout = self.millis(variable)?;
        Ok(timeout.map(|timeout| if timeout.is_zero() { FOREVER } else { timeout }))
    }

    /// `OTEL_BSP_*` or `OTEL_BLRP_*`.
    pub fn batch(&self, prefix: &str, queue: usize, delay: Duration) -> Result<BatchConfig, ConfigError> {
        let name = |suffix: &str| format!("OTEL_{prefix}_{suffix}");
        let max_queue_size = self.count(&name("MAX_QUEUE_SIZE"))?.unwrap_or(queue);
        let max_export_batch_size = match self.count(&name("MAX_EXPORT_BATCH_SIZE"))? {
            Some(size) if size > max_queue_size => {
                let remedy =
                    format!("set it to at most {}, which is {max_queue_size}", name("MAX_QUEUE_SIZE"));
                return Err(self.error(&name("MAX_EXPORT_BATCH_SIZE"), &remedy));
            }
            Some(size) => size,
            None => DEFAULT_BATCH_SIZE.min(max_queue_size),
        };
        Ok(BatchConfig {
            max_queue_size,
            schedule_delay: self.millis(&name("SCHEDULE_DELAY"))?.unwrap_or(delay),
            max_export_batch_size,
            export_timeout: self.timeout(&name("EXPORT_TIMEOUT"))?.unwrap_or(Duration::from_secs(30)),
        })
    }

    pub fn exporters(&self, variable: &str, known: &[&str]) -> Result<Exporters, ConfigError> {
        let mut exporters = Exporters::default();
        for name in self.get(variable).unwrap_or("otlp").split(',').map(str::trim) {
            match name {
                name if !known.contains(&name) => {
                    let remedy = format!("this agent has {}; set it to one of them", known.join(", "));
                    return Err(self.error(variable, &remedy));
                }
                "otlp" => exporters.otlp = true,
                "console" => exporters.console = true,
                _ => {}
            }
        }
        Ok(exporters)
    }

    pub fn sampler(&self) -> Result<Sampler, ConfigError> {
        let name = self.get("OTEL_TRACES_SAMPLER").unwrap_or("parentbased_always_on");
        let sampler = match name.strip_prefix("parentbased_").unwrap_or(name) {
            "always_on" => Sampler::ALWAYS_ON,
            "always_off" => Sampler::ALWAYS_OFF,
            "traceidratio" => Sampler::trace_id_ratio(self.ratio()?),
            _ => {
                return Err(self.error(
                    "OTEL_TRACES_SAMPLER",
                    "set it to always_on, always_off, traceidratio, parentbased_always_on, \
                     parentbased_always_off or parentbased_traceidratio",
                ));
            }
        };
        Ok(if name.starts_with("parentbased_") { sampler.parent_based() } else { sampler })
    }

    fn ratio(&self) -> Result<f64, ConfigError> {
        const VARIABLE: &str = "OTEL_TRACES_SAMPLER_ARG";
        let Some(value) = self.get(VARIABLE) else { return Ok(1.0) };
        match value.parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
            _ => Err(self.error(VARIABLE, "set it to a number between 0 and 1, for example 0.1")),
        }
    }

    pub fn endpoint_configured(&self) -> bool {
        [
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
        ]
        .iter()
        .any(|variable| self.get(variable).is_some())
    }

    pub fn otlp(&self, signal: Signal) -> Result<OtlpConfig, ConfigError> {
        let protocol = match self.get_otlp(signal, "PROTOCOL") {
            None | Some((_, "http/protobuf")) => Protocol::HttpProtobuf,
            Some((_, "grpc")) => Protocol::Grpc,
            Some((variable, _)) => return Err(self.error(&variable, "set it to grpc or http/protobuf")),
        };
        let compression = match self.get_otlp(signal, "COMPRESSION") {
            None | Some((_, "none")) => Compression::None,
            Some((_, "gzip")) => Compression::Gzip,
            Some((variable, _)) => return Err(self.error(&variable, "set it to gzip or none")),
        };
        let timeout = match self.get_otlp(signal, "TIMEOUT") {
            None => None,
            Some((variable, _)) => self.timeout(&variable)?,
        };
        Ok(OtlpConfig {
            endpoint: self.endpoint(signal, protocol)?,
            protocol,
            headers: self.headers(signal)?,
            compression,
            timeout: timeout.unwrap_or(Duration::from_secs(10)),
            certificate: self.get_otlp(signal, "CERTIFICATE").map(|(_, path)| PathBuf::from(path)),
            client_identity: self.client_identity(signal)?,
        })
    }

    fn client_identity(&self, signal: Signal) -> Result<Option<ClientIdentity>, ConfigError> {
        match (self.get_otlp(signal, "CLIENT_KEY"), self.get_otlp(signal, "CLIENT_CERTIFICATE")) {
            (None, None) => Ok(None),
            (Some((_, key)), Some((_, certificate))) => {
                Ok(Some(ClientIdentity { key: key.into(), certificate: certificate.into() }))
            }
            (Some((key, _)), None) => {
                let other = key.replace("CLIENT_KEY", "CLIENT_CERTIFICATE");
                Err(self.error(&key, &format!("set {other} too, to the certificate of that key")))
            }
            (None, Some((certificate, _))) => {
                let other = certificate.replace("CLIENT_CERTIFICATE", "CLIENT_KEY");
                Err(self.error(&certificate, &format!("set {other} too, to the key of that certificate")))
            }
        }
    }

    fn endpoint(&self, signal: Signal, protocol: Protocol) -> Result<Url, ConfigError> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.infix());
        let Some((variable, value)) = self.get_otlp(signal, "ENDPOINT") else {
            let default = match protocol {
                Protocol::Grpc => "http://localhost:4317".to_owned(),
                Protocol::HttpProtobuf => format!("http://localhost:4318/{}", signal.path()),
            };
            return default.parse().map_err(|_| self.error(&own, "set it to the URL of the collector"));
        };
        let remedy = match protocol {
            Protocol::Grpc => "set it to a URL with http:// or https://, for example http://localhost:4317",
            Protocol::HttpProtobuf => {
                "set it to a URL with http:// or https://, for example http://localhost:4318"
            }
        };
        let text = if value.contains("://") {
            value.to_owned()
        } else if protocol == Protocol::Grpc {
            // Only here OTEL_EXPORTER_OTLP_INSECURE has a say; without it the specification wants TLS.
            let insecure = match self.get_otlp(signal, "INSECURE") {
                None => false,
                Some((variable, _)) => self.boolean(&variable)?.unwrap_or(false),
            };
            format!("{}://{value}", if insecure { "http" } else { "https" })
        } else {
            return Err(self.error(&variable, remedy));
        };
        let mut url: Url = text.parse().map_err(|_| self.error(&variable, remedy))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(self.error(&variable, remedy));
        }
        match protocol {
            Protocol::Grpc => {
                url.set_path("");
                url.set_query(None);
            }
            // "For the general endpoint, the signal's path is appended; a signal's own is used as it is."
            Protocol::HttpProtobuf if variable != own => {
                let path = format!("{}/{}", url.path().trim_end_matches('/'), signal.path());
                url.set_path(&path);
            }
            Protocol::HttpProtobuf => {}
        }
        url.set_fragment(None);
        Ok(url)
    }

    /// `key=value,key=value` with percent-encoded values: a W3C Baggage header without its metadata.
    fn headers(&self, signal: Signal) -> Result<HeaderMap, ConfigError> {
        let mut headers = HeaderMap::new();
        let Some((variable, value)) = self.get_otlp(signal, "HEADERS") else { return Ok(headers) };
        for (n, member) in value.split(',').map(str::trim).enumerate().filter(|(_, m)| !m.is_empty()) {
            let number = n + 1;
            let Some((key, value)) = member.split_once('=') else {
                let remedy = format!("entry {number} has no '='; write key1=value1,key2=value2");
                return Err(self.error(&variable, &remedy));
            };
            let name: HeaderName = key.trim().to_ascii_lowercase().parse().map_err(|_| {
                self.error(&variable, &format!("the key of entry {number} is not a header name"))
            })?;
            if ["content-type", "content-encoding", "content-length", "transfer-encoding", "te"]
                .contains(&name.as_str())
            {
                return Err(self.error(&variable, &format!("remove {name}, which the agent sets itself")));
            }
            let decoded = percent_decode_str(value.trim()).collect::<Vec<u8>>();
            let mut value = HeaderValue::from_bytes(&decoded).map_err(|_| {
                let remedy =
                    format!("the value of entry {number} ({name}) has characters no header may have");
                self.error(&variable, &remedy)
            })?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }

    pub fn warnings(&self, config: &ExportConfig) -> Vec<String> {
        let mut warnings = Vec::new();
        let temporality = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        if let Some(value) = self.get(temporality).filter(|value| !value.eq_ignore_ascii_case("cumulative")) {
            warnings.push(format!(
                "{temporality}={value} has no effect: metrics are cumulative; convert them in the collector \
                 (cumulativetodelta processor)"
            ));
        }
        let histogram = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION";
        if let Some(value) = self.get(histogram).filter(|value| *value != "explicit_bucket_histogram") {
            warnings.push(format!(
                "{histogram}={value} has no effect: histograms have the bounds of the semantic conventions"
            ));
        }
        for (signal, otlp) in [
            (Signal::Traces, &config.traces_otlp),
            (Signal::Metrics, &config.metrics_otlp),
            (Signal::Logs, &config.logs_otlp),
        ] {
            let tls = otlp.certificate.is_some() || otlp.client_identity.is_some();
            if tls && otlp.endpoint.scheme() == "http" {
                warnings.push(format!(
                    "certificates have no effect on the {} endpoint {}: use https://",
                    signal.infix().to_lowercase(),
                    otlp.display_endpoint()
                ));
            }
        }
        warnings
    }
}
