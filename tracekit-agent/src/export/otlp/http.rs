//! OTLP/HTTP with protobuf bodies.

use std::io::Write;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use flate2::write::GzEncoder;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Identity, Response, redirect};
use url::{Host, Url};

use super::StartError;
use super::failure::{Failure, chain};
use super::pem;
use crate::export::config::{Compression, OtlpConfig};
use crate::export::{SCOPE_NAME, SCOPE_VERSION};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer holds counts and a sentence; more is not read.
const RESPONSE_BYTES: usize = 64 * 1024;

pub struct Http {
    client: Client,
    url: Url,
    headers: HeaderMap,
    compression: Compression,
}

impl Http {
    pub fn new(config: &OtlpConfig) -> Result<Self, StartError> {
        let failed = |error: reqwest::Error, remedy| StartError::Client {
            endpoint: config.display_endpoint(),
            error: chain(&error.without_url()),
            remedy,
        };
        let mut builder = Client::builder()
            .user_agent(format!("{SCOPE_NAME}/{SCOPE_VERSION}"))
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirect would carry the headers, which may be secret, to somewhere else.
            .redirect(redirect::Policy::none());
        if is_local(&config.endpoint) {
            builder = builder.no_proxy();
        }
        if let Some(pem) = pem::authorities(config)? {
            let remedy = "set OTEL_EXPORTER_OTLP_CERTIFICATE to a file of PEM certificates";
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| failed(error, remedy))?;
            builder = builder.tls_built_in_root_certs(false);
            for certificate in certificates {
                builder = builder.add_root_certificate(certificate);
            }
        }
        if let Some(pem::Identity { certificate, key }) = pem::identity(config)? {
            let pem = [certificate, key].join(&b'\n');
            let remedy = "check the files in OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY";
            builder = builder.identity(Identity::from_pem(&pem).map_err(|error| failed(error, remedy))?);
        }
        let client = builder
            .build()
            .map_err(|error| failed(error, "check the files in OTEL_EXPORTER_OTLP_*CERTIFICATE"))?;
        let mut headers = config.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        if config.compression == Compression::Gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(Self { client, url: config.endpoint.clone(), headers, compression: config.compression })
    }

    /// The body as it goes over the wire.
    pub fn prepare(&self, request: Vec<u8>) -> Bytes {
        match self.compression {
            Compression::None => Bytes::from(request),
            Compression::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                // Writing to memory does not fail.
                let _ = encoder.write_all(&request);
                Bytes::from(encoder.finish().unwrap_or_default())
            }
        }
    }

    /// Sends a prepared body and returns the encoded response.
    pub async fn send(&self, body: Bytes) -> Result<Bytes, Failure> {
        let request = self.client.post(self.url.clone()).headers(self.headers.clone()).body(body);
        let response = request.send().await.map_err(|error| {
            let unreachable = error.is_connect();
            Failure::connection(&error.without_url(), unreachable)
        })?;
        let status = response.status();
        let retry_after = retry_after(response.headers(), SystemTime::now());
        let body = read_response(response).await;
        if status.is_success() {
            return Ok(body);
        }
        Err(Failure::http(status.as_u16(), &describe(&body), retry_after))
    }
}

/// What the connection delivers of the body, up to a bound. The status counts even if the body breaks off.
async fn read_response(mut response: Response) -> Bytes {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = RESPONSE_BYTES.saturating_sub(body.len());
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if body.len() >= RESPONSE_BYTES {
            break;
        }
    }
    Bytes::from(body)
}

/// The body of an error: a `google.rpc.Status` by the specification, text as things are.
fn describe(body: &[u8]) -> String {
    use prost::Message;
    let text = match tonic_types::pb::Status::decode(body) {
        Ok(status) if !status.message.is_empty() => status.message,
        _ => String::from_utf8_lossy(body).into_owned(),
    };
    text.chars().take(200).collect()
}

/// RFC 9110, 10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).ok(),
    }
}

/// Proxies do not reach this machine's own addresses.
pub fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (value, expected) in [
            ("7", Some(7)),
            ("Sun, 06 Nov 1994 08:49:40 GMT", Some(3)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", None),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn errors_are_described_by_status_message_or_text() {
        use prost::Message;
        let status = tonic_types::pb::Status { code: 3, message: "bad span".to_owned(), details: vec![] };
        assert_eq!(describe(&status.encode_to_vec()), "bad span");
        assert_eq!(describe(b"<html>"), "<html>");
        assert_eq!(describe(&[b'x'; 1000]).len(), 200);
    }
}
