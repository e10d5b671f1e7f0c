//! GET of a collection: the watch cache, pages of it, or a past revision.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Response;
use serde::{Deserialize, Serialize};
use skiff_api::{Object, Revision, Status, resource::Origin};

use super::{Call, component_status, resource_metrics};
use crate::{
    body::Body,
    limits,
    options::{ListOptions, VersionMatch},
    registry::store::storage_of,
    render::{self, ListMeta},
    selection::Selection,
    storage::{Range, StorageError, codec},
    watch_cache::WatchCache,
};

/// A continue token: where the next page begins and which revision it shows.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Token {
    v: String,
    /// -1: the present state, for clients whose revision is gone.
    rv: i64,
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// Objects of a list and their metadata.
pub(super) struct Page {
    pub objects: Vec<Arc<Object>>,
    pub meta: ListMeta,
}

pub(super) async fn list(call: &Call<'_>) -> Result<Response<Body>, Status> {
    let style = call.style(call.offer())?;
    let options = ListOptions::parse(&call.query)?;
    let page = if component_status::is(call) {
        component_status::page(call, &options).await?
    } else if resource_metrics::is(call) {
        resource_metrics::page(call, &options).await?
    } else {
        page(call, &options).await?
    };
    render::list(&style, &call.row, page.objects, &page.meta)
}

/// What a list (or deletecollection) is about.
pub(super) fn selection(call: &Call<'_>, options: &ListOptions) -> Result<Selection, Status> {
    let selection =
        Selection::parse(&call.row, call.list_namespace(), &options.label_selector, &options.field_selector)?;
    // The namespace "namespaces/n" names is the object itself, which has none.
    Ok(if call.info.has_name_segment() { selection.with_name(&call.info.name) } else { selection })
}

pub(super) fn cache(call: &Call<'_>) -> Result<Arc<WatchCache>, Status> {
    call.store.caches.get(storage_of(&call.row)?).ok_or_else(Status::no_route)
}

/// The page that the options ask for.
pub(super) async fn page(call: &Call<'_>, options: &ListOptions) -> Result<Page, Status> {
    let selection = selection(call, options)?;
    let version = options.version()?;
    let cache = cache(call)?;
    if !options.continue_token.is_empty() {
        return next_page(call, &cache, &selection, options).await;
    }
    match version {
        VersionMatch::Any => {}
        VersionMatch::MostRecent => drop(call.store.caches.catch_up().await?),
        VersionMatch::NotOlderThan(revision) => call.store.wait_for(revision).await?,
        VersionMatch::Exact(revision) => {
            call.store.wait_for(revision).await?;
            return page_at(call, &cache, &selection, options, revision, None).await;
        }
    }
    let (objects, revision) = listed(call, &cache, &selection).await?;
    presented(call, cut(&selection, objects, revision, options.limit)).await
}

/// What the cache holds of a selection. Fields of custom resources are judged in the version of the request.
async fn listed(
    call: &Call<'_>,
    cache: &WatchCache,
    selection: &Selection,
) -> Result<(Vec<Arc<Object>>, Revision), Status> {
    if call.row.origin != Origin::Custom || selection.fields.is_everything() {
        return Ok(cache.list(selection));
    }
    let (objects, revision) = cache.list(&selection.without_fields());
    let mut objects = call.store.present(&call.row, objects).await?;
    objects.retain(|object| selection.matches(object));
    Ok((objects, revision))
}

/// The objects of a page as readers of the row see them.
async fn presented(call: &Call<'_>, page: Page) -> Result<Page, Status> {
    let Page { objects, meta } = page;
    Ok(Page { objects: call.store.present(&call.row, objects).await?, meta })
}

/// The first `limit` objects, with the token of the rest.
fn cut(selection: &Selection, mut objects: Vec<Arc<Object>>, revision: Revision, limit: Option<usize>) -> Page {
    let mut meta = ListMeta { revision, ..ListMeta::default() };
    if let Some(limit) = limit.filter(|limit| *limit < objects.len()) {
        let remaining = objects.len() - limit;
        meta.remaining = selection.is_everything().then_some(remaining);
        meta.continue_token = token(i64::try_from(revision.0).unwrap_or(i64::MAX), &objects[limit - 1]);
        objects.truncate(limit);
    }
    Page { objects, meta }
}

