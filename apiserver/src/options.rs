//! Query options of the verbs.

use std::time::Duration;

use serde_json::{Value, json};
use skiff_api::{Cause, Revision, Status, quote::quote};
use skiff_client::PropagationPolicy;

use crate::{
    limits,
    request_info::{query_bool, query_pairs},
};

/// What to do with fields the schema does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// The decoded query of a request.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: &str) -> Query {
        Query(query_pairs(query).collect())
    }

    /// The first value; empty when absent.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(have, _)| have == name)
    }

    /// Absent and empty are false, as Go clients mean it.
    pub fn flag(&self, name: &str) -> bool {
        let value = self.get(name);
        !value.is_empty() && query_bool(value)
    }

    pub fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        match self.get(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
        }
    }
}

/// Options of create, update, patch and delete.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// As given; see [`WriteOptions::manager`].
    pub field_manager: String,
    pub field_validation: FieldValidation,
    pub dry_run: bool,
    /// Apply only: take fields from other managers.
    pub force: bool,
    /// Fallback manager: the `User-Agent` up to the first slash.
    pub agent: String,
}

impl WriteOptions {
    /// Reads the query; 400 or 422 for what upstream refuses.
    /// `kind` names the options object of the verb.
    pub fn parse(query: &Query, user_agent: &str, kind: &str) -> Result<WriteOptions, Status> {
        let mut causes = Vec::new();
        let field_manager = query.get("fieldManager").to_owned();
        if field_manager.len() > limits::FIELD_MANAGER_LEN_MAX {
            causes.push(cause(
                "fieldManager",
                "FieldValueTooLong",
                format!("Too long: may not be more than {} bytes", limits::FIELD_MANAGER_LEN_MAX),
            ));
        }
        for (at, character) in field_manager.char_indices().filter(|(_, character)| character.is_control()) {
            let message = format!(
                "Invalid value: {}: invalid character U+{:04X} (at position {at})",
                quote(&field_manager),
                u32::from(character)
            );
            causes.push(cause("fieldManager", "FieldValueInvalid", message));
        }
        let dry_run = dry_run(query.all("dryRun"), &mut causes);
        let field_validation = match query.get("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                causes.push(cause(
                    "fieldValidation",
                    "FieldValueNotSupported",
                    format!("Unsupported value: {other:?}: supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""),
                ));
                FieldValidation::Warn
            }
        };
        if causes.is_empty() {
            let agent = user_agent.split('/').next().unwrap_or_default();
            let agent = agent.chars().filter(|c| !c.is_control()).take(limits::FIELD_MANAGER_LEN_MAX).collect();
            Ok(WriteOptions { field_manager, field_validation, dry_run, force: query.flag("force"), agent })
        } else {
            Err(Status::invalid("meta.k8s.io", kind, "", causes))
        }
    }

    /// Who owns what this write sets.
    pub fn manager(&self) -> &str {
        match (self.field_manager.as_str(), self.agent.as_str()) {
            ("", "") => "unknown",
            ("", agent) => agent,
            (manager, _) => manager,
        }
    }

    /// The options object that admission sees.
    pub fn object(&self, kind: &str) -> Value {
        let mut object = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if !self.field_manager.is_empty() {
            object["fieldManager"] = self.field_manager.as_str().into();
        }
        if self.dry_run {
            object["dryRun"] = json!(["All"]);
        }
        if self.force {
            object["force"] = true.into();
        }
        object
    }
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, causes: &mut Vec<Cause>) -> bool {
    let values: Vec<&str> = values.filter(|value| !value.is_empty()).collect();
    if values.iter().any(|value| *value != "All") {
        let message = format!("Unsupported value: {}: supported values: \"All\"", json!(values));
        causes.push(cause("dryRun", "FieldValueNotSupported", message));
    }
    !values.is_empty()
}

fn cause(field: &str, reason: &str, message: String) -> Cause {
    Cause { field: field.to_owned(), reason: reason.to_owned(), message }
}

const CONTINUED: &str = "resourceVersionMatch is forbidden when continue is provided";

/// How a list relates to its `resourceVersion`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    /// Everything written so far.
    MostRecent,
    /// Whatever is there.
    Any,
    NotOlderThan(Revision),
    Exact(Revision),
}

