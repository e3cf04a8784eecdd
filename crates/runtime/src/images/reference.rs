//! Names of images, read exactly as Docker reads them: `busybox:1.35` is `docker.io/library/busybox:1.35`.
//!
//! The grammar and the normalisation are those of `github.com/distribution/reference` v0.6, which containerd
//! and the kubelet use; the error texts are the kubelet's.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::digest::Digest;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME_BYTES: usize = 255;

/// A normalised reference: registry, repository, and a tag or a digest or both or neither.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name {name:?}: {reason}")]
pub struct ReferenceError {
    name: String,
    reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Reason {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    #[error("repository name must not be more than {MAX_NAME_BYTES} characters")]
    TooLong,
    #[error("unsupported digest algorithm")]
    Algorithm,
    #[error("invalid checksum digest length")]
    DigestLength,
    #[error("invalid checksum digest format")]
    DigestFormat,
}

impl Reference {
    /// The registry, as `docker.io` or `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository inside the registry, as `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Registry and repository.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest, if there is one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What is looked up: a digest makes a tag beside it meaningless, and neither means `latest`.
    #[must_use]
    pub fn resolved(&self) -> Self {
        let tag = match (&self.digest, &self.tag) {
            (Some(_), _) => None,
            (None, Some(tag)) => Some(tag.clone()),
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Self { tag, ..self.clone() }
    }

    /// The same repository, by the digest of a manifest in it.
    #[must_use]
    pub(crate) fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(name: &str) -> Result<Self, ReferenceError> {
        parse(name).map_err(|reason| ReferenceError {
            name: name.to_owned(),
            reason,
        })
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(name: String) -> Result<Self, ReferenceError> {
        name.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

fn parse(name: &str) -> Result<Reference, Reason> {
    if name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Reason::Identifier(name.to_owned()));
    }
    let (domain, rest) = split_domain(name);
    let repository = rest.split(':').next().unwrap_or_default();
    if repository.to_lowercase() != repository {
        return Err(Reason::Uppercase(repository.to_owned()));
    }
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (rest.as_str(), None),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    let well_formed = is_domain(&domain)
        && path.split('/').all(is_path_component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest);
    if !well_formed {
        return Err(Reason::Format);
    }
    if path.len() > MAX_NAME_BYTES {
        return Err(Reason::TooLong);
    }
    let digest = digest.map(parse_digest).transpose()?;
    Ok(Reference {
        domain,
        path: path.to_owned(),
        tag: tag.map(str::to_owned),
        digest,
    })
}

/// Is the first component a registry, or the beginning of a path on Docker Hub?
fn split_domain(name: &str) -> (String, String) {
    let Some((first, rest)) = name.split_once('/') else {
        return (DEFAULT_DOMAIN.to_owned(), format!("library/{name}"));
    };
    let (domain, rest) = if first == LEGACY_DEFAULT_DOMAIN {
        (DEFAULT_DOMAIN, rest)
    } else if first == "localhost" || first.contains(['.', ':']) || first.to_lowercase() != first {
        (first, rest)
    } else {
        (DEFAULT_DOMAIN, name)
    };
    let official = domain == DEFAULT_DOMAIN && !rest.contains('/');
    (
        domain.to_owned(),
        if official {
            format!("library/{rest}")
        } else {
            rest.to_owned()
        },
    )
}

/// A host name, an IPv4 address or an IPv6 address in brackets, and perhaps a port.
fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, after)) => {
            let is_address =
                !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
            match after.strip_prefix(':') {
                _ if !is_address => return false,
                None if after.is_empty() => return true,
                None => return false,
                Some(port) => return is_port(port),
            }
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    host.split('.').all(is_domain_component) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

fn is_domain_component(part: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    !part.is_empty() && part.bytes().all(inside) && !part.starts_with('-') && !part.ends_with('-')
}

/// Lower-case words, with one `.`, one or two `_`, or any number of `-` between them.
fn is_path_component(part: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends_are_words =
        bytes.first().copied().is_some_and(is_word) && bytes.last().copied().is_some_and(is_word);
    let mut separators = bytes
        .split(|b| is_word(*b))
        .filter(|separator| !separator.is_empty());
    ends_are_words && separators.all(|s| matches!(s, b"." | b"_" | b"__") || s.iter().all(|b| *b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let rest = |b: u8| is_word(b) || matches!(b, b'.' | b'-');
    tag.len() <= 128 && tag.bytes().next().is_some_and(is_word) && tag.bytes().all(rest)
}

/// An algorithm and at least 32 hexadecimal digits.
fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else {
        return false;
    };
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(is_part)
        && hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

fn parse_digest(digest: &str) -> Result<Digest, Reason> {
    let Some(hex) = digest.strip_prefix("sha256:") else {
        return Err(Reason::Algorithm);
    };
    if hex.len() != 64 {
        return Err(Reason::DigestLength);
    }
    digest.parse().map_err(|_| Reason::DigestFormat)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_are_completed_as_docker_does() {
        let long = format!("a/{}", "b".repeat(240));
        let cases = [
            (
                "busybox",
                "docker.io/library/busybox",
                "docker.io/library/busybox:latest",
            ),
            (
                "busybox:1.35",
                "docker.io/library/busybox:1.35",
                "docker.io/library/busybox:1.35",
            ),
            (
                "bitnami/nginx",
                "docker.io/bitnami/nginx",
                "docker.io/bitnami/nginx:latest",
            ),
            (
                "docker.io/busybox",
                "docker.io/library/busybox",
                "docker.io/library/busybox:latest",
            ),
            ("index.docker.io/a/b", "docker.io/a/b", "docker.io/a/b:latest"),
            ("localhost/x", "localhost/x", "localhost/x:latest"),
            ("localhost:5000/x", "localhost:5000/x", "localhost:5000/x:latest"),
            ("x:5000", "docker.io/library/x:5000", "docker.io/library/x:5000"),
            ("127.0.0.1/x:y", "127.0.0.1/x:y", "127.0.0.1/x:y"),
            ("a:1/b", "a:1/b", "a:1/b:latest"),
            ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x:latest"),
            ("Registry/x", "Registry/x", "Registry/x:latest"),
            (
                "registry.k8s.io/a/b__c/d-e.f:V1_2-3",
                "registry.k8s.io/a/b__c/d-e.f:V1_2-3",
                "",
            ),
            (
                "a---b",
                "docker.io/library/a---b",
                "docker.io/library/a---b:latest",
            ),
            (&long, &format!("docker.io/{long}"), ""),
        ];
        for (name, canonical, resolved) in cases {
            let reference: Reference = name.parse().unwrap();
            assert_eq!(reference.to_string(), canonical, "{name}");
            let resolved = if resolved.is_empty() {
                canonical.to_owned() + ":latest"
            } else {
                resolved.to_owned()
            };
            let tagged = reference.tag().is_some();
            let expected = if tagged { canonical } else { &resolved };
            assert_eq!(reference.resolved().to_string(), expected, "{name}");
        }
    }

    #[test]
    fn a_digest_makes_the_tag_meaningless() {
        let reference: Reference = format!("busybox:1.35@{DIGEST}").parse().unwrap();
        assert_eq!(
            reference.to_string(),
            format!("docker.io/library/busybox:1.35@{DIGEST}")
        );
        assert_eq!(
            reference.resolved().to_string(),
            format!("docker.io/library/busybox@{DIGEST}")
        );
    }

    #[test]
    fn what_is_no_reference_is_refused_in_the_kubelets_words() {
        let long = format!("localhost/{}", "x".repeat(256));
        let upper = "invalid reference format: repository name (library/Busybox) must be lowercase";
        let cases = [
            ("", "invalid reference format"),
            (":x", "invalid reference format"),
            ("a:", "invalid reference format"),
            ("a/", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a..b", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("a@sha256:short", "invalid reference format"),
            ("a@", "invalid reference format"),
            ("-x.y/a", "invalid reference format"),
            ("[::1/x", "invalid reference format"),
            ("https://example.com/a", "invalid reference format"),
            ("Busybox", upper),
            (
                &DIGEST[7..],
                &format!(
                    "invalid repository name ({}), cannot specify 64-byte hexadecimal strings",
                    &DIGEST[7..]
                ),
            ),
            (&long, "repository name must not be more than 255 characters"),
            (
                &format!("a@sha512:{}", &DIGEST[7..]),
                "unsupported digest algorithm",
            ),
            (&format!("a@{DIGEST}0"), "invalid checksum digest length"),
            (
                &format!("a@{}", DIGEST.replace('f', "F")),
                "invalid checksum digest format",
            ),
        ];
        for (name, reason) in cases {
            let error = name.parse::<Reference>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("couldn't parse image name {name:?}: {reason}")
            );
        }
    }
}
