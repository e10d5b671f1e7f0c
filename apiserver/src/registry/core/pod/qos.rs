//! The quality-of-service class of a pod, decided once at creation.

use serde_json::Value;

use crate::registry::{
    validation::numbers::parse_quantity,
    value::{at, entries, list},
};

const COUNTED: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed` when every container has equal, positive cpu and memory
/// requests and limits; `BestEffort` when none has any; `Burstable` between.
/// Pod-level resources, when given, decide alone.
pub fn class(spec: &Value) -> &'static str {
    if entries(at(spec, &["resources"]), "requests").next().is_some()
        || entries(at(spec, &["resources"]), "limits").next().is_some()
    {
        return of(std::iter::once(&spec["resources"]));
    }
    let containers = list(spec, "containers").iter().chain(list(spec, "initContainers"));
    of(containers.map(|container| at(container, &["resources"])))
}

fn of<'a>(all: impl Iterator<Item = &'a Value>) -> &'static str {
    let positive = |value: &Value| parse_quantity(value).is_some_and(|quantity| quantity > skiff_api::Quantity::ZERO);
    let mut any = false;
    let mut guaranteed = true;
    for resources in all {
        for name in COUNTED {
            let request = &resources["requests"][name];
            let limit = &resources["limits"][name];
            any |= positive(request) || positive(limit);
            guaranteed &= positive(limit) && (request.is_null() || parse_quantity(request) == parse_quantity(limit));
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes_follow_requests_and_limits() {
        let full = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1024Mi"}});
        let table = [
            (json!({"containers": [{}]}), "BestEffort"),
            (json!({"containers": [{"resources": {"requests": {"cpu": "0"}}}]}), "BestEffort"),
            (json!({"containers": [{"resources": {"requests": {"cpu": "1m"}}}]}), "Burstable"),
            (json!({"containers": [{"resources": full}]}), "Guaranteed"),
            (json!({"containers": [{"resources": full}, {}]}), "Burstable"),
            (json!({"containers": [{"resources": full}], "initContainers": [{}]}), "Burstable"),
            (json!({"containers": [{}], "resources": full}), "Guaranteed"),
        ];
        for (spec, want) in table {
            assert_eq!(class(&spec), want, "{spec}");
        }
    }
}
