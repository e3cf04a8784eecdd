//! How large each of a Deployment's ReplicaSets is to be. Pure.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How many replicas there may and must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) replicas: i32,
    pub(super) is_rolling: bool,
    surge: i32,
    pub(super) unavailable: i32,
}

/// A ReplicaSet, as far as sizes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Size {
    /// The replicas that it is to have.
    pub(super) wanted: i32,
    pub(super) available: i32,
    /// What its annotations say of the Deployment's replicas, and of the most there could be.
    pub(super) desired: Option<i32>,
    pub(super) most: Option<i32>,
}

/// New sizes: of the newest template's set, if it changes, and of those of others, by index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sizes {
    pub(super) newest: Option<i32>,
    pub(super) old: Vec<(usize, i32)>,
}

impl Sizes {
    pub(super) fn is_empty(&self) -> bool {
        self.newest.is_none() && self.old.is_empty()
    }
}

impl Bounds {
    /// What a Deployment asks for.
    pub(super) fn of(deployment: &Deployment) -> Bounds {
        let spec = &deployment.spec;
        let replicas = spec.replicas.unwrap_or(1);
        let strategy = spec.strategy.clone().unwrap_or_default();
        let is_rolling = strategy.type_.as_deref() != Some("Recreate");
        let rolling = strategy.rolling_update.unwrap_or_default();
        let quarter = IntOrString::String("25%".to_owned());
        let surge = share(rolling.max_surge.as_ref().unwrap_or(&quarter), replicas, true);
        let unavailable = share(
            rolling.max_unavailable.as_ref().unwrap_or(&quarter),
            replicas,
            false,
        );
        // With neither, nothing would ever move.
        let unavailable = if surge == 0 {
            unavailable.max(1)
        } else {
            unavailable
        };
        Bounds {
            replicas,
            is_rolling,
            surge: if is_rolling { surge } else { 0 },
            unavailable: if is_rolling { unavailable.min(replicas) } else { 0 },
        }
    }

    /// The most replicas there can be.
    pub(super) fn most(&self) -> i32 {
        self.replicas.saturating_add(self.surge)
    }

    fn least_available(&self) -> i32 {
        self.replicas - self.unavailable
    }

    /// The size of a set of the newest template, beside others that have so many replicas with it.
    pub(super) fn of_newest(&self, size: i32, all: i32) -> i32 {
        if !self.is_rolling || size >= self.replicas {
            return self.replicas;
        }
        let room = self.most().saturating_sub(all).max(0);
        size + room.min(self.replicas - size)
    }
}

/// A number, or a percentage of the replicas.
fn share(value: &IntOrString, replicas: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(percent) => {
            let percent: i64 = percent.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent.max(0).saturating_mul(replicas.into());
            let share = if round_up {
                product.saturating_add(99) / 100
            } else {
                product / 100
            };
            i32::try_from(share).unwrap_or(i32::MAX)
        }
    }
}

/// A step of a rolling update: the newest set grows first; then the others shrink, those that are not available
/// before those that are.
pub(super) fn roll(bounds: &Bounds, newest: &Size, old: &[Size]) -> Sizes {
    let mut sizes = Sizes::default();
    let all = newest.wanted + old.iter().map(|size| size.wanted).sum::<i32>();
    let grown = bounds.of_newest(newest.wanted, all);
    if grown != newest.wanted {
        sizes.newest = Some(grown);
        return sizes;
    }
    let mut left: Vec<i32> = old.iter().map(|size| size.wanted).collect();
    let not_available = newest.wanted - newest.available;
    let mut surplus = (all - bounds.least_available() - not_available).max(0);
    // What is not available is missed by nobody.
    for (size, left) in old.iter().zip(&mut left) {
        let gone = (size.wanted - size.available).clamp(0, surplus);
        *left -= gone;
        surplus -= gone;
    }
    let is_due = all - bounds.least_available() - not_available > 0;
    let available = newest.available + old.iter().map(|size| size.available).sum::<i32>();
    let mut surplus = available - bounds.least_available();
    for left in left.iter_mut().filter(|_| is_due) {
        let gone = (*left).min(surplus).max(0);
        *left -= gone;
        surplus -= gone;
    }
    let changed = old.iter().zip(left).enumerate();
    sizes.old = changed
        .filter(|(_, (size, left))| size.wanted != *left)
        .map(|(at, (_, left))| (at, left))
        .collect();
    sizes
}

