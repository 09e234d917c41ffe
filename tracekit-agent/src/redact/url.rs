//! Credentials and secrets in URLs.
//!
//! Source: semantic conventions, `url.full` and `url.query`: credentials become `REDACTED:REDACTED@`,
//! values of keys that sign or authorise become `REDACTED`.

use std::borrow::Cow;

use super::redactor::Redactor;
use super::scan::unescaped;

const REDACTED: &str = "REDACTED";

/// Query keys, normalised (lower case, without `-` and `_`), whose values are secrets: those the
/// semantic conventions name, and what applications call theirs.
const SECRET_KEYS: &[&str] = &[
    "accesstoken",
    "apikey",
    "auth",
    "authorization",
    "authtoken",
    "awsaccesskeyid",
    "clientsecret",
    "code",
    "credential",
    "credentials",
    "idtoken",
    "jwt",
    "passwd",
    "password",
    "privatekey",
    "pwd",
    "refreshtoken",
    "secret",
    "secretkey",
    "sessionid",
    "sessiontoken",
    "sig",
    "signature",
    "token",
    "xamzcredential",
    "xamzsecuritytoken",
    "xamzsignature",
    "xgoogcredential",
    "xgoogsignature",
];

/// The value of this query key is a secret.
pub(super) fn is_secret_key(key: &str) -> bool {
    // Longer than any of them, percent-encoding and separators included: not worth normalising.
    if key.len() > 128 {
        return false;
    }
    let normalised: String =
        key.chars().filter(|c| !matches!(c, '-' | '_')).map(|c| c.to_ascii_lowercase()).collect();
    SECRET_KEYS.binary_search(&normalised.as_str()).is_ok()
        || Redactor::in_use().names.verdict(&unescaped(key)).is_some_and(|verdict| !verdict.weak)
}

/// The query with the values of secret keys replaced.
#[must_use]
pub fn query(query: &str) -> Cow<'_, str> {
    let secret =
        |pair: &str| pair.split_once('=').is_some_and(|(key, value)| !value.is_empty() && is_secret_key(key));
    if !query.split('&').any(secret) {
        return Cow::Borrowed(query);
    }
    let pairs: Vec<Cow<'_, str>> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((key, _)) if secret(pair) => Cow::Owned(format!("{key}={REDACTED}")),
            _ => Cow::Borrowed(pair),
        })
        .collect();
    Cow::Owned(pairs.join("&"))
}

/// The URL with credentials and the values of secret keys replaced, and without a fragment's secrets.
#[must_use]
pub fn full(url: &str) -> String {
    let (url, fragment) = url.split_once('#').map_or((url, None), |(u, f)| (u, Some(f)));
    let (base, query_text) = url.split_once('?').map_or((url, None), |(b, q)| (b, Some(q)));
    let mut out = String::with_capacity(url.len() + 16);
    match base.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            out.push_str(scheme);
            out.push_str("://");
            match authority.rsplit_once('@') {
                Some((credentials, host)) => {
                    out.push_str(if credentials.contains(':') { "REDACTED:REDACTED@" } else { "REDACTED@" });
                    out.push_str(host);
                }
                None => out.push_str(authority),
            }
            out.push_str(path);
        }
        None => out.push_str(base),
    }
    if let Some(text) = query_text {
        out.push('?');
        out.push_str(&query(text));
    }
    if let Some(text) = fragment {
        out.push('#');
        out.push_str(&query(text));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_for_the_search() {
        assert!(SECRET_KEYS.is_sorted());
    }

    #[test]
    fn credentials_and_signatures_go() {
        assert_eq!(full("http://u:p@h/x?a=1"), "http://REDACTED:REDACTED@h/x?a=1");
        assert_eq!(full("http://u@h/x"), "http://REDACTED@h/x");
        assert_eq!(
            full("http://h/x?X-Amz-Signature=abc&b=2#access_token=t"),
            "http://h/x?X-Amz-Signature=REDACTED&b=2#access_token=REDACTED"
        );
        assert_eq!(full("http://h/a@b"), "http://h/a@b");
        assert_eq!(query("api_key=1&API-Key=2&q=token"), "api_key=REDACTED&API-Key=REDACTED&q=token");
        assert_eq!(
            query("user%5Bpassword%5D=1&csrf_token=2&key=3&author=4"),
            "user%5Bpassword%5D=REDACTED&csrf_token=REDACTED&key=3&author=4"
        );
        assert!(matches!(query("id=7&page=2"), Cow::Borrowed(_)));
    }
}
