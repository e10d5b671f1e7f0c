//! A bench for strategies: one kind, one object, what comes out.

use serde_json::Value;
use skiff_client::Snapshot;

use super::{Operation, RequestContext, Strategy, validation::lines};
use crate::authn::UserInfo;

/// Runs `f` with the context of a request in namespace `n`.
fn with_context<T>(f: impl FnOnce(&RequestContext<'_>) -> T) -> T {
    let user = UserInfo::new("tester", &[]);
    let snapshot = Snapshot::new();
    f(&RequestContext {
        user: &user,
        namespace: "n",
        api_version: "v1",
        dry_run: false,
        now: jiff::Timestamp::UNIX_EPOCH,
        snapshot: &snapshot,
    })
}

/// The object as a creation would store it.
pub fn made(strategy: &dyn Strategy, mut object: Value) -> Value {
    strategy.default(Operation::Create, &mut object);
    let once = object.clone();
    strategy.default(Operation::Create, &mut object);
    assert_eq!(object, once, "defaulting is idempotent");
    with_context(|context| strategy.prepare(context, Operation::Create, &mut object));
    object
}

/// `field: message` of everything wrong with a new object.
pub fn wrong(strategy: &dyn Strategy, object: Value) -> Vec<String> {
    let object = made(strategy, object);
    with_context(|context| lines(strategy.validate(context, Operation::Create, &object)))
}

/// `field: message` of everything wrong with a change, both sides completed by defaults.
pub fn wrong_update(strategy: &dyn Strategy, new: Value, old: Value) -> Vec<String> {
    let (mut new, old) = (made(strategy, new), made(strategy, old));
    with_context(|context| {
        strategy.prepare(context, Operation::Update { old: &old }, &mut new);
        lines(strategy.validate(context, Operation::Update { old: &old }, &new))
    })
}
