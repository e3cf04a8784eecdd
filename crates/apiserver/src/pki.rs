//! The cluster's certificates: one CA, made at the first start, and what it signs.
//!
//! On disk are the CA (certificate and key) and the key of service account tokens, 0600. All other
//! certificates are made anew at each start, in memory, but for the administrator's, which lives in
//! the kubeconfig. See "PKI certificates and requirements".

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::files::{sync_dir, write_whole};

/// How long certificates are good. What is in memory only is made anew at each start.
const YEARS: i16 = 10;

/// Why the certificates cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("{action} {path:?}")]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not there, though the cluster is. With another one, nobody who trusts the CA would be let in,
    /// and no token be good.
    #[error("{path:?} is missing; restore it from a backup: without it nobody can speak to this cluster")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{path:?} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A certificate cannot be made.
    #[error("make a certificate")]
    Sign(#[from] rcgen::Error),
    /// A certificate cannot be used.
    #[error("use a certificate")]
    Tls(#[from] rustls::Error),
    /// Certificates are made with one organization at most, which is one group.
    #[error("a certificate for {name:?} cannot name more than one group")]
    ManyGroups {
        /// The user.
        name: String,
    },
    /// The CA cannot be used to check clients.
    #[error("check client certificates: {0}")]
    Verifier(String),
}

/// The cluster's CA and the key of its tokens.
pub struct Pki {
    ca_pem: String,
    ca_der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    token_key: Vec<u8>,
}

/// A certificate and its key.
pub struct Leaf {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The key, PEM.
    pub key_pem: String,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Pki {
    /// Reads the files in a directory, or makes them if this is a new cluster.
    pub fn open_or_make(dir: &Path) -> Result<Pki, PkiError> {
        let (ca_path, key_path, token_path) = paths(dir);
        if !ca_path.exists() {
            let make_dir = || fs::create_dir_all(dir).and_then(|()| sync_dir(dir.parent()));
            make_dir().map_err(|source| PkiError::File {
                action: "make",
                path: dir.into(),
                source,
            })?;
            let key = KeyPair::generate()?;
            let certificate = ca_params()?.self_signed(&key)?;
            write(&token_path, &KeyPair::generate()?.serialize_pem())?;
            write(&key_path, &key.serialize_pem())?;
            // Last: its presence says that the others are whole.
            write(&ca_path, &certificate.pem())?;
        }
        Self::open(dir)
    }

    /// Reads the files in a directory.
    pub fn open(dir: &Path) -> Result<Pki, PkiError> {
        let (ca_path, key_path, token_path) = paths(dir);
        let ca_pem = read(&ca_path)?;
        let damaged = |path: &Path, why: String| PkiError::Damaged {
            path: path.into(),
            why,
        };
        let ca_der = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .map_err(|error| damaged(&ca_path, error.to_string()))?;
        let key =
            KeyPair::from_pem(&read(&key_path)?).map_err(|error| damaged(&key_path, error.to_string()))?;
        let token_key = KeyPair::from_pem(&read(&token_path)?)
            .map_err(|error| damaged(&token_path, error.to_string()))?;
        let issuer = Issuer::new(ca_params()?, key);
        Ok(Pki {
            ca_pem,
            ca_der,
            issuer,
            token_key: token_key.serialize_der(),
        })
    }

    /// The CA's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// What signs in the CA's name.
    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// The key that signs service account tokens, PKCS#8 DER.
    pub fn token_key(&self) -> &[u8] {
        &self.token_key
    }

    /// A certificate for a client: the user's name, and a group at most.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<Leaf, PkiError> {
        self.sign(user, groups, Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A certificate for a server that is reached under these names and addresses.
    pub fn server(&self, name: &str, names: &[String], addresses: &[IpAddr]) -> Result<Leaf, PkiError> {
        let mut sans = addresses
            .iter()
            .map(|address| SanType::IpAddress(*address))
            .collect::<Vec<_>>();
        for name in names {
            sans.push(SanType::DnsName(name.as_str().try_into()?));
        }
        self.sign(name, &[], sans, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn sign(
        &self,
        name: &str,
        groups: &[&str],
        sans: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Leaf, PkiError> {
        let mut params = params(name)?;
        match groups {
            [] => {}
            // A further one would take its place.
            [group] => params.distinguished_name.push(DnType::OrganizationName, *group),
            _ => {
                return Err(PkiError::ManyGroups {
                    name: name.to_owned(),
                });
            }
        }
        params.subject_alt_names = sans;
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            certificate: certificate.der().clone(),
            key: PrivateKeyDer::try_from(key.serialize_der())
                .map_err(|why| PkiError::Verifier(why.to_owned()))?,
        })
    }

    fn roots(&self) -> Result<RootCertStore, PkiError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca_der.clone())?;
        Ok(roots)
    }

    /// TLS for a server: its certificate, and client certificates of this CA, which clients need
    /// not have.
    pub fn server_config(&self, leaf: &Leaf, protocols: &[&str]) -> Result<ServerConfig, PkiError> {
        let verifier = WebPkiClientVerifier::builder(Arc::new(self.roots()?))
            .allow_unauthenticated()
            .build()
            .map_err(|error| PkiError::Verifier(error.to_string()))?;
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![leaf.certificate.clone()], leaf.key.clone_key())?;
        config.alpn_protocols = protocols
            .iter()
            .map(|protocol| protocol.as_bytes().to_vec())
            .collect();
        Ok(config)
    }

    /// TLS for a client of this cluster's servers.
    pub fn client_config(&self, leaf: &Leaf) -> Result<ClientConfig, PkiError> {
        Ok(ClientConfig::builder()
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(vec![leaf.certificate.clone()], leaf.key.clone_key())?)
    }
}

fn params(name: &str) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let ymd = |date: Date| {
        date_time_ymd(
            date.year().into(),
            date.month().unsigned_abs(),
            date.day().unsigned_abs(),
        )
    };
    let (from, until) = validity(Timestamp::now());
    (params.not_before, params.not_after) = (ymd(from), ymd(until));
    Ok(params)
}