/// All sets of old templates go.
pub(super) fn none_of(old: &[Size]) -> Sizes {
    let all = old.iter().enumerate();
    Sizes {
        newest: None,
        old: all
            .filter(|(_, size)| size.wanted > 0)
            .map(|(at, _)| (at, 0))
            .collect(),
    }
}

/// Whether the Deployment's replicas are others than those that its sets were scaled for.
pub(super) fn is_scaled(bounds: &Bounds, newest: Option<&Size>, old: &[Size]) -> bool {
    let mut active = newest.into_iter().chain(old).filter(|size| size.wanted > 0);
    active.any(|size| size.desired.is_some_and(|desired| desired != bounds.replicas))
}

/// The sizes when the Deployment's replicas have changed: each set gets its share. `old` are by age.
pub(super) fn scale(bounds: &Bounds, newest: Option<&Size>, old: &[Size], status_replicas: i32) -> Sizes {
    let size_of = |at: usize| if at == old.len() { newest } else { old.get(at) };
    let active: Vec<(usize, Size)> = (0..=old.len())
        .filter_map(|at| Some((at, *size_of(at)?)))
        .filter(|(_, size)| size.wanted > 0)
        .collect();
    let only = match active[..] {
        // The newest one there is.
        [] if newest.is_some() => Some(old.len()),
        [] => old.len().checked_sub(1),
        [(at, _)] => Some(at),
        _ => None,
    };
    if let Some(at) = only {
        return resized(old, newest, [(at, bounds.replicas)]);
    }
    if newest.is_some_and(|newest| is_saturated(bounds, newest)) {
        return none_of(old);
    }
    if !bounds.is_rolling {
        return Sizes::default();
    }
    let allowed = if bounds.replicas > 0 { bounds.most() } else { 0 };
    let missing = allowed - active.iter().map(|(_, size)| size.wanted).sum::<i32>();
    let mut shares = active;
    // The largest first; of equal ones the newer when there are more to be, else the older.
    shares.sort_by_key(|(at, size)| {
        let age = i64::try_from(*at).unwrap_or(i64::MAX);
        (-i64::from(size.wanted), if missing > 0 { -age } else { age })
    });
    let mut given = 0;
    let mut sizes: Vec<(usize, i32)> = Vec::new();
    for (at, size) in &shares {
        let left = missing - given;
        let share = if missing == 0 || left == 0 {
            0
        } else {
            proportion(bounds, size, status_replicas)
        };
        let share = if missing > 0 {
            share.min(left)
        } else {
            share.max(left)
        };
        given += share;
        sizes.push((*at, size.wanted + share));
    }
    // What rounding has left.
    if let Some((_, first)) = sizes.first_mut() {
        *first = (*first + missing - given).max(0);
    }
    resized(old, newest, sizes)
}

/// How much a set grows so that it keeps its share.
fn proportion(bounds: &Bounds, size: &Size, status_replicas: i32) -> i32 {
    if bounds.replicas == 0 {
        return -size.wanted;
    }
    let before = f64::from(size.most.unwrap_or(status_replicas));
    if before <= 0.0 {
        return 0;
    }
    let now = f64::from(size.wanted) * f64::from(bounds.most()) / before;
    // A rounded number of replicas is far from the limits of its type.
    now.round() as i32 - size.wanted
}

fn is_saturated(bounds: &Bounds, newest: &Size) -> bool {
    let all = bounds.replicas;
    newest.wanted == all && newest.desired == Some(all) && newest.available == all
}

