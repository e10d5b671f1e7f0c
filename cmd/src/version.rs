//! What this build calls itself.

use skiff_apiserver::VersionInfo;

/// The Kubernetes release whose API this is, with our own counter.
pub const VERSION: &str = concat!("v1.37.0+skiff", env!("CARGO_PKG_VERSION"));
/// Major and minor of the API.
pub const MAJOR: &str = "1";
pub const MINOR: &str = "37";
/// The commit this was made from; empty where the build did not know.
pub const COMMIT: &str = env!("SKIFF_COMMIT");

/// What `/version` answers.
pub fn info() -> VersionInfo {
    let unknown = VersionInfo::default();
    VersionInfo {
        major: MAJOR.to_owned(),
        minor: MINOR.to_owned(),
        git_version: VERSION.to_owned(),
        git_commit: COMMIT.to_owned(),
        git_tree_state: Some(env!("SKIFF_TREE"))
            .filter(|state| !state.is_empty())
            .map_or(unknown.git_tree_state, str::to_owned),
        build_date: built(env!("SKIFF_EPOCH")).unwrap_or(unknown.build_date),
        ..VersionInfo::default()
    }
}

/// Seconds since 1970 as the API writes a time.
pub fn built(epoch: &str) -> Option<String> {
    let at = jiff::Timestamp::from_second(epoch.parse().ok()?).ok()?;
    Some(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_tells_its_time_if_it_knows_it() {
        assert_eq!(built("1700000000").as_deref(), Some("2023-11-14T22:13:20Z"));
        assert_eq!(built(""), None);
        let info = info();
        assert_eq!(info.git_version, VERSION);
        assert!(info.build_date.ends_with('Z') && !info.git_tree_state.is_empty());
    }
}
