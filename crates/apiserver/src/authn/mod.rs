//! Who makes a request: client certificates, tokens of service accounts and new nodes, or nobody ("Authenticating").

mod bootstrap_token;
mod impersonate;
mod token;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use stead_api::error::{ApiError, quote_all};
use stead_api::meta;
use x509_parser::prelude::{FromDer as _, X509Certificate};

pub use token::{Claims, Reference, TokenError, TokenKey};

use crate::identity::Identity;
use crate::server::Inner;

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

/// Why a token shows nobody.
#[derive(Debug)]
pub(crate) enum TokenRefused {
    /// It is none of this cluster's.
    Unknown,
    /// It is no longer good, or not for this.
    Because(String),
}

impl Inner {
    /// The identity that a request's headers show; anonymous where they show none.
    pub(crate) fn authenticate(&self, headers: &HeaderMap) -> Result<Identity, ApiError> {
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(token) = header.and_then(|header| header.strip_prefix("Bearer ")) else {
            return Ok(Identity::anonymous());
        };
        let audiences = [self.tokens.issuer().to_owned()];
        self.verify_token(token.trim(), &audiences, jiff::Timestamp::now())
            .map(|(identity, _)| identity)
            .map_err(|_| ApiError::new(401, "Unauthorized", "Unauthorized"))
    }

    /// Whom a token shows, and which of the audiences it is good for. Of a service account's, the
    /// signature is ours, the token is in its time, and the account, and the pod or secret it may be
    /// bound to, still are what they were.
    pub(crate) fn verify_token(
        &self,
        token: &str,
        audiences: &[String],
        now: jiff::Timestamp,
    ) -> Result<(Identity, Vec<String>), TokenRefused> {
        if let Some((id, secret)) = bootstrap_token::parse(token) {
            let shown = self.bootstrapper(id, secret, now).ok_or(TokenRefused::Unknown)?;
            return self.only_for_the_server(shown, audiences);
        }
        let claims = self.tokens.verify(token, now).map_err(|error| match error {
            TokenError::Expired => TokenRefused::Because("service account token has expired".to_owned()),
            _ => TokenRefused::Unknown,
        })?;
        let common: Vec<String> = audiences
            .iter()
            .filter(|audience| claims.audiences.contains(audience))
            .cloned()
            .collect();
        if common.is_empty() {
            return Err(TokenRefused::Because(format!(
                "token audiences {} is invalid for the target audiences {}",
                quote_all(&claims.audiences),
                quote_all(audiences)
            )));
        }
        let gone = |what: &str| TokenRefused::Because(format!("{what} has been deleted"));
        let account = &claims.service_account;
        if !self.is_current("serviceaccounts", &claims.namespace, account, false) {
            return Err(gone("service account"));
        }
        let mut identity = Identity::service_account(&claims.namespace, &account.name, &account.uid);
        if let Some(pod) = &claims.pod {
            if !self.is_current("pods", &claims.namespace, pod, true) {
                return Err(gone("pod"));
            }
            let extra = |key: &str, value: &str| {
                (
                    format!("authentication.kubernetes.io/pod-{key}"),
                    vec![value.to_owned()],
                )
            };
            identity
                .extra
                .extend([extra("name", &pod.name), extra("uid", &pod.uid)]);
        }
        if let Some(secret) = &claims.secret
            && !self.is_current("secrets", &claims.namespace, secret, false)
        {
            return Err(gone("secret"));
        }
        Ok((identity, common))
    }

    /// An identity that is shown by something without audiences, which is for the server itself.
    fn only_for_the_server(
        &self,
        identity: Identity,
        audiences: &[String],
    ) -> Result<(Identity, Vec<String>), TokenRefused> {
        let own = self.tokens.issuer();
        if audiences.iter().any(|audience| audience == own) {
            Ok((identity, vec![own.to_owned()]))
        } else {
            Err(TokenRefused::Unknown)
        }
    }

    /// Whether an object is still the one that a token names. A pod is until it has ended.
    fn is_current(&self, plural: &str, namespace: &str, wanted: &Reference, deleting: bool) -> bool {
        let found = self.find(("", plural), namespace, &wanted.name);
        found.is_some_and(|(_, stored)| {
            let object = stored.value();
            meta::uid(&object) == wanted.uid && (deleting || !meta::is_deleting(&object))
        })
    }
}
