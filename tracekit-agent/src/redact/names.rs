//! Secrets by the name they have.
//!
//! A name is split into words at separators, at changes of case and around digits, so that `X-Api-Key`,
//! `api_key` and `apiKey` are one name, and `author`, `tokenizer` and `monkey` are none of a secret.

mod words;

use std::collections::BTreeSet;

use self::words::{ABOUT, COMPOUNDS, ENDS, KEY_OF, LAST, PARTS, PASSES, TOKENS, TYPED, VALUES, WEAK, WORDS};
use super::kind::{Kind, OPEN};

/// Bytes of a name at most; what is longer is a text.
const MAX_NAME: usize = 512;
/// Words of a name that are looked at.
const MAX_WORDS: usize = 24;
/// Words that make up one compound at most.
const MAX_COMPOUND: usize = 4;

/// What a name says of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// What the marker says.
    pub kind: Kind,
    /// The name is one word with other meanings too.
    pub weak: bool,
    /// It is about a password, an API key, or neither.
    pub family: Kind,
}

/// Which names are those of secrets: the built-in ones, some more, and some less.
#[derive(Debug, Clone, Default)]
pub struct Names {
    extra: BTreeSet<String>,
    allowed: BTreeSet<String>,
}

impl Names {
    /// The built-in names and `extra`, without `allowed`. Case and separators don't matter.
    #[must_use]
    pub fn new(extra: &[String], allowed: &[String]) -> Self {
        let normal = |names: &[String]| names.iter().map(|name| normalised(name)).collect();
        let mut names = Self { extra: normal(extra), allowed: normal(allowed) };
        names.extra.remove("");
        names
    }

    /// The type of what this name hides; `None` if it hides nothing.
    #[must_use]
    pub fn kind_of(&self, name: &str) -> Option<Kind> {
        self.verdict(name).map(|verdict| verdict.kind)
    }

    pub(super) fn verdict(&self, name: &str) -> Option<Verdict> {
        // A marker is no name, though it has one in it.
        if name.is_empty() || name.len() > MAX_NAME || name.contains(OPEN) {
            return None;
        }
        let words = words(name);
        let whole = words.concat();
        if self.allowed.contains(&whole) {
            return None;
        }
        let family = family(&words);
        let sensitive = |weak| Some(Verdict { kind: Kind::SENSITIVE_NAME, weak, family });
        if let Some((_, kind)) = TYPED.iter().find(|(typed, _)| *typed == whole || ends_with(&words, typed)) {
            return Some(Verdict { kind: *kind, weak: false, family: *kind });
        }
        if !self.extra.is_empty()
            && (self.extra.contains(&whole) || runs(&words).any(|(_, _, run)| self.extra.contains(&run)))
        {
            return sensitive(false);
        }
        let described = |end: usize| words.iter().skip(end).any(|word| contains(ABOUT, word));
        let compound = runs(&words)
            .any(|(_, end, run)| COMPOUNDS.binary_search(&run.as_str()).is_ok() && !described(end));
        if compound {
            return sensitive(false);
        }
        let last = words.len().saturating_sub(1);
        let secret = words.iter().enumerate().any(|(at, word)| {
            let before = before(&words, at);
            let before = before.as_str();
            let hit = match word.as_str() {
                "key" => words.len() == 1 || contains(KEY_OF, before),
                "token" => !contains(TOKENS, before),
                "pass" => at == last && (at == 0 || contains(PASSES, before)),
                "pin" => words.len() == 1,
                "passwordless" => false,
                word if contains(LAST, word) => at == last && before != "contrib",
                word => {
                    contains(WORDS, word)
                        || ENDS.iter().any(|end| word.ends_with(end))
                        || word.starts_with("password")
                }
            };
            let mut rest = words.iter().skip(at + 1);
            let number = |word: &String| word.starts_with(char::is_numeric);
            let own = !contains(PARTS, word) || rest.all(|word| contains(VALUES, word) || number(word));
            hit && own && !described(at + 1)
        });
        if secret { sensitive(words.len() == 1 && contains(WEAK, &whole)) } else { None }
    }

    /// Words in a text (`secret access key`) are one compound name.
    pub(super) fn is_compound(&self, words: &str) -> bool {
        let whole = normalised(words);
        !self.allowed.contains(&whole)
            && (self.extra.contains(&whole) || COMPOUNDS.binary_search(&whole.as_str()).is_ok())
    }
}

/// The value of this variable, attribute or key is not to be shown, as far as the built-in names know:
/// `db_password`, `X-Api-Key`, `authToken`.
#[cfg(test)]
pub(super) fn is_secret(name: &str) -> bool {
    Names::default().kind_of(name).is_some()
}

fn contains(sorted: &[&str], word: &str) -> bool {
    sorted.binary_search(&word).is_ok()
}

fn ends_with(words: &[String], whole: &str) -> bool {
    let mut rest = whole;
    for word in words.iter().rev() {
        match rest.strip_suffix(word.as_str()) {
            Some("") => return true,
            Some(shorter) => rest = shorter,
            None => return false,
        }
    }
    false
}

/// Runs of words: begin, end, and the words without separators.
fn runs(words: &[String]) -> impl Iterator<Item = (usize, usize, String)> + '_ {
    (0..words.len()).flat_map(move |start| {
        let mut run = String::new();
        words.iter().enumerate().skip(start).take(MAX_COMPOUND).map(move |(at, word)| {
            run.push_str(word);
            (start, at + 1, run.clone())
        })
    })
}

