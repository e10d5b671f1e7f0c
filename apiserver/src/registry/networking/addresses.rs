//! ServiceCIDRs and IPAddresses.

use std::net::IpAddr;

use serde_json::Value;
use skiff_api::Cause;

use crate::registry::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats},
    value::{field, list, text},
};

/// ServiceCIDRs: ranges never change, but a second family may be added.
pub struct ServiceCidrStrategy;

impl Strategy for ServiceCidrStrategy {
    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        let path = path.child("cidrs");
        let cidrs: Vec<&str> = list(&object["spec"], "cidrs").iter().filter_map(Value::as_str).collect();
        match op {
            Operation::Create => {
                if cidrs.is_empty() {
                    errors.required(&path, "at least one CIDR required");
                }
                if cidrs.len() > 2 {
                    errors.invalid(&path, &object["spec"]["cidrs"], "may only hold up to 2 values");
                }
                for (i, cidr) in cidrs.iter().enumerate() {
                    errors.invalid_all(&path.index(i), cidr, formats::cidr(cidr));
                }
            }
            Operation::Update { old } => {
                let before: Vec<&str> = list(&old["spec"], "cidrs").iter().filter_map(Value::as_str).collect();
                let upgrade = before.len() == 1 && cidrs.len() == 2 && cidrs.first() == before.first();
                if cidrs != before && !upgrade {
                    errors.invalid(&path, &object["spec"]["cidrs"], "field is immutable");
                }
            }
            _ => {}
        }
        errors.into_causes()
    }
}

/// IPAddresses: named by the canonical address, belonging to one thing forever.
pub struct IpAddressStrategy;

impl Strategy for IpAddressStrategy {
    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        let path = path.child("parentRef");
        match field(&object["spec"], "parentRef") {
            None => errors.required(&path, ""),
            Some(parent) => {
                for name in ["resource", "name"] {
                    if text(parent, name).is_empty() {
                        errors.required(&path.child(name), "");
                    }
                }
            }
        }
        if let Operation::Update { old } = op {
            errors.immutable(&path, &object["spec"]["parentRef"], &old["spec"]["parentRef"]);
        }
        errors.into_causes()
    }

    fn validate_name(&self, name: &str, _prefix: bool) -> Vec<String> {
        match name.parse::<IpAddr>() {
            Ok(ip) if ip.to_string() == name => Vec::new(),
            Ok(ip) => vec![format!("must be a valid address in canonical form (e.g. {ip})")],
            Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_named_canonically() {
        assert!(IpAddressStrategy.validate_name("10.0.0.1", false).is_empty());
        assert!(IpAddressStrategy.validate_name("fd00::1", false).is_empty());
        assert!(!IpAddressStrategy.validate_name("fd00:0::1", false).is_empty());
    }

    #[test]
    fn ranges_stay_but_a_second_family_may_come() {
        use crate::registry::testing::{wrong, wrong_update};
        use serde_json::json;
        let range = |cidrs: Value| json!({"spec": {"cidrs": cidrs}});
        assert!(
            wrong_update(
                &ServiceCidrStrategy,
                range(json!(["10.0.0.0/16", "fd00::/112"])),
                range(json!(["10.0.0.0/16"]))
            )
            .is_empty()
        );
        assert_eq!(
            wrong_update(&ServiceCidrStrategy, range(json!(["10.1.0.0/16"])), range(json!(["10.0.0.0/16"]))).len(),
            1
        );
        assert_eq!(
            wrong(&ServiceCidrStrategy, json!({"spec": {}})),
            ["spec.cidrs: Required value: at least one CIDR required"]
        );
    }
}