/// From when until when a certificate that is made now is good: from the day before yesterday, so that a
/// clock that is set back breaks nothing.
fn validity(now: Timestamp) -> (Date, Date) {
    let from = now.saturating_sub(48.hours()).unwrap_or(now);
    let from = from.to_zoned(TimeZone::UTC).date();
    (from, from.saturating_add(YEARS.years()))
}

fn ca_params() -> Result<CertificateParams, PkiError> {
    let mut params = params("stead")?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    Ok(params)
}

/// The CA, its key, and the key of tokens.
fn paths(dir: &Path) -> (PathBuf, PathBuf, PathBuf) {
    (dir.join("ca.crt"), dir.join("ca.key"), dir.join("sa.key"))
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => PkiError::Missing { path: path.into() },
        _ => PkiError::File {
            action: "read",
            path: path.into(),
            source,
        },
    })
}

fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    write_whole(path, text.as_bytes()).map_err(|source| PkiError::File {
        action: "write",
        path: path.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::authn::of_certificate;

    #[test]
    fn the_ca_is_made_once_and_its_keys_are_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = Pki::open_or_make(dir.path()).expect("certificates");
        let again = Pki::open_or_make(dir.path()).expect("certificates");
        assert_eq!(first.ca_pem(), again.ca_pem());
        assert_eq!(first.token_key(), again.token_key());
        for file in ["ca.key", "sa.key"] {
            let mode = fs::metadata(dir.path().join(file))
                .expect("the key")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn a_clients_certificate_names_user_and_group() {
        let dir = tempfile::tempdir().expect("a directory");
        let pki = Pki::open_or_make(dir.path()).expect("certificates");
        let leaf = pki
            .client("kubernetes-admin", &["system:masters"])
            .expect("a certificate");
        let identity = of_certificate(&leaf.certificate).expect("an identity");
        assert_eq!(identity.name, "kubernetes-admin");
        assert!(identity.is_in("system:masters"));
        let two = pki.client("kubernetes-admin", &["system:masters", "x"]);
        assert!(matches!(two, Err(PkiError::ManyGroups { .. })));
    }

    #[test]
    fn a_certificate_outlives_a_clock_that_is_set() {
        for now in [
            "2026-01-01T00:30:00Z",
            "2024-02-29T23:59:59Z",
            "2026-03-31T12:00:00Z",
        ] {
            let now: Timestamp = now.parse().expect("a time");
            let (from, until) = validity(now);
            for jump in [-24, -1, 1, 24] {
                let then = now
                    .checked_add(jump.hours())
                    .expect("a time")
                    .to_zoned(TimeZone::UTC);
                assert!(
                    from < then.date() && then.date() < until,
                    "{now}, {jump} hours later"
                );
            }
        }
    }

    #[test]
    fn a_file_that_is_missing_is_named_and_none_is_made() {
        for file in ["ca.crt", "ca.key", "sa.key"] {
            let dir = tempfile::tempdir().expect("a directory");
            Pki::open_or_make(dir.path()).expect("certificates");
            let path = dir.path().join(file);
            fs::remove_file(&path).expect("it was there");
            let error = Pki::open(dir.path()).err().expect("it is refused").to_string();
            assert!(error.contains(file) && error.contains("backup"), "{error}");
            assert!(!path.exists(), "{file} was made");
        }
    }

    #[test]
    fn a_first_start_that_was_interrupted_is_taken_up() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("sa.key"), "half").expect("a write");
        Pki::open_or_make(dir.path()).expect("certificates");
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        Pki::open_or_make(dir.path()).expect("certificates");
        fs::write(dir.path().join("ca.key"), "rubbish").expect("a write");
        let error = Pki::open_or_make(dir.path()).err().expect("it is refused");
        assert!(error.to_string().contains("ca.key"), "{error}");
    }
}
