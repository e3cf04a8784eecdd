//! Names of hosts and how they are looked up.

use k8s_openapi::api::core::v1::PodSpec;

use crate::error::{Errors, Path};
use crate::kinds::{ip, text};
use crate::{go, names};

/// How names are looked up.
pub(super) const POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
const MAX_HOSTNAME: usize = 64;
const NO_ADDRESS: &str = "must be valid IP address";

/// Checks the pod's own lookup configuration.
pub(super) fn validate_config(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let is_alone = text(&spec.dns_policy) == "None";
    let Some(config) = &spec.dns_config else {
        if is_alone {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        return;
    };
    let servers = config.nameservers.as_deref().unwrap_or_default();
    let at = path.child("nameservers");
    if is_alone && servers.is_empty() {
        errors.required(
            &at,
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        );
        return;
    }
    if servers.len() > MAX_SERVERS {
        let why = format!("must not have more than {MAX_SERVERS} nameservers");
        errors.invalid(&at, &go::syntax("[]string", &servers), &why);
    }
    for (index, server) in servers.iter().enumerate() {
        ip::validate_else(server, NO_ADDRESS, &at.index(index), errors);
    }
    validate_searches(
        config.searches.as_deref().unwrap_or_default(),
        &path.child("searches"),
        errors,
    );
    for (at, _) in config
        .options
        .iter()
        .flatten()
        .enumerate()
        .filter(|(_, option)| text(&option.name).is_empty())
    {
        errors.required(&path.child("options").index(at), "must not be empty");
    }
}

fn validate_searches(searches: &[String], path: &Path, errors: &mut Errors) {
    let shown = || go::syntax("[]string", &searches);
    if searches.len() > MAX_SEARCHES {
        errors.invalid(
            path,
            &shown(),
            &format!("must not have more than {MAX_SEARCHES} search paths"),
        );
    }
    let chars = searches.iter().map(String::len).sum::<usize>() + searches.len().saturating_sub(1);
    if chars > MAX_SEARCH_CHARS {
        let why = format!(
            "must not have more than {MAX_SEARCH_CHARS} characters (including spaces) in the search list"
        );
        errors.invalid(path, &shown(), &why);
    }
    // Since 1.34 labels may begin with an underscore, and the root may be searched.
    for (at, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        errors.invalid_each(&path.index(at), search, search_domain(search));
    }
}

fn search_domain(search: &str) -> Vec<String> {
    if names::dns_subdomain_with_underscores(search).is_empty() {
        Vec::new()
    } else {
        names::dns_subdomain(search)
    }
}

/// Checks entries for `/etc/hosts`.
pub(super) fn validate_host_aliases(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    for alias in spec.host_aliases.iter().flatten() {
        // Kubernetes has the path of the list here, not of the item.
        ip::validate_else(&alias.ip, NO_ADDRESS, &path.child("ip"), errors);
        for hostname in alias.hostnames.iter().flatten() {
            errors.invalid_each(&path.child("hostnames"), hostname, names::dns_subdomain(hostname));
        }
    }
}

/// Checks a name that replaces the pod's in its containers.
pub(super) fn validate_hostname_override(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let Some(hostname) = &spec.hostname_override else {
        return;
    };
    let path = path.child("hostnameOverride");
    if spec.set_hostname_as_fqdn == Some(true) {
        errors.forbidden(&path, "may not be specified when setHostnameAsFQDN is true");
    }
    if spec.host_network == Some(true) {
        errors.forbidden(&path, "may not be specified when hostNetwork is true");
    }
    if hostname.len() > MAX_HOSTNAME {
        errors.too_long(&path, MAX_HOSTNAME);
    }
    errors.invalid_each(&path, hostname, names::dns_subdomain(hostname));
}
