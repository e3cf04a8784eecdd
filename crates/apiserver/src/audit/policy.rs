//! What of which requests is written down: a policy file ("Auditing", `audit.k8s.io/v1` Policy), and
//! the decision by it, which is pure.

use serde::Deserialize;

use crate::identity::Identity;
use crate::request::ResourcePath;

/// How much of a request is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    /// As events name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// When in a request's life something is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Stage {
    RequestReceived,
    /// Only of watches and streams.
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    /// As events name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Policy {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// A request, as far as rules look at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// None for somebody whose credentials are no good.
    pub(super) identity: Option<&'a Identity>,
    pub(super) verb: &'a str,
    pub(super) target: Place<'a>,
}

/// Where a request goes to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    Resource(&'a ResourcePath),
    Path(&'a str),
}

/// What is to be written down of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) level: Level,
    pub(super) omitted: Vec<Stage>,
    pub(super) omit_managed_fields: bool,
}

impl Policy {
    /// Reads a policy, YAML or JSON. The error says what is wrong.
    pub(super) fn read(text: &str) -> Result<Policy, String> {
        let policy: Policy =
            serde_saphyr::from_str(text).map_err(|error| error.without_snippet().to_string())?;
        if (policy.api_version.as_str(), policy.kind.as_str()) != ("audit.k8s.io/v1", "Policy") {
            return Err(format!(
                "apiVersion and kind must be audit.k8s.io/v1 and Policy, not {} and {}",
                policy.api_version, policy.kind
            ));
        }
        if policy.rules.is_empty() {
            return Err("rules: there is none, and so nothing would be written down".to_owned());
        }
        for (at, rule) in policy.rules.iter().enumerate() {
            let about_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if about_resources && !rule.non_resource_urls.is_empty() {
                return Err(format!(
                    "rules[{at}]: a rule is about resources or about nonResourceURLs, not both"
                ));
            }
            for url in &rule.non_resource_urls {
                if url != "*" && (!url.starts_with('/') || url.trim_end_matches('*').contains('*')) {
                    return Err(format!(
                        "rules[{at}].nonResourceURLs: {url} is no path that begins with a slash and has a star at its end at most"
                    ));
                }
            }
        }
        Ok(policy)
    }

    /// What is to be written down, by the first rule that fits.
    pub(super) fn extent(&self, seen: &Seen<'_>) -> Option<Extent> {
        let rule = self.rules.iter().find(|rule| rule.fits(seen))?;
        let omitted = self.omit_stages.iter().chain(&rule.omit_stages).copied();
        (rule.level != Level::None).then(|| Extent {
            level: rule.level,
            omitted: omitted.collect(),
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        })
    }
}

impl Rule {
    fn fits(&self, seen: &Seen<'_>) -> bool {
        let has = |list: &[String], value: &str| list.is_empty() || list.iter().any(|own| own == value);
        let name = seen.identity.map_or("", |identity| identity.name.as_str());
        let in_group = self.user_groups.is_empty()
            || seen
                .identity
                .is_some_and(|identity| self.user_groups.iter().any(|group| identity.is_in(group)));
        if !has(&self.users, name) || !in_group || !has(&self.verbs, seen.verb) {
            return false;
        }
        let about_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        match seen.target {
            Place::Resource(path) if about_resources => {
                has(&self.namespaces, &path.namespace)
                    && (self.resources.is_empty() || self.resources.iter().any(|own| own.fits(path)))
            }
            Place::Path(path) if !self.non_resource_urls.is_empty() => {
                self.non_resource_urls
                    .iter()
                    .any(|own| match own.strip_suffix('*') {
                        Some(prefix) => path.starts_with(prefix),
                        None => own == path,
                    })
            }
            _ => !about_resources && self.non_resource_urls.is_empty(),
        }
    }
}

