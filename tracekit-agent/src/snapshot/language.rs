//! The language of conditions, watch expressions and log templates, as the registry needs it.

use super::registry::Language;

/// Takes every text; a stand-in until the language's own parser is there.
#[derive(Debug, Clone, Copy)]
pub struct Unchecked;

impl Language for Unchecked {
    fn check_expression(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn check_template(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
}
