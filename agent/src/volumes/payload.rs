//! What the files of configMap, secret, downwardAPI and projected volumes hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret,
    Volume,
};
use skiff_api::{Object, Selector};
use skiff_client::Client;

use super::{
    atomic_writer::{File, Payload},
    certificate::CertificateCache,
    ownership,
    token::TokenCache,
};
use crate::{
    container_config::{
        downward::{self, NodeFacts},
        env,
    },
    limits,
    objects::{ObjectCache, ObjectRef, RefKind},
    pods::spec,
};

const MODE_DEFAULT: u32 = 0o644;

/// Collects files; knows the pod and where its objects come from.
pub struct Collector<'a> {
    pub pod: &'a Pod,
    pub facts: &'a NodeFacts,
    pub objects: &'a ObjectCache,
    pub tokens: &'a TokenCache,
    pub certificates: &'a CertificateCache,
    pub client: &'a Client,
}

/// Files, and when they must be looked at again without anything changing.
#[derive(Debug, Default)]
pub struct Collected {
    pub files: Payload,
    pub refresh_at: Option<Timestamp>,
}

impl Collected {
    /// Asks to be looked at again at that time, or earlier.
    fn look_at(&mut self, at: Timestamp) {
        self.refresh_at = Some(self.refresh_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Everything watched that a pod's volumes and environments refer to.
pub fn references(pod: &Pod) -> BTreeSet<ObjectRef> {
    let mut all = BTreeSet::new();
    let mut add = |kind, name: &str| {
        if !name.is_empty() {
            let namespace = spec::namespace(pod).to_owned();
            all.insert(ObjectRef { kind, namespace, name: name.to_owned() });
        }
    };
    let (config_maps, secrets) = env::references(pod);
    config_maps.iter().for_each(|name| add(RefKind::ConfigMap, name));
    secrets.iter().for_each(|name| add(RefKind::Secret, name));
    for pull in spec::spec(pod).image_pull_secrets.iter().flatten() {
        add(RefKind::Secret, &pull.name);
    }
    for volume in spec::spec(pod).volumes.iter().flatten() {
        if let Some(source) = &volume.config_map {
            add(RefKind::ConfigMap, &source.name);
        }
        if let Some(source) = &volume.secret {
            add(RefKind::Secret, source.secret_name.as_deref().unwrap_or_default());
        }
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            if let Some(source) = &source.config_map {
                add(RefKind::ConfigMap, &source.name);
            }
            if let Some(source) = &source.secret {
                add(RefKind::Secret, &source.name);
            }
        }
    }
    let projected = spec::spec(pod).volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    if projected.flat_map(|source| source.sources.iter().flatten()).any(|part| part.cluster_trust_bundle.is_some()) {
        all.insert(ObjectRef::trust_bundles());
    }
    all
}

fn mode_of(own: Option<i32>, default: u32, group: Option<u32>) -> u32 {
    let mode = own.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default) & 0o777;
    ownership::file_mode(mode, group)
}

/// Picks keys of an object as `items` say, or all of them.
fn select(
    what: &str,
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&Vec<KeyToPath>>,
    optional: bool,
    file: impl Fn(&[u8], Option<i32>) -> File,
) -> Result<Payload, String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.iter().map(|(key, bytes)| (key.clone(), file(bytes, None))).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                payload.insert(item.path.clone(), file(bytes, item.mode));
            }
            None if optional => {}
            None => return Err(format!("{what} references non-existent config key: {}", item.key)),
        }
    }
    Ok(payload)
}

