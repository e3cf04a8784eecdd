//! What was made of a set's pods at its last look. A pod that is the same object still is not looked into again: of
//! thousands, mostly one has changed.

use std::iter::Peekable;
use std::sync::Arc;
use std::vec;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod as PodObject;

use super::state::{Phase, Pod};
use super::status::Revisions;

/// The pods of a set, by name, as they were seen.
#[derive(Debug, Default)]
pub(super) struct Memory {
    premise: Option<Premise>,
    pods: Vec<(Arc<PodObject>, Pod)>,
}

/// All that it depends on how a pod is seen, but for the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Premise {
    set: Option<String>,
    generation: Option<i64>,
    is_deleting: bool,
    revisions: Revisions,
}

impl Premise {
    fn of(set: &StatefulSet, revisions: &Revisions) -> Premise {
        Premise {
            set: set.metadata.uid.clone(),
            generation: set.metadata.generation,
            is_deleting: set.metadata.deletion_timestamp.is_some(),
            revisions: revisions.clone(),
        }
    }
}

impl Memory {
    /// What is remembered and still holds, to be asked for one pod after the other, by name.
    pub(super) fn recall(&mut self, set: &StatefulSet, revisions: &Revisions) -> Recall {
        let pods = std::mem::take(&mut self.pods);
        let holds = self.premise == Some(Premise::of(set, revisions));
        Recall(if holds { pods } else { Vec::new() }.into_iter().peekable())
    }

    /// Remembers pods, but for those that time alone changes.
    pub(super) fn keep(
        &mut self,
        set: &StatefulSet,
        revisions: &Revisions,
        objects: Vec<Arc<PodObject>>,
        seen: Vec<Pod>,
    ) {
        self.premise = Some(Premise::of(set, revisions));
        let is_settled = |pod: &Pod| match pod.phase {
            Phase::Ended => false,
            Phase::Running { ready, available } => ready == available,
            Phase::Pending => true,
        };
        let pods = objects.into_iter().zip(seen);
        self.pods = pods.filter(|(_, seen)| is_settled(seen)).collect();
    }
}

/// What is remembered.
pub(super) struct Recall(Peekable<vec::IntoIter<(Arc<PodObject>, Pod)>>);

impl Recall {
    /// What was made of a pod of the set, if it is the same still.
    pub(super) fn find(&mut self, pod: &Arc<PodObject>) -> Option<Pod> {
        loop {
            let (known, _) = self.0.peek()?;
            if Arc::ptr_eq(known, pod) {
                return self.0.next().map(|(_, seen)| seen);
            }
            if known.metadata.name > pod.metadata.name {
                return None;
            }
            self.0.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::statefulset::state::builders::{pod, unready};

    #[test]
    fn a_pod_is_remembered_until_it_or_its_set_changes() {
        let object = |name: &str| {
            let pod = json!({"metadata": {"name": name}});
            Arc::new(serde_json::from_value::<PodObject>(pod).expect("a pod"))
        };
        let mut set: StatefulSet =
            serde_json::from_value(json!({"metadata": {"uid": "s", "generation": 1}})).expect("a set");
        let revisions = Revisions {
            current: "a".into(),
            update: "b".into(),
            collisions: 0,
        };
        let objects = ["web-0", "web-1", "web-10", "web-2"].map(object);
        let fresh = Pod {
            phase: Phase::Running {
                ready: true,
                available: false,
            },
            ..pod(2)
        };
        let seen = vec![pod(0), unready(1), pod(10), fresh];
        let mut memory = Memory::default();
        memory.keep(&set, &revisions, objects.to_vec(), seen.clone());
        let mut recall = memory.recall(&set, &revisions);
        assert_eq!(recall.find(&objects[0]), Some(pod(0)));
        // Another object of the name, and one that was not there.
        assert_eq!(recall.find(&object("web-1")), None);
        assert_eq!(recall.find(&object("web-100")), None);
        // It becomes available as time passes.
        assert_eq!(recall.find(&objects[3]), None);
        // What is gone is passed over.
        memory.keep(&set, &revisions, objects.to_vec(), seen.clone());
        assert_eq!(memory.recall(&set, &revisions).find(&objects[2]), Some(pod(10)));
        let other = Revisions {
            current: "b".into(),
            ..revisions.clone()
        };
        memory.keep(&set, &revisions, objects.to_vec(), seen.clone());
        assert_eq!(memory.recall(&set, &other).find(&objects[0]), None);
        memory.keep(&set, &revisions, objects.to_vec(), seen);
        set.metadata.generation = Some(2);
        assert_eq!(memory.recall(&set, &revisions).find(&objects[0]), None);
    }
}
