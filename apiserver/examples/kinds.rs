//! The table of built-in kinds and what each still lacks: `cargo xtask kinds`.

#[path = "setup/config.rs"]
mod config;

use skiff_api::Resource;
use skiff_apiserver::{ApiServer, MemoryBackend, registry::Registry};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), config::Error> {
    // Never run: only its registry is looked at.
    let config = config::config(MemoryBackend::default())?;
    let server = ApiServer::new(config, tokio_util::sync::CancellationToken::new())?;
    let registry = server.registry();
    println!("{:<58} {:<26} {:<9} {:<34} LACKS", "KIND", "SUBRESOURCES", "COLUMNS", "SELECTABLE FIELDS");
    let mut complete = 0;
    for row in skiff_api::builtin() {
        let lacks = lacks(row, registry);
        complete += usize::from(lacks.is_empty());
        let join = |names: Vec<&str>| if names.is_empty() { "-".to_owned() } else { names.join(",") };
        println!(
            "{:<58} {:<26} {:<9} {:<34} {}",
            format!("{}/{}", row.api_version(), row.kind),
            cut(&join(row.subresources.iter().map(|sub| &*sub.name).collect()), 26),
            row.columns.len(),
            cut(&join(row.selectable_fields.iter().map(|field| &*field.path).collect()), 34),
            join(lacks)
        );
    }
    println!("{complete} of {} lack nothing", skiff_api::builtin().len());
    Ok(())
}

/// What a kind should have and has not.
fn lacks(row: &Resource, registry: &Registry) -> Vec<&'static str> {
    let mut lacks = Vec::new();
    let storage = row.storage.clone().unwrap_or_else(|| row.group_resource());
    if row.schema.is_none() {
        lacks.push("schema");
    }
    if row.is_stored() && !registry.has_strategy(&storage) {
        lacks.push("strategy");
    }
    let is_answered = registry.endpoint_of(&row.group_resource(), "").is_some();
    if !row.is_stored()
        && !is_answered
        && row.origin == skiff_api::resource::Origin::BuiltIn
        && row.verbs.contains(skiff_api::Verb::Create)
    {
        lacks.push("endpoint");
    }
    if row.is_stored() && row.columns.is_empty() {
        lacks.push("columns");
    }
    lacks
}

fn cut(text: &str, len: usize) -> String {
    if text.len() <= len { text.to_owned() } else { format!("{}..", &text[..len - 2]) }
}
