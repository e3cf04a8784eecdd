//! Projected volumes: files from several sources in one directory.

use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, KeyToPath, PodCertificateProjection, ProjectedVolumeSource,
    ServiceAccountTokenProjection, VolumeProjection,
};

use super::mounts::validate_local_path;
use super::options::Options;
use super::volumes::{validate_file, validate_item, validate_mode, validate_user};
use crate::error::{Errors, Path, quote};
use crate::go;
use crate::kinds::text;
use crate::names;
use crate::selector::validate_label_selector;

const CONFLICT: &str = "conflicting duplicate paths";
const KEY_TYPES: [&str; 6] = [
    "RSA3072",
    "RSA4096",
    "ECDSAP256",
    "ECDSAP384",
    "ECDSAP521",
    "ED25519",
];
/// The shortest and longest lives of a token, in seconds.
const TOKEN_MIN_SECONDS: i64 = 600;
const TOKEN_MAX_SECONDS: i64 = 1 << 32;
/// The shortest and longest lives of a certificate, in seconds; Kubernetes' own are shorter.
const CERTIFICATE_MIN_SECONDS: i32 = 3600;
const CERTIFICATE_MAX_SECONDS: i32 = 91 * 24 * 3600;
const OWN_CERTIFICATE_MAX_SECONDS: i32 = 24 * 3600;

/// Checks a projected volume.
pub(super) fn validate(source: &ProjectedVolumeSource, options: &Options, path: &Path, errors: &mut Errors) {
    validate_mode("defaultMode", source.default_mode, path, errors);
    validate_user("defaultUser", source.default_user, path, errors);
    let mut files = Files {
        volume: path,
        seen: Vec::new(),
    };
    for (at, source) in source.sources.iter().flatten().enumerate() {
        validate_source(
            source,
            &mut files,
            options,
            &path.child("sources").index(at),
            errors,
        );
    }
}

/// The files of the volume so far.
struct Files<'f> {
    volume: &'f Path,
    seen: Vec<&'f str>,
}

impl<'f> Files<'f> {
    /// Adds a file; one that is there already is told of as `shown`.
    fn add(&mut self, path: &'f str, shown: &str, errors: &mut Errors) {
        if self.seen.contains(&path) {
            errors.invalid(self.volume, shown, CONFLICT);
        } else {
            self.seen.push(path);
        }
    }

    fn add_items(&mut self, items: Option<&'f [KeyToPath]>, name: &str, path: &Path, errors: &mut Errors) {
        errors.present(&path.child("name"), name);
        for (at, item) in items.unwrap_or_default().iter().enumerate() {
            validate_item(item, &path.child("items").index(at), errors);
            if !item.path.is_empty() {
                self.add(&item.path, name, errors);
            }
        }
    }
}

fn validate_source<'f>(
    source: &'f VolumeProjection,
    files: &mut Files<'f>,
    options: &Options,
    path: &Path,
    errors: &mut Errors,
) {
    let mut count = 0;
    if let Some(secret) = &source.secret {
        count += 1;
        files.add_items(
            secret.items.as_deref(),
            &secret.name,
            &path.child("secret"),
            errors,
        );
    }
    if let Some(config_map) = &source.config_map {
        count += 1;
        files.add_items(
            config_map.items.as_deref(),
            &config_map.name,
            &path.child("configMap"),
            errors,
        );
    }
    if let Some(downward) = &source.downward_api {
        count += 1;
        for file in downward.items.iter().flatten() {
            validate_file(file, &path.child("downwardAPI"), errors);
            if !file.path.is_empty() {
                files.add(&file.path, &file.path, errors);
            }
        }
    }
    if let Some(token) = &source.service_account_token {
        count += 1;
        validate_token(
            token,
            files.volume,
            options,
            &path.child("serviceAccountToken"),
            errors,
        );
    }
    if let Some(bundle) = &source.cluster_trust_bundle {
        count += 1;
        validate_bundle(bundle, &path.child("clusterTrustBundle"), errors);
        files.add(&bundle.path, &bundle.path, errors);
    }
    if let Some(certificate) = &source.pod_certificate {
        count += 1;
        validate_certificate(certificate, files, &path.child("podCertificate"), errors);
    }
    if count > 1 {
        errors.forbidden(path, "may not specify more than 1 volume type");
    }
}

fn validate_token(
    token: &ServiceAccountTokenProjection,
    volume: &Path,
    options: &Options,
    path: &Path,
    errors: &mut Errors,
) {
    let at = path.child("expirationSeconds");
    match token.expiration_seconds {
        None => errors.required(&at, ""),
        Some(seconds) if seconds < TOKEN_MIN_SECONDS => {
            errors.invalid(&at, &seconds, "may not specify a duration less than 10 minutes");
        }
        Some(seconds) if seconds > TOKEN_MAX_SECONDS => {
            errors.invalid(
                &at,
                &seconds,
                "may not specify a duration larger than 2^32 seconds",
            );
        }
        Some(_) => {}
    }
    // Kubernetes has the path of the volume here, not of the source.
    if token.path.is_empty() {
        errors.required(&volume.child("path"), "");
    } else if !options.token_path_anywhere {
        validate_local_path(&token.path, &volume.child("path"), errors);
    }
    validate_user("user", token.user, path, errors);
}

