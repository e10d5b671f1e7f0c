//! Unknown and duplicate fields of built-in kinds.

use anyhow::{Result, ensure};

use crate::{api::group, context::Context};

crate::rows! { "api-machinery";
    "FieldValidation" {
        "should detect unknown and duplicate fields of a typed object" => typed,
        "should detect unknown metadata fields of a typed object" => metadata,
    }
}

async fn refused(context: &Context, body: &str, wanted: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = format!("{}?fieldValidation=Strict", group("apps/v1", &namespace, "deployments"));
    let headers = [("accept", "application/json"), ("content-type", "application/json")];
    let answer = context.send("POST", &path, &headers, body.as_bytes().to_vec()).await?.expect(400)?;
    ensure!(answer.message().contains(wanted), "no {wanted:?} in {:?}", answer.message());
    Ok(())
}

async fn typed(context: Context) -> Result<()> {
    let body = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"strict","labels":{"app":"nginx"}},
        "spec":{"unknownField":"foo","replicas":2,"replicas":3,"selector":{"matchLabels":{"app":"nginx"}},
        "template":{"metadata":{"labels":{"app":"nginx"}},"spec":{"containers":[{"name":"nginx","image":"nginx"}]}}}}"#;
    refused(
        &context,
        body,
        r#"strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas""#,
    )
    .await
}

async fn metadata(context: Context) -> Result<()> {
    let body = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"strict","unknownMeta":"foo","labels":{"app":"nginx"}},
        "spec":{"replicas":2,"selector":{"matchLabels":{"app":"nginx"}},
        "template":{"metadata":{"labels":{"app":"nginx"}},"spec":{"containers":[{"name":"nginx","image":"nginx"}]}}}}"#;
    refused(&context, body, r#"strict decoding error: unknown field "metadata.unknownMeta""#).await
}
