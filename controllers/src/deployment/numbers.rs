//! The arithmetic of rollouts.

use k8s_openapi::{api::apps::v1::DeploymentSpec, apimachinery::pkg::util::intstr::IntOrString};

/// How a deployment replaces its pods, with fractions resolved to pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub rolling: bool,
    pub replicas: i32,
    pub max_surge: i32,
    pub max_unavailable: i32,
}

impl Limits {
    pub fn of(spec: &DeploymentSpec) -> Limits {
        let replicas = spec.replicas.unwrap_or(1).max(0);
        let strategy = spec.strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
            return Limits { rolling: false, replicas, max_surge: 0, max_unavailable: 0 };
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".to_owned());
        let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
        let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);
        let max_surge = scaled(surge, replicas, true);
        let mut max_unavailable = scaled(unavailable, replicas, false);
        if max_surge == 0 && max_unavailable == 0 {
            // Rounding must not make a rollout impossible.
            max_unavailable = 1;
        }
        Limits { rolling: true, replicas, max_surge, max_unavailable: max_unavailable.min(replicas) }
    }

    /// Size of the new ReplicaSet when all ReplicaSets together have `total` replicas.
    pub fn new_size(&self, new: i32, total: i32) -> i32 {
        if !self.rolling {
            return self.replicas;
        }
        let room = self.replicas + self.max_surge - total;
        if room <= 0 { new } else { new + room.min(self.replicas - new) }
    }

    pub fn min_available(&self) -> i32 {
        self.replicas - self.max_unavailable
    }

    /// Upper bound written to ReplicaSets, the base of later proportions.
    pub fn max_replicas(&self) -> i32 {
        self.replicas + self.max_surge
    }
}

/// A number, or a percentage of `total`.
pub fn scaled(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let Some(percent) = text.strip_suffix('%').and_then(|number| number.parse::<i64>().ok()) else { return 0 };
            let exact = percent * i64::from(total);
            let whole = if round_up { (exact + 99).div_euclid(100) } else { exact.div_euclid(100) };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

/// A ReplicaSet in a proportional scaling.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    pub replicas: i32,
    /// The bound that was in force when it last got its size.
    pub max_replicas_before: i32,
}

/// Spreads a change of the deployment's size over `shares`, which are sorted so
/// that the first takes what rounding leaves.
pub fn proportional(shares: &[Share], limits: Limits, status_replicas: i32) -> Vec<i32> {
    let total: i32 = shares.iter().map(|share| share.replicas).sum();
    let allowed = if limits.replicas > 0 { limits.max_replicas() } else { 0 };
    let to_add = allowed - total;
    let mut added = 0;
    let mut sizes: Vec<i32> = shares
        .iter()
        .map(|share| {
            if share.replicas == 0 || to_add == 0 || to_add == added {
                return share.replicas;
            }
            let fraction = fraction(share, limits, status_replicas);
            let rest = to_add - added;
            let change = if to_add > 0 { fraction.min(rest) } else { fraction.max(rest) };
            added += change;
            share.replicas + change
        })
        .collect();
    if let Some(first) = sizes.first_mut()
        && to_add != 0
    {
        *first = (*first + to_add - added).max(0);
    }
    sizes
}

fn fraction(share: &Share, limits: Limits, status_replicas: i32) -> i32 {
    if limits.replicas == 0 {
        return -share.replicas;
    }
    let before = if share.max_replicas_before > 0 { share.max_replicas_before } else { status_replicas };
    if before <= 0 {
        return 0;
    }
    let exact = f64::from(share.replicas) * f64::from(limits.max_replicas()) / f64::from(before);
    exact.round() as i32 - share.replicas
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(replicas: i32, max_surge: i32, max_unavailable: i32) -> Limits {
        Limits { rolling: true, replicas, max_surge, max_unavailable }
    }

    #[test]
    fn surge_rounds_up_and_unavailable_down() {
        let quarter = IntOrString::String("25%".to_owned());
        assert_eq!(scaled(&quarter, 3, true), 1);
        assert_eq!(scaled(&quarter, 3, false), 0);
        assert_eq!(scaled(&IntOrString::String("30%".to_owned()), 10, true), 3);
    }

    #[test]
    fn new_set_grows_only_into_free_room() {
        assert_eq!(limits(3, 1, 0).new_size(0, 3), 1);
        assert_eq!(limits(3, 1, 0).new_size(1, 4), 1);
        assert_eq!(limits(3, 5, 0).new_size(0, 3), 3);
    }

    #[test]
    fn scaling_in_mid_rollout_keeps_proportions_and_the_sum() {
        // Upstream's documented example: 10 replicas, surge 3, split 8 + 5, scaled to 15.
        let shares = [Share { replicas: 8, max_replicas_before: 13 }, Share { replicas: 5, max_replicas_before: 13 }];
        let sizes = proportional(&shares, limits(15, 3, 2), 13);
        assert_eq!(sizes, [11, 7]);
        let down = proportional(&shares, limits(0, 3, 2), 13);
        assert_eq!(down, [0, 0]);
    }
}
