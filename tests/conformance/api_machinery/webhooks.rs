//! Admission webhooks.
//!
//! Every row has a webhook server of its own, and webhooks that see only the
//! namespace (or the labelled objects) of the row.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    custom::{self, Installed},
    webhook_server,
};
use crate::{
    api::{core, merge},
    context::{Context, LIMIT, eventually},
    operations::unique,
};

crate::rows! { "api-machinery";
    "AdmissionWebhook" {
        "should include webhook resources in discovery documents" => discovery,
        "should be able to deny pod and configmap creation" => deny,
        "should be able to deny attaching pod" => deny_attach,
        "should be able to deny custom resource creation, update and deletion" => deny_custom,
        "should unconditionally reject operations on fail closed webhook" => fail_closed,
        "should mutate configmap" => mutate_configmap,
        "should mutate pod and apply defaults after mutation" => mutate_pod,
        "should not be able to mutate or prevent deletion of webhook configuration objects" => own_objects,
        "should mutate custom resource" => mutate_custom,
        "should deny crd creation" => deny_definition,
        "should mutate custom resource with different stored version" => stored_version,
        "should mutate custom resource with pruning" => pruning,
        "should honor timeout" => timeouts,
        "patching/updating a validating webhook should work" => change_validating,
        "patching/updating a mutating webhook should work" => change_mutating,
        "listing validating webhooks should work" => list_validating,
        "listing mutating webhooks should work" => list_mutating,
        "should be able to create and update validating webhook configurations with match conditions" => conditions_validating,
        "should be able to create and update mutating webhook configurations with match conditions" => conditions_mutating,
        "should reject validating webhook configurations with invalid match conditions" => invalid_validating,
        "should reject mutating webhook configurations with invalid match conditions" => invalid_mutating,
        "should mutate everything except 'skip-me' configmaps" => skip_me,
    }
}

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Validating,
    Mutating,
}

impl Kind {
    fn path(self) -> String {
        let name = if self == Kind::Validating { "validating" } else { "mutating" };
        format!("{GROUP}/{name}webhookconfigurations")
    }
}

/// The webhooks of one row.
struct Hooks {
    context: Context,
    namespace: String,
    bundle: String,
    /// In the names of everything the row makes.
    id: String,
}

fn rule(operations: &[&str], group: &str, resource: &str) -> Value {
    json!([{"operations": operations, "apiGroups": [group], "apiVersions": ["*"], "resources": [resource]}])
}

fn configmap(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name}, "data": data})
}

impl Hooks {
    async fn new(context: Context) -> Result<Hooks> {
        let namespace = context.namespace().await?;
        let bundle = webhook_server::deploy(&context, &namespace).await?;
        Ok(Hooks { context, namespace, bundle, id: unique() })
    }

    /// A webhook over the namespace of the row.
    fn hook(&self, name: &str, path: &str, rules: Value, over: Value) -> Value {
        let mut hook = json!({"name": format!("{name}.k8s.io"), "rules": rules, "sideEffects": "None",
            "admissionReviewVersions": ["v1", "v1beta1"], "timeoutSeconds": 10,
            "clientConfig": webhook_server::client_config(&self.namespace, path, &self.bundle),
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}}});
        merge(&mut hook, &over);
        hook
    }

    /// Registers webhooks and waits until they are asked.
    async fn register(&self, kind: Kind, mut hooks: Vec<Value>) -> Result<String> {
        let label = format!("marker-{}", unique());
        let marker = json!({"objectSelector": {"matchLabels": {&label: "true"}}});
        hooks.push(self.hook("marker.e2e", "/always-deny", rule(&["CREATE"], "", "configmaps"), marker));
        let name = format!("e2e-{}", unique());
        let configuration = json!({"metadata": {"name": name, "labels": {"e2e": self.id}}, "webhooks": hooks});
        self.context.create(&kind.path(), &configuration).await?;
        let path = format!("{}/{name}", kind.path());
        self.context.leftover(&path);
        let object = json!({"metadata": {"generateName": "marker-", "labels": {label: "true"}}});
        eventually("the webhooks are asked", LIMIT, || async {
            let answer = self.context.call("POST", &self.configmaps(), Some(&object)).await?;
            ensure!(answer.code == 400 && answer.message().contains("denied the request"), "{}", answer.message());
            Ok(())
        })
        .await?;
        Ok(path)
    }

    fn configmaps(&self) -> String {
        core(&self.namespace, "configmaps")
    }

    /// The request must be refused with this text.
    async fn refused(&self, method: &str, path: &str, body: Option<&Value>, why: &str) -> Result<()> {
        let answer = self.context.call(method, path, body).await?;
        ensure!(answer.code >= 400 && answer.message().contains(why), "{}: {}", answer.code, answer.message());
        Ok(())
    }

    /// A definition whose objects have `data`.
    async fn definition(&self, versions: &[&str], schema: Value) -> Result<Installed> {
        let versions: Vec<Value> =
            versions.iter().enumerate().map(|(i, name)| custom::version(name, i == 0, schema.clone())).collect();
        custom::install(&self.context, &custom::definition(None, "Namespaced", &versions)).await
    }

    /// Two webhooks, of which the second sees what the first did.
    fn stages(&self, path: &str, rules: &Value) -> Vec<Value> {
        ["stage-1.e2e", "stage-2.e2e"].map(|name| self.hook(name, path, rules.clone(), json!({}))).to_vec()
    }

    async fn pod(&self, name: &str) -> Result<Value> {
        let pod = json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [
            {"name": "container1", "image": self.context.agnhost, "imagePullPolicy": "IfNotPresent", "args": ["pause"]}]}});
        self.context.create(&core(&self.namespace, "pods"), &pod).await
    }
}

