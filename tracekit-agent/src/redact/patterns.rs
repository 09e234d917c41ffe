//! Secrets by what they look like: the patterns of TraceKit's SDKs, and the keys and tokens of well-known services.
//!
//! One `RegexSet` says which patterns occur at all; only those search for their places, and a check decides
//! what a pattern cannot: check digits, ranges, surroundings. All patterns take linear time.

use std::ops::Range;

use regex::{Regex, RegexSet, RegexSetBuilder};

use super::checks;
use super::kind::Kind;
use super::span::Span;

/// What a match hides; `None` if it is ordinary. Gets the text and the place of the match in it.
type Check = fn(&str, Range<usize>) -> Option<Range<usize>>;

struct Pattern {
    kind: Kind,
    /// Its group 1, if it has one, is the secret.
    regex: &'static str,
    check: Check,
}

fn any(_: &str, range: Range<usize>) -> Option<Range<usize>> {
    Some(range)
}

const fn pattern(kind: Kind, regex: &'static str, check: Check) -> Pattern {
    Pattern { kind, regex, check }
}

/// `(?-u:\b|_)` is a boundary between letters: `_` does not join words.
const BUILT_IN: &[Pattern] = &[
    pattern(
        Kind::PRIVATE_KEY,
        concat!(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?s:.*?)",
            r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\z)"
        ),
        any,
    ),
    pattern(Kind::PRIVATE_KEY, r"PuTTY-User-Key-File-[0-9]: (?s:.*?)(?:Private-MAC: [0-9a-f]+|\z)", any),
    pattern(Kind::PRIVATE_KEY, r"AGE-SECRET-KEY-1[A-Z0-9]{20,}", any),
    // A header of JOSE begins with `{"alg"`, `{"typ"`, `{"kid"`, `{"enc"`, `{"cty"`, `{"jku"`, `{"x5`, `{"zip"`.
    pattern(
        Kind::JWT,
        concat!(
            r"eyJ(?:hbGci|0eXAi|raWQi|lbmMi|jdHki|qa3Ui|4NXQi|4NWMi|6aXAi)[A-Za-z0-9_-]*",
            r"(?:\.[A-Za-z0-9_-]*){0,4}"
        ),
        any,
    ),
    pattern(Kind::JWT, r"eyJ[A-Za-z0-9_-]{4,}\.eyJ[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?", any),
    // Signed sessions, as `itsdangerous` makes them.
    pattern(Kind::JWT, r"eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{4,12}\.[A-Za-z0-9_-]{20,}", any),
    pattern(Kind::AWS_KEY, r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}", any),
    pattern(
        Kind::AWS_SECRET,
        concat!(
            r"[Aa][Ww][Ss][ -~]{0,20}[Ss](?:ecret|ECRET)[A-Za-z_ -]{0,20}",
            r#"["'\\]{0,2}[ :=>]{1,4}["'\\]{0,2}([A-Za-z0-9/+]{40})"#
        ),
        any,
    ),
    pattern(
        Kind::OAUTH_TOKEN,
        r#"[Bb](?:earer|EARER)(?:[ \t]{1,4}|%20|\+|: ?|=)["']?([A-Za-z0-9._~+/=-]{8,})"#,
        checks::bearer,
    ),
    pattern(
        Kind::OAUTH_TOKEN,
        r"(?-u:\b)[Bb](?:asic|ASIC)[ \t]{1,4}([A-Za-z0-9+/_-]{6,}={0,2})",
        checks::basic,
    ),
    pattern(Kind::OAUTH_TOKEN, r"ya29\.[A-Za-z0-9_.-]{10,}", any),
    pattern(Kind::OAUTH_TOKEN, r"(?-u:\b)1//0[A-Za-z0-9_-]{20,}", any),
    pattern(Kind::OAUTH_TOKEN, r"(?-u:\b|_)(EAA[A-Za-z0-9]{40,})", checks::mixed),
    pattern(Kind::STRIPE_KEY, r"(?-u:\b|_)((?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{6,})", checks::digit),
    pattern(Kind::STRIPE_KEY, r"whsec_[A-Za-z0-9+/=]{16,}", any),
    pattern(Kind::GITHUB_TOKEN, r"gh[pousr]_[A-Za-z0-9]{20,}", any),
    pattern(Kind::GITHUB_TOKEN, r"github_pat_[A-Za-z0-9_]{20,}", any),
    pattern(Kind::SLACK_TOKEN, r"xox[abeoprs]-[A-Za-z0-9-]{10,}", any),
    pattern(Kind::SLACK_TOKEN, r"xapp-[0-9]-[A-Za-z0-9-]{10,}", any),
    pattern(
        Kind::SLACK_TOKEN,
        r"hooks\.slack\.com/(?:services|workflows|triggers)/([A-Za-z0-9+/]{20,})",
        any,
    ),
    pattern(Kind::API_KEY, r"AIza[A-Za-z0-9_-]{30,}", any),
    pattern(Kind::API_KEY, r"GOCSPX-[A-Za-z0-9_-]{20,}", any),
    pattern(Kind::API_KEY, r"(?-u:\b|_)(sk-[A-Za-z0-9_-]{20,})", checks::digit),
    pattern(Kind::API_KEY, r"(?-u:\b|_)(SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,})", any),
    pattern(Kind::API_KEY, r"(?-u:\b|_)(key-[0-9a-f]{32})(?-u:\b)", any),
    pattern(Kind::API_KEY, r"(?-u:\b|_)(SK[0-9a-f]{32})(?-u:\b)", any),
    pattern(Kind::API_KEY, r"(?-u:\b|_)(npm_[A-Za-z0-9]{30,})", any),
    pattern(Kind::API_KEY, r"pypi-AgE[A-Za-z0-9_-]{30,}", any),
    pattern(Kind::API_KEY, r"(?-u:\b|_)(hf_[A-Za-z]{30,})", any),
    pattern(Kind::API_KEY, r"gl(?:pat|dt|rt|cbt|ptt|soat|ft|imt|agent|oas)-[A-Za-z0-9_-]{20,}", any),
    pattern(Kind::API_KEY, r"do[opr]_v1_[a-f0-9]{40,}", any),
    pattern(Kind::API_KEY, r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32,}", any),
    pattern(Kind::API_KEY, r"sq0[a-z]{3}-[A-Za-z0-9_-]{20,}", any),
    pattern(Kind::API_KEY, r"(?-u:\b)[0-9]{8,10}:AA[A-Za-z0-9_-]{32,}", any),
    pattern(
        Kind::API_KEY,
        r"(?-u:\b)[MNO][A-Za-z0-9_-]{22,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,40}",
        checks::mixed,
    ),
    pattern(Kind::API_KEY, r"(?-u:\b|_)(dapi[a-f0-9]{32})", any),
    pattern(Kind::API_KEY, r"hv[sbr]\.[A-Za-z0-9_-]{20,}", any),
    pattern(Kind::API_KEY, r"dp\.(?:pt|st|sa|ct|scim|audit)\.[A-Za-z0-9]{30,}", any),
    pattern(Kind::API_KEY, r"lin_(?:api|oauth)_[A-Za-z0-9]{30,}", any),
    pattern(Kind::API_KEY, r"NR(?:AK|II|RA)-[A-Za-z0-9_-]{20,}", any),
    pattern(Kind::API_KEY, r"gl(?:sa|c)_[A-Za-z0-9+/=_]{30,}", any),
    pattern(Kind::API_KEY, r"PMAK-[a-f0-9]{20,}-[a-f0-9]{30,}", any),
    pattern(Kind::API_KEY, r"(?-u:\b|_)(pat[A-Za-z0-9]{14}\.[a-f0-9]{64})", any),
    pattern(Kind::API_KEY, r"fig[dou]r?_[A-Za-z0-9_-]{30,}", any),
    pattern(Kind::API_KEY, r"sntry[su]_[A-Za-z0-9+/=_]{30,}", any),
    pattern(Kind::API_KEY, r"sbp_[a-f0-9]{40}", any),
    pattern(Kind::API_KEY, r"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9._=-]{20,}", any),
    pattern(Kind::API_KEY, r"ATATT3[A-Za-z0-9_=-]{50,}", any),
    pattern(Kind::API_KEY, r"(?-u:\b|_)(secret_[A-Za-z0-9]{40,})", checks::mixed),
    pattern(Kind::API_KEY, r"ntn_[A-Za-z0-9]{40,}", any),
    pattern(Kind::API_KEY, r"tvly-[A-Za-z0-9-]{20,}", any),
    pattern(Kind::API_KEY, r"(?-u:\b|_)(r8_[A-Za-z0-9]{30,})", any),
    pattern(Kind::API_KEY, r"(?-u:\b|_)(gsk_[A-Za-z0-9]{30,})", any),
    pattern(Kind::API_KEY, r"(?-u:\b|_)(xai-[A-Za-z0-9]{40,})", any),
    pattern(Kind::API_KEY, r"django-insecure-[!#-&(-~]{20,}", any),
    // Hashes of passwords: crypt(3), Argon2, Django.
    pattern(
        Kind::PASSWORD,
        r"\$(?:2[abxy]?|argon2(?:id|i|d)|scrypt|5|6|1|y|7|apr1|pbkdf2[a-z0-9-]*)\$[A-Za-z0-9./$=,+-]{20,}",
        any,
    ),
    pattern(
        Kind::PASSWORD,
        r"(?:pbkdf2_sha256|pbkdf2_sha1|bcrypt_sha256|scrypt|argon2)\$[A-Za-z0-9./$=,+-]{20,}",
        any,
    ),
    // A file of ftp's, sentences.
    pattern(
        Kind::PASSWORD,
        r#"(?-u:\b)(?:[Pp]ass(?:word|wd|phrase|code)|[Aa][Pp][Ii] key|[Ss]ecret key) ["'`]([^\s"'`]{3,})["'`]"#,
        checks::no_word,
    ),
    pattern(Kind::PASSWORD, r"login\s+[^\s]+\s+password\s+([^\s]+)", any),
    pattern(
        Kind::PASSWORD,
        concat!(
            r"(?-u:\b)(?:[Pp]assword|[Pp]asscode|[Ss]ecret|[Tt]oken|PIN|OTP)(?: is| was| set to| changed to):? ",
            r#"["'`\\]{0,2}([^\s"'`\\]{3,})"#
        ),
        checks::digit,
    ),
    pattern(
        Kind::CREDENTIALS,
        r#"(?:^|[\s"'])(?:-u|--user|--proxy-user)(?:[ =]|["'], ?["'])["']?([^\s"':]+:[^\s"']+)"#,
        any,
    ),
    pattern(Kind::SSN, r"[0-9]{3}-[0-9]{2}-[0-9]{4}", checks::ssn),
    pattern(Kind::PHONE, r"\+[1-9][0-9]{0,2}[ .-]?\(?[0-9]{1,4}\)?(?:[ .-]?[0-9]{2,4}){2,4}", checks::phone),
    pattern(Kind::PHONE, r"(?:\+?1[ .-]?)?\([0-9]{3}\)[ ]?[0-9]{3}[ .-]?[0-9]{4}", checks::phone),
    pattern(Kind::PHONE, r"(?:1[ .-])?[2-9][0-9]{2}[ .-][0-9]{3}[.-][0-9]{4}", checks::phone),
    pattern(
        Kind::EMAIL,
        concat!(
            r"[A-Za-z0-9._%+'\x{80}-\x{10FFFF}-]+(?:@|%40)",
            r"(?:[A-Za-z0-9\x{80}-\x{10FFFF}-]+\.)+[A-Za-z\x{80}-\x{10FFFF}]{2,24}"
        ),
        checks::email,
    ),
];