/// The word in front of this one, `s3` in `s3_key`.
fn before(words: &[String], at: usize) -> String {
    let word = |back: usize| at.checked_sub(back).and_then(|at| words.get(at)).map_or("", String::as_str);
    let previous = word(1);
    let number = previous.starts_with(|c: char| c.is_numeric());
    if number { format!("{}{previous}", word(2)) } else { previous.to_owned() }
}

fn family(words: &[String]) -> Kind {
    let password = |word: &String| {
        matches!(word.as_str(), "pass" | "pw" | "pwd" | "passwd" | "passphrase") || word.contains("password")
    };
    if words.iter().any(password) {
        Kind::PASSWORD
    } else if ends_with(words, "apikey") || ends_with(words, "accesskey") {
        Kind::API_KEY
    } else {
        Kind::SENSITIVE_NAME
    }
}

/// A name without case and separators.
fn normalised(name: &str) -> String {
    words(name).concat()
}

/// The words of a name, in lower case: `HTTPProxy-Auth2` is `http`, `proxy`, `auth`, `2`.
fn words(name: &str) -> Vec<String> {
    #[derive(PartialEq, Clone, Copy)]
    enum Class {
        Lower,
        Upper,
        Digit,
        Other,
    }
    let class = |c: char| match c {
        c if c.is_uppercase() => Class::Upper,
        c if c.is_alphabetic() => Class::Lower,
        c if c.is_numeric() => Class::Digit,
        _ => Class::Other,
    };
    let mut words: Vec<String> = Vec::new();
    let mut chars = name.chars().peekable();
    let mut previous = Class::Other;
    while let Some(c) = chars.next() {
        let current = class(c);
        if current != Class::Other {
            let starts = match (previous, current) {
                (Class::Upper, Class::Lower) => false,
                // The last capital of an acronym begins the next word.
                (Class::Upper, Class::Upper) => chars.peek().is_some_and(|next| class(*next) == Class::Lower),
                (before, now) => before != now,
            };
            if starts || words.is_empty() {
                if words.len() == MAX_WORDS {
                    break;
                }
                words.push(String::new());
            }
            if let Some(word) = words.last_mut() {
                word.extend(c.to_lowercase());
            }
        }
        previous = current;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_for_the_search() {
        for list in [WORDS, LAST, COMPOUNDS, ABOUT, KEY_OF, PARTS, TOKENS, PASSES, VALUES, WEAK] {
            assert!(list.is_sorted(), "{list:?}");
        }
    }

    #[test]
    fn names_are_split_into_words() {
        for (name, expected) in [
            ("X-Api-Key", "x api key"),
            ("apiKey", "api key"),
            ("APIKey", "api key"),
            ("API_KEY", "api key"),
            ("oauth2Token", "oauth 2 token"),
            ("HTTPProxyPassword", "http proxy password"),
            ("user[password]", "user password"),
            ("ПарольБД", "пароль бд"),
            ("__", ""),
        ] {
            assert_eq!(words(name).join(" "), expected, "{name}");
        }
    }

    #[test]
    fn names_of_secrets() {
        let secret = "password passwd pwd secret token key credential api_key apikey DB_PASSWORD DB_PASS user_password \
            X-Api-Key apiKey authToken passWord pass-phrase user_pwd csrf_token auth Authorization user_token AWS_SECRET_ACCESS_KEY \
            private_key privateKey client_secret refresh_token sessionid session_id Cookie Set-Cookie mypassword \
            password1 passwordHash hashed_password password_reset_token secret_key_base SECRET_KEY encryption_key \
            basic_auth proxyAuthorization cvv pin otp 2fa mfa_code jwt x-csrf-token api_keys access_tokens \
            credentials aws_credentials sshKey _secret_value motDePasse пароль salt smtp_pass usertoken \
            card_number ssn vault_secret_id stripe_api_key signing-key token2 old.password user[password]";
        for name in secret.split_whitespace() {
            assert!(is_secret(name), "{name}");
        }
    }

    #[test]
    fn names_of_no_secrets() {
        let ordinary = "author tokenizer passenger monkey turkey keyboard keys keyword name opinion bypass_cache \
            primary_key cache_key foreign_key sort_key public_key key_func key_id tokens max_tokens prompt_tokens \
            total_tokens token_count token_type token_url next_page_token next_token pad_token password_length \
            password_policy secret_name cookie_domain csrf_exempt passes first_pass pass_count authority \
            authored_by authenticated authentication session sessions passport compass pinned pin_mode spinner \
            secretary secretariat tokenize tokenization hockey whiskey order_id user_id email signature code \
            django.contrib.auth passwordless token_expires_at password_file api_key_name key_prefix s3_key";
        for name in ordinary.split_whitespace().chain([""]) {
            assert!(!is_secret(name), "{name}");
        }
        assert!(!is_secret(&"password ".repeat(100)));
    }

    #[test]
    fn settings_add_and_remove_names() {
        let names =
            Names::new(&["Customer-Number".into(), String::new()], &["api key".into(), "TOKEN".into()]);
        for name in ["customerNumber", "CUSTOMER_NUMBER", "old_customer_number", "password"] {
            assert!(names.kind_of(name).is_some(), "{name}");
        }
        for name in ["api_key", "apiKey", "X", "token", "customer"] {
            assert_eq!(names.kind_of(name), None, "{name}");
        }
    }
}
