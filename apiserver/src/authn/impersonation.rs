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
        let nobody = UserInfo { username, uid, groups, extra };
        let text = format!("requested {} without impersonating a user name", as_go_shows(&nobody));
        return Err(Status::bad_request(text));
    }
    Ok(Some(UserInfo { username, uid, groups, extra }))
}

/// A user as upstream's message shows it.
fn as_go_shows(user: &UserInfo) -> String {
    let list = |items: &[String]| {
        let items: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
        format!("[]string{{{}}}", items.join(", "))
    };
    let groups = if user.groups.is_empty() { "[]string(nil)".to_owned() } else { list(&user.groups) };
    let extra: Vec<String> = user.extra.iter().map(|(key, values)| format!("{key:?}:{}", list(values))).collect();
    let extra = if extra.is_empty() { "(nil)".to_owned() } else { format!("{{{}}}", extra.join(", ")) };
    format!(
        "&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:{groups}, Extra:map[string][]string{extra}}}",
        user.username, user.uid
    )
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
    let unauthenticated = target.is_in(user::UNAUTHENTICATED);
    if target.username == user::ANONYMOUS {
        if !unauthenticated {
            target.groups.push(user::UNAUTHENTICATED.to_owned());
        }
    } else if !unauthenticated && !target.is_in(user::AUTHENTICATED) {
        target.groups.push(user::AUTHENTICATED.to_owned());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::Masters;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn become_one(pairs: &[(&'static str, &str)]) -> UserInfo {
        let target = requested(&headers(pairs)).unwrap().unwrap();
        authorize(&Masters, &UserInfo::new("admin", &["system:masters"]), target).unwrap()
    }

    #[test]
    fn groups_are_completed_by_who_is_impersonated() {
        assert_eq!(become_one(&[("impersonate-user", "jane")]).groups, ["system:authenticated"]);
        let account = become_one(&[("impersonate-user", "system:serviceaccount:n:a")]);
        assert_eq!(account.groups, ["system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated"]);
        let given = become_one(&[("impersonate-user", "jane"), ("impersonate-group", "a"), ("impersonate-group", "b")]);
        assert_eq!(given.groups, ["a", "b", "system:authenticated"]);
        let nobody = [("impersonate-user", "jane"), ("impersonate-group", "system:unauthenticated")];
        assert_eq!(become_one(&nobody).groups, ["system:unauthenticated"]);
        assert_eq!(become_one(&[("impersonate-user", "system:anonymous")]).groups, ["system:unauthenticated"]);
    }

    #[test]
    fn nothing_is_impersonated_without_a_user() {
        assert_eq!(requested(&HeaderMap::new()), Ok(None));
        let status = requested(&headers(&[("impersonate-group", "g"), ("impersonate-extra-a%2Fb", "v")])).unwrap_err();
        assert_eq!(
            (status.code, status.message.as_str()),
            (
                400,
                "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"g\"}, \
                 Extra:map[string][]string{\"a/b\":[]string{\"v\"}}} without impersonating a user name"
            )
        );
    }
}