/// The sizes that are others than they were.
fn resized(old: &[Size], newest: Option<&Size>, to: impl IntoIterator<Item = (usize, i32)>) -> Sizes {
    let mut sizes = Sizes::default();
    for (at, to) in to {
        match old.get(at) {
            Some(size) if size.wanted != to => sizes.old.push((at, to)),
            None if newest.is_some_and(|newest| newest.wanted != to) => sizes.newest = Some(to),
            _ => {}
        }
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::super::sets::tests::deployment;
    use super::*;

    fn bounds(replicas: i32, surge: i32, unavailable: i32) -> Bounds {
        Bounds {
            replicas,
            is_rolling: true,
            surge,
            unavailable,
        }
    }

    fn size(wanted: i32, available: i32) -> Size {
        Size {
            wanted,
            available,
            ..Size::default()
        }
    }

    #[test]
    fn bounds_are_numbers_or_shares() {
        let of = |replicas| {
            let bounds = Bounds::of(&deployment(replicas, "a"));
            (bounds.most(), bounds.least_available())
        };
        assert_eq!([of(0), of(1), of(4), of(10)], [(0, 0), (2, 1), (5, 3), (13, 8)]);
    }

    /// Plays an update in which each new replica becomes available at once, and tells the sizes on the way.
    fn played(bounds: &Bounds, from: i32) -> Vec<(i32, i32)> {
        let (mut newest, mut old) = (Size::default(), size(from, from));
        let mut seen = Vec::new();
        while (newest.wanted, old.wanted) != (bounds.replicas, 0) {
            let sizes = roll(bounds, &newest, &[old]);
            assert!(!sizes.is_empty(), "stuck at {seen:?}");
            if let Some(size) = sizes.newest {
                newest.wanted = size;
            }
            for (_, size) in sizes.old {
                old.wanted = size;
                old.available = size;
            }
            let all = newest.wanted + old.wanted;
            assert!(all <= bounds.most(), "{all}");
            assert!(newest.available + old.available >= bounds.least_available());
            newest.available = newest.wanted;
            seen.push((newest.wanted, old.wanted));
        }
        seen
    }

    #[test]
    fn an_update_keeps_within_its_bounds() {
        assert_eq!(
            played(&bounds(4, 1, 1), 4),
            [(1, 4), (1, 2), (3, 2), (3, 0), (4, 0)]
        );
        assert_eq!(played(&bounds(2, 1, 0), 2), [(1, 2), (1, 1), (2, 1), (2, 0)]);
        assert_eq!(played(&bounds(2, 0, 1), 2), [(0, 1), (1, 1), (1, 0), (2, 0)]);
    }

    /// All states of an update of four replicas, whatever of them is available.
    #[test]
    fn whatever_comes_the_bounds_hold_and_it_goes_on() {
        for (surge, unavailable) in [(1, 0), (0, 1), (1, 1), (2, 1), (3, 3)] {
            let bounds = bounds(4, surge, unavailable);
            for (olds, news) in (0..=4).flat_map(|olds| (0..=4).map(move |news| (olds, news))) {
                if olds + news > bounds.most() {
                    continue;
                }
                for (old_up, new_up) in (0..=olds).flat_map(|old| (0..=news).map(move |new| (old, new))) {
                    let sizes = roll(&bounds, &size(news, new_up), &[size(olds, old_up)]);
                    let new_after = sizes.newest.unwrap_or(news);
                    let after = sizes.old.first().map_or(olds, |(_, size)| *size);
                    let what = format!("{bounds:?}: {olds}/{old_up} {news}/{new_up} to {after} {new_after}");
                    assert!(after + new_after <= bounds.most(), "{what}");
                    let least = bounds.least_available().min(old_up + new_up);
                    assert!(old_up.min(after) + new_up >= least, "{what}");
                    assert!(after <= olds && new_after >= news, "{what}");
                    let is_done = (olds, news) == (0, 4);
                    let all_up = (old_up, new_up) == (olds, news);
                    assert!(is_done || !all_up || !sizes.is_empty(), "{what}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_available_goes_first() {
        let sizes = roll(&bounds(3, 1, 0), &size(1, 1), &[size(2, 0), size(1, 1)]);
        assert_eq!(sizes.old, [(0, 1)]);
        // As long as the new one is not available, none that is goes.
        let sizes = roll(&bounds(1, 1, 0), &size(1, 0), &[size(1, 1)]);
        assert!(sizes.is_empty(), "{sizes:?}");
    }

    #[test]
    fn sets_share_a_change_of_scale() {
        let part = |wanted, most| Size {
            desired: Some(10),
            most: Some(most),
            ..size(wanted, wanted)
        };
        let (newest, old) = (part(5, 13), [part(8, 13)]);
        assert!(is_scaled(&bounds(15, 3, 2), Some(&newest), &old));
        assert!(!is_scaled(&bounds(10, 3, 2), Some(&newest), &old));
        let sizes = scale(&bounds(15, 3, 2), Some(&newest), &old, 13);
        assert_eq!((sizes.newest, &sizes.old[..]), (Some(7), &[(0, 11)][..]));
        let sizes = scale(&bounds(0, 0, 0), Some(&newest), &old, 13);
        assert_eq!((sizes.newest, &sizes.old[..]), (Some(0), &[(0, 0)][..]));
        // One alone has all of it, also when it had none.
        let sizes = scale(&bounds(3, 1, 1), Some(&size(0, 0)), &[size(0, 0)], 0);
        assert_eq!((sizes.newest, sizes.old.len()), (Some(3), 0));
        let sizes = scale(&bounds(3, 1, 1), None, &[size(0, 0), size(2, 2)], 2);
        assert_eq!((sizes.newest, &sizes.old[..]), (None, &[(1, 3)][..]));
    }
}
