//! How many pods a Job makes, and which it takes away. Pure.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use stead_informer::semantics::pods::has_ended;

use super::super::backoff;
use super::super::pod::{index_of, is_indexed, new_pod, only_failed_are_replaced};
use super::super::status::number;
use super::{BURST, Change, Look};
use crate::replicaset::{first_to_go, is_active};

impl<'p> Look<'_, 'p> {
    /// Brings the pods to the number that is wanted; says when to look again if some are to come later.
    pub(super) fn manage(&self) -> (Change<'p>, Option<Timestamp>) {
        if self.spec.suspend == Some(true) {
            return (Change::Remove(self.active.clone()), None);
        }
        let active = number(self.active.len());
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let wanted = match self.spec.completions {
            Some(completions) => (completions - self.succeeded).min(parallelism).max(0),
            // Once one has succeeded, the others end as they will.
            None if self.succeeded > 0 => active,
            None => parallelism,
        };
        let surplus = self.surplus(usize::try_from(active - wanted).unwrap_or(0));
        if !surplus.is_empty() {
            return (Change::Remove(surplus), None);
        }
        let leaving = if only_failed_are_replaced(self.spec) {
            number(self.terminating)
        } else {
            0
        };
        let missing = usize::try_from(wanted - leaving - active).unwrap_or(0).min(BURST);
        if missing == 0 {
            return (Change::None, None);
        }
        self.create(missing)
    }

    /// Pods that are too many: those whose index is none, or has another pod, and then those that are missed least.
    fn surplus(&self, count: usize) -> Vec<&'p Pod> {
        let mut seen = HashSet::new();
        let (mut gone, mut left) = (Vec::new(), Vec::new());
        for pod in &self.active {
            let index = index_of(pod, self.spec);
            if is_indexed(self.spec) && index.is_none_or(|index| !seen.insert(index)) {
                gone.push(*pod);
            } else {
                left.push(*pod);
            }
        }
        gone.extend(first_to_go(&left, count.saturating_sub(gone.len())));
        gone.truncate(BURST);
        gone
    }

    fn create(&self, missing: usize) -> (Change<'p>, Option<Timestamp>) {
        let make = |index, failed| new_pod(self.job, self.spec, index, failed);
        if self.spec.backoff_limit_per_index.is_none()
            && let Some(until) = backoff::until(self.spec, self.pods).filter(|until| *until > self.now)
        {
            return (Change::None, Some(until));
        }
        let Some(completions) = self.spec.completions.filter(|_| is_indexed(self.spec)) else {
            return (Change::Create(vec![make(None, None); missing]), None);
        };
        let mut taken = self.done.clone();
        taken.insert_all(&self.failed_indexes);
        let waits = |pod: &&&Pod| is_active(pod) || only_failed_are_replaced(self.spec) && !has_ended(pod);
        let indexes = self
            .pods
            .iter()
            .filter(waits)
            .filter_map(|pod| index_of(pod, self.spec));
        indexes.for_each(|index| taken.insert(index));
        let (mut now, mut later) = (Vec::new(), None);
        for index in taken.missing(completions, missing) {
            let failed = self.to_replace.get(&index).copied();
            let until = failed
                .map(backoff::until_replaced)
                .filter(|until| *until > self.now);
            match until {
                None => now.push(make(Some(index), failed)),
                Some(until) => later = later.into_iter().chain([until]).min(),
            }
        }
        let change = if now.is_empty() {
            Change::None
        } else {
            Change::Create(now)
        };
        (change, later)
    }
}
