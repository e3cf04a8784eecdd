//! What a rule of a role grants, and whether rules cover others: pure functions.
//!
//! Follows "Using RBAC Authorization": the parts of a rule, and "Privilege escalation prevention".

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use stead_api::error::quote_all;

/// More parts than this in the rules that somebody wants to grant are not told apart: a few lists of
/// thousands would make billions.
const MAX_PARTS: usize = 10_000;

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked<'a> {
    /// Something with a resource.
    Resource {
        verb: &'a str,
        group: &'a str,
        resource: &'a str,
        /// Empty for the resource itself.
        subresource: &'a str,
        /// Empty for all namespaces, and outside them.
        namespace: &'a str,
        /// Empty for a collection.
        name: &'a str,
    },
    /// Something with a path that is no resource.
    Path { verb: &'a str, path: &'a str },
}

impl<'a> Asked<'a> {
    /// The namespace whose bindings count beside those of the cluster.
    pub(crate) fn namespace(&self) -> &'a str {
        match self {
            Asked::Resource { namespace, .. } => namespace,
            Asked::Path { .. } => "",
        }
    }
}

/// A rule of a role (`PolicyRule`).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub(crate) api_groups: Vec<String>,
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub(crate) resources: Vec<String>,
    #[serde(
        deserialize_with = "list",
        rename = "nonResourceURLs",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) non_resource_urls: Vec<String>,
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub(crate) resource_names: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub(crate) verbs: Vec<String>,
}

/// A list, which may be null.
fn list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|own| own == "*" || own == value)
}

impl Rule {
    /// Whether the rule grants it.
    pub(crate) fn grants(&self, asked: &Asked<'_>) -> bool {
        match *asked {
            Asked::Resource {
                verb,
                group,
                resource,
                subresource,
                name,
                ..
            } => {
                let named =
                    self.resource_names.is_empty() || self.resource_names.iter().any(|own| own == name);
                has(&self.verbs, verb)
                    && has(&self.api_groups, group)
                    && self
                        .resources
                        .iter()
                        .any(|own| is_resource(own, resource, subresource))
                    && named
            }
            Asked::Path { verb, path } => {
                has(&self.verbs, verb) && self.non_resource_urls.iter().any(|own| is_path(own, path))
            }
        }
    }

    /// Whether the rule grants all that another does. That several do so together is seen by its
    /// [`Rule::parts`].
    fn covers(&self, part: &Rule) -> bool {
        let all = |own: &[String], wanted: &[String]| wanted.iter().all(|wanted| has(own, wanted));
        let resources = part.resources.iter().all(|wanted| {
            let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
            self.resources
                .iter()
                .any(|own| own == wanted || is_resource(own, resource, subresource))
        });
        let names = self.resource_names.is_empty()
            || (!part.resource_names.is_empty() && all(&self.resource_names, &part.resource_names));
        let paths = part
            .non_resource_urls
            .iter()
            .all(|wanted| self.non_resource_urls.iter().any(|own| is_path(own, wanted)));
        all(&self.verbs, &part.verbs)
            && all(&self.api_groups, &part.api_groups)
            && resources
            && names
            && paths
    }

    /// How many [`Rule::parts`] there are.
    fn count_parts(&self) -> usize {
        let product = |lists: &[usize]| lists.iter().fold(1_usize, |all, list| all.saturating_mul(*list));
        let paths = product(&[self.verbs.len(), self.non_resource_urls.len()]);
        let resources = product(&[
            self.verbs.len(),
            self.api_groups.len(),
            self.resources.len(),
            self.resource_names.len().max(1),
        ]);
        paths.saturating_add(resources)
    }

    /// The rule as many that grant one verb on one thing each.
    fn parts(&self) -> Vec<Rule> {
        let one = |text: &String| vec![text.clone()];
        let mut parts = Vec::new();
        for verb in &self.verbs {
            for path in &self.non_resource_urls {
                parts.push(Rule {
                    non_resource_urls: one(path),
                    verbs: one(verb),
                    ..Rule::default()
                });
            }
        }
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let part = Rule {
                        api_groups: one(group),
                        resources: one(resource),
                        verbs: one(verb),
                        ..Rule::default()
                    };
                    if self.resource_names.is_empty() {
                        parts.push(part);
                        continue;
                    }
                    parts.extend(self.resource_names.iter().map(|name| Rule {
                        resource_names: one(name),
                        ..part.clone()
                    }));
                }
            }
        }
        parts
    }
}

/// As the answer to a refused escalation shows it.
impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ]
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:{}", quote_all(list)))
        .collect::<Vec<_>>();
        write!(f, "{{{}}}", shown.join(", "))
    }
}

/// `pods/log` is a subresource, `*/log` that of every resource, `*` everything.
fn is_resource(own: &str, resource: &str, subresource: &str) -> bool {
    if own == "*" {
        return true;
    }
    match own.split_once('/') {
        None => subresource.is_empty() && own == resource,
        Some((of, sub)) => !subresource.is_empty() && sub == subresource && (of == "*" || of == resource),
    }
}

/// A path, or with a star at its end all that begin so.
fn is_path(own: &str, path: &str) -> bool {
    match own.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => own == path,
    }
}

