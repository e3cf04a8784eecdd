use std::collections::BTreeMap;

use super::*;
use crate::statefulset::state::Claims;
use crate::statefulset::state::builders::{
    create, delete, old, parallel, pod, set, stray, terminating, unready,
};

fn check(spec: Spec, pods: &[Pod], expected: &[Action]) {
    assert_eq!(plan_of(&spec, pods), expected, "{spec:?} {pods:?}");
}

#[test]
fn ordered_ready_creates_one_after_another() {
    check(set(3), &[], &[create(0)]);
    check(set(3), &[unready(0)], &[]);
    check(set(3), &[pod(0)], &[create(1)]);
    check(set(3), &[pod(0), pod(1), pod(2)], &[]);
    check(set(3), &[terminating(0), pod(1), pod(2)], &[]);
    check(set(3), &[pod(1), pod(2)], &[create(0)]);
}

#[test]
fn min_ready_seconds_hold_the_next_one_back() {
    let fresh = Pod {
        phase: Phase::Running {
            ready: true,
            available: false,
        },
        ..pod(0)
    };
    check(set(2), &[fresh], &[]);
}

#[test]
fn parallel_creates_all_at_once() {
    check(parallel(3), &[], &[create(0), create(1), create(2)]);
    check(parallel(3), &[unready(1)], &[create(0), create(2)]);
}

#[test]
fn ordinals_start_where_the_set_says() {
    check(Spec { start: 5, ..set(2) }, &[], &[create(5)]);
    check(Spec { start: 5, ..set(2) }, &[pod(5), pod(6)], &[]);
    check(
        Spec { start: 1, ..set(2) },
        &[pod(0), pod(1), pod(2)],
        &[delete(0)],
    );
    check(
        Spec {
            start: 1,
            ..parallel(2)
        },
        &[pod(0), pod(1)],
        &[create(2), delete(0)],
    );
}

#[test]
fn scaling_down_takes_the_highest_first() {
    check(set(1), &[pod(0), pod(1), pod(2)], &[delete(2)]);
    check(set(1), &[pod(0), pod(1), terminating(2)], &[]);
    check(parallel(1), &[pod(0), pod(1), pod(2)], &[delete(2), delete(1)]);
}

#[test]
fn scaling_down_waits_for_the_remaining_to_be_healthy() {
    check(set(1), &[unready(0), pod(1)], &[]);
    // But the only unhealthy one may go.
    check(set(1), &[pod(0), unready(1)], &[delete(1)]);
    check(set(1), &[pod(0), unready(1), pod(2)], &[delete(2)]);
    check(set(1), &[pod(0), unready(1), unready(2)], &[]);
    // And what will not get healthy any more.
    let ended = Pod {
        phase: Phase::Ended,
        ..pod(2)
    };
    check(set(1), &[pod(0), unready(1), ended], &[delete(2)]);
    check(set(1), &[pod(0), unready(1), stray(unready(2))], &[delete(2)]);
}

#[test]
fn a_pod_that_ended_is_replaced() {
    let ended = Pod {
        phase: Phase::Ended,
        ..pod(1)
    };
    check(set(3), &[pod(0), ended.clone(), pod(2)], &[delete(1)]);
    let held_back = Pod {
        held_back: true,
        ..ended.clone()
    };
    check(set(3), &[pod(0), held_back, pod(2)], &[]);
    check(
        set(3),
        &[
            pod(0),
            Pod {
                terminating: true,
                ..ended
            },
            pod(2),
        ],
        &[],
    );
}

#[test]
fn an_evicted_pod_is_replaced_in_parallel_too() {
    let failed = Pod {
        phase: Phase::Ended,
        ..pod(0)
    };
    check(parallel(3), &[failed, pod(1)], &[delete(0), create(2)]);
}

#[test]
fn a_moved_start_makes_the_new_replicas_before_the_old_ones_go() {
    let moved = |start| Spec { start, ..set(2) };
    // Up: 5 and 6 become 6 and 7.
    check(moved(6), &[pod(5), pod(6)], &[create(7)]);
    check(moved(6), &[pod(5), pod(6), unready(7)], &[]);
    check(moved(6), &[pod(5), pod(6), pod(7)], &[delete(5)]);
    // Down: 5 and 6 become 4 and 5.
    check(moved(4), &[pod(5), pod(6)], &[create(4)]);
    check(moved(4), &[pod(4), pod(5), pod(6)], &[delete(6)]);
    // Far: none stays.
    check(moved(0), &[pod(0), pod(5), pod(6)], &[create(1)]);
    check(moved(0), &[pod(0), pod(1), pod(5), pod(6)], &[delete(6)]);
}

#[test]
fn a_set_on_its_way_out_is_left_alone() {
    check(
        Spec {
            deleting: true,
            ..set(3)
        },
        &[],
        &[],
    );
}

#[test]
fn a_claim_on_its_way_out_blocks_its_replica() {
    let with = |claims: Claims, spec: Spec| {
        let claims = BTreeMap::from([(0, claims)]);
        plan(&spec, &Observed { pods: vec![], claims })
    };
    let deleting = Claims {
        deleting: true,
        ..Claims::default()
    };
    assert_eq!(with(deleting, set(1)), []);
    let doomed = Claims {
        doomed: true,
        ..Claims::default()
    };
    assert_eq!(with(doomed, set(1)), []);
    let of_a_former_pod = Claims {
        owners_differ: true,
        ..Claims::default()
    };
    assert_eq!(with(of_a_former_pod, set(1)), [Action::FixClaims { ordinal: 0 }]);
}

#[test]
fn two_billion_replicas_are_made_bit_by_bit() {
    let most = i32::MAX as u32;
    assert_eq!(plan_of(&set(most), &[pod(0)]), [create(1)]);
    let made = plan_of(&parallel(most), &[pod(1), pod(most - 1), unready(3)]);
    assert_eq!(
        (made.len(), &made[..3]),
        (500, &[create(0), create(2), create(4)][..])
    );
    let old = old(pod(1));
    assert!(!plan_of(&parallel(most), std::slice::from_ref(&old)).contains(&delete(1)));
}

fn plan_of(spec: &Spec, pods: &[Pod]) -> Vec<Action> {
    let seen = Observed {
        pods: pods.to_vec(),
        claims: BTreeMap::new(),
    };
    plan(spec, &seen)
}

#[test]
fn missing_claims_of_a_pending_pod_are_made() {
    let pending = Pod {
        phase: Phase::Pending,
        ..pod(0)
    };
    let claims = BTreeMap::from([(
        0,
        Claims {
            missing: true,
            ..Claims::default()
        },
    )]);
    let seen = Observed {
        pods: vec![pending],
        claims,
    };
    assert_eq!(plan(&set(1), &seen), [Action::CreateClaims { ordinal: 0 }]);
}

#[test]
fn owners_of_claims_and_identities_of_pods_are_put_right_on_the_way() {
    let strange = Pod {
        identity_matches: false,
        ..pod(0)
    };
    let claims = BTreeMap::from([(
        1,
        Claims {
            owners_differ: true,
            ..Claims::default()
        },
    )]);
    let seen = Observed {
        pods: vec![strange, pod(1), pod(2)],
        claims,
    };
    assert_eq!(
        plan(&set(2), &seen),
        [
            Action::FixPod {
                ordinal: 0,
                uid: "u0".into()
            },
            Action::FixClaims { ordinal: 1 },
            delete(2)
        ]
    );
}