impl Collector<'_> {
    /// The files of a volume, or `None` when it is not of a kind that we write.
    pub async fn collect(&self, volume: &Volume) -> Result<Option<Collected>, String> {
        let mut collected = Collected::default();
        if let Some(source) = &volume.config_map {
            let default = mode_of(source.default_mode, MODE_DEFAULT, None);
            let optional = source.optional == Some(true);
            collected.files = self.config_map(&source.name, source.items.as_ref(), optional, default).await?;
        } else if let Some(source) = &volume.secret {
            let default = mode_of(source.default_mode, MODE_DEFAULT, None);
            let name = source.secret_name.as_deref().unwrap_or_default();
            let optional = source.optional == Some(true);
            collected.files = self.secret(name, source.items.as_ref(), optional, default).await?;
        } else if let Some(source) = &volume.downward_api {
            let default = mode_of(source.default_mode, MODE_DEFAULT, None);
            collected.files = self.downward(source.items.as_deref().unwrap_or_default(), default)?;
        } else if let Some(source) = &volume.projected {
            self.projected(&volume.name, source, &mut collected).await?;
        } else {
            return Ok(None);
        }
        let bytes: usize = collected.files.values().map(|file| file.data.len()).sum();
        if bytes > limits::VOLUME_PAYLOAD_BYTES_MAX {
            return Err(format!("content of {bytes} bytes exceeds {}", limits::VOLUME_PAYLOAD_BYTES_MAX));
        }
        Ok(Some(collected))
    }

    fn file(&self, default: u32) -> impl Fn(&[u8], Option<i32>) -> File {
        let group = ownership::fs_group(self.pod);
        move |bytes, mode| File { data: bytes.to_vec(), mode: mode_of(mode, default, group), uid: None, gid: group }
    }

    /// A file that only its user and group may read, if it is known who needs it.
    fn private(&self, data: Vec<u8>, default: u32) -> File {
        let (uid, gid) = (ownership::fs_user(self.pod), ownership::fs_group(self.pod));
        let mode = if uid.is_some() || gid.is_some() { 0o600 } else { default };
        File { data, mode: ownership::file_mode(mode, gid), uid, gid }
    }

    fn reference(&self, kind: RefKind, name: &str) -> ObjectRef {
        ObjectRef { kind, namespace: spec::namespace(self.pod).to_owned(), name: name.to_owned() }
    }

    async fn config_map(
        &self,
        name: &str,
        items: Option<&Vec<KeyToPath>>,
        optional: bool,
        default: u32,
    ) -> Result<Payload, String> {
        let reference = self.reference(RefKind::ConfigMap, name);
        let object = self.objects.get::<ConfigMap>(&reference).await.map_err(|error| error.to_string())?;
        let Some(object) = object else {
            return if optional { Ok(Payload::new()) } else { Err(format!("configmap \"{name}\" not found")) };
        };
        let mut data: BTreeMap<String, Vec<u8>> =
            object.data.iter().flatten().map(|(key, text)| (key.clone(), text.clone().into_bytes())).collect();
        data.extend(object.binary_data.iter().flatten().map(|(key, bytes)| (key.clone(), bytes.0.clone())));
        select("configmap", &data, items, optional, self.file(default))
    }

    async fn secret(
        &self,
        name: &str,
        items: Option<&Vec<KeyToPath>>,
        optional: bool,
        default: u32,
    ) -> Result<Payload, String> {
        let reference = self.reference(RefKind::Secret, name);
        let object = self.objects.get::<Secret>(&reference).await.map_err(|error| error.to_string())?;
        let Some(object) = object else {
            return if optional { Ok(Payload::new()) } else { Err(format!("secret \"{name}\" not found")) };
        };
        let data = object.data.iter().flatten().map(|(key, bytes)| (key.clone(), bytes.0.clone())).collect();
        select("secret", &data, items, optional, self.file(default))
    }

    fn downward(&self, items: &[DownwardAPIVolumeFile], default: u32) -> Result<Payload, String> {
        let file = self.file(default);
        let mut payload = Payload::new();
        for item in items {
            let text = if let Some(selector) = &item.field_ref {
                downward::field(self.pod, &selector.field_path, self.facts)
            } else if let Some(selector) = &item.resource_field_ref {
                let name = selector.container_name.as_deref().unwrap_or_default();
                let (_, container) =
                    spec::find_container(self.pod, name).ok_or_else(|| format!("container {name} not found"))?;
                downward::resource(selector, &container, self.facts)
            } else {
                continue;
            };
            let text = text.map_err(|error| error.to_string())?;
            payload.insert(item.path.clone(), file(text.as_bytes(), item.mode));
        }
        Ok(payload)
    }

    async fn projected(
        &self,
        volume: &str,
        source: &ProjectedVolumeSource,
        collected: &mut Collected,
    ) -> Result<(), String> {
        let default = mode_of(source.default_mode, MODE_DEFAULT, None);
        for (index, part) in source.sources.iter().flatten().enumerate() {
            if let Some(part) = &part.config_map {
                let optional = part.optional == Some(true);
                collected.files.extend(self.config_map(&part.name, part.items.as_ref(), optional, default).await?);
            }
            if let Some(part) = &part.secret {
                let optional = part.optional == Some(true);
                collected.files.extend(self.secret(&part.name, part.items.as_ref(), optional, default).await?);
            }
            if let Some(part) = &part.downward_api {
                collected.files.extend(self.downward(part.items.as_deref().unwrap_or_default(), default)?);
            }
            if let Some(part) = &part.service_account_token {
                let (token, refresh_at) = self.tokens.get(self.client, self.pod, part).await?;
                let file = self.private(token.into_bytes(), default);
                collected.files.insert(part.path.clone(), file);
                collected.look_at(refresh_at);
            }
            if let Some(part) = &part.cluster_trust_bundle {
                match self.trust_bundles(part).await? {
                    Some(text) => {
                        let file = self.file(default)(text.as_bytes(), None);
                        collected.files.insert(part.path.clone(), file);
                    }
                    None if part.optional == Some(true) => {
                        let file = self.file(default)(b"", None);
                        collected.files.insert(part.path.clone(), file);
                    }
                    None => {
                        return Err(
                            "combination of signerName and labelSelector matched zero ClusterTrustBundles".to_owned()
                        );
                    }
                }
            }
            if let Some(part) = &part.pod_certificate {
                let credentials = self.certificates.get(self.pod, volume, index, part).await?;
                collected.look_at(credentials.look_at);
                let bundle = format!("{}{}", credentials.key, credentials.chain);
                let paths = [&part.credential_bundle_path, &part.key_path, &part.certificate_chain_path];
                for (path, text) in paths.into_iter().zip([bundle, credentials.key, credentials.chain]) {
                    if let Some(path) = path.as_ref().filter(|path| !path.is_empty()) {
                        collected.files.insert(path.clone(), self.private(text.into_bytes(), default));
                    }
                }
            }
        }
        Ok(())
    }

    /// The certificates of one bundle by name, or of a signer's bundles whose
    /// labels match; without a label selector none does.
    async fn trust_bundles(&self, part: &ClusterTrustBundleProjection) -> Result<Option<String>, String> {
        let bundles = self.objects.trust_bundles().await.map_err(|error| error.to_string())?;
        selected(part, &bundles)
    }
}

