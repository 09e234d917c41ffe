//! Errors of the API: a status, a code for programs, a sentence for people.

use hyper::StatusCode;
use serde_json::{Map, Value as Json, json};

use crate::snapshot::breakpoint::SpecError;
use crate::snapshot::registry::{Misplaced, RegistryError};

/// An answer that is not what was asked for. JSON:
/// `{"error": {"code": "not_found", "message": "…", …}}`.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// For programs: stable.
    pub code: &'static str,
    /// What failed and what to do.
    pub message: String,
    /// More for programs, such as `candidates` or `nearest`.
    pub details: Map<String, Json>,
}

impl ApiError {
    /// Without details.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), details: Map::new() }
    }

    /// The request itself is not right.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    fn with(mut self, key: &str, value: Json) -> Self {
        self.details.insert(key.to_owned(), value);
        self
    }

    /// The body of the answer.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let mut error = self.details.clone();
        error.insert("code".to_owned(), json!(self.code));
        error.insert("message".to_owned(), json!(self.message));
        json!({ "error": error })
    }
}

impl From<SpecError> for ApiError {
    fn from(error: SpecError) -> Self {
        let field = match &error {
            SpecError::Field { field, .. } => (*field).to_owned(),
            SpecError::Limit(error) => format!("limits.{}", error.limit),
        };
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", error.to_string()).with("field", json!(field))
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        let message = error.to_string();
        match error {
            RegistryError::Spec(error) => error.into(),
            RegistryError::Misplaced(Misplaced::Ambiguous { candidates, .. }) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "ambiguous_file", message)
                    .with("candidates", json!(candidates))
            }
            RegistryError::Misplaced(Misplaced::NoCode { nearest, .. }) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "no_code", message)
                    .with("nearest", json!(nearest))
            }
            RegistryError::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "not_found", message),
            RegistryError::NoProcess(_) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "no_such_process", message)
            }
            RegistryError::Exists(_) => Self::new(StatusCode::CONFLICT, "exists", message),
            RegistryError::Remote(_) => Self::new(StatusCode::CONFLICT, "remote", message),
            RegistryError::Full { .. } | RegistryError::TooLarge => {
                Self::new(StatusCode::CONFLICT, "full", message)
            }
        }
    }
}
