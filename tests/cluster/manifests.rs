//! Files in the server's folder of manifests become objects.

use std::{fs, time::Duration};

use anyhow::{Result, bail, ensure};
use skiff_tests::{Cluster, Kubectl, eventually};

const SOON: Duration = Duration::from_secs(20);

fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: files}}\ndata: {{key: {value}}}\n")
}

fn has_value(kubectl: &Kubectl, name: &str, value: &str) -> Result<()> {
    eventually(&format!("{name} has {value}"), SOON, || {
        let found = kubectl.get(&["configmap", name])?["data"]["key"].clone();
        if found == value { Ok(()) } else { bail!("it has {found}") }
    })
}

pub fn files_are_applied_followed_and_frozen(cluster: &mut Cluster) -> Result<()> {
    let folder = cluster.server.folder.join("data/server/manifests");
    cluster.in_namespace("files", |_, kubectl| {
        let file = folder.join("sub/mine.yaml");
        fs::create_dir_all(folder.join("sub"))?;
        fs::write(&file, format!("{}---\n{}", config_map("a", "one"), config_map("b", "one")))?;
        has_value(kubectl, "a", "one")?;
        has_value(kubectl, "b", "one")?;
        let addons = kubectl.run(&["get", "addons.skiff.io", "-n", "kube-system", "-o", "name"])?;
        ensure!(addons.contains("sub-mine"), "{addons}");
        // A change is applied, and what left the file is deleted.
        fs::write(&file, config_map("a", "two"))?;
        has_value(kubectl, "a", "two")?;
        eventually("b is deleted", SOON, || {
            let left = kubectl.run(&["get", "configmaps", "-o", "name"])?;
            if left.contains("/b\n") { bail!(left) } else { Ok(()) }
        })?;
        // A frozen file is left alone until it thaws.
        let skip = folder.join("sub/mine.yaml.skip");
        fs::write(&skip, "")?;
        fs::write(&file, config_map("a", "three"))?;
        std::thread::sleep(Duration::from_secs(2));
        has_value(kubectl, "a", "two")?;
        fs::remove_file(&skip)?;
        has_value(kubectl, "a", "three")?;
        // Removing a file leaves its objects.
        fs::remove_file(&file)?;
        std::thread::sleep(Duration::from_secs(1));
        has_value(kubectl, "a", "three")
    })
}