async fn discovery(context: Context) -> Result<()> {
    let has = |list: &Value, field: &str, wanted: &str| {
        list.as_array().into_iter().flatten().any(|entry| entry[field] == wanted)
    };
    let groups = context.get("/apis").await?;
    ensure!(has(&groups["groups"], "name", "admissionregistration.k8s.io"), "{groups}");
    let group = context.get("/apis/admissionregistration.k8s.io").await?;
    ensure!(has(&group["versions"], "version", "v1"), "{group}");
    let resources = context.get(GROUP).await?;
    for name in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        ensure!(has(&resources["resources"], "name", name), "{resources}");
    }
    Ok(())
}

async fn deny(context: Context) -> Result<()> {
    let hooks = Hooks::new(context).await?;
    let unreachable = json!({"failurePolicy": "Ignore", "clientConfig": {"caBundle": null}});
    let registered = vec![
        hooks.hook("deny-pod.e2e", "/pods", rule(&["CREATE"], "", "pods"), json!({})),
        hooks.hook(
            "deny-configmap.e2e",
            "/configmaps",
            rule(&["CREATE", "UPDATE", "DELETE"], "", "configmaps"),
            json!({}),
        ),
        hooks.hook("open.e2e", "/configmaps", rule(&["CREATE"], "", "configmaps"), unreachable),
    ];
    hooks.register(Kind::Validating, registered).await?;
    let pods = core(&hooks.namespace, "pods");
    let pod = json!({"metadata": {"name": "disallowed-pod", "labels": {"webhook-e2e-test": "webhook-disallow"}},
        "spec": {"containers": [{"name": "webhook-disallow", "image": "example.com/none"}]}});
    hooks.refused("POST", &pods, Some(&pod), "the pod contains unwanted container name").await?;
    let unwanted = json!({"webhook-e2e-test": "webhook-disallow"});
    let denied = "the configmap contains unwanted key and value";
    hooks.refused("POST", &hooks.configmaps(), Some(&configmap("disallowed", unwanted.clone())), denied).await?;
    let allowed = hooks.context.create(&hooks.configmaps(), &configmap("allowed", json!({"a": "b"}))).await?;
    let path = format!("{}/allowed", hooks.configmaps());
    let mut changed = allowed;
    changed["data"] = unwanted.clone();
    hooks.refused("PUT", &path, Some(&changed), denied).await?;
    ensure!(hooks.context.merge(&path, json!({"data": unwanted})).await.is_err(), "a patch passes");
    // Other namespaces are not the webhook's.
    let elsewhere = hooks.context.namespace().await?;
    hooks.context.create(&core(&elsewhere, "configmaps"), &configmap("disallowed", unwanted)).await?;
    Ok(())
}