fn validate_bundle(bundle: &ClusterTrustBundleProjection, path: &Path, errors: &mut Errors) {
    match (&bundle.name, &bundle.signer_name) {
        (Some(_), Some(_)) => {
            let shown = go::syntax("core.ClusterTrustBundleProjection", bundle);
            errors.invalid(path, &shown, "only one of name and signerName may be used");
        }
        (Some(name), None) => {
            if name.is_empty() {
                errors.required(&path.child("name"), "must be a valid object name");
            }
            // A bundle that belongs to a signer is named `DOMAIN:PATH:NAME`.
            let own_name = name
                .rsplit_once(':')
                .map_or(name.as_str(), |(_, own_name)| own_name);
            for why in names::dns_subdomain(own_name) {
                let why = format!("not a valid clustertrustbundlename: {why}");
                errors.invalid(&path.child("name"), name, &why);
            }
            if let Some(selector) = &bundle.label_selector {
                let shown = go::syntax("v1.LabelSelector", selector);
                let why = "labelSelector must be unset if name is specified";
                errors.invalid(&path.child("labelSelector"), &shown, why);
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                errors.required(&path.child("signerName"), "must be a valid signer name");
            }
            validate_signer(signer, &path.child("signerName"), errors);
            if let Some(selector) = &bundle.label_selector {
                validate_label_selector(selector, &path.child("labelSelector"), errors);
            }
        }
        (None, None) => errors.required(path, "either name or signerName must be specified"),
    }
    errors.present(&path.child("path"), &bundle.path);
    validate_user("user", bundle.user, path, errors);
    validate_local_path(&bundle.path, &path.child("path"), errors);
}

fn validate_certificate<'f>(
    certificate: &'f PodCertificateProjection,
    files: &mut Files<'f>,
    path: &Path,
    errors: &mut Errors,
) {
    let signer = certificate.signer_name.as_str();
    validate_signer(signer, &path.child("signerName"), errors);
    if let Some(annotations) = &certificate.user_annotations {
        let at = path.child("userAnnotations");
        for key in annotations.keys().filter(|key| !key.contains('/')) {
            let why = "a qualified name with a DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            errors.invalid(&at, &key.to_lowercase(), &format!("must be {why}"));
        }
        crate::meta::validate_annotations(Some(annotations), &at, errors);
    }
    validate_user("user", certificate.user, path, errors);
    errors.one_of(&path.child("keyType"), &certificate.key_type, &KEY_TYPES);
    if let Some(seconds) = certificate.max_expiration_seconds {
        let at = path.child("maxExpirationSeconds");
        let host = signer.split_once('/').map_or(signer, |(host, _)| host);
        let is_own = host == "kubernetes.io" || host.ends_with(".kubernetes.io");
        let most = if is_own {
            OWN_CERTIFICATE_MAX_SECONDS
        } else {
            CERTIFICATE_MAX_SECONDS
        };
        if seconds < CERTIFICATE_MIN_SECONDS {
            errors.invalid(&at, &seconds, "if provided, maxExpirationSeconds must be >= 3600");
        }
        if seconds > most {
            errors.invalid(
                &at,
                &seconds,
                &format!("if provided, maxExpirationSeconds must be <= {most}"),
            );
        }
    }
    let paths = [
        ("credentialBundlePath", &certificate.credential_bundle_path),
        ("keyPath", &certificate.key_path),
        ("certificateChainPath", &certificate.certificate_chain_path),
    ];
    for (field, target) in paths.iter().filter(|(_, target)| !text(target).is_empty()) {
        validate_local_path(text(target), &path.child(field), errors);
        files.add(text(target), text(target), errors);
    }
    if paths.iter().all(|(_, target)| text(target).is_empty()) {
        let why = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.required(path, why);
    }
}

/// Checks the name of a signer: a domain and a path.
fn validate_signer(signer: &str, path: &Path, errors: &mut Errors) {
    if signer.is_empty() {
        errors.required(path, "");
        return;
    }
    let (domain, own_path) = match signer.split_once('/') {
        Some((domain, own_path)) if !own_path.contains('/') => (domain, own_path),
        _ => {
            let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            errors.invalid(path, signer, why);
            return;
        }
    };
    if domain.len() > 253 {
        errors.too_long(path, 253);
    }
    validate_labels_of(domain, names::dns_label, path, errors);
    if !domain.contains('.') {
        errors.invalid(
            path,
            domain,
            "should be a domain with at least two segments separated by dots",
        );
    }
    validate_labels_of(own_path, names::dns_subdomain, path, errors);
    if signer.len() > 571 {
        errors.too_long(path, 571);
    }
}

/// Tells what is wrong with the first label that is wrong.
fn validate_labels_of(name: &str, rule: fn(&str) -> Vec<String>, path: &Path, errors: &mut Errors) {
    let mut labels = name.split('.').map(|label| (label, rule(label)));
    if let Some((label, objections)) = labels.find(|(_, objections)| !objections.is_empty()) {
        for why in objections {
            errors.invalid(path, name, &format!("validating label {}: {why}", quote(label)));
        }
    }
}
