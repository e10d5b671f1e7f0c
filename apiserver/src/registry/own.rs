//! Writes of the API server itself: status of kinds that it serves on its own behalf.

use serde_json::Value;
use skiff_api::{GroupResource, Reason, Status};

use super::{
    store::{Store, WriteRequest},
    write::Edited,
};
use crate::{authn::UserInfo, options::WriteOptions, warnings::Warnings};

/// The server as a user.
pub(crate) fn own_user() -> UserInfo {
    UserInfo::new("system:apiserver", &["system:masters"])
}

impl Store {
    /// Edits a cluster-scoped object of a built-in kind under the server's own identity. One that is gone is left alone.
    pub(crate) async fn edit_own(
        &self,
        resource: &GroupResource,
        name: &str,
        subresource: &str,
        manager: &str,
        change: &(dyn Fn(&mut Value) + Send + Sync),
    ) -> Result<(), Status> {
        let row = self.resources.lookup(&resource.group, "v1", &resource.resource).ok_or_else(Status::no_route)?;
        let options = WriteOptions { field_manager: manager.to_owned(), ..WriteOptions::default() };
        let (user, warnings) = (own_user(), Warnings::default());
        let request = WriteRequest {
            row: &row,
            subresource,
            namespace: "",
            name,
            user: &user,
            options: &options,
            warnings: &warnings,
        };
        let edit = |old: Option<&Value>| {
            let mut object = old.cloned().ok_or_else(Status::no_route)?;
            change(&mut object);
            Ok(Edited { object, applied: false })
        };
        match self.update(&request, &edit).await {
            Err(status) if !status.is(Reason::NotFound) => Err(status),
            _ => Ok(()),
        }
    }
}