impl GroupResources {
    fn fits(&self, path: &ResourcePath) -> bool {
        if self.group != path.group {
            return false;
        }
        let named = self.resource_names.is_empty() || self.resource_names.contains(&path.name);
        let is = |own: &String| match own.split_once('/') {
            _ if own == "*" => true,
            None => path.subresource.is_empty() && *own == path.resource,
            Some((resource, subresource)) => {
                let both = resource == path.resource && subresource == path.subresource;
                let of_any = resource == "*" && subresource == path.subresource;
                let any_of = resource == path.resource && subresource == "*";
                both || of_any || any_of
            }
        };
        self.resources.is_empty() || (named && self.resources.iter().any(is))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:kube-scheduler"]
- level: None
  userGroups: ["system:authenticated"]
  nonResourceURLs: ["/api*", "/version"]
- level: RequestResponse
  verbs: [delete]
  resources: [{group: "", resources: [pods]}]
  omitStages: [Panic]
  omitManagedFields: true
- level: Request
  namespaces: [kube-system]
  resources: [{group: "", resources: [configmaps], resourceNames: [settings]}, {group: apps, resources: ["*/scale"]}]
- level: Metadata
"#;

    fn pod(namespace: &str, resource: &str, subresource: &str, name: &str, group: &str) -> ResourcePath {
        ResourcePath {
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            rest: Vec::new(),
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = Policy::read(POLICY).expect("a policy");
        let level = |user: &str, verb: &str, target: Place<'_>| {
            let identity = Identity::new(user, [""; 0]);
            let seen = Seen {
                identity: Some(&identity),
                verb,
                target,
            };
            policy.extent(&seen).map(|extent| extent.level)
        };
        let pods = pod("default", "pods", "", "p", "");
        assert_eq!(
            level("system:kube-scheduler", "get", Place::Resource(&pods)),
            None
        );
        assert_eq!(level("jane", "get", Place::Path("/apis")), None);
        assert_eq!(
            level("jane", "get", Place::Path("/metrics")),
            Some(Level::Metadata)
        );
        assert_eq!(
            level("jane", "delete", Place::Resource(&pods)),
            Some(Level::RequestResponse)
        );
        assert_eq!(
            level("jane", "get", Place::Resource(&pods)),
            Some(Level::Metadata)
        );
        for (path, expected) in [
            (
                pod("kube-system", "configmaps", "", "settings", ""),
                Level::Request,
            ),
            (
                pod("kube-system", "configmaps", "", "others", ""),
                Level::Metadata,
            ),
            (pod("default", "configmaps", "", "settings", ""), Level::Metadata),
            (
                pod("kube-system", "deployments", "scale", "d", "apps"),
                Level::Request,
            ),
            (
                pod("kube-system", "deployments", "", "d", "apps"),
                Level::Metadata,
            ),
        ] {
            assert_eq!(
                level("jane", "update", Place::Resource(&path)),
                Some(expected),
                "{path:?}"
            );
        }
        let identity = Identity::new("jane", [""; 0]);
        let seen = Seen {
            identity: Some(&identity),
            verb: "delete",
            target: Place::Resource(&pods),
        };
        let extent = policy.extent(&seen).expect("it is written down");
        assert_eq!(extent.omitted, [Stage::RequestReceived, Stage::Panic]);
        assert!(extent.omit_managed_fields);
    }

    #[test]
    fn a_policy_that_cannot_be_followed_is_refused() {
        for (text, expected) in [
            ("kind: Policy", "apiVersion"),
            ("{apiVersion: audit.k8s.io/v1, kind: Policy}", "rules"),
            (
                "{apiVersion: v1, kind: Policy, rules: [{level: None}]}",
                "audit.k8s.io/v1",
            ),
            (
                "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: All}]}",
                "All",
            ),
            (
                "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None, verb: [get]}]}",
                "verb",
            ),
            (
                "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None, nonResourceURLs: [\"a\"]}]}",
                "nonResourceURLs",
            ),
        ] {
            let error = Policy::read(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
