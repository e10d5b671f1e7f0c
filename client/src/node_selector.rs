//! Conditions on nodes, as pods, daemons and volumes state them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Toleration};
use skiff_api::selector::{Operator, Requirement};

/// Labels of a node.
pub type Labels = BTreeMap<String, String>;

/// Conditions on a node's labels and fields; a conjunction.
#[derive(Clone, Debug, Default)]
pub struct NodeTerm {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

impl NodeTerm {
    /// `None` for a term that can match nothing: empty, or with an unknown operator.
    pub fn new(term: &NodeSelectorTerm) -> Option<NodeTerm> {
        let labels = requirements(term.match_expressions.as_deref())?;
        let fields = requirements(term.match_fields.as_deref())?;
        (!labels.is_empty() || !fields.is_empty()).then_some(NodeTerm { labels, fields })
    }

    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.labels.iter().all(|requirement| requirement.matches(labels.get(&requirement.key).map(String::as_str)))
            && self.fields.iter().all(|requirement| {
                let value = (requirement.key == "metadata.name").then_some(name);
                requirement.matches(value)
            })
    }
}

fn requirements(raw: Option<&[NodeSelectorRequirement]>) -> Option<Vec<Requirement>> {
    let raw = raw.unwrap_or_default().iter();
    raw.map(|requirement| {
        let operator = match requirement.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::GreaterThan,
            "Lt" => Operator::LessThan,
            _ => return None,
        };
        let values = requirement.values.clone().unwrap_or_default();
        Some(Requirement { key: requirement.key.clone(), operator, values })
    })
    .collect()
}

/// Alternatives of a pod's required node affinity; `None` when it requires nothing.
pub fn required_terms(spec: &PodSpec) -> Option<Vec<NodeTerm>> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let selector = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    Some(selector.node_selector_terms.iter().filter_map(NodeTerm::new).collect())
}

/// Whether a pod's node selector and required node affinity allow a node.
pub fn allows(spec: &PodSpec, required: Option<&[NodeTerm]>, name: &str, labels: &Labels) -> bool {
    spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && required.is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)))
}

/// Whether a toleration covers a taint of (key, value, effect).
pub fn tolerates(toleration: &Toleration, (key, value, effect): (&str, &str, &str)) -> bool {
    let wanted_effect = toleration.effect.as_deref().unwrap_or_default();
    if !wanted_effect.is_empty() && wanted_effect != effect {
        return false;
    }
    let wanted_key = toleration.key.as_deref().unwrap_or_default();
    if !wanted_key.is_empty() && wanted_key != key {
        return false;
    }
    let wanted_value = toleration.value.as_deref().unwrap_or_default();
    match toleration.operator.as_deref().unwrap_or_default() {
        // An empty key with Exists covers everything.
        "Exists" => true,
        "" | "Equal" => !wanted_key.is_empty() && wanted_value == value,
        operator @ ("Lt" | "Gt") => match (value.parse::<i64>(), wanted_value.parse::<i64>()) {
            (Ok(have), Ok(limit)) if operator == "Lt" => have < limit,
            (Ok(have), Ok(limit)) => have > limit,
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Toleration {
            key: some(key),
            operator: some(operator),
            value: some(value),
            effect: some(effect),
            toleration_seconds: None,
        }
    }

    #[test]
    fn tolerations_cover_by_key_value_and_effect() {
        let taint = ("k", "v", "NoSchedule");
        assert!(tolerates(&toleration("", "Exists", "", ""), taint));
        assert!(tolerates(&toleration("k", "Exists", "", "NoSchedule"), taint));
        assert!(tolerates(&toleration("k", "", "v", ""), taint));
        assert!(!tolerates(&toleration("k", "Equal", "w", ""), taint));
        assert!(!tolerates(&toleration("k", "Exists", "", "NoExecute"), taint));
        assert!(!tolerates(&toleration("j", "Exists", "", ""), taint));
    }

    #[test]
    fn an_empty_term_matches_nothing() {
        assert!(NodeTerm::new(&NodeSelectorTerm::default()).is_none());
    }
}