async fn deny_attach(context: Context) -> Result<()> {
    let hooks = Hooks::new(context).await?;
    let hook = hooks.hook("deny-attach.e2e", "/pods/attach", rule(&["CONNECT"], "", "pods/attach"), json!({}));
    hooks.register(Kind::Validating, vec![hook]).await?;
    hooks.pod("to-be-attached-pod").await?;
    let path = format!("{}/to-be-attached-pod", core(&hooks.namespace, "pods"));
    hooks.context.until(&path, "runs", |pod| pod["status"]["phase"] == "Running").await?;
    let attach = format!("{path}/attach?container=container1&stdout=true");
    hooks.refused("POST", &attach, None, "attaching to pod 'to-be-attached-pod' is not allowed").await
}

async fn deny_custom(context: Context) -> Result<()> {
    let hooks = Hooks::new(context).await?;
    let installed = hooks.definition(&["v1"], custom::anything()).await?;
    let rules = rule(&["CREATE", "UPDATE", "DELETE"], &installed.group, &installed.plural);
    let hook = hooks.hook("deny-custom.e2e", "/custom-resource", rules, json!({}));
    let registered = hooks.register(Kind::Validating, vec![hook]).await?;
    let path = installed.objects("v1", Some(&hooks.namespace));
    let denied = "the custom resource contains unwanted data";
    let unwanted = json!({"webhook-e2e-test": "webhook-disallow"});
    let mut object = installed.object("v1", "cr-instance-1");
    object["data"] = unwanted.clone();
    hooks.refused("POST", &path, Some(&object), denied).await?;
    object["data"] = json!({"mutation-start": "no"});
    let mut stored = hooks.context.create(&path, &object).await?;
    let one = format!("{path}/cr-instance-1");
    stored["data"] = unwanted.clone();
    hooks.refused("PUT", &one, Some(&stored), denied).await?;
    ensure!(hooks.context.merge(&one, json!({"data": unwanted})).await.is_err(), "a patch passes");
    // An object with the unwanted data can be made without the webhook only, and not be deleted with it.
    hooks.context.delete(&registered).await?;
    eventually("the webhook is not asked", LIMIT, || {
        hooks.context.merge(&one, json!({"data": {"webhook-e2e-test": "webhook-disallow"}}))
    })
    .await?;
    let rules = rule(&["DELETE"], &installed.group, &installed.plural);
    let hook = hooks.hook("deny-custom.e2e", "/custom-resource", rules, json!({}));
    hooks.register(Kind::Validating, vec![hook]).await?;
    hooks.refused("DELETE", &one, None, denied).await?;
    hooks.context.merge(&one, json!({"data": {"webhook-e2e-test": null}})).await?;
    hooks.context.delete(&one).await?;
    Ok(())
}

async fn fail_closed(context: Context) -> Result<()> {
    let hooks = Hooks::new(context).await?;
    // Without the bundle nobody trusts the server.
    let broken = json!({"failurePolicy": "Fail", "clientConfig": {"caBundle": null},
        "objectSelector": {"matchLabels": {"closed": "true"}}});
    let hook = hooks.hook("closed.e2e", "/configmaps", rule(&["CREATE"], "", "configmaps"), broken);
    hooks.register(Kind::Validating, vec![hook]).await?;
    let object = json!({"metadata": {"name": "foo", "labels": {"closed": "true"}}});
    let answer = hooks.context.call("POST", &hooks.configmaps(), Some(&object)).await?;
    ensure!(answer.code == 500, "{}", answer.message());
    ensure!(answer.message().contains("failed calling webhook \"closed.e2e.k8s.io\""), "{}", answer.message());
    Ok(())
}

async fn mutate_configmap(context: Context) -> Result<()> {
    let hooks = Hooks::new(context).await?;
    let stages = hooks.stages("/mutating-configmaps", &rule(&["CREATE"], "", "configmaps"));
    hooks.register(Kind::Mutating, stages).await?;
    let made =
        hooks.context.create(&hooks.configmaps(), &configmap("mutated", json!({"mutation-start": "yes"}))).await?;
    let wanted = json!({"mutation-start": "yes", "mutation-stage-1": "yes", "mutation-stage-2": "yes"});
    ensure!(made["data"] == wanted, "{made}");
    Ok(())
}

async fn mutate_pod(context: Context) -> Result<()> {
    let hooks = Hooks::new(context).await?;
    let hook = hooks.hook("mutate-pod.e2e", "/mutating-pods", rule(&["CREATE"], "", "pods"), json!({}));
    hooks.register(Kind::Mutating, vec![hook]).await?;
    let made = hooks.pod("webhook-to-be-mutated").await?;
    let added = &made["spec"]["initContainers"][0];
    ensure!(added["name"] == "webhook-added-init-container", "{made}");
    ensure!(added["terminationMessagePolicy"] == "File", "no defaults: {added}");
    Ok(())
}