fn token(rv: i64, last: &Object) -> String {
    // The next page starts right behind the last key, as upstream's tokens do.
    let start = if last.meta.namespace.is_empty() {
        format!("{}\0", last.meta.name)
    } else {
        format!("{}/{}\0", last.meta.namespace, last.meta.name)
    };
    encode_token(&Token { v: TOKEN_VERSION.to_owned(), rv, start })
}

fn encode_token(token: &Token) -> String {
    // A structure of two strings and a number always encodes.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(token).unwrap_or_default())
}

fn decode_token(text: &str) -> Result<Token, Status> {
    let invalid = |why: &dyn std::fmt::Display| {
        Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
    };
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| invalid(&error))?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|error| invalid(&error))?;
    if token.v != TOKEN_VERSION {
        return Err(invalid(&format_args!("server does not recognize this encoded version {}", token.v)));
    }
    if token.rv == 0 {
        return Err(invalid(&"incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
    }
    if token.start.is_empty() {
        return Err(invalid(&"encoded start key empty (version meta.k8s.io/v1)"));
    }
    let key = token.start.strip_prefix('/').unwrap_or(&token.start);
    // A key that is not in its shortest form could lead out of the resource's own.
    if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(invalid(&token.start));
    }
    Ok(token)
}

async fn next_page(
    call: &Call<'_>,
    cache: &WatchCache,
    selection: &Selection,
    options: &ListOptions,
) -> Result<Page, Status> {
    let token = decode_token(&options.continue_token)?;
    let after = token.start.trim_end_matches('\0');
    let Ok(revision) = u64::try_from(token.rv).map(Revision) else {
        // An inconsistent continuation shows the present state from there on.
        call.store.caches.catch_up().await?;
        let (objects, revision) = listed(call, cache, selection).await?;
        return presented(call, cut(selection, behind(objects, after), revision, options.limit)).await;
    };
    if revision < call.store.caches.compacted() {
        return Err(expired(after));
    }
    if cache.unchanged_since(revision) {
        let (objects, _) = listed(call, cache, selection).await?;
        return presented(call, cut(selection, behind(objects, after), revision, options.limit)).await;
    }
    page_at(call, cache, selection, options, revision, Some(after)).await
}

/// The objects that sort behind a key (`namespace/name` or `name`).
fn behind(objects: Vec<Arc<Object>>, after: &str) -> Vec<Arc<Object>> {
    let key = after.split_once('/').unwrap_or(("", after));
    objects
        .into_iter()
        .skip_while(|object| (object.meta.namespace.as_str(), object.meta.name.as_str()) <= key)
        .collect()
}

/// 410 with a token that goes on in the present state.
fn expired(after: &str) -> Status {
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let token = Token { v: TOKEN_VERSION.to_owned(), rv: -1, start: format!("{after}\0") };
    status.metadata.continue_token = encode_token(&token);
    status
}

/// A page as it was at `revision`, read from the store's history.
async fn page_at(
    call: &Call<'_>,
    cache: &WatchCache,
    selection: &Selection,
    options: &ListOptions,
    revision: Revision,
    after: Option<&str>,
) -> Result<Page, Status> {
    let prefix = match &selection.namespace {
        Some(namespace) => format!("{}{namespace}/", cache.prefix),
        None => cache.prefix.clone(),
    };
    let mut from = after.map(|after| format!("{}{after}", cache.prefix));
    let mut objects = Vec::new();
    loop {
        let range =
            Range { prefix: &prefix, after: from.as_deref(), limit: Some(limits::LIST_PAGE_KEYS), at: Some(revision) };
        let page = call.store.backend.list(range).await;
        let page = match (page, after) {
            (Err(StorageError::Compacted), Some(after)) => return Err(expired(after)),
            (other, _) => other?,
        };
        from = page.items.last().map(|kv| kv.key.clone());
        for kv in &page.items {
            objects.push(Arc::new(codec::decode(&kv.value, kv.revision).map_err(Status::internal)?));
        }
        if !page.more || from.is_none() {
            let mut objects = call.store.present(&call.row, objects).await?;
            objects.retain(|object| selection.matches(object));
            return Ok(cut(selection, objects, revision, options.limit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_and_bad_ones_are_refused() {
        let token = Token { v: TOKEN_VERSION.to_owned(), rv: 7, start: "n/a\0".to_owned() };
        assert_eq!(decode_token(&encode_token(&token)).unwrap(), token);
        for bad in ["", "x", "e30", "eyJ2IjoxfQ=="] {
            assert_eq!(decode_token(bad).unwrap_err().code, 400, "{bad}");
        }
    }
}
