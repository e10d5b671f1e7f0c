//! Typed kinds that several crates read, compiled here once.
//!
//! Reading a Pod takes a quarter of a megabyte of code, and every crate that
//! calls [`Object::typed`] would get a copy of its own. The compiler takes an
//! instance from a crate below when there is one, so naming the shared kinds
//! here, at the bottom, makes one copy for all. Leaving one out costs bytes and
//! breaks nothing.

use std::sync::Arc;

use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, Service},
    discovery::v1::EndpointSlice,
};

use crate::{DecodeError, Object};

macro_rules! compiled_here {
    ($($function:ident: $kind:ty),* $(,)?) => {
        $(
            /// The typed form of an object of this kind.
            pub fn $function(object: &Object) -> Result<Arc<$kind>, DecodeError> {
                object.typed()
            }
        )*
    };
}

compiled_here! {
    pod: Pod,
    node: Node,
    service: Service,
    endpoint_slice: EndpointSlice,
    persistent_volume: PersistentVolume,
    persistent_volume_claim: PersistentVolumeClaim,
}