async fn own_objects(context: Context) -> Result<()> {
    let hooks = Hooks::new(context).await?;
    let everything = json!({"namespaceSelector": {"matchLabels": null},
        "objectSelector": {"matchLabels": {"own": hooks.id}}});
    let resources = rule(&["*"], "admissionregistration.k8s.io", "*");
    let deny = hooks.hook("deny-own.e2e", "/always-deny", resources.clone(), everything.clone());
    let label = hooks.hook("label-own.e2e", "/add-label", resources, everything);
    hooks.register(Kind::Validating, vec![deny]).await?;
    hooks.register(Kind::Mutating, vec![label]).await?;
    for kind in [Kind::Validating, Kind::Mutating] {
        let name = format!("own-{}", unique());
        let hook = hooks.hook("own.e2e", "/invalid", rule(&["CREATE"], "", "invalid"), json!({}));
        let object = json!({"metadata": {"name": name, "labels": {"own": hooks.id}}, "webhooks": [hook]});
        let made = hooks.context.create(&kind.path(), &object).await?;
        hooks.context.leftover(&format!("{}/{name}", kind.path()));
        ensure!(made["metadata"]["labels"].get("added-label").is_none(), "{made}");
        hooks.context.delete(&format!("{}/{name}", kind.path())).await?;
    }
    Ok(())
}

async fn mutated_custom(hooks: &Hooks, installed: &Installed) -> Result<Value> {
    let stages =
        hooks.stages("/mutating-custom-resource", &rule(&["CREATE", "UPDATE"], &installed.group, &installed.plural));
    hooks.register(Kind::Mutating, stages).await?;
    let mut object = installed.object("v1", "cr-instance-1");
    object["data"] = json!({"mutation-start": "yes"});
    hooks.context.create(&installed.objects("v1", Some(&hooks.namespace)), &object).await
}

async fn mutate_custom(context: Context) -> Result<()> {
    let hooks = Hooks::new(context).await?;
    let installed = hooks.definition(&["v1"], custom::anything()).await?;
    let made = mutated_custom(&hooks, &installed).await?;
    ensure!(made["data"]["mutation-stage-1"] == "yes" && made["data"]["mutation-stage-2"] == "yes", "{made}");
    Ok(())
}

async fn pruning(context: Context) -> Result<()> {
    let hooks = Hooks::new(context).await?;
    let text = json!({"type": "string"});
    let schema = json!({"type": "object", "properties": {"data": {"type": "object", "properties": {
        "mutation-start": text, "mutation-stage-1": text}}}});
    let installed = hooks.definition(&["v1"], schema).await?;
    let made = mutated_custom(&hooks, &installed).await?;
    ensure!(made["data"] == json!({"mutation-start": "yes", "mutation-stage-1": "yes"}), "{made}");
    Ok(())
}

async fn stored_version(context: Context) -> Result<()> {
    let hooks = Hooks::new(context).await?;
    let installed = hooks.definition(&["v1", "v2"], custom::anything()).await?;
    let hook = hooks.hook(
        "custom-versions.e2e",
        "/mutating-custom-resource",
        rule(&["CREATE", "UPDATE"], &installed.group, &installed.plural),
        json!({}),
    );
    hooks.register(Kind::Mutating, vec![hook]).await?;
    let (v1, v2) = (installed.objects("v1", Some(&hooks.namespace)), installed.objects("v2", Some(&hooks.namespace)));
    hooks.context.create(&v1, &installed.object("v1", "cr-instance-1")).await?;
    hooks
        .context
        .modify(&installed.path, |definition| {
            definition["spec"]["versions"][0]["storage"] = json!(false);
            definition["spec"]["versions"][1]["storage"] = json!(true);
        })
        .await?;
    eventually("the patched object is mutated", LIMIT, || async {
        let patched =
            hooks.context.merge(&format!("{v2}/cr-instance-1"), json!({"data": {"mutation-start": "yes"}})).await?;
        ensure!(patched["data"]["mutation-stage-1"] == "yes", "{patched}");
        ensure!(patched["apiVersion"].as_str().is_some_and(|version| version.ends_with("/v2")), "{patched}");
        Ok(())
    })
    .await
}

