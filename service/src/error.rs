//! What is refused, and how: the one place where errors become HTTP.
//!
//! A handler returns [`ApiError`]. Errors of the request are made with a constructor that says what is wrong and
//! what to do about it; they may be shown to strangers. Errors of the service come by `From`: they are logged here,
//! once, and the stranger is told no more than that.

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{FromRequest, Request},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use larder_protocol::{
    StorePath,
    api::{ErrorAnswer, ErrorCode},
};
use serde::de::DeserializeOwned;

use crate::{Service, config::ByteSize, metadata::MetadataError, storage::StorageError};

/// At most so many missing references are listed.
const MAX_LISTED: usize = 1000;
/// After so long, who was refused since a bucket does not answer comes again.
const STORAGE_BACK_WITHIN: Duration = Duration::from_secs(5);
/// After so long, who was refused since a database does not answer comes again.
const DATABASE_BACK_WITHIN: Duration = Duration::from_secs(5);
/// After so long, who was refused since the database has moved comes again.
const RESTARTED_WITHIN: Duration = Duration::from_secs(15);

/// A refusal, as it will be answered.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    answer: Box<ErrorAnswer>,
    retry_after: Option<Duration>,
}

impl ApiError {
    fn new(status: StatusCode, error: ErrorCode, message: impl Into<String>) -> Self {
        let answer = ErrorAnswer { error, message: message.into(), missing_references: Vec::new() };
        Self { status, answer: Box::new(answer), retry_after: None }
    }

    /// 400: the request cannot be read.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, message)
    }

    /// 401: no token, or one that is not valid (any more).
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
    }

    /// 403: the token is valid, but nothing grants this.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
    }

    /// 404: no such cache, push or page.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message)
    }

    /// 405: the page knows other methods.
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::BadRequest,
            "this page does not take that method",
        )
    }

    /// 408: the request took too long to arrive or to be answered.
    pub fn timed_out() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::Unavailable, "the request took too long. Try again")
    }

    /// 409: the push is in a state in which this cannot be.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, ErrorCode::Conflict, message)
    }

    /// 413: the body is larger than it may be.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge, message)
    }

    /// 413: the body is larger than `limit`, which `key` of the configuration sets.
    pub fn body_over(limit: ByteSize, key: &str) -> Self {
        Self::too_large(format!("the body is larger than {limit} ({key})"))
    }

    /// 431: the request's target and headers are longer than `limit`.
    pub fn head_over(limit: ByteSize) -> Self {
        Self::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            ErrorCode::TooLarge,
            format!("the request's target and headers are longer than {limit} (limits.max_head)"),
        )
    }

    /// 422: what was sent does not hold.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::Invalid, message)
    }

    /// 422: references that nobody has.
    pub fn missing_references(message: impl Into<String>, mut missing: Vec<StorePath>) -> Self {
        let mut error = Self::invalid(message);
        missing.truncate(MAX_LISTED);
        error.answer.missing_references = missing;
        error
    }

    /// 429: too many requests of this kind. Never on reads.
    pub fn too_many(message: impl Into<String>, retry_after: Duration) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooMany, message);
        Self { retry_after: Some(retry_after), ..error }
    }

    /// 503: the service cannot now; it may after `retry_after`.
    pub fn unavailable(message: impl Into<String>, retry_after: Duration) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, message);
        Self { retry_after: Some(retry_after), ..error }
    }

    /// 507: the disk is full. `cause` is logged here and nowhere else, and not shown.
    fn no_space(cause: impl fmt::Display) -> Self {
        tracing::error!(error = %cause, "there is no space left");
        Self::new(
            StatusCode::INSUFFICIENT_STORAGE,
            ErrorCode::NoSpace,
            "the service has no space left. Tell who runs it; what was sent so far is kept, and a later push goes on \
             from there",
        )
    }

    /// 507: what is to come has no room.
    pub fn no_room(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, ErrorCode::NoSpace, message)
    }

    /// 500: a fault of the service. `cause` is logged here and nowhere else, and not shown.
    pub fn internal(cause: impl fmt::Display) -> Self {
        tracing::error!(error = %cause, "a request failed by the service's fault");
        Self::logged_already()
    }

    /// 500 for what the log has already, such as a panic.
    pub(crate) fn logged_already() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::Internal,
            "the service failed; its log says why. Try again, or tell who runs it",
        )
    }

    /// The status that it will be answered with.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What it will say.
    pub fn message(&self) -> &str {
        &self.answer.message
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.answer)).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"larder\""));
        }
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        response
    }
}

impl From<MetadataError> for ApiError {
    fn from(error: MetadataError) -> Self {
        if error.is_gone() {
            Self::not_found("the push was given up meanwhile, or what it relies on has gone; open a new one")
        } else if error.is_full() {
            Self::no_space(error)
        } else if matches!(error, MetadataError::Moved(_)) {
            tracing::error!(%error, "a request is refused");
            Self::unavailable(
                "what this service knows has moved to another database, and nothing new is taken until it is restarted \
                 there. Tell who runs it; what was taken so far is kept",
                RESTARTED_WITHIN,
            )
        } else if error.is_unreachable() {
            tracing::error!(%error, "the database does not answer");
            Self::unavailable(
                "the service's database does not answer; what was taken so far is kept. Try again",
                DATABASE_BACK_WITHIN,
            )
        } else {
            Self::internal(error)
        }
    }
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        if error.is_full() {
            Self::no_space(error)
        } else if error.is_unavailable() {
            tracing::error!(%error, "storage does not answer");
            Self::unavailable(
                "the service's storage does not answer; what was taken so far is kept. Try again",
                STORAGE_BACK_WITHIN,
            )
        } else {
            Self::internal(error)
        }
    }
}

impl From<getrandom::Error> for ApiError {
    fn from(error: getrandom::Error) -> Self {
        Self::internal(error)
    }
}

/// A small body of JSON, no longer than `limits.max_small_body`.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Service>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, service: &Arc<Service>) -> Result<Self, ApiError> {
        let limit = service.config.limits.max_small_body;
        let body = Limited::new(request.into_body(), limit.as_usize()).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return ApiError::body_over(limit, "limits.max_small_body");
            }
            ApiError::bad_request("the body broke off before its end")
        })?;
        let body = body.to_bytes();
        serde_json::from_slice(&body).map(Self).map_err(|error| {
            ApiError::bad_request(format!("the body is not the JSON that this page takes: {error}"))
        })
    }
}
