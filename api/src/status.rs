//! `Status`: the one shape of every API failure, and of some successes.
//!
//! One constructor per reason, with upstream's message wording, because
//! clients match on both.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Machine-readable cause of a failure; each implies an HTTP code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    AlreadyExists,
    Conflict,
    Gone,
    Expired,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    Invalid,
    TooManyRequests,
    InternalError,
    ServiceUnavailable,
    Timeout,
    ServerTimeout,
    StoreReadError,
    #[serde(other, rename = "")]
    Unknown,
}

impl Reason {
    /// The HTTP status code that goes with this reason.
    pub fn code(self) -> u16 {
        match self {
            Reason::BadRequest => 400,
            Reason::Unauthorized => 401,
            Reason::Forbidden => 403,
            Reason::NotFound => 404,
            Reason::MethodNotAllowed => 405,
            Reason::NotAcceptable => 406,
            Reason::AlreadyExists | Reason::Conflict => 409,
            Reason::Gone | Reason::Expired => 410,
            Reason::RequestEntityTooLarge => 413,
            Reason::UnsupportedMediaType => 415,
            Reason::Invalid => 422,
            Reason::TooManyRequests => 429,
            Reason::ServiceUnavailable => 503,
            Reason::Timeout => 504,
            Reason::ServerTimeout | Reason::InternalError | Reason::StoreReadError | Reason::Unknown => 500,
        }
    }
}

/// One field or aspect that failed, inside [`Details`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// What the status is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Upstream puts the resource plural here for most errors, the kind for `Invalid`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: i32,
}

/// List metadata inside a status; `continue` carries the inconsistent token of an expired list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusMeta {
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_token: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
}

/// `meta.k8s.io` Status, as sent on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    #[serde(default = "status_kind")]
    pub kind: String,
    #[serde(default = "status_api_version")]
    pub api_version: String,
    #[serde(default)]
    pub metadata: StatusMeta,
    /// `Success` or `Failure`.
    #[serde(default)]
    pub status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default = "unknown_reason", skip_serializing_if = "is_unknown")]
    pub reason: Reason,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    #[serde(default, skip_serializing_if = "is_no_code")]
    pub code: u16,
}

fn status_kind() -> String {
    "Status".to_owned()
}

fn status_api_version() -> String {
    "v1".to_owned()
}

fn unknown_reason() -> Reason {
    Reason::Unknown
}

fn is_unknown(reason: &Reason) -> bool {
    *reason == Reason::Unknown
}

fn is_no_code(code: &u16) -> bool {
    *code == 0
}

fn is_zero(number: &i32) -> bool {
    *number == 0
}

impl Status {
    /// A failure with the code of its reason and no details.
    pub fn failure(reason: Reason, message: impl Into<String>) -> Status {
        Status {
            kind: status_kind(),
            api_version: status_api_version(),
            metadata: StatusMeta::default(),
            status: "Failure".to_owned(),
            message: message.into(),
            reason,
            details: None,
            code: reason.code(),
        }
    }

    /// A success; upstream's answer to a deletion says no code.
    pub fn success(details: Option<Details>) -> Status {
        Status {
            status: "Success".to_owned(),
            message: String::new(),
            reason: Reason::Unknown,
            details,
            code: 0,
            ..Status::failure(Reason::Unknown, "")
        }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Status {
        self.details = Some(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            ..Details::default()
        });
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::failure(Reason::BadRequest, message)
    }

    pub fn unauthorized() -> Status {
        Status::failure(Reason::Unauthorized, "Unauthorized")
    }

    /// `resource` is the plural; `why` follows upstream's `is forbidden:`.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: impl fmt::Display) -> Status {
        let what = qualified(group, resource);
        let message = match (resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{what} is forbidden: {why}"),
            (false, false) => format!("{what} \"{name}\" is forbidden: {why}"),
        };
        Status::failure(Reason::Forbidden, message).about(group, resource, name)
    }

    pub fn not_found(group: &str, resource: &str, name: &str) -> Status {
        let message = format!("{} \"{name}\" not found", qualified(group, resource));
        Status::failure(Reason::NotFound, message).about(group, resource, name)
    }

    /// The answer to a path that no resource serves.
    pub fn no_route() -> Status {
        let mut status = Status::failure(Reason::NotFound, "the server could not find the requested resource");
        status.details = Some(Details::default());
        status
    }

    pub fn method_not_allowed(group: &str, resource: &str, verb: &str) -> Status {
        let message = format!("{verb} is not supported on resources of kind \"{}\"", qualified(group, resource));
        Status::failure(Reason::MethodNotAllowed, message).about(group, resource, "")
    }

    pub fn already_exists(group: &str, resource: &str, name: &str) -> Status {
        let message = format!("{} \"{name}\" already exists", qualified(group, resource));
        Status::failure(Reason::AlreadyExists, message).about(group, resource, name)
    }

    pub fn conflict(group: &str, resource: &str, name: &str, why: impl fmt::Display) -> Status {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(group, resource));
        Status::failure(Reason::Conflict, message).about(group, resource, name)
    }

    /// `kind` is the Kind here, as upstream does; `causes` name the fields.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Status {
        let parts: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let list = match parts.as_slice() {
            [] => "<nil>".to_owned(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let what = qualified(group, kind);
        let message = format!("{what} \"{name}\" is invalid: {list}");
        let mut status = Status::failure(Reason::Invalid, message).about(group, kind, name);
        if let Some(details) = &mut status.details {
            details.causes = causes;
        }
        status
    }

    pub fn expired(message: impl Into<String>) -> Status {
        Status::failure(Reason::Expired, message)
    }

    pub fn internal(error: impl fmt::Display) -> Status {
        let mut status = Status::failure(Reason::InternalError, format!("Internal error occurred: {error}"));
        let cause = Cause { message: error.to_string(), ..Cause::default() };
        status.details = Some(Details { causes: vec![cause], ..Details::default() });
        status
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Status {
        let mut status = Status::failure(Reason::TooManyRequests, message);
        status.details = Some(Details { retry_after_seconds, ..Details::default() });
        status
    }

    pub fn service_unavailable(message: impl Into<String>) -> Status {
        Status::failure(Reason::ServiceUnavailable, message)
    }

    pub fn timeout(message: impl Into<String>, retry_after_seconds: i32) -> Status {
        let mut status = Status::failure(Reason::Timeout, format!("Timeout: {}", message.into()));
        status.details = Some(Details { retry_after_seconds, ..Details::default() });
        status
    }

    /// Whether this is a failure with the given reason.
    pub fn is(&self, reason: Reason) -> bool {
        self.reason == reason
    }
}

/// `deployments.apps`; the core group has no suffix.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}
