//! A client without a socket: the components of this process call the API
//! server directly, with a fixed identity. Authorization, admission and
//! validation apply as to anybody else.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use skiff_client::{Client, ClientError, Transport};

use crate::{
    authn::UserInfo,
    body::{self, Body},
    server::ApiServer,
};

struct InProcess {
    server: ApiServer,
    user: Arc<UserInfo>,
}

#[async_trait]
impl Transport for InProcess {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, ClientError> {
        let request = request.map(body::full);
        Ok(self.server.handle_as(request, UserInfo::clone(&self.user)).await)
    }
}

impl ApiServer {
    /// A client that acts as `user`.
    pub fn client(&self, user: UserInfo, user_agent: &str) -> Client {
        Client::new(Arc::new(InProcess { server: self.clone(), user: Arc::new(user) }), user_agent)
    }
}
