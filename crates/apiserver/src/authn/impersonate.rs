//! Acting as someone else ("User impersonation"; `kubectl --as`).

use http::HeaderMap;
use stead_api::error::ApiError;

use crate::authz;
use crate::identity::{AUTHENTICATED, Identity, UNAUTHENTICATED};

/// Who a request is to be made by: the identity itself, or the one that its headers name, if it may
/// act as that one.
pub(crate) fn impersonate(identity: Identity, headers: &HeaderMap) -> Result<Identity, ApiError> {
    let texts = |name: &str| -> Vec<&str> {
        let values = headers.get_all(name).iter();
        values
            .filter_map(|value| value.to_str().ok())
            .filter(|value| !value.is_empty())
            .collect()
    };
    let groups = texts("impersonate-group");
    let Some(&user) = texts("impersonate-user").first() else {
        let asked = ["impersonate-group", "impersonate-uid"]
            .into_iter()
            .find(|name| headers.contains_key(*name));
        return match asked {
            None => Ok(identity),
            Some(what) => Err(ApiError::internal(format!(
                "requested {what} without impersonating a user"
            ))),
        };
    };
    authz::impersonate(&identity, user)?;
    Ok(acted(
        user,
        texts("impersonate-uid").first().copied().unwrap_or_default(),
        &groups,
    ))
}

fn acted(user: &str, uid: &str, groups: &[&str]) -> Identity {
    let account = user
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'));
    if let (Some((namespace, name)), true) = (account, groups.is_empty()) {
        return Identity::service_account(namespace, name, uid);
    }
    let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
    let own = if user == "system:anonymous" {
        UNAUTHENTICATED
    } else {
        AUTHENTICATED
    };
    if !groups
        .iter()
        .any(|group| [AUTHENTICATED, UNAUTHENTICATED].contains(&group.as_str()))
    {
        groups.push(own.to_owned());
    }
    Identity {
        name: user.to_owned(),
        uid: uid.to_owned(),
        groups,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::identity::MASTERS;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn an_administrator_acts_as_others_with_their_rights_only() {
        let admin = || Identity::new("admin", [MASTERS]);
        let jane = impersonate(admin(), &headers(&[("impersonate-user", "jane")])).expect("jane");
        assert_eq!(
            (jane.name.as_str(), jane.groups),
            ("jane", vec![AUTHENTICATED.to_owned()])
        );
        let account = headers(&[("impersonate-user", "system:serviceaccount:a:b")]);
        let account = impersonate(admin(), &account).expect("a service account");
        assert!(account.is_in("system:serviceaccounts:a"));
        assert_eq!(impersonate(admin(), &HeaderMap::new()).expect("itself"), admin());
    }

    #[test]
    fn others_act_as_nobody() {
        let jane = || Identity::new("jane", [""; 0]);
        let error =
            impersonate(jane(), &headers(&[("impersonate-user", "admin")])).expect_err("it is refused");
        assert_eq!(error.code, 403);
        let error =
            impersonate(jane(), &headers(&[("impersonate-group", MASTERS)])).expect_err("it is refused");
        assert_eq!(error.code, 500);
    }
}
