//! Who makes a request: client certificates, service account tokens, or nobody ("Authenticating").

mod impersonate;
mod token;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use stead_api::error::ApiError;
use stead_api::meta;
use x509_parser::prelude::{FromDer as _, X509Certificate};

pub(crate) use impersonate::impersonate;
pub use token::{Claims, Reference, TokenError, TokenKey};

use crate::identity::Identity;
use crate::server::Inner;
use crate::stored::key;

/// The user that a client certificate names: its common name, with its organizations as groups.
/// None where it has no common name. Whether it is ours has been checked by TLS.
pub fn of_certificate(der: &[u8]) -> Option<Identity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let groups = subject
        .iter_organization()
        .filter_map(|organization| organization.as_str().ok());
    Some(Identity::new(name, groups))
}

impl Inner {
    /// The identity that a request's headers show; anonymous where they show none.
    pub(crate) fn authenticate(&self, headers: &HeaderMap) -> Result<Identity, ApiError> {
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(token) = header.and_then(|header| header.strip_prefix("Bearer ")) else {
            return Ok(Identity::anonymous());
        };
        self.verify_token(token.trim(), jiff::Timestamp::now())
            .ok_or_else(|| ApiError::new(401, "Unauthorized", "Unauthorized"))
    }

    /// The service account that a token is for: the signature is ours, the token is in its time,
    /// and the account, and the pod or secret it may be bound to, still are what they were.
    fn verify_token(&self, token: &str, now: jiff::Timestamp) -> Option<Identity> {
        let claims = self.tokens.verify(token, now).ok()?;
        let is_current = |plural: &str, name: &str, uid: &str| {
            let kind = self.registry.resource("", "v1", plural)?;
            let object = self
                .store
                .get(&key::object(kind, &claims.namespace, name))?
                .value
                .value();
            (meta::uid(&object) == uid && !meta::is_deleting(&object)).then_some(())
        };
        is_current(
            "serviceaccounts",
            &claims.service_account.name,
            &claims.service_account.uid,
        )?;
        if let Some(pod) = &claims.pod {
            let kind = self.registry.resource("", "v1", "pods")?;
            let object = self
                .store
                .get(&key::object(kind, &claims.namespace, &pod.name))?
                .value
                .value();
            if meta::uid(&object) != pod.uid {
                return None;
            }
        }
        if let Some(secret) = &claims.secret {
            is_current("secrets", &secret.name, &secret.uid)?;
        }
        Some(Identity::service_account(
            &claims.namespace,
            &claims.service_account.name,
            &claims.service_account.uid,
        ))
    }
}
