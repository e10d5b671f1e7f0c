//! Who owns what: a controller adopts orphans that its selector matches and
//! releases what it no longer matches, as every upstream workload controller does.

use k8s_openapi::Resource;
use serde_json::{Value, json};
use skiff_api::{Object, Selector};
use skiff_client::Operation;

use crate::{
    seen::Seen,
    write::{controller_reference, strategic},
};

/// Sorts `candidates` (of the owner's namespace) into those that are or become
/// the owner's, and adds the operations that make it so.
pub fn claim<K: Resource>(
    owner: &Object,
    selector: &Selector,
    candidates: Vec<Seen<K>>,
    operations: &mut Vec<Operation>,
) -> Vec<Seen<K>> {
    claim_as(owner, selector, candidates, None, operations)
}

/// [`claim`] of an owner whose objects carry a finalizer: it comes with adoption and goes with release.
pub fn claim_tracked<K: Resource>(
    owner: &Object,
    selector: &Selector,
    candidates: Vec<Seen<K>>,
    finalizer: &str,
    operations: &mut Vec<Operation>,
) -> Vec<Seen<K>> {
    claim_as(owner, selector, candidates, Some(finalizer), operations)
}

fn claim_as<K: Resource>(
    owner: &Object,
    selector: &Selector,
    candidates: Vec<Seen<K>>,
    finalizer: Option<&str>,
    operations: &mut Vec<Operation>,
) -> Vec<Seen<K>> {
    let mut claimed = Vec::new();
    for candidate in candidates {
        let meta = candidate.meta();
        let matches = selector.matches(&meta.labels);
        match meta.controller() {
            Some(controller) if controller.uid != owner.meta.uid => {}
            Some(_) if matches => claimed.push(candidate),
            Some(_) => {
                if !owner.meta.is_deleting() {
                    operations.push(strategic::<K>(
                        &candidate.object,
                        None,
                        release(owner, &candidate.object, finalizer),
                    ));
                }
            }
            None => {
                let adoptable = matches && !owner.meta.is_deleting() && !meta.is_deleting();
                if adoptable {
                    operations.push(strategic::<K>(
                        &candidate.object,
                        None,
                        adopt(owner, &candidate.object, finalizer),
                    ));
                    claimed.push(candidate);
                }
            }
        }
    }
    claimed
}

/// Naming the uid makes the patch fail when the object was replaced meanwhile.
fn adopt(owner: &Object, object: &Object, finalizer: Option<&str>) -> Value {
    let mut metadata = json!({"ownerReferences": [controller_reference(owner)], "uid": object.meta.uid});
    if let Some(finalizer) = finalizer {
        metadata["finalizers"] = json!([finalizer]);
    }
    json!({"metadata": metadata})
}

fn release(owner: &Object, object: &Object, finalizer: Option<&str>) -> Value {
    let mut metadata = json!({
        "ownerReferences": [{"$patch": "delete", "uid": owner.meta.uid}],
        "uid": object.meta.uid,
    });
    if let Some(finalizer) = finalizer {
        metadata["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
    }
    json!({"metadata": metadata})
}
