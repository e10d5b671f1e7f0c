//! Strict field validation of custom resources, by server-side apply of YAML.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Installed, anything, definition, install, version};
use crate::{api::Answer, context::Context};

crate::rows! { "api-machinery";
    "FieldValidation" {
        "should create/apply a valid CR for CRD with validation schema" => valid,
        "should create/apply a CR with unknown fields for CRD with no validation schema" => no_schema,
        "should create/apply an invalid CR with extra properties for CRD with validation schema" => extra,
        "should detect unknown metadata fields in both the root and embedded object of a CR" => metadata,
        "should detect duplicates in a CR when preserving unknown fields" => duplicates,
    }
}

const PORTS: &str = "  cronSpec: \"* * * * */5\"\n  ports:\n  - name: x\n    containerPort: 80\n    protocol: TCP";

fn schema() -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "foo": {"type": "string"},
        "cronSpec": {"type": "string", "pattern": "^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$"},
        "ports": {"type": "array", "x-kubernetes-list-map-keys": ["containerPort", "protocol"], "x-kubernetes-list-type": "map",
            "items": {"type": "object", "required": ["containerPort", "protocol"], "properties": {
                "containerPort": {"format": "int32", "type": "integer"}, "hostIP": {"type": "string"},
                "hostPort": {"format": "int32", "type": "integer"}, "name": {"type": "string"}, "protocol": {"type": "string"}}}}}}}})
}

async fn installed(context: &Context, schema: Value) -> Result<Installed> {
    let versions = [version("v1beta1", false, schema.clone()), version("v1", true, schema)];
    install(context, &definition(None, "Cluster", &versions)).await
}

/// Applies YAML that follows the type and name, strictly.
async fn apply(context: &Context, installed: &Installed, metadata: &str, rest: &str) -> Result<Answer> {
    let body = format!(
        "\napiVersion: {}/v1beta1\nkind: {}\nmetadata:\n  name: mytest\n{metadata}  finalizers:\n  - test-finalizer\n{rest}",
        installed.group, installed.kind
    );
    let path = format!(
        "{}/mytest?fieldManager=field_validation_mgr&fieldValidation=Strict",
        installed.objects("v1beta1", None)
    );
    let headers = [("accept", "application/json"), ("content-type", "application/apply-patch+yaml")];
    let answer = context.send("PATCH", &path, &headers, body.into_bytes()).await?;
    // The finalizer would keep the definition.
    let object = format!("{}/mytest", installed.objects("v1beta1", None));
    let headers = [("content-type", "application/merge-patch+json")];
    let free = json!({"metadata": {"finalizers": null}}).to_string().into_bytes();
    context.send("PATCH", &object, &headers, free).await?;
    Ok(answer)
}

async fn valid(context: Context) -> Result<()> {
    let installed = installed(&context, schema()).await?;
    apply(&context, &installed, "", &format!("spec:\n  foo: foo1\n{PORTS}")).await?.expect(201).map(drop)
}

async fn no_schema(context: Context) -> Result<()> {
    let installed = installed(&context, anything()).await?;
    apply(&context, &installed, "", &format!("spec:\n  unknown: uk1\n{PORTS}")).await?.expect(201).map(drop)
}

async fn extra(context: Context) -> Result<()> {
    let installed = installed(&context, schema()).await?;
    let rest = format!("unknownField: unknown\nspec:\n  foo: foo1\n{PORTS}");
    let answer = apply(&context, &installed, "", &rest).await?;
    ensure!(answer.text().contains(".unknownField: field not declared in schema"), "{}", answer.text());
    Ok(())
}

async fn metadata(context: Context) -> Result<()> {
    let mut schema = schema();
    let spec = &mut schema["properties"]["spec"];
    spec["x-kubernetes-preserve-unknown-fields"] = json!(true);
    spec["properties"]["template"] = json!({"type": "object", "x-kubernetes-embedded-resource": true, "properties": {
        "metadata": {"type": "object", "properties": {"name": {"type": "string"}}}, "spec": {"type": "object"}}});
    let installed = installed(&context, schema).await?;
    let rest = format!(
        "spec:\n  template:\n    apiversion: foo/v1\n    kind: Sub\n    metadata:\n        unknownSubMeta: unknown\n        name: subobject\n        namespace: default\n  foo: foo1\n{PORTS}"
    );
    let answer = apply(&context, &installed, "  unknownMeta: unknown\n", &rest).await?;
    for wanted in [
        ".spec.template.metadata.unknownSubMeta: field not declared in schema",
        ".metadata.unknownMeta: field not declared in schema",
    ] {
        ensure!(answer.text().contains(wanted), "{}", answer.text());
    }
    Ok(())
}

async fn duplicates(context: Context) -> Result<()> {
    let mut schema = schema();
    schema["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"] = json!(true);
    let installed = installed(&context, schema).await?;
    let rest = format!("spec:\n  unknown: uk1\n  foo: foo1\n  foo: foo2\n{PORTS}");
    let answer = apply(&context, &installed, "", &rest).await?;
    ensure!(answer.text().contains("line 11: key \\\"foo\\\" already set in map"), "{}", answer.text());
    Ok(())
}
