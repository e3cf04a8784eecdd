//! Which kinds the API serves.

use std::sync::Arc;

use futures::future::try_join;
use kube::core::ApiResource;
use kube::core::discovery::v2::{APIGroupDiscovery, APIGroupDiscoveryList, APIResourceDiscovery};
use kube::{Api, Client};

use super::item::Item;

/// A kind, in the version of its group that the server prefers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
    verbs: Vec<String>,
}

impl Kind {
    pub(crate) fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    /// Events are written often, never own or are owned, and expire by themselves.
    pub(crate) fn is_event(&self) -> bool {
        self.resource.plural == "events" && matches!(self.resource.group.as_str(), "" | "events.k8s.io")
    }

    /// The kind's objects of a namespace; all of them where it has none.
    pub(crate) fn api(&self, client: &Client, namespace: &str) -> Api<Item> {
        if self.namespaced {
            Api::namespaced_with(client.clone(), namespace, &self.resource)
        } else {
            Api::all_with(client.clone(), &self.resource)
        }
    }
}

/// What the API serves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Kinds {
    pub(crate) all: Vec<Arc<Kind>>,
    /// Group versions of which the server could not find out what they hold.
    pub(crate) unknown: Vec<String>,
}

impl Kinds {
    /// The kind that a reference names; which version it names makes no difference.
    pub(crate) fn find(&self, api_version: &str, kind: &str) -> Option<&Arc<Kind>> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        self.all
            .iter()
            .find(|known| known.resource.group == group && known.resource.kind == kind)
    }
}

/// Asks the API what it serves (aggregated discovery, KEP-3352).
pub(super) async fn discover(client: &Client) -> Result<Kinds, kube::Error> {
    let (core, groups) = try_join(
        client.list_core_api_versions_aggregated(),
        client.list_api_groups_aggregated(),
    )
    .await?;
    Ok(kinds(core, groups))
}

fn kinds(core: APIGroupDiscoveryList, groups: APIGroupDiscoveryList) -> Kinds {
    let mut kinds = Kinds::default();
    for group in core.items.iter().chain(&groups.items) {
        add_group(group, &mut kinds);
    }
    kinds
}

/// Takes each kind of a group in the first of its versions, which are in the order of preference.
fn add_group(group: &APIGroupDiscovery, kinds: &mut Kinds) {
    let name = group
        .metadata
        .as_ref()
        .and_then(|meta| meta.name.clone())
        .unwrap_or_default();
    let mut plurals: Vec<&str> = Vec::new();
    for version in &group.versions {
        let version_name = version.version.as_deref().unwrap_or_default();
        let group_version = if name.is_empty() {
            version_name.to_owned()
        } else {
            format!("{name}/{version_name}")
        };
        if version.freshness.as_deref() == Some("Stale") {
            kinds.unknown.push(group_version.clone());
        }
        for resource in &version.resources {
            let plural = resource.resource.as_deref().unwrap_or_default();
            if plural.is_empty() || plurals.contains(&plural) {
                continue;
            }
            plurals.push(plural);
            if let Some(kind) = kind(&name, version_name, &group_version, resource) {
                kinds.all.push(Arc::new(kind));
            }
        }
    }
}

fn kind(group: &str, version: &str, api_version: &str, resource: &APIResourceDiscovery) -> Option<Kind> {
    let kind = resource.response_kind.as_ref()?.kind.clone()?;
    Some(Kind {
        resource: ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: api_version.to_owned(),
            kind,
            plural: resource.resource.clone()?,
        },
        namespaced: resource.scope.as_deref() == Some("Namespaced"),
        verbs: resource.verbs.clone(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use kube::core::GroupVersionKind;
    use serde_json::{Value, json};

    use super::*;

    /// A kind of the core group or, with an `api_version` that has one, of another.
    pub(crate) fn kind(api_version: &str, kind: &str, namespaced: bool) -> Arc<Kind> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let verbs = ["get", "list", "watch", "delete", "deletecollection"]
            .map(str::to_owned)
            .to_vec();
        Arc::new(Kind {
            resource,
            namespaced,
            verbs,
        })
    }

    fn resource(plural: &str, kind: &str, scope: &str) -> Value {
        json!({"resource": plural, "responseKind": {"kind": kind}, "scope": scope, "verbs": ["get", "list", "watch", "delete"]})
    }

    #[test]
    fn a_kind_is_taken_in_the_version_that_comes_first() {
        let core = json!({"items": [{"metadata": {}, "versions": [{"version": "v1", "resources": [resource("pods", "Pod", "Namespaced")]}]}]});
        let groups = json!({"items": [{"metadata": {"name": "example.com"}, "versions": [
            {"version": "v2", "resources": [resource("dogs", "Dog", "Cluster")]},
            {"version": "v1", "freshness": "Stale", "resources": [resource("dogs", "Dog", "Cluster"), resource("cats", "Cat", "Namespaced")]},
        ]}]});
        let parse = |value| serde_json::from_value(value).expect("discovery");
        let kinds = kinds(parse(core), parse(groups));
        let shown: Vec<_> = kinds
            .all
            .iter()
            .map(|kind| format!("{} {}", kind.resource.api_version, kind.resource.plural))
            .collect();
        assert_eq!(shown, ["v1 pods", "example.com/v2 dogs", "example.com/v1 cats"]);
        assert_eq!(kinds.unknown, ["example.com/v1"]);
        let found = kinds.find("example.com/v1", "Dog").expect("a kind");
        assert!(!found.namespaced && found.can("watch") && !found.can("deletecollection"));
        assert!(kinds.find("v1", "Dog").is_none());
    }
}
