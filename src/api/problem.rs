//! Errors as `application/problem+json` (RFC 9457), from one list of kinds.

use crate::{
    host::Refused,
    hosting::HostingError,
    questions::AskError,
    sequencer::AdmitError,
    spine::{SpineError, chain},
};
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use everworld_engine::{column::Fault, query::QueryError};
use serde::Serialize;

/// A request that was not done.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    #[serde(serialize_with = "status_code")]
    status: StatusCode,
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Fault>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn status_code<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

/// A batch may have thousands of faults: so many are told (L1).
const ERRORS_MAX: usize = 100;

/// When a client may try again, in seconds.
const RETRY_AFTER_SECS: u64 = 1;

impl Problem {
    fn new(slug: &str, title: &'static str, status: StatusCode, detail: impl Into<String>) -> Self {
        Self { kind: format!("/problems/{slug}"), title, status, detail: detail.into(), errors: Vec::new() }
    }

    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new("malformed", "Malformed request", StatusCode::BAD_REQUEST, detail)
    }

    /// With the line of a batch.
    pub(crate) fn at_line(mut self, line: usize) -> Self {
        self.detail = format!("line {line}: {}", self.detail);
        self
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new("not-found", "Not found", StatusCode::NOT_FOUND, detail)
    }

    pub(crate) fn wrong_state(detail: impl Into<String>) -> Self {
        Self::new("wrong-state", "Not possible in this state", StatusCode::CONFLICT, detail)
    }

    pub(crate) fn gone(detail: impl Into<String>) -> Self {
        Self::new("gone", "Not kept any more", StatusCode::GONE, detail)
    }

    pub(crate) fn precondition(detail: impl Into<String>) -> Self {
        Self::new("precondition", "Not what was expected", StatusCode::PRECONDITION_FAILED, detail)
    }

    pub(crate) fn failed(detail: impl Into<String>) -> Self {
        Self::new("failed", "Failed", StatusCode::INTERNAL_SERVER_ERROR, detail)
    }

    pub(crate) fn invalid(mut errors: Vec<Fault>) -> Self {
        let mut detail = format!("{} members are not as expected", errors.len());
        if errors.len() > ERRORS_MAX {
            errors.truncate(ERRORS_MAX);
            detail = format!("{detail}, here are the first {ERRORS_MAX}");
        }
        Self { errors, ..Self::new("invalid", "Invalid input", StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }

    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new("unavailable", "Not available now", StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    pub(crate) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new("unauthorized", "Not authorized", StatusCode::UNAUTHORIZED, detail)
    }

    pub(crate) fn too_many(detail: impl Into<String>) -> Self {
        Self::new("too-many", "Too many requests", StatusCode::TOO_MANY_REQUESTS, detail)
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new("forbidden", "Forbidden", StatusCode::FORBIDDEN, detail)
    }

    pub(crate) fn of_status(status: StatusCode, detail: impl Into<String>) -> Self {
        let (slug, title) = match status {
            StatusCode::METHOD_NOT_ALLOWED => ("method", "Method not allowed"),
            StatusCode::PAYLOAD_TOO_LARGE => ("too-large", "Body too large"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => ("media-type", "Unsupported media type"),
            StatusCode::REQUEST_TIMEOUT => ("timeout", "Request timed out"),
            StatusCode::UNPROCESSABLE_ENTITY => ("invalid", "Invalid input"),
            StatusCode::NOT_FOUND => ("not-found", "Not found"),
            _ => ("malformed", "Malformed request"),
        };
        Self::new(slug, title, status, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status;
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECS));
        }
        response
    }
}

impl From<AdmitError> for Problem {
    fn from(error: AdmitError) -> Self {
        match error {
            AdmitError::Invalid(faults) => Self::invalid(faults),
            AdmitError::UnknownKind(_) => Self::invalid(vec![Fault::new("/kind", error.to_string())]),
            AdmitError::KeyReused(_) => Self::new(
                "key-reused",
                "Idempotency key reused",
                StatusCode::UNPROCESSABLE_ENTITY,
                error.to_string(),
            ),
            AdmitError::Busy(_) | AdmitError::Unavailable(_) => Self::unavailable(error.to_string()),
        }
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        Self::malformed(error.to_string())
    }
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Wrong(detail) => Self::malformed(detail),
            AskError::Unknown(detail) => Self::not_found(detail),
            AskError::Gone(detail) => Self::gone(detail),
            AskError::World(error) => error.into(),
        }
    }
}

impl From<SpineError> for Problem {
    fn from(error: SpineError) -> Self {
        let detail = chain(&error);
        match error {
            SpineError::NotKept { .. } => Self::gone(detail),
            SpineError::Exists { .. } => Self::wrong_state(detail),
            SpineError::Interrupted => Self::unavailable("the server is stopping"),
            _ => Self::failed(detail),
        }
    }
}

impl From<HostingError> for Problem {
    fn from(error: HostingError) -> Self {
        match error {
            HostingError::WrongState(detail) => Self::wrong_state(detail),
            HostingError::Busy(detail) => Self::unavailable(detail),
            HostingError::Unknown(_) => Self::not_found(error.to_string()),
            HostingError::World(error) => error.into(),
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::WrongState(detail) => Self::wrong_state(detail),
            Refused::Busy(_) | Refused::Log(_) => Self::unavailable(refused.to_string()),
        }
    }
}