/// Options of list, watch and deletecollection.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    pub label_selector: String,
    pub field_selector: String,
    pub limit: Option<usize>,
    pub continue_token: String,
    pub resource_version: String,
    pub version_match: String,
    pub timeout: Option<Duration>,
    pub bookmarks: bool,
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    pub fn parse(query: &Query) -> Result<ListOptions, Status> {
        let limit = query.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
        let timeout = query.number("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok());
        Ok(ListOptions {
            label_selector: query.get("labelSelector").to_owned(),
            field_selector: query.get("fieldSelector").to_owned(),
            limit,
            continue_token: query.get("continue").to_owned(),
            resource_version: query.get("resourceVersion").to_owned(),
            version_match: query.get("resourceVersionMatch").to_owned(),
            timeout: timeout.filter(|seconds| *seconds > 0).map(Duration::from_secs),
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents")),
        })
    }

    /// What a list must show, by upstream's table.
    pub fn version(&self) -> Result<VersionMatch, Status> {
        let causes = self.list_causes();
        if !causes.is_empty() {
            return Err(invalid_list(causes));
        }
        let revision = parse_version(&self.resource_version).map_err(|why| {
            let cause = version_cause(&self.resource_version, &why);
            Status::bad_request(format!("invalid resource version: {}: {}", cause.field, cause.message))
        })?;
        if !self.continue_token.is_empty() && revision > Revision::ZERO {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        Ok(match (self.version_match.as_str(), self.resource_version.as_str()) {
            (_, "") => VersionMatch::MostRecent,
            ("Exact", _) => VersionMatch::Exact(revision),
            _ if revision == Revision::ZERO => VersionMatch::Any,
            ("", _) if self.limit.is_some() => VersionMatch::Exact(revision),
            _ => VersionMatch::NotOlderThan(revision),
        })
    }

    fn list_causes(&self) -> Vec<Cause> {
        let mut causes = Vec::new();
        let mut forbid = |field: &str, message: &str| {
            causes.push(cause(field, "FieldValueForbidden", format!("Forbidden: {message}")));
        };
        let version_match = self.version_match.as_str();
        if !version_match.is_empty() {
            if self.resource_version.is_empty() {
                forbid("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if !self.continue_token.is_empty() {
                forbid("resourceVersionMatch", CONTINUED);
            }
            if version_match == "Exact" && self.resource_version == "0" {
                let message = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                forbid("resourceVersionMatch", message);
            }
        }
        if self.send_initial_events.is_some() {
            forbid("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
        if !matches!(version_match, "" | "Exact" | "NotOlderThan") {
            causes.push(unsupported_match(version_match, "\"Exact\", \"NotOlderThan\", \"\""));
        }
        causes
    }

    /// Whether a watch begins with the present state and the marked bookmark.
    pub fn watch_list(&self) -> Result<bool, Status> {
        let mut causes = Vec::new();
        let mut forbid = |message: &str| {
            causes.push(cause("resourceVersionMatch", "FieldValueForbidden", format!("Forbidden: {message}")));
        };
        let version_match = self.version_match.as_str();
        if self.send_initial_events.is_some() && version_match != "NotOlderThan" {
            forbid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if self.send_initial_events.is_none() && !version_match.is_empty() {
            forbid("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        if !version_match.is_empty() && !self.continue_token.is_empty() {
            forbid(CONTINUED);
        }
        if !matches!(version_match, "" | "NotOlderThan") {
            causes.push(unsupported_match(version_match, "\"NotOlderThan\""));
        }
        if causes.is_empty() { Ok(self.send_initial_events == Some(true)) } else { Err(invalid_list(causes)) }
    }
}

fn unsupported_match(have: &str, supported: &str) -> Cause {
    let message = format!("Unsupported value: {}: supported values: {supported}", quote(have));
    cause("resourceVersionMatch", "FieldValueNotSupported", message)
}

fn invalid_list(causes: Vec<Cause>) -> Status {
    Status::invalid("meta.k8s.io", "ListOptions", "", causes)
}

/// A `resourceVersion`; empty is zero. The error is in the words of upstream's number parser.
pub fn parse_version(text: &str) -> Result<Revision, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = if is_number { text.parse().ok() } else { None };
    let why = if is_number { "value out of range" } else { "invalid syntax" };
    parsed.ok_or_else(|| format!("strconv.ParseUint: parsing {}: {why}", quote(text)))
}

/// The cause of a refused `resourceVersion` of a query.
pub fn version_cause(text: &str, why: &str) -> Cause {
    cause("resourceVersion", "FieldValueInvalid", format!("Invalid value: {}: {why}", quote(text)))
}

/// Options of delete and deletecollection: body, then query.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub propagation: Option<PropagationPolicy>,
    /// Whether the old field `orphanDependents` was used.
    pub orphan_dependents: Option<bool>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Reads the decoded body (`null` when there was none) or else the query.
    pub fn parse(body: &Value, query: &Query) -> Result<DeleteOptions, Status> {
        let mut causes = Vec::new();
        let mut options = if body.is_null() {
            DeleteOptions {
                grace_period_seconds: query.number("gracePeriodSeconds")?,
                propagation: propagation(query.get("propagationPolicy"), &mut causes),
                orphan_dependents: query.has("orphanDependents").then(|| query.flag("orphanDependents")),
                ..DeleteOptions::default()
            }
        } else {
            let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
            DeleteOptions {
                grace_period_seconds: body["gracePeriodSeconds"].as_i64(),
                propagation: propagation(body["propagationPolicy"].as_str().unwrap_or_default(), &mut causes),
                orphan_dependents: body["orphanDependents"].as_bool(),
                uid: text(&body["preconditions"]["uid"]),
                resource_version: text(&body["preconditions"]["resourceVersion"]),
                dry_run: false,
            }
        };
        if let Some(policy) = options.propagation
            && options.orphan_dependents.is_some()
        {
            let message =
                format!("Invalid value: \"{policy:?}\": orphanDependents and deletionPropagation cannot be both set");
            causes.push(cause("propagationPolicy", "FieldValueInvalid", message));
        }
        let in_body = body["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str);
        options.dry_run = dry_run(in_body.chain(query.all("dryRun")), &mut causes);
        if causes.is_empty() { Ok(options) } else { Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", causes)) }
    }

    /// The policy, also from the old field.
    pub fn policy(&self) -> Option<PropagationPolicy> {
        self.propagation.or(self
            .orphan_dependents
            .map(|orphan| if orphan { PropagationPolicy::Orphan } else { PropagationPolicy::Background }))
    }

    /// The options object that admission sees.
    pub fn object(&self) -> Value {
        let mut object = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if let Some(seconds) = self.grace_period_seconds {
            object["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(policy) = self.propagation {
            object["propagationPolicy"] = json!(policy);
        }
        if self.dry_run {
            object["dryRun"] = json!(["All"]);
        }
        object
    }
}

fn propagation(text: &str, causes: &mut Vec<Cause>) -> Option<PropagationPolicy> {
    match text {
        "" => None,
        "Orphan" => Some(PropagationPolicy::Orphan),
        "Background" => Some(PropagationPolicy::Background),
        "Foreground" => Some(PropagationPolicy::Foreground),
        other => {
            causes.push(cause(
                "propagationPolicy",
                "FieldValueNotSupported",
                format!("Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""),
            ));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(query: &str) -> ListOptions {
        ListOptions::parse(&Query::parse(query)).unwrap()
    }

    #[test]
    fn the_version_table_of_lists() {
        use VersionMatch::*;
        for (query, want) in [
            ("", MostRecent),
            ("limit=5", MostRecent),
            ("resourceVersion=0", Any),
            ("resourceVersion=7", NotOlderThan(Revision(7))),
            ("resourceVersion=7&limit=5", Exact(Revision(7))),
            ("resourceVersion=7&resourceVersionMatch=Exact", Exact(Revision(7))),
            ("resourceVersion=7&resourceVersionMatch=NotOlderThan&limit=5", NotOlderThan(Revision(7))),
        ] {
            assert_eq!(list(query).version().unwrap(), want, "{query}");
        }
        for (query, code) in [
            ("resourceVersionMatch=Exact", 422),
            ("resourceVersion=0&resourceVersionMatch=Exact", 422),
            ("resourceVersion=1&resourceVersionMatch=Odd", 422),
            ("resourceVersion=x", 400),
            ("continue=x&resourceVersion=4", 400),
            ("sendInitialEvents=true", 422),
        ] {
            assert_eq!(list(query).version().unwrap_err().code, code, "{query}");
        }
    }

    #[test]
    fn a_watch_list_needs_its_version_match() {
        assert!(list("sendInitialEvents=true&resourceVersionMatch=NotOlderThan").watch_list().unwrap());
        assert_eq!(list("sendInitialEvents=true").watch_list().unwrap_err().code, 422);
        assert!(!list("").watch_list().unwrap());
    }

    #[test]
    fn the_manager_falls_back_to_the_agent() {
        let options =
            |query: &str, agent: &str| WriteOptions::parse(&Query::parse(query), agent, "CreateOptions").unwrap();
        assert_eq!(options("", "kubectl/v1.37 (linux)").manager(), "kubectl");
        assert_eq!(options("fieldManager=x", "kubectl").manager(), "x");
        assert!(WriteOptions::parse(&Query::parse("dryRun=Some"), "", "PatchOptions").is_err());
        assert!(options("dryRun=All", "").dry_run);
    }

    #[test]
    fn delete_options_come_from_the_body_or_the_query() {
        let query = Query::parse("gracePeriodSeconds=3&propagationPolicy=Foreground");
        let options = DeleteOptions::parse(&Value::Null, &query).unwrap();
        assert_eq!((options.grace_period_seconds, options.policy()), (Some(3), Some(PropagationPolicy::Foreground)));
        let body = json!({"gracePeriodSeconds": 9, "preconditions": {"uid": "u"}, "orphanDependents": true});
        let options = DeleteOptions::parse(&body, &query).unwrap();
        assert_eq!((options.grace_period_seconds, options.policy()), (Some(9), Some(PropagationPolicy::Orphan)));
        assert_eq!(options.uid.as_deref(), Some("u"));
    }
}
