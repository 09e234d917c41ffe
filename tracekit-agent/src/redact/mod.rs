//! What must not leave the agent: found, and replaced by typed markers such as `[REDACTED:jwt]`.
//!
//! A [`Redactor`] holds the settings. Values of the target go through [`Redactor::value`] (the decoder asks it
//! while it reads, so that a secret is never in a decoded value), messages through [`Redactor::text`], headers
//! and URLs through [`Redactor::header`] and [`Redactor::url`].
//!
//! A secret is known by its name (`names`), wherever a value has one: a variable, a key, an attribute, an
//! option, a header, a field of a form. Or by what it looks like (`patterns`, `entropy`). `assignments` finds
//! names and their values in texts, `statements` SQL with its literals. Each of them says where something is
//! (`span`); the text is rewritten once for all.

mod assignments;
mod checks;
mod entropy;
mod kind;
mod names;
mod patterns;
mod redactor;
mod scan;
mod settings;
mod span;
mod statements;
#[cfg(test)]
mod tests;
pub mod url;
mod values;

pub(crate) use assignments::is_naming;
pub(crate) use kind::markers;
pub use kind::{Counts, Kind};
pub use names::Names;
pub use patterns::PatternError;
pub use redactor::{MAX_TEXT, Redactor, SettingsError};
pub use settings::{CustomPattern, Mode, Settings};
pub use span::{Finding, Hidden};
pub use values::LOOK_AHEAD;
pub(crate) use values::{Members, name_of};
