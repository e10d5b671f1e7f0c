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
pub fn claim<K>(
    owner: &Object,
    selector: &Selector,
    candidates: Vec<Seen<K>>,
    operations: &mut Vec<Operation>,
) -> Vec<Seen<K>>
where
    K: Resource,
{
    let mut claimed = Vec::new();
    for candidate in candidates {
        let meta = candidate.meta();
        let matches = selector.matches(&meta.labels);
        match meta.controller() {
            Some(controller) if controller.uid != owner.meta.uid => {}
            Some(_) if matches => claimed.push(candidate),
            Some(_) => {
                if !owner.meta.is_deleting() {
                    operations.push(strategic::<K>(&candidate.object, None, release(owner, &candidate.object)));
                }
            }
            None => {
                let adoptable = matches && !owner.meta.is_deleting() && !meta.is_deleting();
                if adoptable {
                    operations.push(strategic::<K>(&candidate.object, None, adopt(owner, &candidate.object)));
                    claimed.push(candidate);
                }
            }
        }
    }
    claimed
}

/// Naming the uid makes the patch fail when the object was replaced meanwhile.
fn adopt(owner: &Object, object: &Object) -> Value {
    json!({"metadata": {"ownerReferences": [controller_reference(owner)], "uid": object.meta.uid}})
}

fn release(owner: &Object, object: &Object) -> Value {
    json!({"metadata": {
        "ownerReferences": [{"$patch": "delete", "uid": owner.meta.uid}],
        "uid": object.meta.uid,
    }})
}
