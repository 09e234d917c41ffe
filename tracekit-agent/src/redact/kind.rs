//! What a hidden value was, and the marker that stands for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use serde::{Serialize, Serializer};

/// How a marker begins.
pub(super) const OPEN: &str = "[REDACTED:";
/// Bytes of a kind's name at most.
const MAX_NAME: usize = 40;
/// Kinds that settings may add.
const MAX_CUSTOM: usize = 256;

/// Kinds that settings have added; they live as long as the agent.
static CUSTOM: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// The type in `[REDACTED:type]`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(&'static str);

impl Kind {
    /// A mail address.
    pub const EMAIL: Self = Self("email");
    /// A social security number (USA).
    pub const SSN: Self = Self("ssn");
    /// The number of a payment card.
    pub const CREDIT_CARD: Self = Self("credit_card");
    /// A telephone number.
    pub const PHONE: Self = Self("phone");
    /// The id of an AWS access key.
    pub const AWS_KEY: Self = Self("aws_key");
    /// A secret access key of AWS.
    pub const AWS_SECRET: Self = Self("aws_secret");
    /// A bearer or basic credential, a token of OAuth.
    pub const OAUTH_TOKEN: Self = Self("oauth_token");
    /// A key of Stripe.
    pub const STRIPE_KEY: Self = Self("stripe_key");
    /// A value whose name says that it is a secret.
    pub const SENSITIVE_NAME: Self = Self("sensitive_name");
    /// A JSON web token, or another signed token of its form.
    pub const JWT: Self = Self("jwt");
    /// A private key in PEM or a like form.
    pub const PRIVATE_KEY: Self = Self("private_key");
    /// A key or token of some service.
    pub const API_KEY: Self = Self("api_key");
    /// A password in a text, or the hash of one.
    pub const PASSWORD: Self = Self("password");
    /// A token of GitHub.
    pub const GITHUB_TOKEN: Self = Self("github_token");
    /// A token or webhook of Slack.
    pub const SLACK_TOKEN: Self = Self("slack_token");
    /// User and password in a URL or on a command line.
    pub const CREDENTIALS: Self = Self("credentials");
    /// A literal of a SQL statement; `?` stands for it, or this where parameters are listed.
    pub const SQL_LITERAL: Self = Self("sql_literal");
    /// Text too random to be anything but a key.
    pub const HIGH_ENTROPY: Self = Self("high_entropy");
    /// An instance of a type that settings hide.
    pub const SENSITIVE_TYPE: Self = Self("sensitive_type");
    /// Any text or bytes, in strict mode.
    pub const STRICT: Self = Self("strict");
    /// The part of a text that is too long to be searched.
    pub const UNEXAMINED: Self = Self("unexamined");

    /// Every kind that needs no settings.
    pub const BUILT_IN: &'static [Self] = &[
        Self::EMAIL,
        Self::SSN,
        Self::CREDIT_CARD,
        Self::PHONE,
        Self::AWS_KEY,
        Self::AWS_SECRET,
        Self::OAUTH_TOKEN,
        Self::STRIPE_KEY,
        Self::SENSITIVE_NAME,
        Self::JWT,
        Self::PRIVATE_KEY,
        Self::API_KEY,
        Self::PASSWORD,
        Self::GITHUB_TOKEN,
        Self::SLACK_TOKEN,
        Self::CREDENTIALS,
        Self::SQL_LITERAL,
        Self::HIGH_ENTROPY,
        Self::SENSITIVE_TYPE,
        Self::STRICT,
        Self::UNEXAMINED,
    ];

    /// A kind of this name, for a pattern of the user's: up to 40 lower-case letters, digits and `_`. `None`
    /// if the name is no such, or if there are too many kinds.
    #[must_use]
    pub fn custom(name: &str) -> Option<Self> {
        if let Some(known) = Self::known(name) {
            return Some(known);
        }
        let valid = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(valid) {
            return None;
        }
        let mut custom = CUSTOM.lock().unwrap_or_else(PoisonError::into_inner);
        if custom.len() >= MAX_CUSTOM {
            return None;
        }
        let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
        custom.insert(name);
        Some(Self(name))
    }

    fn known(name: &str) -> Option<Self> {
        let built_in = Self::BUILT_IN.iter().find(|kind| kind.0 == name).copied();
        built_in.or_else(|| {
            CUSTOM.lock().unwrap_or_else(PoisonError::into_inner).get(name).map(|name| Self(name))
        })
    }

    /// `email`
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0
    }

    /// `[REDACTED:email]`
    #[must_use]
    pub fn marker(self) -> String {
        format!("{OPEN}{}]", self.0)
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

/// The marker that the text begins with: its kind and its length in bytes.
pub(super) fn marker_at(text: &str) -> Option<(Kind, usize)> {
    let rest = text.strip_prefix(OPEN)?;
    let end = rest.bytes().take(MAX_NAME + 1).position(|byte| byte == b']')?;
    let kind = Kind::known(rest.get(..end)?)?;
    Some((kind, OPEN.len() + end + 1))
}

/// All markers in the text.
pub(crate) fn markers(text: &str) -> Vec<(Range<usize>, Kind)> {
    let found = text.match_indices(OPEN).filter_map(|(at, _)| {
        let (kind, length) = marker_at(text.get(at..)?)?;
        Some((at..at + length, kind))
    });
    found.collect()
}

/// How often what was hidden.
pub type Counts = BTreeMap<Kind, usize>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_found_again() {
        assert_eq!(marker_at("[REDACTED:jwt] x"), Some((Kind::JWT, 14)));
        for text in ["[REDACTED:hunter2]", "[REDACTED:jwt", "REDACTED:jwt]", "[REDACTED:]", ""] {
            assert_eq!(marker_at(text), None, "{text}");
        }
        assert_eq!(markers("a[REDACTED:email][REDACTED:nothing]b"), [(1..17, Kind::EMAIL)]);
        let custom = Kind::custom("customer_number").unwrap();
        assert_eq!(marker_at(&custom.marker()), Some((custom, 26)));
        assert_eq!(Kind::custom("email"), Some(Kind::EMAIL));
        for name in ["", "A", "a b", "a]", &"x".repeat(41)] {
            assert_eq!(Kind::custom(name), None, "{name}");
        }
    }
}
