//! Who makes a request.

use std::collections::BTreeMap;

/// The group whose members may do everything.
pub const MASTERS: &str = "system:masters";
/// The server itself.
pub(crate) const SERVER: &str = "system:apiserver";
/// The group of everyone who has shown who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everyone who has not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";

/// How the names of service accounts begin.
const ACCOUNT: &str = "system:serviceaccount:";

/// The namespace and name of the service account that a user's name stands for.
pub(crate) fn account_of(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix(ACCOUNT)?.split_once(':')
}

/// A user as authentication found it (`user.Info`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// e.g. `kubernetes-admin` or `system:serviceaccount:default:default`.
    pub name: String,
    /// Set for service accounts.
    pub uid: String,
    /// Groups, `system:authenticated` among them.
    pub groups: Vec<String>,
    /// What else is known of it.
    pub extra: BTreeMap<String, Vec<String>>,
    /// A part of this process, which no credentials show.
    pub(crate) is_part: bool,
}

impl Identity {
    /// An authenticated user of some groups.
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Identity {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        groups.push(AUTHENTICATED.to_owned());
        Identity {
            name: name.into(),
            uid: String::new(),
            groups,
            extra: BTreeMap::new(),
            is_part: false,
        }
    }

    /// A part of this process beside the server: a controller, the scheduler, the kubelet. It may do
    /// everything.
    pub fn part(name: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Identity {
        Identity {
            is_part: true,
            ..Identity::new(name, groups)
        }
    }

    /// Someone without credentials.
    pub fn anonymous() -> Identity {
        Identity {
            name: "system:anonymous".to_owned(),
            uid: String::new(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            extra: BTreeMap::new(),
            is_part: false,
        }
    }

    /// A service account.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Identity {
        let groups = [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
        Identity {
            uid: uid.to_owned(),
            ..Identity::new(format!("{ACCOUNT}{namespace}:{name}"), groups)
        }
    }

    /// Whether it is a part of this process beside the server.
    pub(crate) fn is_component(&self) -> bool {
        self.is_part
    }

    /// The name of the node that it is, if it is one that shows its credentials as any client.
    pub(crate) fn node(&self) -> Option<&str> {
        let name = self.name.strip_prefix("system:node:")?;
        (!self.is_part && self.is_in("system:nodes")).then_some(name)
    }

    /// Whether it is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}