/// What of the wanted rules is not covered by the held ones, shown in a line each. Empty: nothing.
pub(super) fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<String> {
    let wanted: Vec<&Rule> = wanted
        .iter()
        .filter(|wanted| !held.iter().any(|held| held.covers(wanted)))
        .collect();
    let parts = wanted
        .iter()
        .fold(0_usize, |all, rule| all.saturating_add(rule.count_parts()));
    if parts > MAX_PARTS {
        return vec![format!(
            "the rules are about {parts} things, more than the {MAX_PARTS} that are looked at one by one: grant less at once"
        )];
    }
    // By what they are about: the rule without its verbs.
    let mut together: BTreeMap<Rule, Vec<String>> = BTreeMap::new();
    for mut part in wanted.into_iter().flat_map(Rule::parts) {
        if held.iter().any(|held| held.covers(&part)) {
            continue;
        }
        let verbs = std::mem::take(&mut part.verbs);
        let known = together.entry(part).or_default();
        known.extend(
            verbs
                .into_iter()
                .filter(|verb| !known.contains(verb))
                .collect::<Vec<_>>(),
        );
    }
    let lines: BTreeSet<String> = together
        .into_iter()
        .map(|(rule, verbs)| Rule { verbs, ..rule }.to_string())
        .collect();
    lines.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(value: serde_json::Value) -> Rule {
        serde_json::from_value(value).expect("a rule")
    }

    fn on(verb: &'static str, resource: &'static str, name: &'static str) -> Asked<'static> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Asked::Resource {
            verb,
            group: "",
            resource,
            subresource,
            namespace: "default",
            name,
        }
    }

    #[test]
    fn a_rule_grants_what_it_names() {
        let core = |resources: &[&str], verbs: &[&str]| {
            rule(json!({"apiGroups": [""], "resources": resources, "verbs": verbs}))
        };
        for (rule, asked, granted) in [
            (core(&["pods"], &["get"]), on("get", "pods", "p"), true),
            (core(&["pods"], &["get"]), on("list", "pods", ""), false),
            (core(&["pods"], &["get"]), on("get", "pods/log", "p"), false),
            (core(&["pods/log"], &["get"]), on("get", "pods/log", "p"), true),
            (core(&["*/log"], &["*"]), on("get", "pods/log", "p"), true),
            (core(&["*/log"], &["*"]), on("get", "pods", "p"), false),
            (core(&["*"], &["get"]), on("get", "pods/exec", "p"), true),
            (
                rule(json!({"apiGroups": ["apps"], "resources": ["*"], "verbs": ["*"]})),
                on("get", "pods", "p"),
                false,
            ),
        ] {
            assert_eq!(rule.grants(&asked), granted, "{rule} {asked:?}");
        }
    }

    #[test]
    fn names_limit_a_rule_to_named_objects() {
        let rule =
            rule(json!({"apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"], "verbs": ["*"]}));
        assert!(rule.grants(&on("get", "pods", "a")));
        assert!(!rule.grants(&on("get", "pods", "b")));
        assert!(!rule.grants(&on("create", "pods", "")));
    }

    #[test]
    fn paths_may_end_in_a_star() {
        let rule = rule(json!({"nonResourceURLs": ["/api", "/api/*"], "verbs": ["get"]}));
        let path = |path| Asked::Path { verb: "get", path };
        assert!(rule.grants(&path("/api")) && rule.grants(&path("/api/v1")));
        assert!(!rule.grants(&path("/apis")) && !rule.grants(&on("get", "pods", "")));
    }

    #[test]
    fn what_is_not_held_is_told_in_few_lines() {
        let held = [
            rule(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]})),
            rule(
                json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["get"]}),
            ),
        ];
        let wanted = [
            rule(json!({"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get", "list"]})),
            rule(
                json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"], "verbs": ["get"]}),
            ),
            rule(json!({"nonResourceURLs": ["/x"], "verbs": ["get"]})),
        ];
        assert_eq!(
            missing(&held, &wanted),
            [
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["list"]}"#,
                r#"{APIGroups:[""], Resources:["secrets"], ResourceNames:["b"], Verbs:["get"]}"#,
                r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}"#,
                r#"{NonResourceURLs:["/x"], Verbs:["get"]}"#,
            ]
        );
        let all = [
            rule(json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]})),
            rule(json!({"nonResourceURLs": ["*"], "verbs": ["*"]})),
        ];
        assert!(missing(&all, &wanted).is_empty());
    }

    #[test]
    fn very_long_lists_are_not_multiplied() {
        let many = |letter: char| {
            (0..5_000)
                .map(|number| format!("{letter}{number}"))
                .collect::<Vec<_>>()
        };
        let wanted = [rule(
            json!({"apiGroups": many('g'), "resources": many('r'), "resourceNames": many('n'), "verbs": many('v')}),
        )];
        let told = missing(&[], &wanted);
        assert!(
            told.len() == 1 && told[0].contains("625000000000000 things"),
            "{told:?}"
        );
        let all = [rule(
            json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}),
        )];
        assert!(missing(&all, &wanted).is_empty());
    }
}
