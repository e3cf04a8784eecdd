//! The cluster's own signers: requests for certificates that are approved get one of this cluster's CA.
//! The server sees to it itself, so that the CA's key stays in one place. See "Kubernetes signers".
//!
//! `kubernetes.io/kube-apiserver-client`, `…-kubelet` and `kubernetes.io/kubelet-serving` sign;
//! requests to other signers are left to those.

use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, date_time_ymd};
use rustls_pki_types::CertificateSigningRequestDer;
use serde::Deserialize as _;
use stead_api::kinds::signing_request::{Request, awaits_signature};

use crate::admission::signing::CLIENT_SIGNER;
use crate::pki::Pki;
use crate::server::ApiServer;
use crate::stored::key;

const GROUP: &str = "certificates.k8s.io";
const PLURAL: &str = "certificatesigningrequests";
const KUBELET_CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
/// A year, as of `--cluster-signing-duration`.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
const SHORTEST: Duration = Duration::from_secs(600);
/// A certificate is good from this long before it was made, so that a clock that is set back breaks nothing.
const BACKDATE: Duration = Duration::from_secs(48 * 3600);

impl ApiServer {
    /// Signs what is approved, until the server goes down.
    pub(crate) async fn sign_requests(&self, pki: &Pki) {
        let inner = &*self.inner;
        let Some(kind) = inner.registry.resource(GROUP, "v1", PLURAL) else {
            return;
        };
        let prefix = key::prefix(kind, "");
        loop {
            let revision = inner.store.revision();
            self.sign_all(&prefix, pki).await;
            let Ok(mut watcher) = inner.store.watch(&prefix, revision) else {
                continue;
            };
            tokio::select! {
                () = inner.shutdown.cancelled() => return,
                // What has changed is seen in the next look at all of them.
                _ = watcher.next() => {}
            }
        }
    }

    async fn sign_all(&self, prefix: &str, pki: &Pki) {
        let snapshot = self.inner.store.snapshot();
        let requests: Vec<CertificateSigningRequest> = snapshot
            .prefix(prefix)
            .filter_map(|(_, entry)| CertificateSigningRequest::deserialize(entry.value.value()).ok())
            .filter(awaits_signature)
            .collect();
        for mut request in requests {
            if !settle(&mut request, pki, Timestamp::now()) {
                continue;
            }
            let name = request.metadata.name.clone().unwrap_or_default();
            let Ok(object) = serde_json::to_value(&request) else {
                continue;
            };
            let path = format!("/apis/{GROUP}/v1/{PLURAL}/{name}/status");
            // One that has changed meanwhile brings the next look.
            match self.call(Method::PUT, &path, &object).await {
                Ok((status, _)) if status.is_success() || matches!(status.as_u16(), 404 | 409) => {}
                Ok((status, body)) => tracing::warn!(name, %status, body, "a request could not be signed"),
                Err(error) => tracing::warn!(name, error, "a request could not be signed"),
            }
        }
    }
}

/// Gives a request its certificate, or says in its conditions why it gets none. Says whether it is
/// one of this cluster's signers.
fn settle(object: &mut CertificateSigningRequest, pki: &Pki, now: Timestamp) -> bool {
    let spec = &object.spec;
    let usages = spec.usages.clone().unwrap_or_default();
    let signed = Request::parse(&spec.request.0)
        .map_err(|error| error.to_string())
        .and_then(|request| {
            if check(&spec.signer_name, &request, &usages)? {
                certificate(pki, &request, &usages, spec.expiration_seconds, now).map(Some)
            } else {
                Ok(None)
            }
        });
    let status = object.status.get_or_insert_default();
    match signed {
        Ok(None) => return false,
        Ok(Some(pem)) => status.certificate = Some(ByteString(pem.into_bytes())),
        Err(why) => status
            .conditions
            .get_or_insert_default()
            .push(CertificateSigningRequestCondition {
                type_: "Failed".to_owned(),
                status: "True".to_owned(),
                reason: Some("SignerValidationFailure".to_owned()),
                message: Some(why),
                ..CertificateSigningRequestCondition::default()
            }),
    }
    true
}

/// Whether a signer is one of this cluster's; an error where it does not sign such a request.
fn check(signer: &str, request: &Request, usages: &[String]) -> Result<bool, String> {
    match signer {
        CLIENT_SIGNER => check_client_usages(usages)?,
        KUBELET_CLIENT_SIGNER => {
            check_organization(request)?;
            for (has, what) in [
                (request.has_dns_names, "DNS"),
                (request.has_mail_addresses, "Email"),
                (request.has_addresses, "IP"),
                (request.has_uris, "URI"),
            ] {
                if has {
                    return Err(format!("{what} subjectAltNames are not allowed"));
                }
            }
            check_node_name(request)?;
            check_usages(usages, "client auth")?;
        }
        KUBELET_SERVING_SIGNER => {
            check_organization(request)?;
            if !request.has_dns_names && !request.has_addresses {
                return Err("DNS or IP subjectAltName is required".to_owned());
            }
            for (has, what) in [(request.has_mail_addresses, "Email"), (request.has_uris, "URI")] {
                if has {
                    return Err(format!("{what} subjectAltNames are not allowed"));
                }
            }
            check_usages(usages, "server auth")?;
            check_node_name(request)?;
        }
        _ => return Ok(false),
    }
    if request.organizations.len() > 1 {
        // What makes certificates here keeps one of them only.
        return Err("a certificate for more than one organization cannot be made by this cluster".to_owned());
    }
    Ok(true)
}

fn check_client_usages(usages: &[String]) -> Result<(), String> {
    let allowed = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !allowed.contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if usages.iter().any(|usage| usage == "client auth") {
        Ok(())
    } else {
        Err("missing required usage for client certificate: client auth".to_owned())
    }
}

