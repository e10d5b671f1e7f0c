//! The environment of a container.
//!
//! Order and precedence are upstream's: `envFrom`, then `env` (each entry sees
//! those before it), then service variables that nothing else defined.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};

use super::{
    ConfigError,
    downward::{self, NodeFacts},
    expansion::expand,
};
use crate::pods::spec;

/// Objects a pod's environment refers to; absent ones do not exist.
#[derive(Clone, Default)]
pub struct EnvObjects {
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// Services of the pod's namespace and `default/kubernetes`.
    pub services: Vec<Arc<Service>>,
}

/// The variables in the order in which they are set.
pub fn environment(
    pod: &Pod,
    container: &Container,
    objects: &EnvObjects,
    facts: &NodeFacts,
) -> Result<Vec<(String, String)>, ConfigError> {
    let services = service_environment(pod, &objects.services);
    let mut env = Environment::default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match objects.config_maps.get(&reference.name) {
                Some(object) => {
                    for (key, value) in object.data.iter().flatten() {
                        env.set_if_named(format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(ConfigError(format!("configmap \"{}\" not found", reference.name))),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match objects.secrets.get(&reference.name) {
                Some(object) => {
                    for (key, value) in object.data.iter().flatten() {
                        let value = String::from_utf8_lossy(&value.0).into_owned();
                        env.set_if_named(format!("{prefix}{key}"), value);
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(ConfigError(format!("secret \"{}\" not found", reference.name))),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => {
                expand(value, &|name| env.get(name).or_else(|| services.get(name)).cloned())
            }
            (_, Some(source)) => match from_source(pod, container, source, objects, facts)? {
                Some(value) => value,
                None => continue,
            },
            _ => String::new(),
        };
        env.set(variable.name.clone(), value);
    }
    for (name, value) in services {
        if env.get(&name).is_none() {
            env.set(name, value);
        }
    }
    Ok(env.0)
}

/// Names of the config maps and secrets that a pod's environments refer to.
pub fn references(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for (_, container) in spec::all_containers(pod) {
        for source in container.env_from.iter().flatten() {
            config_maps.extend(source.config_map_ref.iter().map(|reference| reference.name.clone()));
            secrets.extend(source.secret_ref.iter().map(|reference| reference.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            config_maps.extend(source.config_map_key_ref.iter().map(|reference| reference.name.clone()));
            secrets.extend(source.secret_key_ref.iter().map(|reference| reference.name.clone()));
        }
    }
    (config_maps, secrets)
}

#[derive(Default)]
struct Environment(Vec<(String, String)>);

impl Environment {
    fn get(&self, name: &str) -> Option<&String> {
        self.0.iter().rev().find(|(have, _)| have == name).map(|(_, value)| value)
    }

    /// The last definition of a name wins and keeps the first one's place.
    fn set(&mut self, name: String, value: String) {
        match self.0.iter_mut().find(|(have, _)| *have == name) {
            Some(entry) => entry.1 = value,
            None => self.0.push((name, value)),
        }
    }

    /// Keys that cannot be variable names are left out, as upstream does.
    fn set_if_named(&mut self, name: String, value: String) {
        if !name.is_empty() && name.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=') {
            self.set(name, value);
        }
    }
}

fn from_source(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    objects: &EnvObjects,
    facts: &NodeFacts,
) -> Result<Option<String>, ConfigError> {
    if let Some(selector) = &source.field_ref {
        return downward::field(pod, &selector.field_path, facts).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        let other = selector.container_name.as_ref().and_then(|name| spec::find_container(pod, name));
        let target = other.as_ref().map_or(container, |(_, container)| container);
        return downward::resource(selector, target, facts).map(Some);
    }
    let namespace = spec::namespace(pod);
    if let Some(selector) = &source.config_map_key_ref {
        let optional = selector.optional == Some(true);
        let Some(object) = objects.config_maps.get(&selector.name) else {
            return missing(optional, || format!("configmap \"{}\" not found", selector.name));
        };
        return match object.data.iter().flatten().find(|(key, _)| **key == selector.key) {
            Some((_, value)) => Ok(Some(value.clone())),
            None => missing(optional, || {
                format!("couldn't find key {} in ConfigMap {namespace}/{}", selector.key, selector.name)
            }),
        };
    }
    if let Some(selector) = &source.secret_key_ref {
        let optional = selector.optional == Some(true);
        let Some(object) = objects.secrets.get(&selector.name) else {
            return missing(optional, || format!("secret \"{}\" not found", selector.name));
        };
        return match object.data.iter().flatten().find(|(key, _)| **key == selector.key) {
            Some((_, value)) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None => missing(optional, || {
                format!("couldn't find key {} in Secret {namespace}/{}", selector.key, selector.name)
            }),
        };
    }
    if source.file_key_ref.is_some() {
        return Err(ConfigError("fileKeyRef is not supported on this node".to_owned()));
    }
    Ok(Some(String::new()))
}

fn missing(optional: bool, message: impl FnOnce() -> String) -> Result<Option<String>, ConfigError> {
    if optional { Ok(None) } else { Err(ConfigError(message())) }
}

/// Variables that tell where services are, in the two historic forms.
fn service_environment(pod: &Pod, services: &[Arc<Service>]) -> BTreeMap<String, String> {
    let links = spec::spec(pod).enable_service_links != Some(false);
    let namespace = spec::namespace(pod);
    let mut env = BTreeMap::new();
    // The pod's own namespace is written last, so that it wins.
    let is_own = |service: &&Arc<Service>| service.metadata.namespace.as_deref() == Some(namespace);
    let is_master = |service: &&Arc<Service>| {
        service.metadata.namespace.as_deref() == Some("default")
            && service.metadata.name.as_deref() == Some("kubernetes")
    };
    let master = services.iter().filter(is_master);
    let own = services.iter().filter(|service| links && is_own(service));
    for service in master.chain(own) {
        describe_service(service, &mut env);
    }
    env
}

fn describe_service(service: &Service, env: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let name = variable_name(service.metadata.name.as_deref().unwrap_or_default());
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    env.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
    env.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for (index, port) in ports.iter().enumerate() {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            env.insert(format!("{name}_SERVICE_PORT_{}", variable_name(port_name)), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{host}:{}", port.port);
        if index == 0 {
            env.insert(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
        env.insert(prefix.clone(), url);
        env.insert(format!("{prefix}_PROTO"), lower);
        env.insert(format!("{prefix}_PORT"), port.port.to_string());
        env.insert(format!("{prefix}_ADDR"), ip.to_owned());
    }
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(container: serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [container]}}),
        )
        .unwrap()
    }

    fn env_of(container: serde_json::Value, objects: &EnvObjects) -> Result<BTreeMap<String, String>, ConfigError> {
        let pod = pod(container);
        let env = environment(&pod, &spec::containers(&pod)[0], objects, &NodeFacts::default())?;
        Ok(env.into_iter().collect())
    }

    fn objects() -> EnvObjects {
        let map = serde_json::from_value(json!({"metadata": {}, "data": {"k": "v", "bad=key": "x"}})).unwrap();
        let secret = serde_json::from_value(json!({"metadata": {}, "data": {"s": "c2VjcmV0"}})).unwrap();
        let service = |namespace: &str, name: &str, ip: &str| {
            Arc::new(
                serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name},
                    "spec": {"clusterIP": ip, "ports": [{"name": "web", "port": 80, "protocol": "TCP"}]}}))
                .unwrap(),
            )
        };
        EnvObjects {
            config_maps: [("m".to_owned(), Arc::new(map))].into(),
            secrets: [("s".to_owned(), Arc::new(secret))].into(),
            services: vec![
                service("n", "my-svc", "10.1.1.1"),
                service("other", "hidden", "10.1.1.2"),
                service("default", "kubernetes", "10.0.0.1"),
                service("n", "headless", "None"),
            ],
        }
    }

    #[test]
    fn later_variables_see_earlier_ones_and_services() {
        let env = env_of(
            json!({"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(C)-$$(A)"},
                {"name": "C", "value": "$(KUBERNETES_SERVICE_HOST)"}]}),
            &objects(),
        )
        .unwrap();
        assert_eq!(env["B"], "1-$(C)-$(A)");
        assert_eq!(env["C"], "10.0.0.1");
    }

    #[test]
    fn sources_are_read_with_prefix_and_bad_names_left_out() {
        let env = env_of(
            json!({"name": "c", "envFrom": [{"prefix": "p-", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}},
                {"configMapRef": {"name": "none", "optional": true}}],
                "env": [{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
                {"name": "O", "valueFrom": {"secretKeyRef": {"name": "s", "key": "no", "optional": true}}},
                {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
            &objects(),
        )
        .unwrap();
        assert_eq!((env["p-k"].as_str(), env["s"].as_str(), env["K"].as_str()), ("v", "secret", "v"));
        assert_eq!(env["F"], "p");
        assert!(!env.contains_key("O") && !env.keys().any(|key| key.contains("bad")));
    }

    #[test]
    fn missing_objects_and_keys_are_named() {
        let from = |key: serde_json::Value| {
            env_of(json!({"name": "c", "env": [{"name": "A", "valueFrom": key}]}), &objects()).unwrap_err().0
        };
        assert_eq!(from(json!({"configMapKeyRef": {"name": "x", "key": "k"}})), "configmap \"x\" not found");
        assert_eq!(from(json!({"secretKeyRef": {"name": "s", "key": "k"}})), "couldn't find key k in Secret n/s");
    }

    #[test]
    fn services_of_the_namespace_and_the_api_server_are_announced() {
        let env = env_of(json!({"name": "c"}), &objects()).unwrap();
        assert_eq!(env["MY_SVC_SERVICE_HOST"], "10.1.1.1");
        assert_eq!(env["MY_SVC_SERVICE_PORT_WEB"], "80");
        assert_eq!(env["MY_SVC_PORT"], "tcp://10.1.1.1:80");
        assert_eq!(env["MY_SVC_PORT_80_TCP_ADDR"], "10.1.1.1");
        assert_eq!(env["KUBERNETES_SERVICE_HOST"], "10.0.0.1");
        assert!(!env.keys().any(|key| key.starts_with("HIDDEN") || key.starts_with("HEADLESS")));
    }
}
