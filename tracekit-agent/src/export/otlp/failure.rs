//! Why an attempt failed, and what to do about it.

use std::error::Error;
use std::time::Duration;

/// What kind of remedy a failure has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Unreachable,
    Certificate,
    Credentials,
    Address,
    Overload,
    Other,
}

/// One failed attempt to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What happened.
    pub error: String,
    /// Another attempt may succeed.
    pub retryable: bool,
    /// How long the collector asks to wait.
    pub retry_after: Option<Duration>,
    /// No connection came about.
    pub unreachable: bool,
    cause: Cause,
}

impl Failure {
    /// There was no connection, or it broke.
    pub fn connection(error: &(dyn Error + 'static), unreachable: bool) -> Self {
        let error = chain(error);
        let lower = error.to_ascii_lowercase();
        let certificate =
            ["certificate", "unknownissuer", "handshake", "invalidcontenttype", "corrupt message"]
                .iter()
                .any(|word| lower.contains(word));
        let cause = if certificate { Cause::Certificate } else { Cause::Unreachable };
        Self { error, retryable: true, retry_after: None, unreachable, cause }
    }

    /// No answer in time.
    pub fn timeout(limit: Duration) -> Self {
        Self {
            error: format!("no answer within {:.1} s", limit.as_secs_f64()),
            retryable: true,
            retry_after: None,
            unreachable: false,
            cause: Cause::Overload,
        }
    }

    /// The collector answered with an HTTP status other than 2xx.
    pub fn http(status: u16, body: &str, retry_after: Option<Duration>) -> Self {
        let retryable = matches!(status, 429 | 502 | 503 | 504);
        let cause = match status {
            401 | 403 | 407 => Cause::Credentials,
            404 | 405 | 415 | 301..=308 => Cause::Address,
            429 | 502..=504 => Cause::Overload,
            _ => Cause::Other,
        };
        let body = body.trim();
        let error = if body.is_empty() {
            format!("HTTP status {status}")
        } else {
            format!("HTTP status {status}: {body:?}")
        };
        Self { error, retryable, retry_after, unreachable: false, cause }
    }

    /// The collector answered with a gRPC status other than OK.
    pub fn grpc(status: &tonic::Status, retry_after: Option<Duration>) -> Self {
        use tonic::Code;
        let code = status.code();
        let retryable = match code {
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss => true,
            // "Only if the server signals that the recovery from resource exhaustion is possible."
            Code::ResourceExhausted => retry_after.is_some(),
            _ => false,
        };
        let cause = match code {
            Code::Unauthenticated | Code::PermissionDenied => Cause::Credentials,
            Code::Unimplemented | Code::NotFound => Cause::Address,
            Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => Cause::Overload,
            _ => Cause::Other,
        };
        let message: String = status.message().chars().take(200).collect();
        let error = format!("gRPC status {code:?}: {message:?}");
        Self { error, retryable, retry_after, unreachable: false, cause }
    }

    /// What the user can do; `exporter_variable` switches the exporter off.
    pub fn remedy(&self, exporter_variable: &str) -> String {
        match self.cause {
            Cause::Unreachable => format!(
                "start a collector there, or set OTEL_EXPORTER_OTLP_ENDPOINT to where one is, or \
                 {exporter_variable}=none"
            ),
            Cause::Certificate => "set OTEL_EXPORTER_OTLP_CERTIFICATE to the certificate authority of the \
                                   collector, and check that it expects TLS on this port"
                .to_owned(),
            Cause::Credentials => "check the credentials in OTEL_EXPORTER_OTLP_HEADERS".to_owned(),
            Cause::Address => {
                "check the path of OTEL_EXPORTER_OTLP_ENDPOINT (the agent appends /v1/traces and \
                               /v1/metrics to it for http/protobuf) and OTEL_EXPORTER_OTLP_PROTOCOL"
                    .to_owned()
            }
            Cause::Overload => "check the load and the log of the collector".to_owned(),
            Cause::Other => "see the log of the collector".to_owned(),
        }
    }
}

/// An error with its sources. Libraries tend to repeat a source's text in their own.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}