fn check_organization(request: &Request) -> Result<(), String> {
    if request.organizations == ["system:nodes"] {
        Ok(())
    } else {
        Err("subject organization is not system:nodes".to_owned())
    }
}

fn check_node_name(request: &Request) -> Result<(), String> {
    if request.common_name.starts_with("system:node:") {
        Ok(())
    } else {
        Err("subject common name does not begin with system:node:".to_owned())
    }
}

fn check_usages(usages: &[String], auth: &str) -> Result<(), String> {
    let has = |wanted: &str| usages.iter().any(|usage| usage == wanted);
    let others = usages
        .iter()
        .any(|usage| usage != auth && usage != "digital signature" && usage != "key encipherment");
    if has(auth) && has("digital signature") && !others {
        return Ok(());
    }
    let mut required = ["digital signature", "key encipherment", auth];
    required.sort_unstable();
    Err(format!("usages did not match [{}]", required.join(" ")))
}

fn certificate(
    pki: &Pki,
    request: &Request,
    usages: &[String],
    asked_seconds: Option<i32>,
    now: Timestamp,
) -> Result<String, String> {
    let der = CertificateSigningRequestDer::from(request.der.as_slice());
    let mut made = CertificateSigningRequestParams::from_der(&der).map_err(|error| error.to_string())?;
    let now = Duration::from_secs(now.as_second().try_into().unwrap_or(0));
    let epoch = date_time_ymd(1970, 1, 1);
    let params = &mut made.params;
    params.not_before = epoch + now.saturating_sub(BACKDATE);
    params.not_after = epoch + (now + lifetime(asked_seconds));
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = usages.iter().filter_map(|usage| key_usage(usage)).collect();
    params.extended_key_usages = usages.iter().filter_map(|usage| extended_usage(usage)).collect();
    let signed = made.signed_by(pki.issuer()).map_err(|error| error.to_string())?;
    Ok(signed.pem())
}

/// How long a certificate is good: a year at most, ten minutes at least.
fn lifetime(asked_seconds: Option<i32>) -> Duration {
    let asked = asked_seconds.map(|seconds| Duration::from_secs(seconds.try_into().unwrap_or(0)));
    asked.map_or(LONGEST, |asked| asked.clamp(SHORTEST, LONGEST))
}

/// Of the usages that this cluster's signers let through.
fn key_usage(usage: &str) -> Option<KeyUsagePurpose> {
    match usage {
        "digital signature" => Some(KeyUsagePurpose::DigitalSignature),
        "key encipherment" => Some(KeyUsagePurpose::KeyEncipherment),
        _ => None,
    }
}

fn extended_usage(usage: &str) -> Option<ExtendedKeyUsagePurpose> {
    match usage {
        "client auth" => Some(ExtendedKeyUsagePurpose::ClientAuth),
        "server auth" => Some(ExtendedKeyUsagePurpose::ServerAuth),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use rcgen::{CertificateParams, DnType, KeyPair};
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject as _;
    use serde_json::json;

    use super::*;
    use crate::authn::of_certificate;

    fn settled(signer: &str, organizations: &[&str], usages: &[&str]) -> (bool, CertificateSigningRequest) {
        let dir = tempfile::tempdir().expect("a directory");
        let pki = Pki::open_or_make(dir.path()).expect("certificates");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "jane");
        for organization in organizations {
            params
                .distinguished_name
                .push(DnType::OrganizationName, *organization);
        }
        let key = KeyPair::generate().expect("a key");
        let request = params.serialize_request(&key).expect("a request");
        let pem = BASE64_STANDARD.encode(request.pem().expect("PEM"));
        let object = json!({"spec": {"request": pem, "signerName": signer, "usages": usages}});
        let mut object = serde_json::from_value(object).expect("a request");
        let ours = settle(&mut object, &pki, Timestamp::now());
        (ours, object)
    }

    #[test]
    fn a_client_gets_a_certificate_of_its_name_and_group() {
        let (ours, object) = settled(CLIENT_SIGNER, &["devs"], &["client auth", "digital signature"]);
        assert!(ours);
        let pem = object.status.and_then(|status| status.certificate);
        let pem = pem.expect("a certificate").0;
        let der = CertificateDer::from_pem_slice(&pem).expect("PEM");
        let identity = of_certificate(&der).expect("an identity");
        assert_eq!(identity.name, "jane");
        assert!(identity.is_in("devs"));
    }

    #[test]
    fn what_a_signer_does_not_sign_fails_and_tells_why() {
        for (signer, usages, expected) in [
            (
                CLIENT_SIGNER,
                &["server auth"][..],
                "invalid usage for client certificate: server auth",
            ),
            (
                KUBELET_CLIENT_SIGNER,
                &["client auth"],
                "subject organization is not system:nodes",
            ),
        ] {
            let (ours, object) = settled(signer, &["devs"], usages);
            assert!(ours);
            let conditions = object.status.and_then(|status| status.conditions);
            let message = conditions.unwrap_or_default().pop().and_then(|last| last.message);
            assert_eq!(message.as_deref(), Some(expected));
        }
        let (ours, object) = settled("example.com/s", &[], &["client auth"]);
        assert!(!ours);
        assert_eq!(object.status.unwrap_or_default().certificate, None);
    }

    #[test]
    fn certificates_live_ten_minutes_to_a_year() {
        for (asked, expected) in [
            (None, LONGEST),
            (Some(60), SHORTEST),
            (Some(3600), Duration::from_secs(3600)),
            (Some(i32::MAX), LONGEST),
        ] {
            assert_eq!(lifetime(asked), expected);
        }
    }
}