/// What [`Collector::trust_bundles`] takes of all bundles.
fn selected(part: &ClusterTrustBundleProjection, bundles: &[Arc<Object>]) -> Result<Option<String>, String> {
    let selector = Selector::from_object(part.label_selector.as_ref()).map_err(|error| error.to_string())?;
    let mut certificates = BTreeSet::new();
    let mut found = false;
    for bundle in bundles {
        let value = bundle.value().map_err(|error| error.to_string())?;
        let is_meant = match (part.name.as_deref(), part.signer_name.as_deref()) {
            (Some(name), _) => bundle.meta.name == name,
            (None, Some(signer)) => value["spec"]["signerName"] == signer && selector.matches(&bundle.meta.labels),
            (None, None) => false,
        };
        if is_meant {
            found = true;
            certificates.extend(certificates_of(value["spec"]["trustBundle"].as_str().unwrap_or_default()));
        }
    }
    Ok(found.then(|| certificates.into_iter().collect()))
}

/// The PEM blocks of a bundle, each once and without what stands between them.
fn certificates_of(bundle: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let blocks = bundle.split_inclusive(END).filter_map(|part| {
        let begin = part.find("-----BEGIN CERTIFICATE-----")?;
        part.ends_with(END).then(|| format!("{}\n", &part[begin..]))
    });
    blocks.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_selected_renamed_and_required() {
        let data: BTreeMap<String, Vec<u8>> = [("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())].into();
        let file = |bytes: &[u8], mode: Option<i32>| File {
            data: bytes.to_vec(),
            mode: mode_of(mode, MODE_DEFAULT, None),
            uid: None,
            gid: None,
        };
        let item =
            |key: &str, mode| KeyToPath { key: key.into(), path: format!("p/{key}"), mode, ..KeyToPath::default() };
        assert_eq!(select("x", &data, None, false, file).unwrap().len(), 2);
        let some = select("x", &data, Some(&vec![item("a", Some(0o400))]), false, file).unwrap();
        assert_eq!(some["p/a"].mode, 0o400);
        assert!(select("x", &data, Some(&vec![item("z", None)]), false, file).is_err());
        assert!(select("x", &data, Some(&vec![item("z", None)]), true, file).unwrap().is_empty());
    }

    #[test]
    fn all_references_of_a_pod_are_found() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "n"}, "spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "e"}}]}],
            "volumes": [{"name": "v", "configMap": {"name": "m"}},
                {"name": "w", "projected": {"sources": [{"secret": {"name": "s"}}]}}]}}))
        .unwrap();
        let names: Vec<String> = references(&pod).into_iter().map(|reference| reference.name).collect();
        assert_eq!(names, ["m", "e", "pull", "s"]);
        let trusts: Pod = serde_json::from_value(json!({"spec": {"containers": [], "volumes": [
            {"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"name": "b", "path": "p"}}]}}]}}))
        .unwrap();
        assert_eq!(references(&trusts), [ObjectRef::trust_bundles()].into());
    }

    #[test]
    fn bundles_are_chosen_by_name_or_by_signer_and_labels() {
        let pem = |text: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        let bundle = |name: &str, signer: &str, live: &str, text: &str| {
            Arc::new(
                Object::from_value(&json!({"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle",
                "metadata": {"name": name, "labels": {"live": live}},
                "spec": {"signerName": signer, "trustBundle": format!("note\n{}", pem(text))}}))
                .unwrap(),
            )
        };
        let all = [bundle("a", "s", "yes", "A"), bundle("b", "s", "no", "B"), bundle("c", "t", "yes", "C")];
        let choose = |part| selected(&serde_json::from_value(part).unwrap(), &all).unwrap();
        assert_eq!(choose(json!({"name": "c", "path": "p"})), Some(pem("C")));
        let signer = |labels| choose(json!({"signerName": "s", "labelSelector": labels, "path": "p"}));
        assert_eq!(signer(json!({"matchLabels": {"live": "yes"}})), Some(pem("A")));
        assert_eq!(signer(json!({})), Some(pem("A") + &pem("B")));
        assert_eq!((signer(json!(null)), choose(json!({"name": "z", "path": "p"}))), (None, None));
    }
}
