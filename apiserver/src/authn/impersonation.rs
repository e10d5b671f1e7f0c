//! Acting as somebody else: `Impersonate-*` headers, each of which needs the
//! verb `impersonate` on what it names.

use http::HeaderMap;
use skiff_api::Status;

use super::{UserInfo, request_header, user};
use crate::authz::{Attributes, Authorizer};

const EXTRA_PREFIX: &str = "impersonate-extra-";

/// The user asked for, if any; bad combinations are 400.
pub fn requested(headers: &HeaderMap) -> Result<Option<UserInfo>, Status> {
    let text = |value: &http::HeaderValue| value.to_str().ok().map(str::to_owned);
    let username = headers.get("impersonate-user").and_then(text).unwrap_or_default();
    let uid = headers.get("impersonate-uid").and_then(text).unwrap_or_default();
    let groups: Vec<String> = headers.get_all("impersonate-group").iter().filter_map(text).collect();
    let extra = request_header::extra(headers, EXTRA_PREFIX);
    if username.is_empty() {
        if uid.is_empty() && groups.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        return Err(Status::bad_request("requested impersonation without impersonating a user"));
    }
    Ok(Some(UserInfo { username, uid, groups, extra }))
}

/// Checks that `by` may act as `target` and completes its groups.
pub fn authorize(authorizer: &dyn Authorizer, by: &UserInfo, mut target: UserInfo) -> Result<UserInfo, Status> {
    let check = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let attributes = Attributes {
            user: by.clone(),
            verb: "impersonate".to_owned(),
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        let decision = authorizer.authorize(&attributes);
        if decision.is_allowed() { Ok(()) } else { Err(crate::authz::forbidden(&attributes, &decision)) }
    };
    match target.service_account() {
        Some((namespace, name)) => check("", "serviceaccounts", "", namespace, name)?,
        None => check("", "users", "", "", &target.username)?,
    }
    for group in &target.groups {
        check("", "groups", "", "", group)?;
    }
    if !target.uid.is_empty() {
        check("authentication.k8s.io", "uids", "", "", &target.uid)?;
    }
    for (key, values) in &target.extra {
        for value in values {
            check("authentication.k8s.io", "userextras", key, "", value)?;
        }
    }
    if let Some((namespace, _)) = target.service_account()
        && target.groups.is_empty()
    {
        target.groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    }
    let marker = if target.username == user::ANONYMOUS { user::UNAUTHENTICATED } else { user::AUTHENTICATED };
    if !target.is_in(marker) {
        target.groups.push(marker.to_owned());
    }
    Ok(target)
}

/// Removes the headers once they are used.
pub fn strip(headers: &mut HeaderMap) {
    let names: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}
