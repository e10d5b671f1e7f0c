//! Amounts of resources, as nodes have and pods ask for them.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as RawQuantity,
};
use skiff_api::Quantity;

/// Requests that scoring assumes for containers that state none, so that they spread too.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 << 20;

/// Amounts: processor in thousandths, the rest in units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    pub pods: i64,
    /// Extended resources and huge pages.
    pub scalar: BTreeMap<String, i64>,
}

type List = BTreeMap<String, RawQuantity>;

impl Resources {
    pub fn from_list(list: Option<&List>) -> Resources {
        let mut resources = Resources::default();
        for (name, quantity) in list.into_iter().flatten() {
            // The API accepts only valid quantities; an invalid one counts as nothing.
            let quantity: Quantity = quantity.0.parse().unwrap_or_default();
            match name.as_str() {
                "cpu" => resources.milli_cpu = quantity.milli_value(),
                "memory" => resources.memory = quantity.value(),
                "ephemeral-storage" => resources.ephemeral_storage = quantity.value(),
                "pods" => resources.pods = quantity.value(),
                _ => {
                    resources.scalar.insert(name.clone(), quantity.value());
                }
            }
        }
        resources
    }

    pub fn add(&mut self, other: &Resources) {
        self.combine(other, |a, b| a + b);
    }

    pub fn subtract(&mut self, other: &Resources) {
        self.combine(other, |a, b| a - b);
    }

    fn raise(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Resources, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let have = self.scalar.entry(name.clone()).or_insert(0);
            *have = with(*have, *amount);
        }
    }
}

/// What a pod asks for: containers together, or the largest moment of start-up,
/// whichever is more; plus overhead. Requests of the pod as a whole replace the sum.
pub fn requests(pod: &Pod) -> Resources {
    total(pod, |container| Resources::from_list(list(container.resources.as_ref())))
}

/// [`requests`] with an assumption for containers that say nothing.
pub fn assumed_requests(pod: &Pod) -> Resources {
    total(pod, |container| {
        let requests = list(container.resources.as_ref());
        let mut resources = Resources::from_list(requests);
        if requests.is_none_or(|requests| !requests.contains_key("cpu")) {
            resources.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if requests.is_none_or(|requests| !requests.contains_key("memory")) {
            resources.memory = DEFAULT_MEMORY;
        }
        resources
    })
}

fn list(requirements: Option<&ResourceRequirements>) -> Option<&List> {
    requirements?.requests.as_ref()
}

fn total(pod: &Pod, of: impl Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut sum = Resources::default();
    for container in &spec.containers {
        sum.add(&of(container));
    }
    // Sidecars run on beside everything that starts after them.
    let mut sidecars = Resources::default();
    let mut start_up = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut moment = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&moment);
            moment = sidecars.clone();
        } else {
            moment.add(&sidecars);
        }
        start_up.raise(&moment);
    }
    sum.add(&sidecars);
    sum.raise(&start_up);
    if let Some(whole) = list(spec.resources.as_ref()) {
        let stated = Resources::from_list(Some(whole));
        if whole.contains_key("cpu") {
            sum.milli_cpu = stated.milli_cpu;
        }
        if whole.contains_key("memory") {
            sum.memory = stated.memory;
        }
        sum.scalar.extend(stated.scalar);
    }
    sum.add(&Resources::from_list(spec.overhead.as_ref()));
    sum
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": spec})).unwrap()
    }

    #[test]
    fn init_containers_count_only_when_they_need_more_and_sidecars_always() {
        let cpu = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let requests = requests(&pod(json!({
            "containers": [{"name": "a", "resources": cpu("200m")}, {"name": "b", "resources": cpu("100m")}],
            "initContainers": [
                {"name": "i", "resources": cpu("250m")},
                {"name": "s", "restartPolicy": "Always", "resources": cpu("50m")},
                {"name": "j", "resources": cpu("400m")}],
            "overhead": {"cpu": "10m"},
        })));
        assert_eq!(requests.milli_cpu, 460);
    }
}
