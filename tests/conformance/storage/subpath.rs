//! One entry of a volume mounted on its own.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::source::{Shape, Source};
use crate::{
    context::Context,
    pods::{pod, shell, with},
};

crate::rows! { "storage";
    "Subpath Atomic writer volumes" {
        "should support subpaths with configmap pod" => |c| of_source(c, Source::ConfigMap, "/test-volume"),
        "should support subpaths with configmap pod with mountPath of existing file" => |c| of_source(c, Source::ConfigMap, "/etc/passwd"),
        "should support subpaths with downward pod" => downward,
        "should support subpaths with projected pod" => |c| of_source(c, Source::ProjectedConfigMap, "/test-volume"),
        "should support subpaths with secret pod" => |c| of_source(c, Source::Secret, "/test-volume"),
    }
}

/// Reads the mounted file for a while; it must not change or go away.
async fn stays(
    context: &Context,
    namespace: &str,
    volume: Value,
    sub_path: &str,
    mount: &str,
    wanted: &str,
) -> Result<()> {
    let script = format!("for i in 1 2 3 4 5 6 7 8 9 10; do cat {mount} || exit 1; echo; sleep 0.5; done");
    let mounts = json!({"volumeMounts": [{"name": "vol", "mountPath": mount, "subPath": sub_path}]});
    let pod = with(pod("sub", &[with(shell(context, &script), mounts)]), json!({"spec": {"volumes": [volume]}}));
    let output = context.output(namespace, &pod).await?;
    ensure!(output.lines().filter(|line| !line.is_empty()).all(|line| line == wanted), "{output}");
    ensure!(output.matches(wanted).count() == 10, "{output}");
    Ok(())
}

async fn of_source(context: Context, source: Source, mount: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    let data = json!({"configmap-key": "the-content", "other": "another"});
    source.create(&context, &namespace, "keys", data).await?;
    let volume = source.volume("vol", "keys", &Shape::default());
    stays(&context, &namespace, volume, "configmap-key", mount, "the-content").await
}

async fn downward(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let volume = json!({"name": "vol", "downwardAPI": {"items": [
        {"path": "downward/podname", "fieldRef": {"fieldPath": "metadata.name"}}]}});
    stays(&context, &namespace, volume, "downward/podname", "/test-volume", "sub").await
}
