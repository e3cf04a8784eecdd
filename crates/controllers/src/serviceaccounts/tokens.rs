//! Secrets of type `kubernetes.io/service-account-token`: they are filled with a token of their
//! account, and go with it.
//!
//! The token is asked for by a TokenRequest that is bound to the secret, for as long as a request
//! may ask (2^32 seconds), so that deleting the secret ends it.

use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use stead_informer::{Key, Reconciled};

use super::ServiceAccountsController;
use super::plan::{ACCOUNT_NAME, TokenStep, token_step};
use crate::refused::{Refused, is_conflict, is_not_found};

/// The longest time that a token may be asked for.
const SECONDS: i64 = 1 << 32;

impl ServiceAccountsController {
    /// Puts a token secret right.
    pub(super) async fn fill_secret(&self, key: &Key) -> Result<Reconciled, Refused> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        let found = secrets
            .get_opt(&key.name)
            .await
            .map_err(Refused::to(format!("get secret {key}")))?;
        let Some(secret) = found else {
            return Ok(Reconciled::Done);
        };
        let annotations = secret.metadata.annotations.as_ref();
        let Some(name) = annotations.and_then(|annotations| annotations.get(ACCOUNT_NAME)) else {
            return Ok(Reconciled::Done);
        };
        // Whether an account is gone is nothing that a cache may decide.
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.namespace);
        let account = accounts
            .get_opt(name)
            .await
            .map_err(Refused::to(format!("get service account {name}")))?;
        let written = match token_step(&secret, account.as_ref(), &self.root_ca) {
            TokenStep::None => return Ok(Reconciled::Done),
            TokenStep::Delete => {
                let preconditions = Preconditions {
                    uid: secret.metadata.uid.clone(),
                    resource_version: None,
                };
                let params = DeleteParams {
                    preconditions: Some(preconditions),
                    ..DeleteParams::default()
                };
                secrets.delete(&key.name, &params).await.map(|_| ())
            }
            TokenStep::Fill {
                secret: mut filled,
                needs_token,
            } => {
                if needs_token {
                    let token = self.request_token(&accounts, name, &secret).await?;
                    let data = filled.data.get_or_insert_default();
                    data.insert("token".to_owned(), ByteString(token.into_bytes()));
                }
                secrets
                    .replace(&key.name, &PostParams::default(), &filled)
                    .await
                    .map(|_| ())
            }
        };
        match written {
            Ok(()) => Ok(Reconciled::Done),
            // Changed or gone meanwhile, which brings the next look.
            Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(Reconciled::Done),
            Err(error) => Err(Refused::to(format!("write secret {key}"))(error)),
        }
    }

    async fn request_token(
        &self,
        accounts: &Api<ServiceAccount>,
        account: &str,
        secret: &Secret,
    ) -> Result<String, Refused> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Secret".to_owned()),
                    name: secret.metadata.name.clone(),
                    uid: secret.metadata.uid.clone(),
                }),
                expiration_seconds: Some(SECONDS),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .map_err(Refused::to(format!(
                "request a token of service account {account}"
            )))?;
        Ok(answer.status.and_then(|status| status.token).unwrap_or_default())
    }
}
