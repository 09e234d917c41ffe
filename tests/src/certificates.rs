//! Certificates for servers of the tests.

use std::process::Command;

use anyhow::Result;

use crate::process::run;
use crate::stage::Stage;

/// A certificate authority and a certificate of it for 127.0.0.1.
///
/// Paths of the authority, the certificate and its key.
///
/// # Errors
/// `openssl` fails.
pub fn certificates(stage: &Stage) -> Result<[String; 3]> {
    let file = |name: &str| stage.logs().join(name).display().to_string();
    let [ca, ca_key, certificate, key] = ["ca.pem", "ca.key", "server.pem", "server.key"].map(file);
    let new =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    run(Command::new("openssl").args(new).args(["-subj", "/CN=tests", "-keyout", &ca_key, "-out", &ca]))?;
    run(Command::new("openssl")
        .args(new)
        .args([
            "-subj",
            "/CN=collector",
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-keyout",
            &key,
            "-out",
            &certificate,
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1"]))?;
    Ok([ca, certificate, key])
}
