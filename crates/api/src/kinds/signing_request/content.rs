//! What is within a request and a certificate: PKCS#10 and X.509, in PEM.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::{Pem, parse_x509_pem};
use x509_parser::prelude::FromDer as _;

use crate::error::quote;

const REQUEST: &str = "CERTIFICATE REQUEST";
const CERTIFICATE: &str = "CERTIFICATE";

/// What a request for a certificate asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// The request itself, DER.
    pub der: Vec<u8>,
    /// The subject's name: the user.
    pub common_name: String,
    /// The subject's organizations: the groups.
    pub organizations: Vec<String>,
    /// Whether it is to be good for DNS names.
    pub has_dns_names: bool,
    /// Whether it is to be good for addresses.
    pub has_addresses: bool,
    /// Whether it is to be good for mail addresses.
    pub has_mail_addresses: bool,
    /// Whether it is to be good for URIs.
    pub has_uris: bool,
}

/// Why a text holds no such thing. The words are those of Go's libraries, as far as they can be known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// No request in PEM.
    #[error("PEM block type must be {REQUEST}")]
    NoRequest,
    /// Something else within the PEM.
    #[error("asn1: structure error: {0}")]
    Malformed(String),
    /// Whoever made it does not have the key.
    #[error("{0}")]
    Signature(&'static str),
    /// Other PEM than certificates.
    #[error("only {CERTIFICATE} PEM blocks are allowed, found {}", quote(.0))]
    OtherBlock(String),
    /// No certificate in PEM.
    #[error("must contain at least one {CERTIFICATE} PEM block")]
    NoCertificate,
}

impl Request {
    /// Reads a request, and checks that it is signed with the key that it is for.
    pub fn parse(pem: &[u8]) -> Result<Request, ContentError> {
        let (_, block) = parse_x509_pem(pem).map_err(|_| ContentError::NoRequest)?;
        if block.label != REQUEST {
            return Err(ContentError::NoRequest);
        }
        let der = block.contents;
        let (rest, parsed) = X509CertificationRequest::from_der(&der)
            .map_err(|error| ContentError::Malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(ContentError::Malformed("trailing data".to_owned()));
        }
        parsed
            .verify_signature()
            .map_err(|_| ContentError::Signature(refusal(&parsed)))?;
        let subject = &parsed.certification_request_info.subject;
        let mut request = Request {
            common_name: subject
                .iter_common_name()
                .filter_map(|name| name.as_str().ok())
                .last()
                .unwrap_or_default()
                .to_owned(),
            organizations: subject
                .iter_organization()
                .filter_map(|name| name.as_str().ok().map(str::to_owned))
                .collect(),
            ..Request::default()
        };
        for extension in parsed.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                for name in &names.general_names {
                    request.note(name);
                }
            }
        }
        request.der = der;
        Ok(request)
    }

    fn note(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(_) => self.has_dns_names = true,
            GeneralName::IPAddress(_) => self.has_addresses = true,
            GeneralName::RFC822Name(_) => self.has_mail_addresses = true,
            GeneralName::URI(_) => self.has_uris = true,
            _ => {}
        }
    }
}

fn refusal(request: &X509CertificationRequest<'_>) -> &'static str {
    const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
    const RSA_ENCRYPTION: &str = "1.2.840.113549.1.1.1";
    let key = &request.certification_request_info.subject_pki.algorithm;
    match key.algorithm.to_id_string().as_str() {
        EC_PUBLIC_KEY => "x509: ECDSA verification failure",
        RSA_ENCRYPTION => "crypto/rsa: verification error",
        _ => "x509: cannot verify signature: algorithm unimplemented",
    }
}

/// Checks that a text is certificates in PEM, one at least.
pub(super) fn check_certificates(pem: &[u8]) -> Result<(), ContentError> {
    let mut any = false;
    for block in Pem::iter_from_buffer(pem) {
        let Ok(block) = block else { break };
        if block.label != CERTIFICATE {
            return Err(ContentError::OtherBlock(block.label));
        }
        let parsed = block.parse_x509();
        parsed.map_err(|error| ContentError::Malformed(error.to_string()))?;
        any = true;
    }
    if any {
        Ok(())
    } else {
        Err(ContentError::NoCertificate)
    }
}
