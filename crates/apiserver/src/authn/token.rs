//! Service account tokens: JSON Web Tokens signed with the cluster's own key (ES256).
//!
//! Claims follow "Bound service account tokens" (KEP-1205). Whether the account and pod named still
//! exist is for the caller to check.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A token is good for a little longer than it says.
const LEEWAY_SECONDS: i64 = 10;
/// Nobody but this server makes its tokens, so one that is not valid yet was made before the clock was set
/// back. As with certificates, that may be by this much.
const SET_BACK_SECONDS: i64 = 48 * 3600;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// For whom it is meant.
    pub audiences: Vec<String>,
    /// From when it is good.
    pub issued_at: Timestamp,
    /// Until when it is good.
    pub expires_at: Timestamp,
    /// The account's namespace.
    pub namespace: String,
    /// The account.
    pub service_account: Reference,
    /// The pod it is bound to, if any.
    pub pod: Option<Reference>,
    /// The secret it is bound to, if any.
    pub secret: Option<Reference>,
    /// The token's own id.
    pub id: String,
}

/// An object by name and uid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// Why a token or key is refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The key is no PKCS#8 P-256 key.
    #[error("read the key of service account tokens: {0}")]
    Key(String),
    /// Signing failed.
    #[error("sign a token")]
    Sign,
    /// Not a token of ours.
    #[error("the token is malformed or not signed by this cluster")]
    Foreign,
    /// Out of its time.
    #[error("the token has expired or is not valid yet")]
    Expired,
}

