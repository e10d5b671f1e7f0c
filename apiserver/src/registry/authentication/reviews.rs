//! TokenReview and SelfSubjectReview.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::Status;

use crate::{
    authn::{TokenAuthenticator, UserInfo},
    registry::{
        endpoint::{Endpoint, EndpointRequest, EndpointResponse},
        value::{list, set, text},
    },
};

/// Reads a token for somebody else.
pub struct TokenReviewEndpoint {
    pub authenticator: Arc<dyn TokenAuthenticator>,
    /// Audiences of the API server, assumed when the review names none.
    pub audiences: Vec<String>,
}

#[async_trait]
impl Endpoint for TokenReviewEndpoint {
    async fn create(&self, request: EndpointRequest<'_>) -> Result<EndpointResponse, Status> {
        let mut body = request.body;
        let token = text(&body["spec"], "token").to_owned();
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let asked: Vec<String> =
            list(&body["spec"], "audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let wanted = if asked.is_empty() { &self.audiences } else { &asked };
        // A token can be meant for some of the audiences only: each is tried by itself.
        let mut found: Option<UserInfo> = None;
        let mut audiences = Vec::new();
        for audience in wanted {
            if let Some(user) = self.authenticator.authenticate(&token, std::slice::from_ref(audience)).await {
                audiences.push(audience.clone());
                found = Some(user);
            }
        }
        let status = match found {
            Some(user) => {
                json!({"authenticated": true, "user": crate::authn::authenticated(user), "audiences": audiences})
            }
            None => json!({"user": {}, "error": "invalid bearer token"}),
        };
        set(&mut body, "status", status);
        Ok(EndpointResponse { code: 201, body, warnings: Vec::new() })
    }
}

/// Tells the caller who it is.
pub struct SelfSubjectReviewEndpoint;

#[async_trait]
impl Endpoint for SelfSubjectReviewEndpoint {
    async fn create(&self, request: EndpointRequest<'_>) -> Result<EndpointResponse, Status> {
        let mut body = request.body;
        set(&mut body, "status", json!({"userInfo": request.context.user}));
        Ok(EndpointResponse { code: 201, body, warnings: Vec::new() })
    }
}
