//! The certificate and key files that variables name.

use std::path::Path;

use super::StartError;
use crate::export::config::OtlpConfig;

/// The client's, in PEM.
pub struct Identity {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

/// The certificate authorities to trust instead of the system's.
pub fn authorities(config: &OtlpConfig) -> Result<Option<Vec<u8>>, StartError> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    let Some(path) = config.certificate.as_deref() else { return Ok(None) };
    let pem = read(path, "OTEL_EXPORTER_OTLP_CERTIFICATE")?;
    if !pem.windows(BEGIN.len()).any(|window| window == BEGIN) {
        return Err(StartError::Client {
            endpoint: config.display_endpoint(),
            error: format!("{} holds no certificate", path.display()),
            remedy: "set OTEL_EXPORTER_OTLP_CERTIFICATE to a file of PEM certificates",
        });
    }
    Ok(Some(pem))
}

/// What the client shows to the collector.
pub fn identity(config: &OtlpConfig) -> Result<Option<Identity>, StartError> {
    let Some(identity) = &config.client_identity else { return Ok(None) };
    Ok(Some(Identity {
        certificate: read(&identity.certificate, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE")?,
        key: read(&identity.key, "OTEL_EXPORTER_OTLP_CLIENT_KEY")?,
    }))
}

fn read(path: &Path, variable: &'static str) -> Result<Vec<u8>, StartError> {
    std::fs::read(path).map_err(|source| StartError::File {
        path: path.display().to_string(),
        variable,
        source,
    })
}
