//! What must hold for every object and survive every body: random objects of
//! all kinds, and mutated input for all decoders. Seeds are fixed and the number
//! of rounds is bounded, so a failure comes again and a run takes seconds.

mod algebra;
mod mutants;
mod random;
mod wire;

use rand::{SeedableRng, rngs::StdRng};
use serde_json::Value;
use skiff_api::{Resource, codec::json, schema::Root};

/// Rows whose kind is a message of the schema table.
fn kinds() -> impl Iterator<Item = (&'static Resource, &'static Root)> {
    skiff_api::builtin().iter().filter_map(|row| Some((&**row, row.schema.as_ref()?)))
}

/// A random object as it would be stored.
fn stored(rng: &mut StdRng, row: &Resource, root: &Root) -> Value {
    let mut object = random::object(rng, root, &row.api_version(), &row.kind);
    json::minimize(root, &mut object);
    json::canonicalize(root, &mut object);
    object
}

fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}
