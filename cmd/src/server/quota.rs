//! Gives the quota controller the same evaluator that admission decides by.

use std::collections::BTreeMap;

use serde_json::Value;
use skiff_api::Quantity;
use skiff_apiserver::admission::plugins::quota_usage;
use skiff_controllers::QuotaUsage;

pub struct AdmissionQuotaUsage;

impl QuotaUsage for AdmissionQuotaUsage {
    fn usage(&self, group: &str, resource: &str, object: &Value) -> BTreeMap<String, Quantity> {
        quota_usage::usage(group, resource, object)
    }

    fn in_scope(&self, quota_spec: &Value, pod: &Value) -> bool {
        quota_usage::in_scope(quota_spec, pod)
    }
}
