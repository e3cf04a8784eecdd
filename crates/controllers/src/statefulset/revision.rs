//! The history of a set's template: ControllerRevisions, their data, names and order.
//!
//! Follows `controller/history` of Kubernetes: a revision holds the template as a strategic merge
//! patch of the set; its name ends in a hash of that; rolling back takes an equal revision again
//! and gives it the newest number.

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use super::identity::controller_reference;
use crate::hash::hash;

/// The label with the hash of a revision's data.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";
/// How long the set's name may be within a revision's.
const NAME_LIMIT: usize = 223;

/// What is to be done about the history before anything else.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// This revision is the template's; nothing to do.
    Use(usize),
    /// This revision is the template's again, and becomes the newest; or its number leaves no room for newer ones.
    Renumber {
        /// Which one.
        index: usize,
        /// Its new number.
        revision: i64,
    },
    /// The template is new.
    Create(Box<ControllerRevision>),
}

/// The template of a set as a revision's data.
fn data(set: &StatefulSet) -> Value {
    let mut template = serde_json::to_value(&set.spec.template).unwrap_or_else(|_| json!({}));
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template that a revision holds; none where it holds something else.
pub(super) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// Sorted by number, and by age and name where numbers are equal.
pub(super) fn sort(revisions: &mut [ControllerRevision]) {
    let time = |revision: &ControllerRevision| {
        revision
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0)
            .unwrap_or_default()
    };
    revisions.sort_by(|a, b| {
        a.revision
            .cmp(&b.revision)
            .then_with(|| time(a).cmp(&time(b)))
            .then_with(|| a.metadata.name.cmp(&b.metadata.name))
    });
}

/// Finds the revision of the set's template among those there are, which are sorted.
pub(super) fn step(set: &StatefulSet, revisions: &[ControllerRevision], collisions: i32) -> Step {
    let wanted = data(set);
    let equal = |revision: &ControllerRevision| same_template(revision, set);
    let at = revisions.iter().rposition(equal);
    let is_last = |index: usize| index + 1 == revisions.len();
    let last = revisions.last().map_or(0, number);
    let Some(next) = last.checked_add(1).or(at.filter(|at| is_last(*at)).map(|_| last)) else {
        return make_room(revisions);
    };
    match at {
        Some(index) if is_last(index) => Step::Use(index),
        Some(index) => Step::Renumber {
            index,
            revision: next,
        },
        None => Step::Create(Box::new(new_revision(set, wanted, next, collisions))),
    }
}

fn number(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or(0)
}

/// No revision can be newer than one of the highest number, which a client must have given. The lowest that is not
/// numbered by its place is: in a few such steps, all are, in the order that they had.
fn make_room(revisions: &[ControllerRevision]) -> Step {
    let places = (1..).zip(revisions);
    let index = places
        .take_while(|(place, revision)| number(revision) <= *place)
        .count();
    let before = index
        .checked_sub(1)
        .map_or(0, |before| number(&revisions[before]));
    Step::Renumber {
        index,
        revision: before + 1,
    }
}

/// Whether a revision holds the set's template. Both are compared as types, so that neither the
/// order of fields nor how an absent one is written makes a difference.
pub(super) fn same_template(revision: &ControllerRevision, set: &StatefulSet) -> bool {
    template(revision).is_some_and(|template| template == set.spec.template)
}

fn new_revision(set: &StatefulSet, data: Value, number: i64, collisions: i32) -> ControllerRevision {
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let hash = hash(&data.to_string(), collisions);
    let template_labels = set
        .spec
        .template
        .metadata
        .as_ref()
        .and_then(|meta| meta.labels.clone());
    let mut labels = template_labels.unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let stem: String = set_name.chars().take(NAME_LIMIT).collect();
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{stem}-{hash}")),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: set.metadata.annotations.clone(),
            owner_references: Some(vec![controller_reference(set)]),
            ..ObjectMeta::default()
        },
        data: RawExtension(data),
        revision: Some(number),
    }
}

