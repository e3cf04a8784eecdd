//! Cluster IPs and IP families: `clusterIP` and `clusterIPs` say the same, and the families follow
//! from the addresses or the cluster ("IPv4/IPv6 dual-stack").
//!
//! The clusters of this server have IPv4 alone.

use k8s_openapi::api::core::v1::ServiceSpec;

use super::{NO_CLUSTER_IP, is_headless, needs_cluster_ip};
use crate::error::{Errors, Path};
use crate::go;
use crate::kinds::{ip, text};

const IPV4: &str = "IPv4";
const IPV6: &str = "IPv6";
/// What addresses can be of.
const KNOWN_FAMILIES: [&str; 2] = [IPV4, IPV6];
/// What the cluster has; the first is the default.
const CLUSTER_FAMILIES: [&str; 1] = [IPV4];
const POLICIES: [&str; 3] = ["PreferDualStack", REQUIRE_DUAL_STACK, SINGLE_STACK];
const REQUIRE_DUAL_STACK: &str = "RequireDualStack";
const SINGLE_STACK: &str = "SingleStack";

pub(super) fn list(list: &Option<Vec<String>>) -> &[String] {
    list.as_deref().unwrap_or_default()
}

/// Lets `clusterIPs` follow `clusterIP` where a client knows only the older field.
pub(super) fn normalize(spec: &mut ServiceSpec, old: Option<&ServiceSpec>) {
    let own = text(&spec.cluster_ip).to_owned();
    let Some(old) = old else {
        if !own.is_empty() && list(&spec.cluster_ips).is_empty() {
            spec.cluster_ips = Some(vec![own]);
        }
        return;
    };
    let before = text(&old.cluster_ip);
    if own == before {
        if list(&spec.cluster_ips).is_empty() {
            spec.cluster_ips.clone_from(&old.cluster_ips);
        }
        return;
    }
    if list(&spec.cluster_ips) == list(&old.cluster_ips) {
        spec.cluster_ips = (!own.is_empty()).then(|| vec![own]);
    }
}

/// Fills in the policy and the families, and says what is wrong with them or the addresses.
/// Doing it again to what it completed changes nothing.
pub(super) fn complete_families(spec: &mut ServiceSpec, old: Option<&ServiceSpec>) -> Errors {
    let mut errors = Errors::new();
    if !needs_cluster_ip(spec) || old.is_some_and(|old| stays_as_preferred(spec, old)) {
        return errors;
    }
    let is_free =
        text(&spec.cluster_ip) == NO_CLUSTER_IP && spec.selector.as_ref().is_none_or(|all| all.is_empty());
    if spec.ip_family_policy.is_none() {
        let policy = old.and_then(|old| old.ip_family_policy.clone());
        let default = if is_free { REQUIRE_DUAL_STACK } else { SINGLE_STACK };
        spec.ip_family_policy = Some(policy.unwrap_or_else(|| default.to_owned()));
    }
    validate(spec, old, &mut errors);
    if !errors.is_empty() {
        return errors;
    }
    if let Some(old) = old {
        reduce(spec, old, &mut errors);
    }
    check_policy_fits(spec, &mut errors);
    infer_families(spec, &mut errors);
    if !errors.is_empty() {
        return errors;
    }
    if is_free {
        // A service without addresses and pods may be of families that the cluster does not have.
        let wants_both = text(&spec.ip_family_policy) != SINGLE_STACK;
        let families = spec.ip_families.get_or_insert_default();
        if families.is_empty() {
            families.push(CLUSTER_FAMILIES[0].to_owned());
        }
        if families.len() < 2 && wants_both {
            let other = if families[0] == IPV4 { IPV6 } else { IPV4 };
            families.push(other.to_owned());
        }
        return errors;
    }
    let path = Path::new("spec");
    if text(&spec.ip_family_policy) == REQUIRE_DUAL_STACK {
        errors.invalid(
            &path.child("ipFamilyPolicy"),
            text(&spec.ip_family_policy),
            "this cluster is not configured for dual-stack services",
        );
    }
    for (at, family) in list(&spec.ip_families).iter().enumerate() {
        if !CLUSTER_FAMILIES.contains(&family.as_str()) {
            let path = path.child("ipFamilies").index(at);
            errors.invalid(&path, family, "not configured on this cluster");
        }
    }
    if errors.is_empty() && list(&spec.ip_families).is_empty() {
        spec.ip_families = Some(vec![CLUSTER_FAMILIES[0].to_owned()]);
    }
    errors
}

/// Whether an update leaves a service alone that would take both families: it is not upgraded by
/// the way.
fn stays_as_preferred(spec: &ServiceSpec, old: &ServiceSpec) -> bool {
    let prefers =
        |policy: &Option<String>| policy.as_deref().is_none_or(|policy| policy == "PreferDualStack");
    spec.ip_family_policy.is_some()
        && text(&spec.type_) == text(&old.type_)
        && prefers(&spec.ip_family_policy)
        && prefers(&old.ip_family_policy)
        && list(&spec.cluster_ips) == list(&old.cluster_ips)
        && list(&spec.ip_families) == list(&old.ip_families)
}

