//! Bootstrap tokens: secrets of `kube-system` by which new nodes show who they are ("Authenticating
//! with Bootstrap Tokens").

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use stead_api::meta;

use crate::identity::Identity;
use crate::server::Inner;

const NAMESPACE: &str = "kube-system";
const PREFIX: &str = "bootstrap-token-";
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// The group of all who show a bootstrap token; further ones begin so.
const GROUP: &str = "system:bootstrappers";

/// The id and secret of a token of this form: `ID.SECRET`.
pub(super) fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str, length: usize| {
        text.len() == length
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (plain(id, 6) && plain(secret, 16)).then_some((id, secret))
}

impl Inner {
    /// Whom a bootstrap token shows.
    pub(super) fn bootstrapper(&self, id: &str, secret: &str, now: Timestamp) -> Option<Identity> {
        let (_, stored) = self.find(("", "secrets"), NAMESPACE, &format!("{PREFIX}{id}"))?;
        identity(&stored.value(), id, secret, now)
    }
}

/// Whom a token shows by its secret, if that is one and still good.
fn identity(stored: &Value, id: &str, secret: &str, now: Timestamp) -> Option<Identity> {
    let text = |field: &str| {
        let bytes = STANDARD.decode(stored["data"][field].as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    if stored["type"] != SECRET_TYPE || meta::is_deleting(stored) || text("token-id")? != id {
        return None;
    }
    // Of hashes, so that how long it takes says nothing of where they differ.
    if Sha256::digest(text("token-secret")?) != Sha256::digest(secret) {
        return None;
    }
    if text("usage-bootstrap-authentication").as_deref() != Some("true") {
        return None;
    }
    if let Some(expiration) = text("expiration") {
        // What cannot be read has expired.
        let until: Timestamp = expiration.parse().ok()?;
        if until <= now {
            return None;
        }
    }
    let more = text("auth-extra-groups").unwrap_or_default();
    let more: Vec<&str> = more
        .split(',')
        .map(str::trim)
        .filter(|group| !group.is_empty())
        .collect();
    if !more.iter().all(|group| group.starts_with(&format!("{GROUP}:"))) {
        return None;
    }
    let groups = std::iter::once(GROUP).chain(more);
    Some(Identity::new(format!("system:bootstrap:{id}"), groups))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_tokens_of_the_form_are_looked_up() {
        assert_eq!(
            parse("abcdef.0123456789abcdef"),
            Some(("abcdef", "0123456789abcdef"))
        );
        for token in [
            "abcdef.0123456789abcde",
            "ABCDEF.0123456789abcdef",
            "a/../b.0123456789abcdef",
            "",
        ] {
            assert_eq!(parse(token), None, "{token}");
        }
    }

    #[test]
    fn a_secret_shows_who_one_is_while_it_is_good() {
        let secret = |changes: &[(&str, &str)]| {
            let mut data = json!({
                "token-id": STANDARD.encode("abcdef"),
                "token-secret": STANDARD.encode("0123456789abcdef"),
                "usage-bootstrap-authentication": STANDARD.encode("true"),
                "auth-extra-groups": STANDARD.encode("system:bootstrappers:worker"),
                "expiration": STANDARD.encode("2030-01-01T00:00:00Z"),
            });
            for (field, value) in changes {
                data[*field] = STANDARD.encode(value).into();
            }
            json!({"type": SECRET_TYPE, "metadata": {"name": "bootstrap-token-abcdef"}, "data": data})
        };
        let now = "2029-01-01T00:00:00Z".parse().expect("a time");
        let shown = |stored: &Value| identity(stored, "abcdef", "0123456789abcdef", now);
        let found = shown(&secret(&[])).expect("it is good");
        assert_eq!(found.name, "system:bootstrap:abcdef");
        assert!(found.is_in("system:bootstrappers:worker") && found.is_in(GROUP));
        for change in [
            ("token-secret", "0123456789abcdeX"),
            ("token-id", "other1"),
            ("usage-bootstrap-authentication", "false"),
            ("expiration", "2028-01-01T00:00:00Z"),
            ("expiration", "soon"),
            ("auth-extra-groups", "system:masters"),
        ] {
            assert_eq!(shown(&secret(&[change])), None, "{change:?}");
        }
    }
}
