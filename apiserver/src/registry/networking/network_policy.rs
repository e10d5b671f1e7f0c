//! NetworkPolicies.

use serde_json::{Value, json};
use skiff_api::Cause;

use crate::registry::{
    core::pod::containers::{int_or_name_port, port_number},
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats, selector},
    value::{child, default_text, field, int, items, list, set, text},
};

pub struct NetworkPolicyStrategy;

impl Strategy for NetworkPolicyStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        let spec = child(object, "spec");
        for direction in ["ingress", "egress"] {
            for rule in items(spec, direction) {
                for port in items(rule, "ports") {
                    default_text(port, "protocol", "TCP");
                }
            }
        }
        if list(spec, "policyTypes").is_empty() {
            let egress = !list(spec, "egress").is_empty();
            set(spec, "policyTypes", if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, _op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        let spec = &object["spec"];
        selector::label_selector(&mut errors, &path.child("podSelector"), &spec["podSelector"]);
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            let rules = path.child(direction);
            for (i, rule) in list(spec, direction).iter().enumerate() {
                self::rule(&mut errors, &rules.index(i), rule, peers);
            }
        }
        let types = path.child("policyTypes");
        for (i, kind) in list(spec, "policyTypes").iter().filter_map(Value::as_str).enumerate() {
            errors.one_of(&types.index(i), kind, &["Egress", "Ingress"]);
        }
        errors.into_causes()
    }
}

fn rule(errors: &mut Errors, path: &Path<'_>, rule: &Value, peers: &str) {
    let ports = path.child("ports");
    for (i, port) in list(rule, "ports").iter().enumerate() {
        let path = ports.index(i);
        errors.one_of(&path.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"]);
        if let Some(number) = field(port, "port") {
            int_or_name_port(errors, &path.child("port"), number);
        }
        if let Some(end) = int(port, "endPort") {
            port_number(errors, &path.child("endPort"), end);
            match port["port"].as_i64() {
                None => errors.required(&path.child("port"), "must be specified when endPort is specified"),
                Some(start) if end < start => {
                    errors.invalid(&path.child("endPort"), end, "must be greater than or equal to `port`");
                }
                Some(_) => {}
            }
        }
    }
    let peers_path = path.child(peers);
    for (i, peer) in list(rule, peers).iter().enumerate() {
        self::peer(errors, &peers_path.index(i), peer);
    }
}

fn peer(errors: &mut Errors, path: &Path<'_>, peer: &Value) {
    let selectors = ["podSelector", "namespaceSelector"];
    let by_selector = selectors.iter().filter(|name| field(peer, name).is_some()).count();
    for name in selectors {
        selector::label_selector(errors, &path.child(name), &peer[name]);
    }
    match field(peer, "ipBlock") {
        Some(_) if by_selector > 0 => errors.forbidden(path, "may not specify both ipBlock and another peer"),
        Some(block) => {
            let path = path.child("ipBlock");
            let cidr = text(block, "cidr");
            if cidr.is_empty() {
                errors.required(&path.child("cidr"), "");
            } else {
                errors.invalid_all(&path.child("cidr"), cidr, formats::cidr(cidr));
            }
            let except = path.child("except");
            let outer = cidr.parse::<ipnet::IpNet>().ok();
            for (i, inner) in list(block, "except").iter().filter_map(Value::as_str).enumerate() {
                let path = except.index(i);
                match (inner.parse::<ipnet::IpNet>(), outer) {
                    (Ok(inner_net), Some(outer)) if !outer.contains(&inner_net) || outer == inner_net => {
                        errors.invalid(&path, inner, "must be a strict subset of `cidr`");
                    }
                    _ => errors.invalid_all(&path, inner, formats::cidr(inner)),
                }
            }
        }
        None if by_selector == 0 => errors.required(path, "must specify a peer"),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;

    #[test]
    fn policy_types_follow_the_rules() {
        let mut object = json!({"spec": {"egress": [{"ports": [{"port": 53}]}]}});
        NetworkPolicyStrategy.default(Operation::Create, &mut object);
        assert_eq!(object["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(object["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    }

    #[test]
    fn peers_are_one_thing() {
        let mut errors = Errors::new();
        peer(&mut errors, &Path::new("p"), &json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}));
        peer(&mut errors, &Path::new("p"), &json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}));
        peer(&mut errors, &Path::new("p"), &json!({}));
        assert_eq!(
            lines(errors.into_causes()),
            [
                "p: Forbidden: may not specify both ipBlock and another peer",
                "p.ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
                "p: Required value: must specify a peer"
            ]
        );
    }
}
