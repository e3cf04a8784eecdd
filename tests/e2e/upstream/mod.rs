//! What Kubernetes' own end-to-end suite checks for StatefulSets (`test/e2e/apps/statefulset.go`, up to 1.33), told
//! anew from what is documented. A part's name is that of its namespace; other tests that check the same more
//! closely, or from another side, are beside it.
//!
//! | Behaviour | Part | Also |
//! |---|---|---|
//! | identity: host name, name in DNS, data that outlives the pod | `order::basic_identity` | `statefulsets::replacement`, `peers` |
//! | orphans that match are adopted, pods that do not are released | `pods::adopt_and_release` | `statefulsets::orphans` |
//! | no deadlock when a pod's predecessor fails | `order::predecessor_fails` | |
//! | rolling update and roll back, with claims | `updates::roll_and_roll_back` | `updates::rolling` |
//! | rolling update and roll back | `updates::roll_and_roll_back` | `replays_of_sets` |
//! | canary and phased rolling updates | `updates::canary_and_phases` | `updates::partition` |
//! | a pod below the partition goes and comes again | `updates::pod_below_the_partition` | |
//! | the same with a container that fails | `updates::pod_below_the_partition` | |
//! | `OnDelete`: replaced as they are deleted | `updates::on_delete` | `updates::on_delete`, `replays_of_sets` |
//! | scaling in order, halted by a pod that is not healthy | `order::ordered_scaling_halts` | `statefulsets::ordered`, `scaling` |
//! | burst scaling goes on with pods that are not healthy | `order::burst_scaling_goes_on` | `statefulsets::parallel` |
//! | an evicted pod is made again: its port was taken | `pods::port_conflict` | `statefulsets::evicted` |
//! | the scale subresource | `objects::scale_subresource` | |
//! | list, patch and delete a collection | `objects::collection` | |
//! | the status subresource, and conditions of others in it | `objects::status_subresource` | |
//! | clustered applications: ZooKeeper, Redis, MySQL, CockroachDB (4) | `pods::clustered_application` | `statefulsets::peers` |
//! | `minReadySeconds`: available when ready for so long | `ordinals::available_at_once` | `replays` (`statefulset-min-ready`) |
//! | `availableReplicas` follows a changed `minReadySeconds` | `ordinals::available_later` | |
//! | claims go with the set (`whenDeleted`) | `claims::when_deleted` | `statefulsets::retention` |
//! | claims go with their replicas (`whenScaled`) | `claims::when_scaled` | `statefulsets::retention` |
//! | one that another controller owns stays at scale-down | `claims::of_another_controller` | |
//! | claims go with the set after a pod was adopted | `claims::adopted_when_deleted` | |
//! | claims go with their replicas after a pod was adopted | `claims::adopted_when_scaled` | |
//! | owners beside the set, and former ones | `claims::of_other_owners` | |
//! | a missing claim of a pending pod is made again | `claims::missing_claim` | `statefulsets::claim_deleted` |
//! | `ordinals.start` set, increased, decreased, removed (4) | `ordinals::moves` | `replays_of_sets` (`ordinals-start`) |
//! | `maxUnavailable` (from its documentation) | `updates::max_unavailable` | |

mod claims;
mod objects;
mod order;
mod ordinals;
mod pods;
mod updates;

use crate::Tests;
use crate::site::on_one_cluster;

pub(crate) const TESTS: Tests = &[
    ("upstream: order, identity and the API's subresources", || {
        on_one_cluster(&[order::PARTS, objects::PARTS])
    }),
    ("upstream: updates, and which pods there are", || {
        on_one_cluster(&[updates::PARTS, ordinals::PARTS])
    }),
    ("upstream: claims, and whose pods are", || {
        on_one_cluster(&[claims::PARTS, pods::PARTS])
    }),
];
