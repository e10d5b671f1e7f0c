//! Tokens, reviews, and who may grant what.

use bytes::Bytes;
use serde_json::{Value, json};
use skiff_apiserver::UserInfo;

use crate::{bootstrap::bootstrapped, harness::Harness};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn post_as(harness: &Harness, user: UserInfo, path: &str, body: Value) -> crate::harness::Answer {
    harness.ask_as(user, "POST", path, &[("content-type", "application/json")], Bytes::from(body.to_string())).await
}

#[tokio::test]
async fn a_token_is_issued_and_reviewed() {
    let harness = bootstrapped().await;
    let request =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}});
    let answer = harness.post("/api/v1/namespaces/n/serviceaccounts/default/token", request).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    let token = answer.body["status"]["token"].clone();
    assert!(answer.body["status"]["expirationTimestamp"].as_str().unwrap().ends_with('Z'));
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let answer = harness.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    let status = &answer.body["status"];
    assert_eq!(
        (&status["authenticated"], &status["user"]["username"]),
        (&json!(true), &json!("system:serviceaccount:n:default"))
    );
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "x.y.z"}});
    let answer = harness.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert!(answer.body["status"].get("authenticated").is_none_or(|flag| flag == false));
}

#[tokio::test]
async fn a_node_gets_tokens_only_for_its_pods() {
    let harness = bootstrapped().await;
    let node = UserInfo::new("system:node:a", &["system:nodes"]);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let answer = post_as(&harness, node, "/api/v1/namespaces/n/serviceaccounts/default/token", request).await;
    assert_eq!(answer.code, 403, "{}", answer.body);
}

#[tokio::test]
async fn reviews_answer_for_oneself_and_others() {
    let harness = bootstrapped().await;
    let base = "/apis/authorization.k8s.io/v1";
    let ask = |kind: &str, extra: Value| {
        let mut spec = json!({"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "n"}});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec})
    };
    let own = post_as(
        &harness,
        UserInfo::new("nobody", &[]),
        &format!("{base}/selfsubjectaccessreviews"),
        ask("SelfSubjectAccessReview", json!({})),
    )
    .await;
    assert_eq!((own.code, &own.body["status"]["allowed"]), (201, &json!(false)), "{}", own.body);
    let other = harness
        .post(
            &format!("{base}/subjectaccessreviews"),
            ask("SubjectAccessReview", json!({"user": "system:kube-scheduler"})),
        )
        .await;
    assert_eq!(other.body["status"]["allowed"], true, "{}", other.body);
    let local = harness
        .post(
            &format!("{base}/namespaces/n/localsubjectaccessreviews"),
            ask("LocalSubjectAccessReview", json!({"user": "nobody"})),
        )
        .await;
    assert_eq!((local.code, &local.body["status"]["allowed"]), (201, &json!(false)), "{}", local.body);
    let rules =
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "n"}});
    let rules = harness.post(&format!("{base}/selfsubjectrulesreviews"), rules).await;
    assert!(!rules.body["status"]["resourceRules"].as_array().unwrap().is_empty());
    let who = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let who = harness.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", who).await;
    assert_eq!(who.body["status"]["userInfo"]["username"], "admin");
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_have() {
    let harness = bootstrapped().await;
    let bind = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "alice-admin"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"kind": "User", "name": "alice"}]});
    let answer = harness.post(&format!("{RBAC}/namespaces/n/rolebindings"), bind).await;
    assert_eq!(
        (answer.code, &answer.body["subjects"][0]["apiGroup"]),
        (201, &json!("rbac.authorization.k8s.io")),
        "{}",
        answer.body
    );
    let alice = || UserInfo::new("alice", &[]);
    let role = |verbs: &str, resource: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": format!("r-{verbs}-{resource}")},
            "rules": [{"verbs": [verbs], "apiGroups": [""], "resources": [resource]}]})
    };
    let roles = format!("{RBAC}/namespaces/n/roles");
    // The authorizer reads the caches, which learn of the binding a moment later.
    let mut held = post_as(&harness, alice(), &roles, role("get", "pods")).await;
    for _ in 0..500 {
        if held.code == 201 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        held = post_as(&harness, alice(), &roles, role("get", "pods")).await;
    }
    assert_eq!(held.code, 201, "{}", held.body);
    let more = post_as(&harness, alice(), &roles, role("get", "nodes")).await;
    assert_eq!(more.code, 403);
    assert!(
        more.body["message"].as_str().unwrap().contains("is attempting to grant RBAC permissions not currently held")
    );
}

#[tokio::test]
async fn selectors_are_part_of_what_is_authorized() {
    let harness = bootstrapped().await;
    let node = || UserInfo::new("system:node:a", &["system:nodes"]);
    for (query, code) in
        [("", 403), ("?fieldSelector=spec.nodeName%3Db", 403), ("?fieldSelector=spec.nodeName%3Da", 200)]
    {
        let answer = harness.ask_as(node(), "GET", &format!("/api/v1/pods{query}"), &[], Bytes::new()).await;
        assert_eq!(answer.code, code, "{query} {}", answer.body);
    }
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let ask = |selector: Value| {
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
            "user": "system:node:a", "groups": ["system:nodes"],
            "resourceAttributes": {"verb": "list", "resource": "pods", "version": "v1", "fieldSelector": selector}}})
    };
    let own = json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["a"]}]});
    let answer = harness.post(reviews, ask(own)).await;
    assert_eq!((answer.code, &answer.body["status"]), (201, &json!({"allowed": true})));
    let answer = harness.post(reviews, ask(json!({"rawSelector": "spec.nodeName"}))).await;
    assert_eq!(
        answer.body["status"],
        json!({"allowed": false, "reason": "can only list/watch pods with spec.nodeName field selector",
            "evaluationError": "spec.resourceAttributes.fieldSelector ignored due to parse error"})
    );
    let answer = harness.post(reviews, ask(json!({}))).await;
    assert_eq!(answer.code, 422, "{}", answer.body);
    assert_eq!(
        answer.body["details"]["causes"][0]["field"], "spec.resourceAttributes.fieldSelector.requirements",
        "{}",
        answer.body
    );
    let rules =
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "n"}});
    let rules = post_as(&harness, node(), "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", rules).await;
    assert_eq!(rules.body["status"]["incomplete"], true, "{}", rules.body);
}