/// The revisions to be deleted: those that nothing uses, oldest first, beyond the limit. A
/// negative limit is none.
pub(super) fn superfluous(
    revisions: &[ControllerRevision],
    is_live: impl Fn(&str) -> bool,
    limit: i32,
) -> Vec<&ControllerRevision> {
    let Ok(limit) = usize::try_from(limit) else {
        return Vec::new();
    };
    let mut unused: Vec<_> = revisions
        .iter()
        .filter(|revision| !is_live(revision.metadata.name.as_deref().unwrap_or_default()))
        .collect();
    unused.truncate(unused.len().saturating_sub(limit));
    unused
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(image: &str) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "u", "annotations": {"x": "y"}},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": image}]},
                },
            },
        }))
        .expect("a set")
    }

    fn created(step: Step) -> ControllerRevision {
        match step {
            Step::Create(revision) => *revision,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_new_template_gets_a_new_revision() {
        let first = created(step(&set("a"), &[], 0));
        assert_eq!(first.revision, Some(1));
        let name = first.metadata.name.clone().expect("a name");
        assert!(name.starts_with("web-") && name.len() > 8, "{name}");
        assert_eq!(template(&first), Some(set("a").spec.template));
        let second = created(step(&set("b"), std::slice::from_ref(&first), 0));
        assert_eq!(second.revision, Some(2));
        assert_ne!(first.metadata.name, second.metadata.name);
    }

    #[test]
    fn an_unchanged_template_keeps_its_revision_and_a_former_one_comes_back() {
        let first = created(step(&set("a"), &[], 0));
        let second = created(step(&set("b"), std::slice::from_ref(&first), 0));
        let both = [first, second];
        assert_eq!(step(&set("b"), &both, 0), Step::Use(1));
        assert_eq!(
            step(&set("a"), &both, 0),
            Step::Renumber {
                index: 0,
                revision: 3
            }
        );
    }

    #[test]
    fn a_collision_makes_another_name() {
        let name = |collisions| created(step(&set("a"), &[], collisions)).metadata.name;
        assert_ne!(name(0), name(1));
        assert_eq!(name(0), name(0));
    }

    /// Names are as those of a Kubernetes control plane for the same template, so that a set that moves keeps
    /// them. The data is that of a set of the recorded cases; it holds a `creationTimestamp` as Kubernetes'
    /// own did before 1.34.
    #[test]
    fn hashes_are_those_of_kubernetes() {
        let data = json!({"spec": {"template": {
            "$patch": "replace",
            "metadata": {"creationTimestamp": null, "labels": {"app": "web"}},
            "spec": {
                "containers": [{
                    "command": ["sleep", "1000"],
                    "image": "busybox:1.35",
                    "imagePullPolicy": "IfNotPresent",
                    "name": "c",
                    "resources": {},
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                }],
                "dnsPolicy": "ClusterFirst",
                "restartPolicy": "Always",
                "schedulerName": "default-scheduler",
                "securityContext": {},
                "terminationGracePeriodSeconds": 1,
            },
        }}});
        assert_eq!(hash(&data.to_string(), 0), "5ff9c8d6d4");
    }

    #[test]
    fn how_an_absent_field_is_written_makes_no_new_revision() {
        let mut first = created(step(&set("a"), &[], 0));
        first.data.0["spec"]["template"]["metadata"]["creationTimestamp"] = Value::Null;
        assert_eq!(step(&set("a"), &[first], 0), Step::Use(0));
    }

    #[test]
    fn of_equal_revisions_the_newest_is_used() {
        let first = created(step(&set("a"), &[], 0));
        let other = created(step(&set("b"), std::slice::from_ref(&first), 0));
        let again = ControllerRevision {
            revision: Some(3),
            ..first.clone()
        };
        let newest = ControllerRevision {
            revision: Some(4),
            ..other.clone()
        };
        let all = [first, other, again, newest];
        let expected = Step::Renumber {
            index: 2,
            revision: 5,
        };
        assert_eq!(step(&set("a"), &all, 0), expected);
        assert_eq!(step(&set("b"), &all, 0), Step::Use(3));
    }

    #[test]
    fn revisions_are_in_the_order_of_their_numbers_then_of_their_age() {
        let revision = |name: &str, number, second: i64| {
            let mut revision = new_revision(&set("a"), json!(name), number, 0);
            revision.metadata.name = Some(name.to_owned());
            let time = jiff::Timestamp::from_second(second).expect("a time");
            revision.metadata.creation_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time));
            revision
        };
        let mut all = [
            revision("d", 2, 1),
            revision("c", 1, 9),
            revision("b", 1, 5),
            revision("a", 1, 9),
        ];
        sort(&mut all);
        let names: Vec<_> = all
            .iter()
            .filter_map(|revision| revision.metadata.name.as_deref())
            .collect();
        assert_eq!(names, ["b", "a", "c", "d"]);
    }

    #[test]
    fn the_highest_number_is_brought_down_when_a_higher_one_is_needed() {
        let numbered = |image: &str, number| ControllerRevision {
            revision: Some(number),
            ..created(step(&set(image), &[], 0))
        };
        let both = [numbered("a", 1), numbered("b", i64::MAX)];
        assert_eq!(step(&set("b"), &both, 0), Step::Use(1));
        let second = Step::Renumber {
            index: 1,
            revision: 2,
        };
        assert_eq!(step(&set("a"), &both, 0), second);
        assert_eq!(step(&set("c"), &both, 0), second);
        // However many there are, in the order that they have.
        let mut all = [
            numbered("a", 0),
            numbered("b", 0),
            numbered("c", i64::MAX - 1),
            numbered("d", i64::MAX),
            numbered("e", i64::MAX),
        ];
        for expected in 0..3 {
            let Step::Renumber { index, revision } = step(&set("f"), &all, 0) else {
                panic!("after {expected} steps");
            };
            all[index].revision = Some(revision);
        }
        assert_eq!(all.each_ref().map(number), [0, 0, 1, 2, 3]);
        assert_eq!(created(step(&set("f"), &all, 0)).revision, Some(4));
    }

    #[test]
    fn history_is_pruned_from_the_oldest_unused() {
        let mut revisions: Vec<ControllerRevision> = (1..=5)
            .map(|number| {
                let mut revision = new_revision(&set("a"), json!(number), number, 0);
                revision.metadata.name = Some(format!("r{number}"));
                revision
            })
            .collect();
        sort(&mut revisions);
        let names = |live: &[&str], limit| -> Vec<String> {
            let live = |name: &str| live.contains(&name);
            superfluous(&revisions, live, limit)
                .iter()
                .filter_map(|revision| revision.metadata.name.clone())
                .collect()
        };
        assert_eq!(names(&["r5"], 10), Vec::<String>::new());
        assert_eq!(names(&["r5"], 2), ["r1", "r2"]);
        assert_eq!(names(&["r1", "r5"], 1), ["r2", "r3"]);
        assert_eq!(names(&["r5"], 0), ["r1", "r2", "r3", "r4"]);
        assert_eq!(names(&["r5"], -1), Vec::<String>::new());
    }
}