/// A pattern of the user's that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// It is not a regular expression, or too large.
    #[error("pattern `{name}`: {error}")]
    Invalid {
        /// What it hides.
        name: String,
        /// What is wrong with it.
        #[source]
        error: Box<regex::Error>,
    },
    /// Its type cannot stand in a marker.
    #[error("pattern `{name}`: a type is up to 40 of a-z, 0-9 and _, and there are at most 256 of them")]
    Name {
        /// The type.
        name: String,
    },
}

/// Patterns that are searched for together.
#[derive(Debug)]
pub struct Patterns {
    set: RegexSet,
    each: Vec<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    kind: Kind,
    regex: Regex,
    check: Check,
}

/// Bytes that a compiled pattern of the user's may take.
const MAX_COMPILED: usize = 1 << 20;

impl Patterns {
    /// The built-in patterns and `custom`: type and regular expression, of which group 1, if there is one, is
    /// hidden.
    ///
    /// # Errors
    /// A pattern cannot be compiled or its type is no type.
    pub fn new(custom: &[(String, String)]) -> Result<Self, PatternError> {
        let mut all: Vec<&str> = BUILT_IN.iter().map(|pattern| pattern.regex).collect();
        let invalid =
            |name: &str, error| PatternError::Invalid { name: name.to_owned(), error: Box::new(error) };
        let mut each = Vec::with_capacity(BUILT_IN.len() + custom.len());
        for pattern in BUILT_IN {
            let regex = Regex::new(pattern.regex).map_err(|error| invalid(pattern.kind.name(), error))?;
            each.push(Compiled { kind: pattern.kind, regex, check: pattern.check });
        }
        for (name, regex) in custom {
            let kind = Kind::custom(name).ok_or_else(|| PatternError::Name { name: name.clone() })?;
            let compiled = regex::RegexBuilder::new(regex).size_limit(MAX_COMPILED).build();
            each.push(Compiled { kind, regex: compiled.map_err(|error| invalid(name, error))?, check: any });
            all.push(regex);
        }
        let set = RegexSetBuilder::new(all).size_limit(64 << 20).dfa_size_limit(16 << 20).build();
        Ok(Self { set: set.map_err(|error| invalid("all together", error))?, each })
    }

