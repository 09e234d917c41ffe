//! What the agent is told to hide.

use clap::Args;

use super::agent::usage;
use crate::redact::{CustomPattern, Mode, Redactor, Settings};

/// Settings of redaction of an agent. `tracekit redact` shows what they do to a text.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Redaction")]
pub struct RedactionArgs {
    /// What of captured variables is hidden: secrets, or every text
    #[arg(long, value_name = "MODE", value_parser = mode, default_value = "targeted", env = "TRACEKIT_REDACTION")]
    redaction: Mode,
    /// Hide also the values of this name; may be repeated
    #[arg(long = "redact-name", value_name = "NAME", value_delimiter = ',', env = "TRACEKIT_REDACT_NAMES")]
    names: Vec<String>,
    /// Show the values of this name although it looks like a secret's; may be repeated
    #[arg(long = "redact-allow", value_name = "NAME", value_delimiter = ',', env = "TRACEKIT_REDACT_ALLOW")]
    allowed: Vec<String>,
    /// Hide instances of this type as a whole, * stands for any letters; may be repeated
    #[arg(long = "redact-type", value_name = "TYPE", value_delimiter = ',', env = "TRACEKIT_REDACT_TYPES")]
    types: Vec<String>,
    /// Hide also what matches, or its first group; may be repeated
    #[arg(long = "redact-pattern", value_name = "TYPE=REGEX", value_parser = pattern)]
    patterns: Vec<CustomPattern>,
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "targeted" => Ok(Mode::Targeted),
        "strict" => Ok(Mode::Strict),
        _ => Err("use targeted or strict".to_owned()),
    }
}

/// A pattern of the user's, as it is written on the command line.
///
/// # Errors
/// It has no type.
pub fn pattern(text: &str) -> Result<CustomPattern, String> {
    let (name, regex) = text.split_once('=').ok_or("expected TYPE=REGEX, such as badge=B-[0-9]+")?;
    Ok(CustomPattern { name: name.to_owned(), regex: regex.to_owned() })
}

impl RedactionArgs {
    /// Makes these the settings for all that leaves the agent.
    ///
    /// # Errors
    /// A pattern is none.
    pub fn install(&self) -> anyhow::Result<()> {
        let settings = Settings {
            mode: self.redaction,
            identifiers: self.names.clone(),
            exclude: self.allowed.clone(),
            types: self.types.clone(),
            patterns: self.patterns.clone(),
            ..Settings::default()
        };
        Redactor::install(&settings).map_err(|error| usage(error.to_string()))
    }
}
