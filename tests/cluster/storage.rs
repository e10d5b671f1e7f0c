//! Volumes of pods.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use skiff_tests::{Cluster, eventually, image::BUSYBOX};

use crate::network::kubectl_pod;

pub fn every_kind_of_volume_holds_what_it_should(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("volumes", |cluster, kubectl| {
        kubectl.run(&["create", "configmap", "settings", "--from-literal=mode=calm", "--from-literal=extra=x"])?;
        kubectl.run(&["create", "secret", "generic", "credentials", "--from-literal=password=open sesame"])?;
        let shared = cluster.server.folder.join("shared");
        std::fs::create_dir_all(&shared)?;
        std::fs::write(shared.join("from-host"), "host")?;
        let spec = format!(
            r#"
nodeName: server
containers:
- name: c
  image: {BUSYBOX}
  command: [sleep, infinity]
  volumeMounts:
  - {{name: all, mountPath: /all}}
  - {{name: memory, mountPath: /memory}}
  - {{name: host, mountPath: /host}}
  - {{name: settings, mountPath: /etc/mode, subPath: mode}}
  - {{name: disk, mountPath: /disk, subPath: below/here}}
  - {{name: settings, mountPath: /settings}}
volumes:
- name: all
  projected:
    defaultMode: 0440
    sources:
    - configMap: {{name: settings, items: [{{key: mode, path: renamed/mode}}]}}
    - secret: {{name: credentials}}
    - downwardAPI: {{items: [{{path: name, fieldRef: {{fieldPath: metadata.name}}}}]}}
    - serviceAccountToken: {{path: token, audience: elsewhere, expirationSeconds: 600}}
- {{name: memory, emptyDir: {{medium: Memory, sizeLimit: 8Mi}}}}
- {{name: host, hostPath: {{path: {shared}, type: Directory}}}}
- {{name: disk, emptyDir: {{}}}}
- {{name: settings, configMap: {{name: settings}}}}
"#,
            shared = shared.display()
        );
        kubectl.apply_pod("p", "", &spec)?;
        kubectl.wait_pod("p")?;
        let script = "cat /all/renamed/mode /all/password /all/name; stat -Lc ' %a' /all/password; \
            grep -o ' /memory tmpfs [a-z,]*' /proc/mounts; cat /host/from-host /etc/mode; echo; ls /disk | wc -l";
        let found = kubectl.exec("p", script)?;
        ensure!(found.starts_with("calmopen sesamep 440\n /memory tmpfs rw"), "{found}");
        ensure!(found.ends_with("hostcalm\n0\n"), "{found}");
        let token = kubectl
            .exec("p", "cut -d. -f2 /all/token | tr '_-' '/+' | sed 's/$/===/' | base64 -d 2>/dev/null; true")?;
        ensure!(token.contains("\"elsewhere\"") && token.contains("system:serviceaccount:volumes:default"), "{token}");
        kubectl.exec("p", "echo pod > /host/from-pod")?;
        ensure!(std::fs::read_to_string(shared.join("from-pod"))? == "pod\n");
        // An update arrives in the volume, whole, but not through subPath.
        kubectl.run(&["patch", "configmap", "settings", "-p", r#"{"data":{"mode":"storm"}}"#])?;
        eventually("the update arrives", Duration::from_secs(90), || {
            let mode = kubectl.exec("p", "cat /settings/mode")?;
            if mode == "storm" { Ok(()) } else { bail!(mode) }
        })?;
        ensure!(kubectl.exec("p", "cat /etc/mode")? == "calm", "subPath stays");
        Ok(())
    })
}

pub fn a_pod_waits_for_a_missing_config_map(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("missing", |_, kubectl| {
        let spec = format!(
            "containers:\n- {{name: c, image: '{BUSYBOX}', command: [sleep, infinity], volumeMounts: [{{name: v, mountPath: /v}}]}}\n\
             volumes: [{{name: v, configMap: {{name: later}}}}]\n"
        );
        kubectl.apply_pod("p", "", &spec)?;
        eventually("an event names the cause", Duration::from_secs(30), || {
            let events = kubectl.run(&["get", "events"])?;
            if events.contains("FailedMount") && events.contains("\"later\" not found") { Ok(()) } else { bail!(events) }
        })?;
        kubectl.run(&["create", "configmap", "later", "--from-literal=a=b"])?;
        kubectl.wait_pod("p").map(drop)
    })
}

pub fn a_projected_token_is_accepted_by_the_api_server(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("token", |_, kubectl| {
        kubectl_pod(kubectl, "p", "agent")?;
        let review: Value = serde_json::from_str(&kubectl.exec("p", "kubectl auth whoami -o json")?)?;
        let user = &review["status"]["userInfo"];
        ensure!(user["username"] == "system:serviceaccount:token:default", "{review}");
        let pod = user["extra"]["authentication.kubernetes.io/pod-name"][0].as_str().context("bound to its pod")?;
        ensure!(pod == "p", "{review}");
        let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
        let authority = kubectl.exec("p", &format!("cat {folder}/ca.crt; cat {folder}/namespace"))?;
        ensure!(authority.starts_with("-----BEGIN CERTIFICATE") && authority.ends_with("token"), "{authority}");
        Ok(())
    })
}
