//! Carries out one [`Operation`] and says what the snapshot will show of it.

use http::Method;
use serde_json::Value;
use skiff_api::{GroupResource, GroupVersionResource, Object, ObjectKey, Revision, Status, Uid};

use crate::{Client, ClientError, DeleteOptions, ListOptions, Operation, PropagationPolicy, Store};

/// What an operation did.
#[derive(Debug)]
pub(crate) enum Executed {
    /// Nothing that the snapshot could show.
    Nothing,
    /// An object was written with this revision.
    Written { resource: GroupResource, revision: Revision },
    /// The deletion of an object was accepted.
    Deleted { resource: GroupResource, key: ObjectKey, uid: Option<Uid> },
    /// The world is not what the outcome was made for (an object required to
    /// be absent exists, one to be changed is gone): leave out the rest.
    Stop,
    /// No more of this kind: leave out the rest of its neighbours.
    Enough,
}

impl Executed {
    pub(crate) fn resource(&self) -> GroupResource {
        match self {
            Executed::Written { resource, .. } | Executed::Deleted { resource, .. } => resource.clone(),
            Executed::Nothing | Executed::Stop | Executed::Enough => GroupResource::new("", ""),
        }
    }

    /// Adds a deed to the list of what must become visible: of writes to one resource only the last counts.
    pub(crate) fn remember(list: &mut Vec<Executed>, deed: Executed) {
        if let Executed::Written { resource, revision } = &deed {
            for have in list.iter_mut() {
                if let Executed::Written { resource: known, revision: highest } = have
                    && known == resource
                {
                    *highest = (*highest).max(*revision);
                    return;
                }
            }
        }
        list.push(deed);
    }

    pub(crate) fn is_visible_in(&self, store: &Store) -> bool {
        match self {
            Executed::Nothing | Executed::Stop | Executed::Enough => true,
            Executed::Written { revision, .. } => store.revision() >= *revision,
            Executed::Deleted { key, uid, .. } => match store.get(&key.namespace, &key.name) {
                None => true,
                Some(object) => object.meta.is_deleting() || uid.as_ref().is_some_and(|uid| *uid != object.meta.uid),
            },
        }
    }
}

/// Carries out one operation. Creating what exists and deleting what is gone count as done.
pub(crate) async fn execute(client: &Client, operation: Operation) -> Result<Executed, ClientError> {
    match operation {
        Operation::Create { resource, namespace, body } => {
            let result = client.create(&resource, namespace.as_deref(), &body).await;
            if let Err(error) = &result
                && is_namespace_closing(error)
            {
                return Ok(Executed::Enough);
            }
            ignore(result, ClientError::is_already_exists).map(|object| written(resource.group_resource(), object))
        }
        Operation::Update { resource, namespace, name, subresource, body } => {
            let result = client.update(&resource, namespace.as_deref(), &name, subresource, &body).await;
            Ok(changed(resource.group_resource(), ignore(result, ClientError::is_not_found)?))
        }
        Operation::Patch { resource, namespace, name, subresource, patch } => {
            let result = client.patch(&resource, namespace.as_deref(), &name, subresource, &patch).await;
            Ok(changed(resource.group_resource(), ignore(result, ClientError::is_not_found)?))
        }
        Operation::Delete { resource, namespace, name, options } => {
            let result = client.delete(&resource, namespace.as_deref(), &name, &options).await;
            let gone = |error: &ClientError| error.is_not_found() || (options.uid.is_some() && is_other_uid(error));
            ignore(result, gone)?;
            let key = ObjectKey::new(namespace.unwrap_or_default(), name);
            Ok(Executed::Deleted { resource: resource.group_resource(), key, uid: options.uid.map(Uid) })
        }
        Operation::DeleteCollection { resource, namespace, options } => {
            let everything = ListOptions::default();
            client.delete_collection(&resource, namespace.as_deref(), &everything, &options).await?;
            Ok(Executed::Nothing)
        }
        Operation::EmptyServed { group, version, namespace } => {
            empty_served(client, &group, &version, &namespace).await?;
            Ok(Executed::Nothing)
        }
        Operation::CreateSubresource { resource, namespace, name, subresource, body } => {
            client.create_subresource(&resource, namespace.as_deref(), &name, subresource, &body).await?;
            Ok(Executed::Nothing)
        }
        Operation::RequireAbsent { resource, namespace, name, uid } => {
            match client.get(&resource, namespace.as_deref(), &name).await {
                Ok(object) if uid.is_empty() || object.meta.uid == uid => Ok(Executed::Stop),
                Ok(_) => Ok(Executed::Nothing),
                Err(error) if error.is_not_found() => Ok(Executed::Nothing),
                Err(error) => Err(error),
            }
        }
    }
}

