//! OTLP/gRPC.

use std::error::Error;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tonic::client::Grpc as Client;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};
use tonic_types::StatusExt;

use super::failure::{Failure, chain};
use super::{StartError, pem};
use crate::export::Signal;
use crate::export::config::{Compression, OtlpConfig};
use crate::export::{SCOPE_NAME, SCOPE_VERSION};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(30);

pub struct Grpc {
    client: Client<Channel>,
    path: PathAndQuery,
    metadata: MetadataMap,
}

impl Grpc {
    pub fn new(signal: Signal, config: &OtlpConfig) -> Result<Self, StartError> {
        let failed = |error: tonic::transport::Error, remedy| StartError::Client {
            endpoint: config.display_endpoint(),
            error: chain(&error),
            remedy,
        };
        let mut endpoint = Endpoint::from_shared(config.endpoint.to_string())
            .and_then(|endpoint| endpoint.user_agent(format!("{SCOPE_NAME}/{SCOPE_VERSION}")))
            .map_err(|error| failed(error, "correct OTEL_EXPORTER_OTLP_ENDPOINT"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE);
        if config.endpoint.scheme() == "https" {
            let mut tls = ClientTlsConfig::new();
            tls = match pem::authorities(config)? {
                Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
                None => tls.with_native_roots(),
            };
            if let Some(pem::Identity { certificate, key }) = pem::identity(config)? {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            endpoint = endpoint.tls_config(tls).map_err(|error| {
                failed(error, "check the files in OTEL_EXPORTER_OTLP_*CERTIFICATE and *_KEY")
            })?;
        }
        let mut client = Client::new(endpoint.connect_lazy());
        if config.compression == Compression::Gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        Ok(Self {
            client: client.accept_compressed(CompressionEncoding::Gzip),
            path: PathAndQuery::from_static(signal.grpc_path()),
            metadata: MetadataMap::from_headers(config.headers.clone()),
        })
    }

    /// Sends an encoded request and returns the encoded response.
    pub async fn send(&mut self, body: Bytes, timeout: Duration) -> Result<Bytes, Failure> {
        self.client.ready().await.map_err(|error| Failure::connection(&error, true))?;
        let mut request = Request::new(body);
        *request.metadata_mut() = self.metadata.clone();
        request.set_timeout(timeout);
        match self.client.unary(request, self.path.clone(), EncodedCodec).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(failure(&status)),
        }
    }
}

fn failure(status: &Status) -> Failure {
    // Without an answer, tonic makes up a status with the connection's error as source.
    if let Some(error) = status.source() {
        return Failure::connection(error, unreachable(error));
    }
    let retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
    Failure::grpc(status, retry_after)
}

/// Whether there was no connection at all, unlike one that broke.
fn unreachable(error: &(dyn Error + 'static)) -> bool {
    use std::io::ErrorKind;
    std::iter::successors(Some(error), |error| (*error).source()).any(|error| {
        match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
            // Invalid data is what TLS finds in a handshake.
            Some(kind) => matches!(
                kind,
                ErrorKind::ConnectionRefused
                    | ErrorKind::HostUnreachable
                    | ErrorKind::NetworkUnreachable
                    | ErrorKind::TimedOut
                    | ErrorKind::InvalidData
            ),
            None => error.to_string().starts_with("dns error"),
        }
    })
}

/// The message is encoded once for all attempts, so the codec only copies.
struct EncodedCodec;

impl Codec for EncodedCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for EncodedCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for EncodedCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn an_exhausted_collector_says_when_to_come_back() {
        let wish = Some(Duration::from_secs(7));
        let status =
            Status::with_error_details(Code::ResourceExhausted, "", ErrorDetails::with_retry_info(wish));
        let with = failure(&status);
        assert_eq!((with.retryable, with.retry_after), (true, wish));
        assert!(!failure(&Status::resource_exhausted("")).retryable);
    }
}
