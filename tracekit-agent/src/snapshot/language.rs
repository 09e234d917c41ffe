//! The language of conditions, watch expressions and log templates, as the registry needs it.

use super::expression::{Expression, Template};
use super::registry::Language;
use crate::redact::Redactor;

/// Compiles every text, and forgets it: whoever evaluates compiles it again, for his own redaction.
#[derive(Debug, Clone, Copy)]
pub struct Expressions;

impl Language for Expressions {
    fn check_expression(&self, source: &str) -> Result<(), String> {
        Expression::compile(source, Redactor::in_use()).map(drop).map_err(|error| error.to_string())
    }

    fn check_template(&self, source: &str) -> Result<(), String> {
        Template::compile(source, Redactor::in_use()).map(drop).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_expression_is_said() {
        for source in ["order.total > 100 and user.plan == 'pro'", "len(items)", "x"] {
            assert_eq!(Expressions.check_expression(source), Ok(()), "{source}");
        }
        for source in
            ["", "x = 1", "import os", "f(x)(y)", "lambda: 0", "user.password", "((((", &"(".repeat(1000)]
        {
            assert!(Expressions.check_expression(source).is_err(), "{source}");
        }
        assert_eq!(Expressions.check_template("total={order.total:.2f} {user.id!r} {{}}"), Ok(()));
        for source in ["{", "{password}", "{x:}}"] {
            assert!(Expressions.check_template(source).is_err(), "{source}");
        }
    }
}