/// Deletes everything in a namespace that a group version serves there and lets go of; an error while something is left.
async fn empty_served(client: &Client, group: &str, version: &str, namespace: &str) -> Result<(), ClientError> {
    let answer = client.raw(Method::GET, &format!("/apis/{group}/{version}"), None).await?;
    let served: Value = serde_json::from_slice(&answer)
        .map_err(|error| ClientError::transport(format!("discovery of {group}/{version}"), error))?;
    for resource in served["resources"].as_array().into_iter().flatten() {
        let name = resource["name"].as_str().unwrap_or_default();
        let can = |verb: &str| resource["verbs"].as_array().is_some_and(|verbs| verbs.iter().any(|have| have == verb));
        if resource["namespaced"] != true || name.is_empty() || name.contains('/') || !can("list") || !can("delete") {
            continue;
        }
        let gvr = GroupVersionResource {
            group: group.to_owned().into(),
            version: version.to_owned().into(),
            resource: name.to_owned().into(),
        };
        let options =
            DeleteOptions { propagation_policy: Some(PropagationPolicy::Background), ..DeleteOptions::default() };
        let everything = ListOptions::default();
        if can("deletecollection") {
            client.delete_collection(&gvr, Some(namespace), &everything, &options).await?;
        } else {
            for object in client.list(&gvr, Some(namespace), &everything).await?.items {
                let result = client.delete(&gvr, Some(namespace), &object.meta.name, &options).await;
                ignore(result, ClientError::is_not_found)?;
            }
        }
        if !client.list(&gvr, Some(namespace), &everything).await?.items.is_empty() {
            return Err(ClientError::Api(Box::new(Status::service_unavailable(format!(
                "unexpected items still remain in namespace: {namespace} for gvr: {group}/{version}, Resource={name}"
            )))));
        }
    }
    Ok(())
}

fn changed(resource: GroupResource, object: Option<Object>) -> Executed {
    match object {
        None => Executed::Stop,
        some => written(resource, some),
    }
}

fn written(resource: GroupResource, object: Option<Object>) -> Executed {
    match object {
        // Removing the last finalizer of a deleted object also removes it: its
        // last revision may never be stored, so the deletion is what to wait for.
        Some(object) if object.meta.is_deleting() && object.meta.finalizers.is_empty() => Executed::Nothing,
        Some(object) if object.revision > Revision::ZERO => Executed::Written { resource, revision: object.revision },
        _ => Executed::Nothing,
    }
}

/// A delete that names a uid conflicts when the object was replaced: what was to go is gone.
fn is_other_uid(error: &ClientError) -> bool {
    matches!(error, ClientError::Api(status) if status.reason == skiff_api::Reason::Conflict && status.message.contains("UID"))
}

/// Nothing new is created in a namespace that is being deleted, and trying again is pointless.
fn is_namespace_closing(error: &ClientError) -> bool {
    let ClientError::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
        || (status.reason == skiff_api::Reason::Forbidden && status.message.ends_with("because it is being terminated"))
}

fn ignore<T>(
    result: Result<T, ClientError>,
    harmless: impl Fn(&ClientError) -> bool,
) -> Result<Option<T>, ClientError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if harmless(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