async fn deny_definition(context: Context) -> Result<()> {
    let hooks = Hooks::new(context).await?;
    let over = json!({"namespaceSelector": {"matchLabels": null},
        "objectSelector": {"matchLabels": {"webhook-e2e-test": "webhook-disallow", "row": hooks.id}}});
    let rules = rule(&["CREATE"], "apiextensions.k8s.io", "customresourcedefinitions");
    hooks.register(Kind::Validating, vec![hooks.hook("deny-crd.e2e", "/crd", rules, over)]).await?;
    let mut definition = custom::definition(None, "Namespaced", &[custom::version("v1", true, custom::anything())]);
    definition["metadata"]["labels"] = json!({"webhook-e2e-test": "webhook-disallow", "row": hooks.id});
    hooks.refused("POST", custom::DEFINITIONS, Some(&definition), "the crd contains unwanted label").await
}

async fn timeouts(context: Context) -> Result<()> {
    let hooks = Hooks::new(context).await?;
    let label = json!({"matchLabels": {"slow": "true"}});
    for (seconds, policy, refused) in [(1, "Fail", true), (1, "Ignore", false), (10, "Fail", false), (0, "Fail", false)]
    {
        let mut over = json!({"timeoutSeconds": seconds, "failurePolicy": policy, "objectSelector": label});
        if seconds == 0 {
            // The default is long enough.
            over["timeoutSeconds"] = Value::Null;
        }
        let hook = hooks.hook("slow.e2e", "/always-allow-delay-5s", rule(&["CREATE"], "", "configmaps"), over);
        let path = hooks.register(Kind::Validating, vec![hook]).await?;
        let object = json!({"metadata": {"generateName": "slow-", "labels": {"slow": "true"}}});
        let answer = hooks.context.call("POST", &hooks.configmaps(), Some(&object)).await?;
        if refused {
            ensure!(answer.code == 500 && answer.message().contains("deadline exceeded"), "{}", answer.message());
        } else {
            ensure!(answer.code == 201, "{seconds} {policy}: {}", answer.message());
        }
        hooks.context.delete(&path).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// Whether the webhook acts upon a new object, by kind.
async fn acts(hooks: &Hooks, kind: Kind) -> Result<bool> {
    let (data, label) = match kind {
        Kind::Validating => (json!({"webhook-e2e-test": "webhook-disallow"}), ""),
        Kind::Mutating => (json!({"mutation-start": "yes"}), "mutation-stage-1"),
    };
    let object = json!({"metadata": {"generateName": "tried-"}, "data": data});
    let answer = hooks.context.call("POST", &hooks.configmaps(), Some(&object)).await?;
    match (kind, answer.code) {
        (Kind::Validating, 400) => Ok(true),
        (Kind::Validating, 201) => Ok(false),
        (Kind::Mutating, 201) => Ok(answer.body["data"].get(label).is_some()),
        (_, code) => bail!("{code}: {}", answer.message()),
    }
}

async fn until_acts(hooks: &Hooks, kind: Kind, wanted: bool) -> Result<()> {
    eventually("the webhook follows its configuration", LIMIT, || async {
        ensure!(acts(hooks, kind).await? == wanted, "acts is not {wanted}");
        Ok(())
    })
    .await
}

fn data_hook(hooks: &Hooks, kind: Kind, over: Value) -> Value {
    let path = if kind == Kind::Validating { "/configmaps" } else { "/mutating-configmaps" };
    hooks.hook("data.e2e", path, rule(&["CREATE"], "", "configmaps"), over)
}

async fn change(context: Context, kind: Kind) -> Result<()> {
    let hooks = Hooks::new(context).await?;
    let path = hooks.register(kind, vec![data_hook(&hooks, kind, json!({}))]).await?;
    until_acts(&hooks, kind, true).await?;
    hooks.context.modify(&path, |object| object["webhooks"][0]["rules"][0]["operations"] = json!(["UPDATE"])).await?;
    until_acts(&hooks, kind, false).await?;
    let patch = json!([{"op": "replace", "path": "/webhooks/0/rules/0/operations", "value": ["CREATE"]}]);
    hooks.context.patch(&path, crate::api::Patch::Json, &patch).await?;
    until_acts(&hooks, kind, true).await
}

async fn change_validating(context: Context) -> Result<()> {
    change(context, Kind::Validating).await
}

async fn change_mutating(context: Context) -> Result<()> {
    change(context, Kind::Mutating).await
}

async fn list(context: Context, kind: Kind) -> Result<()> {
    const COUNT: usize = 10;
    let hooks = Hooks::new(context).await?;
    for _ in 0..COUNT {
        let name = format!("e2e-{}", unique());
        let object = json!({"metadata": {"name": name, "labels": {"e2e": hooks.id}},
            "webhooks": [data_hook(&hooks, kind, json!({}))]});
        hooks.context.create(&kind.path(), &object).await?;
        hooks.context.leftover(&format!("{}/{name}", kind.path()));
    }
    let selected = format!("{}?labelSelector=e2e%3D{}", kind.path(), hooks.id);
    let listed = hooks.context.list(&selected).await?;
    ensure!(listed.len() == COUNT, "{} listed", listed.len());
    until_acts(&hooks, kind, true).await?;
    hooks.context.delete_with(&selected, json!({})).await?;
    until_acts(&hooks, kind, false).await
}

async fn list_validating(context: Context) -> Result<()> {
    list(context, Kind::Validating).await
}

async fn list_mutating(context: Context) -> Result<()> {
    list(context, Kind::Mutating).await
}

async fn conditions(context: Context, kind: Kind) -> Result<()> {
    let hooks = Hooks::new(context).await?;
    let first = json!([{"name": "expression-1", "expression": "object.metadata.namespace == 'production'"}]);
    let over = json!({"matchConditions": first});
    let path = hooks.register(kind, vec![data_hook(&hooks, kind, over)]).await?;
    let stored = hooks.context.get(&path).await?;
    ensure!(stored["webhooks"][0]["matchConditions"] == first, "{stored}");
    until_acts(&hooks, kind, false).await?;
    let second = json!([{"name": "expression-1", "expression": "object.metadata.namespace == 'production'"},
        {"name": "expression-2", "expression": "object.metadata.namespace == 'staging'"}]);
    let changed =
        hooks.context.modify(&path, |object| object["webhooks"][0]["matchConditions"] = second.clone()).await?;
    ensure!(changed["webhooks"][0]["matchConditions"] == second, "{changed}");
    let own = json!([{"name": "own", "expression": format!("object.metadata.namespace == '{}'", hooks.namespace)}]);
    hooks.context.modify(&path, |object| object["webhooks"][0]["matchConditions"] = own.clone()).await?;
    until_acts(&hooks, kind, true).await
}

async fn conditions_validating(context: Context) -> Result<()> {
    conditions(context, Kind::Validating).await
}

async fn conditions_mutating(context: Context) -> Result<()> {
    conditions(context, Kind::Mutating).await
}

async fn invalid(context: Context, kind: Kind) -> Result<()> {
    let id = unique();
    let conditions = json!([{"name": "invalid-expression-1", "expression": "... [] bad expression"}]);
    let hook = json!({"name": "invalid.e2e.k8s.io", "rules": rule(&["CREATE"], "", "configmaps"), "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "matchConditions": conditions,
        "clientConfig": webhook_server::client_config("default", "/always-deny", ""),
        "objectSelector": {"matchLabels": {"nobody": id}}});
    let object = json!({"metadata": {"name": format!("e2e-{id}")}, "webhooks": [hook]});
    let answer = context.call("POST", &kind.path(), Some(&object)).await?;
    ensure!(answer.code == 422 && answer.message().contains("compilation failed"), "{}", answer.message());
    Ok(())
}

async fn invalid_validating(context: Context) -> Result<()> {
    invalid(context, Kind::Validating).await
}

async fn invalid_mutating(context: Context) -> Result<()> {
    invalid(context, Kind::Mutating).await
}

async fn skip_me(context: Context) -> Result<()> {
    let hooks = Hooks::new(context).await?;
    let over = json!({"matchConditions": [{"name": "skip-me", "expression": "object.metadata.name != 'skip-me'"}]});
    hooks.register(Kind::Mutating, vec![data_hook(&hooks, Kind::Mutating, over)]).await?;
    let data = json!({"mutation-start": "yes"});
    let skipped = hooks.context.create(&hooks.configmaps(), &configmap("skip-me", data.clone())).await?;
    ensure!(skipped["data"] == data, "{skipped}");
    let mutated = hooks.context.create(&hooks.configmaps(), &configmap("mutate-me", data)).await?;
    ensure!(mutated["data"]["mutation-stage-1"] == "yes", "{mutated}");
    Ok(())
}