/// The key that signs and checks tokens.
pub struct TokenKey {
    key: EcdsaKeyPair,
    random: SystemRandom,
    issuer: String,
    id: String,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    kid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    typ: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Payload {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    iss: String,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Bound,
    nbf: i64,
    sub: String,
}

#[derive(Serialize, Deserialize)]
struct Bound {
    namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Reference>,
    serviceaccount: Reference,
}

impl TokenKey {
    /// Takes a PKCS#8 key in DER; `issuer` is what tokens call their maker.
    pub fn new(pkcs8: &[u8], issuer: &str) -> Result<TokenKey, TokenError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)
            .map_err(|error| TokenError::Key(error.to_string()))?;
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(key.public_key().as_ref()));
        Ok(TokenKey {
            key,
            random,
            issuer: issuer.to_owned(),
            id,
        })
    }

    /// Makes a token.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let header = Header {
            alg: "ES256".to_owned(),
            kid: self.id.clone(),
            typ: None,
        };
        let payload = Payload {
            aud: claims.audiences.clone(),
            exp: claims.expires_at.as_second(),
            iat: claims.issued_at.as_second(),
            nbf: claims.issued_at.as_second(),
            iss: self.issuer.clone(),
            jti: claims.id.clone(),
            sub: format!(
                "system:serviceaccount:{}:{}",
                claims.namespace, claims.service_account.name
            ),
            kubernetes: Bound {
                namespace: claims.namespace.clone(),
                pod: claims.pod.clone(),
                secret: claims.secret.clone(),
                serviceaccount: claims.service_account.clone(),
            },
        };
        let part = |json: serde_json::Result<Vec<u8>>| {
            json.map(|json| URL_SAFE_NO_PAD.encode(json))
                .map_err(|_| TokenError::Sign)
        };
        let signed = format!(
            "{}.{}",
            part(serde_json::to_vec(&header))?,
            part(serde_json::to_vec(&payload))?
        );
        let signature = self
            .key
            .sign(&self.random, signed.as_bytes())
            .map_err(|_| TokenError::Sign)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }

    /// Checks a token's signature, issuer and time, and gives what it says. Whom it is for is the
    /// caller's to check.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Foreign)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Foreign)?;
        let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Foreign);
        let header: Header = serde_json::from_slice(&bytes(header)?).map_err(|_| TokenError::Foreign)?;
        if header.alg != "ES256" {
            return Err(TokenError::Foreign);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &bytes(signature)?)
            .map_err(|_| TokenError::Foreign)?;
        let payload: Payload = serde_json::from_slice(&bytes(payload)?).map_err(|_| TokenError::Foreign)?;
        if payload.iss != self.issuer {
            return Err(TokenError::Foreign);
        }
        let now = now.as_second();
        if now >= payload.exp + LEEWAY_SECONDS || now + SET_BACK_SECONDS < payload.nbf {
            return Err(TokenError::Expired);
        }
        let time = |seconds| Timestamp::from_second(seconds).map_err(|_| TokenError::Foreign);
        Ok(Claims {
            audiences: payload.aud,
            issued_at: time(payload.iat)?,
            expires_at: time(payload.exp)?,
            namespace: payload.kubernetes.namespace,
            service_account: payload.kubernetes.serviceaccount,
            pod: payload.kubernetes.pod,
            secret: payload.kubernetes.secret,
            id: payload.jti,
        })
    }

    /// The key that others check tokens by, as a JSON Web Key Set (RFC 7517).
    pub fn key_set(&self) -> Value {
        // An uncompressed point: a byte that says so, then both coordinates.
        let point = self.key.public_key().as_ref();
        let (x, y) = point[1..].split_at(point.len() / 2);
        json!({"keys": [{
            "use": "sig",
            "kty": "EC",
            "kid": self.id,
            "crv": "P-256",
            "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x),
            "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }

    /// What tokens call their maker, and the audience that the API server answers to.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> TokenKey {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        TokenKey::new(pkcs8.expect("a key").as_ref(), "https://issuer").expect("a key")
    }

    fn claims(audience: &str) -> Claims {
        Claims {
            audiences: vec![audience.to_owned()],
            issued_at: Timestamp::from_second(1000).expect("a time"),
            expires_at: Timestamp::from_second(2000).expect("a time"),
            namespace: "default".to_owned(),
            service_account: Reference {
                name: "default".to_owned(),
                uid: "u1".to_owned(),
            },
            pod: Some(Reference {
                name: "web-0".to_owned(),
                uid: "u2".to_owned(),
            }),
            secret: None,
            id: "id".to_owned(),
        }
    }

    #[test]
    fn a_token_says_what_was_signed() {
        let key = key();
        let token = key.sign(&claims("https://issuer")).expect("a token");
        let at = |second| key.verify(&token, Timestamp::from_second(second).expect("a time"));
        assert_eq!(at(1500).expect("in its time"), claims("https://issuer"));
        assert!(matches!(at(3000), Err(TokenError::Expired)));
        assert!(matches!(at(1000 - 3 * 24 * 3600), Err(TokenError::Expired)));
    }

    #[test]
    fn others_check_a_token_by_the_key_set() {
        let key = key();
        let set = key.key_set();
        let part = |name: &str| {
            let text = set["keys"][0][name].as_str().expect("it is text");
            URL_SAFE_NO_PAD.decode(text).expect("it is base64")
        };
        let point = [vec![4], part("x"), part("y")].concat();
        let token = key.sign(&claims("a")).expect("a token");
        let (signed, signature) = token.rsplit_once('.').expect("three parts");
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point)
            .verify(
                signed.as_bytes(),
                &URL_SAFE_NO_PAD.decode(signature).expect("base64"),
            )
            .expect("it is signed by that key");
    }

    #[test]
    fn a_token_outlives_a_clock_that_is_set_back() {
        let key = key();
        let token = key.sign(&claims("https://issuer")).expect("a token");
        for back in [1, 3600, 24 * 3600] {
            let now = Timestamp::from_second(1000 - back).expect("a time");
            key.verify(&token, now).expect("it was good before");
        }
    }

    #[test]
    fn tokens_of_others_are_refused() {
        let now = Timestamp::from_second(1500).expect("a time");
        let (ours, theirs) = (key(), key());
        let token = theirs.sign(&claims("https://issuer")).expect("a token");
        assert!(matches!(ours.verify(&token, now), Err(TokenError::Foreign)));
        for token in ["", "a.b.c", "..", "x"] {
            assert!(
                matches!(ours.verify(token, now), Err(TokenError::Foreign)),
                "{token}"
            );
        }
    }
}
