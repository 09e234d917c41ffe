//! Redaction with its settings.

use std::borrow::Cow;
use std::sync::{LazyLock, OnceLock};

use super::kind::Kind;
use super::names::Names;
use super::patterns::{PatternError, Patterns};
use super::settings::{Mode, Settings};
use super::span::{Hidden, Scrub, Span};
use super::{assignments, checks, entropy, scan, statements, url};

/// Bytes of a text that are searched; what is behind is hidden.
pub const MAX_TEXT: usize = 4 << 20;

/// Rounds until nothing more is found. One finds what there is; a second sees what only stood out of sight
/// because of a secret right beside it.
const MAX_ROUNDS: usize = 8;

fn rounds(scrub: &mut Scrub<'_>, find: impl Fn(&str) -> Vec<Span>) {
    for _ in 0..MAX_ROUNDS {
        let spans = find(scrub.text());
        if spans.is_empty() || !scrub.replace(spans) {
            break;
        }
    }
}

/// Headers that are secrets though their names don't say so.
const HEADERS: &[&str] =
    &["proxy-authorization", "stripe-signature", "x-hub-signature", "x-hub-signature-256"];

/// Removes secrets from what was captured.
#[derive(Debug)]
pub struct Redactor {
    pub(super) mode: Mode,
    pub(super) names: Names,
    /// Without them, nothing is shown.
    patterns: Option<Patterns>,
    types: Vec<glob::Pattern>,
    high_entropy: bool,
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A pattern for values.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// They were set before.
    #[error("redaction has its settings already")]
    Installed,
    /// A pattern for types.
    #[error("type `{text}`: {error}")]
    Type {
        /// The pattern.
        text: String,
        /// What is wrong with it.
        #[source]
        error: glob::PatternError,
    },
}

/// With the settings' defaults. A test knows that the patterns compile; if they don't, everything is hidden.
static STANDARD: LazyLock<Redactor> = LazyLock::new(|| {
    Redactor::new(&Settings::default()).unwrap_or_else(|_| Redactor {
        mode: Mode::Strict,
        names: Names::default(),
        patterns: None,
        types: Vec::new(),
        high_entropy: false,
    })
});

/// What the agent was started with.
static IN_USE: OnceLock<Redactor> = OnceLock::new();

/// Characters between two delimiters of a path or query that are searched for secrets: shorter ones are none.
const MIN_PART: usize = 11;

