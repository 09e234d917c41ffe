//! Why an attempt failed, and what to do about it.

use std::error::Error;
use std::time::Duration;

/// What kind of remedy a failure has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Unreachable,
    Broken,
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
        let certificate = lower.contains("certificate");
        // What TLS says when the other side does not speak it.
        let no_tls = lower.contains("corrupt message");
        let cause = match (certificate, unreachable) {
            (true, _) => Cause::Certificate,
            (false, true) if !no_tls => Cause::Unreachable,
            (false, _) => Cause::Broken,
        };
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
            Cause::Broken => {
                "check that the collector expects this protocol (OTEL_EXPORTER_OTLP_PROTOCOL) with \
                              or without TLS (https or http) on this port, and whether it wants a client \
                              certificate"
                    .to_owned()
            }
            Cause::Certificate => "set OTEL_EXPORTER_OTLP_CERTIFICATE to the certificate authority of the \
                                   collector, and if it wants a client certificate, \
                                   OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY"
                .to_owned(),
            Cause::Credentials => "check the credentials in OTEL_EXPORTER_OTLP_HEADERS".to_owned(),
            Cause::Address => {
                "check the path of OTEL_EXPORTER_OTLP_ENDPOINT (the agent appends /v1/traces, \
                               /v1/metrics and /v1/logs to it for http/protobuf) and OTEL_EXPORTER_OTLP_PROTOCOL"
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

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;

    #[test]
    fn retryable_codes_are_those_of_the_specification() {
        let retryable: Vec<i32> =
            (0..17).filter(|&code| Failure::grpc(&Status::new(code.into(), ""), None).retryable).collect();
        let expected = [
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::Aborted,
            Code::OutOfRange,
            Code::Unavailable,
            Code::DataLoss,
        ];
        assert_eq!(retryable, expected.map(|code| code as i32));
        let wish = Some(Duration::from_secs(3));
        assert!(Failure::grpc(&Status::resource_exhausted(""), wish).retryable);

        let retryable: Vec<u16> =
            (300..600).filter(|&status| Failure::http(status, "", None).retryable).collect();
        assert_eq!(retryable, [429, 502, 503, 504]);
    }

    #[test]
    fn remedies_name_what_to_set() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let certificate = std::io::Error::other("invalid peer certificate: UnknownIssuer");
        let plain = std::io::Error::other("received corrupt message of type InvalidContentType");
        for (failure, remedy) in [
            (Failure::connection(&refused, true), "OTEL_TRACES_EXPORTER=none"),
            (Failure::connection(&refused, false), "OTEL_EXPORTER_OTLP_PROTOCOL"),
            (Failure::connection(&certificate, true), "OTEL_EXPORTER_OTLP_CERTIFICATE"),
            (Failure::connection(&plain, true), "with or without TLS"),
            (Failure::http(401, "", None), "OTEL_EXPORTER_OTLP_HEADERS"),
            (Failure::http(404, "", None), "OTEL_EXPORTER_OTLP_ENDPOINT"),
            (Failure::grpc(&Status::unimplemented(""), None), "OTEL_EXPORTER_OTLP_PROTOCOL"),
        ] {
            assert!(failure.remedy("OTEL_TRACES_EXPORTER").contains(remedy), "{failure:?}");
        }
    }
}
