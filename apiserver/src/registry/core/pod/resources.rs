//! Requests and limits: resource names, quantities and how the two relate.

use serde_json::Value;
use skiff_api::Quantity;

use crate::registry::{
    validation::{
        Errors, Path, formats,
        numbers::{parse_quantity, quantity},
    },
    value::{entries, field, text},
};

/// Whether a name is one that containers may ask for without a domain.
fn is_standard_container_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(name)
}

pub fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// `example.com/gpu`: a domain that is not kubernetes.io's own and no `requests.` prefix.
pub fn is_extended(name: &str) -> bool {
    let native = !name.contains('/') || name.split('/').next().is_some_and(|domain| domain.ends_with("kubernetes.io"));
    !native && !name.starts_with("requests.")
}

/// Whether the scheduler may give out more of it than there is: all native ones but huge pages.
fn may_overcommit(name: &str) -> bool {
    !is_extended(name) && !is_huge_page(name)
}

/// A resource name anywhere: qualified, and standard unless it has a domain.
fn resource_name(errors: &mut Errors, path: &Path<'_>, name: &str) {
    errors.invalid_all(path, name, formats::qualified_name(name));
    if !name.contains('/') && !is_standard_container_resource(name) {
        errors.invalid(path, name, "must be a standard resource for containers");
    }
}

/// A quantity of a named resource: not negative, whole for what cannot be divided.
pub fn resource_quantity(errors: &mut Errors, path: &Path<'_>, name: &str, value: &Value) -> Option<Quantity> {
    let parsed = quantity(errors, path, value)?;
    if parsed < Quantity::ZERO {
        errors.invalid(path, value, "must be greater than or equal to 0");
    }
    let whole = matches!(
        name,
        "pods"
            | "services"
            | "replicationcontrollers"
            | "resourcequotas"
            | "secrets"
            | "configmaps"
            | "persistentvolumeclaims"
            | "services.nodeports"
            | "services.loadbalancers"
    ) || is_extended(name);
    if whole && parsed.milli_value() % 1000 != 0 {
        errors.invalid(path, value, "must be an integer");
    }
    Some(parsed)
}

/// Checks `resources` of a container at `path`.
pub fn requirements(errors: &mut Errors, path: &Path<'_>, resources: &Value) {
    if resources.is_null() {
        return;
    }
    let limits_path = path.child("limits");
    let requests_path = path.child("requests");
    let mut huge_pages = false;
    let mut with_cpu_or_memory = false;
    for (name, value) in entries(resources, "limits") {
        resource_name(errors, &limits_path.key(name), name);
        resource_quantity(errors, &limits_path.key(name), name, value);
        huge_pages |= is_huge_page(name);
        with_cpu_or_memory |= matches!(name.as_str(), "cpu" | "memory");
    }
    for (name, value) in entries(resources, "requests") {
        resource_name(errors, &requests_path.key(name), name);
        huge_pages |= is_huge_page(name);
        with_cpu_or_memory |= matches!(name.as_str(), "cpu" | "memory");
        let Some(request) = resource_quantity(errors, &requests_path.key(name), name, value) else { continue };
        request_within_limit(errors, &requests_path, &limits_path, name, value, &request, &resources["limits"][name]);
    }
    if huge_pages && !with_cpu_or_memory {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
    claims(errors, &path.child("claims"), resources);
}

fn request_within_limit(
    errors: &mut Errors,
    requests: &Path<'_>,
    limits: &Path<'_>,
    name: &str,
    value: &Value,
    request: &Quantity,
    limit: &Value,
) {
    let Some(limit_quantity) = parse_quantity(limit) else {
        if !may_overcommit(name) {
            errors.required(limits, "Limit must be set for non overcommitable resources");
        }
        return;
    };
    let limit = limit.as_str().map_or_else(|| limit.to_string(), str::to_owned);
    if *request != limit_quantity && !may_overcommit(name) {
        errors.invalid(requests, value, format!("must be equal to {name} limit of {limit}"));
    } else if *request > limit_quantity {
        errors.invalid(requests, value, format!("must be less than or equal to {name} limit of {limit}"));
    }
}

fn claims(errors: &mut Errors, path: &Path<'_>, resources: &Value) {
    let claims = resources["claims"].as_array().map_or(&[][..], Vec::as_slice);
    for (i, claim) in claims.iter().enumerate() {
        let name = text(claim, "name");
        if name.is_empty() {
            errors.required(&path.index(i), "");
        } else if claims[..i]
            .iter()
            .any(|other| text(other, "name") == name && field(other, "request") == field(claim, "request"))
        {
            errors.duplicate(&path.index(i), name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;
    use serde_json::json;

    #[test]
    fn wrong_resources_are_named() {
        let check = |resources: Value| {
            let mut errors = Errors::new();
            requirements(&mut errors, &Path::new("resources"), &resources);
            lines(errors.into_causes())
        };
        assert!(check(json!({"limits": {"cpu": "1", "example.com/gpu": 1}, "requests": {"cpu": "500m", "example.com/gpu": "1"}})).is_empty());
        assert_eq!(
            check(json!({"limits": {"cpu": "100m"}, "requests": {"cpu": "200m"}})),
            ["resources.requests: Invalid value: \"200m\": must be less than or equal to cpu limit of 100m"]
        );
        assert_eq!(
            check(json!({"requests": {"disk": "1"}})),
            ["resources.requests[disk]: Invalid value: \"disk\": must be a standard resource for containers"]
        );
        assert_eq!(
            check(json!({"limits": {"memory": "-1"}})),
            ["resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0"]
        );
        assert_eq!(
            check(json!({"requests": {"example.com/gpu": "1"}})),
            ["resources.limits: Required value: Limit must be set for non overcommitable resources"]
        );
        assert_eq!(
            check(json!({"limits": {"hugepages-2Mi": "2Mi"}})),
            ["resources: Forbidden: HugePages require cpu or memory"]
        );
    }
}
