//! Acting as someone else ("User impersonation"; `kubectl --as`).

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue};
use stead_api::error::{ApiError, quote};

use crate::authz::Asked;
use crate::identity::{AUTHENTICATED, Identity, UNAUTHENTICATED, account_of};
use crate::request::percent_decode;
use crate::server::Inner;

/// The group of what is impersonated beside users, groups and service accounts.
const GROUP: &str = "authentication.k8s.io";
const EXTRA: &str = "impersonate-extra-";

/// Whom a request's headers name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted<'h> {
    user: &'h str,
    uid: &'h str,
    groups: Vec<&'h str>,
    extra: BTreeMap<String, Vec<String>>,
}

impl Inner {
    /// Whom a request's headers name, if who sent it may act as that one; none if they name nobody.
    pub(crate) fn impersonate(
        &self,
        identity: &Identity,
        headers: &HeaderMap,
    ) -> Result<Option<Identity>, ApiError> {
        let Some(wanted) = Wanted::read(headers)? else {
            return Ok(None);
        };
        for asked in wanted.asks() {
            self.check(identity, &asked)?;
        }
        Ok(Some(wanted.identity()))
    }
}

impl<'h> Wanted<'h> {
    fn read(headers: &'h HeaderMap) -> Result<Option<Wanted<'h>>, ApiError> {
        // One that cannot be read must not be passed over: the request would be made by another.
        let unreadable =
            |name: &str| ApiError::bad_request(format!("the header {} cannot be read", quote(name)));
        let texts = |name: &str| -> Result<Vec<&'h str>, ApiError> {
            let texts = headers.get_all(name).iter().map(HeaderValue::to_str);
            let texts: Vec<&str> = texts.collect::<Result<_, _>>().map_err(|_| unreadable(name))?;
            Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
        };
        let mut extra = BTreeMap::new();
        for name in headers.keys().map(http::HeaderName::as_str) {
            if let Some(key) = name.strip_prefix(EXTRA) {
                let key = percent_decode(key).ok_or_else(|| unreadable(name))?;
                extra.insert(key, texts(name)?.into_iter().map(str::to_owned).collect());
            }
        }
        let first = |name: &str| texts(name).map(|texts| texts.first().copied().unwrap_or_default());
        let wanted = Wanted {
            user: first("impersonate-user")?,
            uid: first("impersonate-uid")?,
            groups: texts("impersonate-group")?,
            extra,
        };
        if !wanted.user.is_empty() {
            return Ok(Some(wanted));
        }
        let asked = ["impersonate-group", "impersonate-uid"]
            .into_iter()
            .find(|name| headers.contains_key(*name))
            .or_else(|| (!wanted.extra.is_empty()).then_some("impersonate-extra"));
        match asked {
            None => Ok(None),
            Some(what) => Err(ApiError::internal(format!(
                "requested {what} without impersonating a user"
            ))),
        }
    }

    /// What one must be allowed for it.
    fn asks(&self) -> Vec<Asked<'_>> {
        let ask = |group, resource, subresource, namespace, name| Asked::Resource {
            verb: "impersonate",
            group,
            resource,
            subresource,
            namespace,
            name,
        };
        let mut asks = vec![match account_of(self.user) {
            Some((namespace, name)) => ask("", "serviceaccounts", "", namespace, name),
            None => ask("", "users", "", "", self.user),
        }];
        asks.extend(self.groups.iter().map(|group| ask("", "groups", "", "", *group)));
        for (key, values) in &self.extra {
            asks.extend(
                values
                    .iter()
                    .map(|value| ask(GROUP, "userextras", key, "", value)),
            );
        }
        if !self.uid.is_empty() {
            asks.push(ask(GROUP, "uids", "", "", self.uid));
        }
        asks
    }

    fn identity(self) -> Identity {
        if let (Some((namespace, name)), true) = (account_of(self.user), self.groups.is_empty()) {
            return Identity {
                extra: self.extra,
                ..Identity::service_account(namespace, name, self.uid)
            };
        }
        let mut groups: Vec<String> = self.groups.iter().map(|group| (*group).to_owned()).collect();
        let own = if self.user == "system:anonymous" {
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
            name: self.user.to_owned(),
            uid: self.uid.to_owned(),
            groups,
            extra: self.extra,
            is_part: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn who_is_meant_follows_from_the_headers() {
        let named = |pairs: &[(&'static str, &'static str)]| {
            let headers = headers(pairs);
            let wanted = Wanted::read(&headers).expect("it can be read");
            wanted.map(Wanted::identity)
        };
        let jane = named(&[
            ("impersonate-user", "jane"),
            ("impersonate-extra-acme.com%2Fproject", "p"),
        ])
        .expect("jane");
        assert_eq!(
            (jane.name.as_str(), &jane.groups[..]),
            ("jane", &[AUTHENTICATED.to_owned()][..])
        );
        assert_eq!(jane.extra["acme.com/project"], ["p"]);
        let account = named(&[("impersonate-user", "system:serviceaccount:a:b")]).expect("a service account");
        assert!(account.is_in("system:serviceaccounts:a"));
        assert_eq!(named(&[]), None);
    }

    #[test]
    fn each_part_of_it_must_be_allowed() {
        let headers = headers(&[
            ("impersonate-user", "jane"),
            ("impersonate-uid", "u"),
            ("impersonate-group", "g"),
            ("impersonate-extra-reason", "r"),
        ]);
        let wanted = Wanted::read(&headers).expect("it can be read").expect("jane");
        let asked: Vec<String> = wanted
            .asks()
            .iter()
            .map(|asked| match asked {
                Asked::Resource {
                    group,
                    resource,
                    subresource,
                    name,
                    ..
                } => {
                    format!("{group} {resource} {subresource} {name}")
                }
                Asked::Path { path, .. } => (*path).to_owned(),
            })
            .collect();
        assert_eq!(
            asked,
            [
                " users  jane",
                " groups  g",
                "authentication.k8s.io userextras reason r",
                "authentication.k8s.io uids  u",
            ]
        );
    }

    #[test]
    fn nobody_is_a_group_alone() {
        let error =
            Wanted::read(&headers(&[("impersonate-group", "system:masters")])).expect_err("it is refused");
        assert_eq!(error.code, 500);
    }

    #[test]
    fn a_header_that_cannot_be_read_is_refused() {
        for name in ["impersonate-user", "impersonate-group", "impersonate-extra-x"] {
            let mut headers = headers(&[("impersonate-user", "jane")]);
            let value = HeaderValue::from_bytes(b"j\xc3\xa9r\xc3\xb4me").expect("a header may have it");
            headers.insert(name, value);
            let error = Wanted::read(&headers).expect_err("it is refused");
            assert_eq!(error.code, 400, "{name}");
        }
        let error = Wanted::read(&headers(&[
            ("impersonate-user", "jane"),
            ("impersonate-extra-%zz", "x"),
        ]))
        .expect_err("it is refused");
        assert_eq!(error.code, 400);
    }
}