impl Redactor {
    /// The one for all that leaves this process: with the settings of [`Self::install`], or the default ones.
    #[must_use]
    pub fn in_use() -> &'static Self {
        IN_USE.get().unwrap_or_else(|| Self::standard())
    }

    /// Sets what [`Self::in_use`] gives, once, before anything leaves.
    ///
    /// # Errors
    /// One of the user's patterns cannot be used, or there are settings already.
    pub fn install(settings: &Settings) -> Result<(), SettingsError> {
        IN_USE.set(Self::new(settings)?).map_err(|_| SettingsError::Installed)
    }

    /// How much is hidden of captured values.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// A path, or a query whose secret keys are dealt with: without what looks like a secret.
    #[must_use]
    pub fn part_of_url<'t>(&self, part: &'t str) -> Cow<'t, str> {
        let delimiter = |c: char| matches!(c, '/' | '&' | '=' | '?' | ';' | '#');
        if part.split(delimiter).all(|part| part.len() < MIN_PART && !part.contains(['@', '%'])) {
            return Cow::Borrowed(part);
        }
        self.text(part).text
    }

    /// A redactor with these settings.
    ///
    /// # Errors
    /// One of the user's patterns cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let custom: Vec<(String, String)> =
            settings.patterns.iter().map(|pattern| (pattern.name.clone(), pattern.regex.clone())).collect();
        let types = settings.types.iter().map(|text| {
            glob::Pattern::new(text).map_err(|error| SettingsError::Type { text: text.clone(), error })
        });
        Ok(Self {
            mode: settings.mode,
            names: Names::new(&settings.identifiers, &settings.exclude),
            patterns: Some(Patterns::new(&custom)?),
            types: types.collect::<Result<_, _>>()?,
            high_entropy: settings.high_entropy,
        })
    }

    /// The one with default settings.
    #[must_use]
    pub fn standard() -> &'static Self {
        &STANDARD
    }

    /// What the value of this variable, attribute, key or option is hidden as; `None` if it is shown. Expressions
    /// that name such an identifier are not to be compiled.
    #[must_use]
    pub fn sensitive(&self, name: &str) -> Option<Kind> {
        self.names.kind_of(name)
    }

    /// Instances of this type are hidden.
    #[must_use]
    pub fn sensitive_type(&self, type_name: &str) -> Option<Kind> {
        let hidden = self.types.iter().any(|pattern| pattern.matches(type_name));
        hidden.then_some(Kind::SENSITIVE_TYPE)
    }

    /// Everything but statements.
    fn find(&self, text: &str) -> Vec<Span> {
        let mut spans = Vec::new();
        match &self.patterns {
            Some(patterns) => patterns.find(text, &mut spans),
            None => spans.push(Span::new(0..text.len(), Kind::UNEXAMINED)),
        }
        assignments::find(text, &self.names, &mut spans);
        if self.high_entropy {
            entropy::find(text, &mut spans);
        }
        spans
    }

    fn find_all(&self, text: &str) -> Vec<Span> {
        let mut spans = Vec::new();
        statements::find(text, &mut spans);
        // What a statement is without literals can have secrets elsewhere, and what is beside those may be literals.
        for replacement in spans.iter_mut().filter_map(|span| span.replacement.as_mut()) {
            for _ in 0..MAX_ROUNDS {
                let mut scrub = Scrub::new(replacement);
                let mut spans = self.find(replacement);
                statements::find(replacement, &mut spans);
                if !scrub.replace(spans) {
                    break;
                }
                *replacement = scrub.finish(usize::MAX).text.into_owned();
            }
        }
        spans.append(&mut self.find(text));
        spans
    }

    /// A message, a log line, a part of one, or any other text: with a marker in place of each secret. Of SQL, `?`
    /// stands for literals. What is behind [`MAX_TEXT`] is hidden.
    #[must_use]
    pub fn text<'t>(&self, text: &'t str) -> Hidden<'t> {
        self.text_to(text, text.len())
    }

    /// The text up to `cut`, a secret that goes on behind it included.
    pub(super) fn text_to<'t>(&self, text: &'t str, cut: usize) -> Hidden<'t> {
        let mut scrub = Scrub::new(text);
        if text.len() > MAX_TEXT {
            scrub.replace(vec![Span::new(scan::floor(text, MAX_TEXT)..text.len(), Kind::UNEXAMINED)]);
        }
        rounds(&mut scrub, |text| self.find_all(text));
        scrub.finish(cut)
    }

    /// Nothing that could be a secret: absent, masked, or a placeholder.
    pub(crate) fn is_nothing(text: &str) -> bool {
        scan::is_nothing(text)
    }

    /// An integer, decimal: the number of a card is hidden.
    pub(super) fn integer(digits: &str) -> Option<Kind> {
        checks::is_card_number(digits).then_some(Kind::CREDIT_CARD)
    }

    /// The value of a header, all of it if the name says so.
    #[must_use]
    pub fn header<'t>(&self, name: &str, value: &'t str) -> Hidden<'t> {
        let named = HEADERS.iter().any(|header| name.eq_ignore_ascii_case(header));
        let kind = self.sensitive(name).or_else(|| named.then_some(Kind::SENSITIVE_NAME));
        match kind {
            Some(_) if scan::is_nothing(value) => Hidden::nothing(value),
            Some(kind) => Hidden::whole(value, kind),
            None => self.text(value),
        }
    }

    /// A URL as the semantic conventions want it: `REDACTED` for credentials and for the values of keys that sign
    /// or authorise; markers for other secrets.
    #[must_use]
    pub fn url<'t>(&self, url: &'t str) -> Cow<'t, str> {
        let conventional = url::full(url);
        let hidden = self.text(&conventional);
        if hidden.findings.is_empty() && conventional == url {
            return Cow::Borrowed(url);
        }
        Cow::Owned(hidden.text.into_owned())
    }
}
