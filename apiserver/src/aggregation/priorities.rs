//! The order of groups and versions in discovery: upstream's numbers.

/// Priorities of a group version that custom resources serve.
pub const CUSTOM: (i64, i64) = (1000, 100);

/// Group, group priority, priority of its newest stable version.
const GROUPS: [(&str, i64, i64); 24] = [
    ("", 18000, 1),
    ("apps", 17800, 15),
    ("events.k8s.io", 17750, 15),
    ("authentication.k8s.io", 17700, 15),
    ("authorization.k8s.io", 17600, 15),
    ("autoscaling", 17500, 15),
    ("batch", 17400, 15),
    ("certificates.k8s.io", 17300, 15),
    ("networking.k8s.io", 17200, 15),
    ("policy", 17100, 15),
    ("rbac.authorization.k8s.io", 17000, 15),
    ("storage.k8s.io", 16800, 15),
    ("apiextensions.k8s.io", 16700, 15),
    ("admissionregistration.k8s.io", 16700, 15),
    ("scheduling.k8s.io", 16600, 15),
    ("coordination.k8s.io", 16500, 15),
    ("node.k8s.io", 16300, 15),
    ("discovery.k8s.io", 16200, 15),
    ("flowcontrol.apiserver.k8s.io", 16100, 21),
    ("internal.apiserver.k8s.io", 16000, 9),
    ("resource.k8s.io", 15900, 15),
    ("storagemigration.k8s.io", 15800, 15),
    ("apiregistration.k8s.io", 18000, 15),
    ("metrics.k8s.io", 100, 100),
];

/// Priorities of a built-in group version; `None` for a group that is not built in.
pub fn builtin(group: &str, version: &str) -> Option<(i64, i64)> {
    let (_, of_group, of_version) = GROUPS.iter().find(|(name, ..)| *name == group)?;
    let of_version = match (group, version) {
        ("autoscaling", "v2") => 30,
        (_, version) if version.contains("alpha") => 9,
        (_, version) if version.contains("beta") => 12,
        _ => *of_version,
    };
    Some((*of_group, of_version))
}

/// Priority of a group that is served here.
pub fn of_group(group: &str) -> i64 {
    GROUPS.iter().find(|(name, ..)| *name == group).map_or(CUSTOM.0, |(_, priority, _)| *priority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_group_version_has_numbers() {
        for row in skiff_api::resources::builtin() {
            assert!(builtin(&row.group, &row.version).is_some(), "{}/{}", row.group, row.version);
        }
        assert_eq!(builtin("autoscaling", "v2"), Some((17500, 30)));
        assert_eq!(builtin("", "v1"), Some((18000, 1)));
        assert_eq!(of_group("example.com"), 1000);
    }
}
