//! Fills aggregated ClusterRoles with the rules of those that their selectors find.

use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::Value;
use skiff_api::Selector;
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger};

use crate::{seen, write};

pub struct ClusterRoleAggregationController;

impl Controller for ClusterRoleAggregationController {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        // Any role may be part of any aggregated one; there are few of those.
        vec![Trigger::new::<ClusterRole>(|_, _, world| {
            let roles = seen::list::<ClusterRole>(world, None);
            let aggregated = roles.iter().filter(|role| role.typed.aggregation_rule.is_some());
            aggregated.map(|role| ObjectRef::of(&role.object)).collect()
        })]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, _: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(role) = seen::get::<ClusterRole>(world, "", &key.name) else { return outcome };
        let Some(rule) = &role.typed.aggregation_rule else { return outcome };
        let selectors = rule.cluster_role_selectors.iter().flatten();
        let selectors: Vec<Selector> =
            selectors.filter_map(|selector| Selector::from_object(Some(selector)).ok()).collect();
        let mut rules: Vec<Value> = Vec::new();
        for part in seen::list::<ClusterRole>(world, None) {
            let selected = selectors.iter().any(|selector| selector.matches(&part.meta().labels));
            if part.name() == role.name() || !selected {
                continue;
            }
            let Ok(value) = part.object.value() else { continue };
            for rule in value["rules"].as_array().into_iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
        let Ok(mut value) = role.object.value() else { return outcome };
        let same = match value["rules"].as_array() {
            None => rules.is_empty(),
            Some(have) => *have == rules,
        };
        if !same {
            value["rules"] = rules.into();
            outcome.push(write::update::<ClusterRole>(&role.object, value));
        }
        outcome
    }
}
