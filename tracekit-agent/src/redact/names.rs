//! Values that are secrets: by the name they have, or by what they look like.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

/// Parts of a normalised name (lower case, letters and digits only) that make its value a secret.
const PARTS: &[&str] = &[
    "accesskey",
    "apikey",
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "csrf",
    "encryptionkey",
    "jwt",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "secret",
    "sessionid",
    "sessionkey",
    "signingkey",
    "token",
];

/// Whole words of a name that do.
const WORDS: &[&str] = &["auth", "cvc", "cvv", "otp", "pass", "pin", "pw", "pwd", "ssn"];

/// The value of this variable, attribute or key is not to be shown: `db_password`, `X-Api-Key`, `authToken`.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let normalised: String =
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    if PARTS.iter().any(|part| normalised.contains(part)) {
        return true;
    }
    name.split(|c: char| !c.is_ascii_alphanumeric())
        .any(|word| WORDS.contains(&word.to_ascii_lowercase().as_str()))
}

/// User and password in a URL; a bearer or basic credential; a JSON web token; keys with a maker's prefix; a
/// private key in PEM.
static PATTERNS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i-u:\b(?:bearer|basic)[ ]+[a-z0-9._~+/=-]{8,})",
        r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?",
        r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
        r"|\b(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{8,}",
        r"|\bgh[pousr]_[A-Za-z0-9]{20,}",
        r"|\bxox[abprs]-[A-Za-z0-9-]{10,}",
        r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*",
        r"|[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/@:]*:[^\s/@]+@",
    ))
    .ok()
});

/// The text with what looks like a secret in it replaced.
#[must_use]
pub fn without_secrets(text: &str) -> Cow<'_, str> {
    match PATTERNS.as_ref() {
        Some(patterns) => patterns.replace_all(text, "[REDACTED]"),
        None => Cow::Borrowed("[REDACTED]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets() {
        for name in ["password", "DB_PASSWORD", "X-Api-Key", "authToken", "user_pwd", "csrf_token", "auth"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["author", "passenger", "name", "opinion", "key", "bypass_cache", ""] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn texts_with_secrets() {
        assert!(PATTERNS.is_some());
        for text in [
            "Bearer abcdef123456",
            "postgres://u:p4ss@db/x",
            "eyJhbGciOiJI.eyJzdWIiOiIx.sig",
            "AKIAIOSFODNN7EXAMPLE",
            "-----BEGIN RSA PRIVATE KEY-----\nMII",
        ] {
            assert!(without_secrets(text).starts_with("[REDACTED]"), "{text}");
        }
        for text in ["http://host/path", "a basic idea", "plain", "2024-01-01T00:00:00"] {
            assert_eq!(without_secrets(text), text);
        }
    }
}