    /// Adds what the patterns hide in the text.
    pub(super) fn find(&self, text: &str, spans: &mut Vec<Span>) {
        for at in self.set.matches(text) {
            let Some(pattern) = self.each.get(at) else { continue };
            for found in pattern.regex.captures_iter(text) {
                let Some(secret) = found.get(1).or_else(|| found.get(0)) else { continue };
                if let Some(range) = (pattern.check)(text, secret.range()).filter(|range| !range.is_empty()) {
                    spans.push(Span::new(range, pattern.kind));
                }
            }
        }
        checks::cards(text, spans);
        checks::authorities(text, spans);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(Kind, &str)> {
        let mut spans = Vec::new();
        Patterns::new(&[]).unwrap().find(text, &mut spans);
        spans.into_iter().map(|span| (span.kind, &text[span.range])).collect()
    }

    #[test]
    fn every_built_in_pattern_compiles() {
        assert_eq!(Patterns::new(&[]).unwrap().each.len(), BUILT_IN.len());
    }

    #[test]
    fn the_secret_and_nothing_else_is_found() {
        assert_eq!(found("key=AKIAIOSFODNN7EXAMPLE."), [(Kind::AWS_KEY, "AKIAIOSFODNN7EXAMPLE")]);
        assert_eq!(found("to bob@example.com, now"), [(Kind::EMAIL, "bob@example.com")]);
        assert_eq!(found("Bearer abcdef123456 x"), [(Kind::OAUTH_TOKEN, "abcdef123456")]);
        assert_eq!(found("ssn 123-45-6789."), [(Kind::SSN, "123-45-6789")]);
        assert_eq!(found("call +1-555-123-4567 x"), [(Kind::PHONE, "+1-555-123-4567")]);
        assert_eq!(found("x eyJhbGci... y"), [(Kind::JWT, "eyJhbGci...")]);
        assert_eq!(found("no secret"), []);
    }

    #[test]
    fn the_users_patterns() {
        let custom = [("badge".to_owned(), r"badge (\d+)".to_owned())];
        let patterns = Patterns::new(&custom).unwrap();
        let mut spans = Vec::new();
        patterns.find("a badge 77", &mut spans);
        assert_eq!(
            spans.iter().map(|span| (span.kind.name(), span.range.clone())).collect::<Vec<_>>(),
            [("badge", 8..10)]
        );
        for (name, regex) in [("badge", "("), ("Bad Name", "x"), ("badge", "(a{1000}){1000}")] {
            assert!(Patterns::new(&[(name.to_owned(), regex.to_owned())]).is_err(), "{name} {regex}");
        }
    }
}
