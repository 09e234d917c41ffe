//! What the user decides about redaction.

use serde::{Deserialize, Serialize};

/// How much is hidden.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Secrets: by their names and by what they look like.
    #[default]
    Targeted,
    /// Every text and all bytes of captured values; numbers, types, names and sizes are shown. Messages, headers
    /// and URLs are treated as in targeted mode.
    Strict,
}

/// A pattern of the user's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomPattern {
    /// The type in the marker: up to 40 of a–z, 0–9 and `_`.
    pub name: String,
    /// What is hidden: the first group, or all of it if there is none.
    pub regex: String,
}

/// Settings of redaction. It is always on; these say how much it hides.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How much is hidden.
    pub mode: Mode,
    /// More names of secrets; case and separators don't matter.
    pub identifiers: Vec<String>,
    /// Names of no secrets, though they look like it; the whole name.
    pub exclude: Vec<String>,
    /// Types (`type.__name__`) whose instances are hidden as a whole; `*` stands for any letters.
    pub types: Vec<String>,
    /// More patterns.
    pub patterns: Vec<CustomPattern>,
    /// Hide text that is too random to be anything but a key.
    pub high_entropy: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            identifiers: Vec::new(),
            exclude: Vec::new(),
            types: Vec::new(),
            patterns: Vec::new(),
            high_entropy: true,
        }
    }
}