/// A service of one family gives up the second address and family, and only such a service does.
fn reduce(spec: &mut ServiceSpec, old: &ServiceSpec, errors: &mut Errors) {
    let path = Path::new("spec").child("ipFamilyPolicy");
    let policy = text(&spec.ip_family_policy).to_owned();
    let parts = [
        (&mut spec.cluster_ips, &old.cluster_ips, "secondary cluster IP"),
        (&mut spec.ip_families, &old.ip_families, "secondary IP family"),
    ];
    for (new, old, what) in parts {
        if policy == SINGLE_STACK {
            if list(new) == list(old)
                && let Some(new) = new
            {
                new.truncate(1);
            }
        } else if !list(new).is_empty() && list(new).len() < list(old).len() {
            let why = format!("must be 'SingleStack' to release the {what}");
            errors.invalid(&path, policy.as_str(), &why);
        }
    }
}

fn check_policy_fits(spec: &ServiceSpec, errors: &mut Errors) {
    let policy = text(&spec.ip_family_policy);
    let path = Path::new("spec").child("ipFamilyPolicy");
    for (listed, what) in [
        (&spec.cluster_ips, "cluster IPs"),
        (&spec.ip_families, "IP families"),
    ] {
        if policy == SINGLE_STACK && list(listed).len() == 2 {
            let why =
                format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            errors.invalid(&path, policy, &why);
        }
    }
}

fn infer_families(spec: &mut ServiceSpec, errors: &mut Errors) {
    let addresses = list(&spec.cluster_ips).to_vec();
    let families = spec.ip_families.get_or_insert_default();
    for (at, address) in addresses
        .iter()
        .enumerate()
        .filter(|(_, address)| *address != NO_CLUSTER_IP)
    {
        if at < families.len() {
            continue;
        }
        let family = if ip::is_v6(address) { IPV6 } else { IPV4 };
        if CLUSTER_FAMILIES.contains(&family) {
            families.push(family.to_owned());
        } else {
            let path = Path::new("spec").child("clusterIPs").index(at);
            let why = format!("{family} is not configured on this cluster");
            errors.invalid(&path, &go::syntax("[]string", &addresses), &why);
        }
    }
}

/// Checks addresses, families and the policy against each other.
pub(super) fn validate(spec: &ServiceSpec, old: Option<&ServiceSpec>, errors: &mut Errors) {
    if !needs_cluster_ip(spec) {
        return;
    }
    let path = Path::new("spec");
    let (addresses, families) = (list(&spec.cluster_ips), list(&spec.ip_families));
    let at = path.child("clusterIPs");
    let shown = || go::syntax("[]string", &spec.cluster_ips);
    match (text(&spec.cluster_ip), addresses.first()) {
        ("", None) => {}
        ("", Some(_)) => errors.invalid(&at, &shown(), "must be empty when `clusterIP` is not specified"),
        (_, None) => errors.required(&at, ""),
        (own, Some(first)) if own != first => {
            errors.invalid(&at, &shown(), "first value must match `clusterIP`");
        }
        _ => {}
    }
    for (at, family) in families.iter().enumerate() {
        let path = path.child("ipFamilies").index(at);
        errors.one_of(&path, family, &KNOWN_FAMILIES);
        if families[..at].contains(family) {
            errors.duplicate(&path, family);
        }
    }
    if let Some(policy) = &spec.ip_family_policy {
        errors.one_of(&path.child("ipFamilyPolicy"), policy, &POLICIES);
    }
    if !validate_addresses(spec, old, errors) {
        return;
    }
    if addresses.len() > 1
        && addresses
            .iter()
            .all(|address| ip::is_v6(address) == ip::is_v6(&addresses[0]))
    {
        errors.invalid(
            &at,
            &shown(),
            "may specify no more than one IP for each IP family",
        );
    }
    if is_headless(spec) {
        return;
    }
    for (index, (address, family)) in addresses.iter().zip(families).enumerate() {
        if KNOWN_FAMILIES.contains(&family.as_str()) && ip::is_v6(address) != (family == IPV6) {
            let why = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            errors.invalid(&at.index(index), address, &why);
        }
    }
}

/// Checks each address alone; whether it makes sense to look further.
fn validate_addresses(spec: &ServiceSpec, old: Option<&ServiceSpec>, errors: &mut Errors) -> bool {
    let addresses = list(&spec.cluster_ips);
    let known: Vec<_> = old
        .map_or(&[][..], |old| list(&old.cluster_ips))
        .iter()
        .map(String::as_str)
        .collect();
    let path = Path::new("spec").child("clusterIPs");
    let shown = || go::syntax("[]string", &spec.cluster_ips);
    let before = errors.len();
    for (at, address) in addresses.iter().enumerate() {
        if at > 0 || address != NO_CLUSTER_IP {
            ip::validate(
                address,
                if address == NO_CLUSTER_IP { &[] } else { &known },
                &path.index(at),
                errors,
            );
        } else if addresses.len() > 1 {
            errors.invalid(&path, &shown(), "'None' must be the first and only value");
        }
    }
    let is_good = errors.len() == before;
    if addresses.len() > 2 {
        errors.invalid(&path, &shown(), "may only hold up to 2 values");
    }
    is_good
}
