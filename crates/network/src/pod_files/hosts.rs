//! `/etc/hosts`.

use std::fmt::Write;
use std::net::IpAddr;

/// Names for an address that a pod's spec adds (`hostAliases`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAlias {
    /// The address, as it is spelled in the spec.
    pub ip: String,
    /// The names.
    pub hostnames: Vec<String>,
}

/// The file of a pod with an own network: the loopback names, the pod's own name (with `domain`, also in
/// full), and the aliases.
pub fn pod_hosts(
    addresses: &[IpAddr],
    hostname: &str,
    domain: Option<&str>,
    aliases: &[HostAlias],
) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    let names = match domain.filter(|domain| !domain.is_empty()) {
        Some(domain) => format!("{hostname}.{domain}\t{hostname}"),
        None => hostname.to_owned(),
    };
    for address in addresses {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{address}\t{names}");
    }
    text + &alias_lines(aliases)
}

/// The file of a pod in the machine's network: the machine's own file, and the aliases.
pub fn host_network_hosts(machine_hosts: &str, aliases: &[HostAlias]) -> String {
    format!(
        "# Kubernetes-managed hosts file (host network).\n{machine_hosts}{}",
        alias_lines(aliases)
    )
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let lines = aliases
        .iter()
        .map(|alias| format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
    format!("\n# Entries added by HostAliases.\n{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LOOPBACK: &str = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost \
                            ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\n\
                            fe00::2\tip6-allrouters\n";

    fn aliases() -> Vec<HostAlias> {
        let alias = |ip: &str, names: &[&str]| HostAlias {
            ip: ip.into(),
            hostnames: names.iter().map(|name| (*name).into()).collect(),
        };
        vec![alias("1.2.3.4", &["foo", "bar"]), alias("5.6.7.8", &["baz"])]
    }

    #[test]
    fn a_pods_file_has_its_own_name_and_with_a_subdomain_the_full_one() {
        let address = ["10.244.0.5".parse().unwrap()];
        let cases = [
            (None, Vec::new(), "10.244.0.5\tweb-0\n"),
            (Some(""), Vec::new(), "10.244.0.5\tweb-0\n"),
            (
                Some("web.default.svc.cluster.local"),
                Vec::new(),
                "10.244.0.5\tweb-0.web.default.svc.cluster.local\tweb-0\n",
            ),
            (
                None,
                aliases(),
                "10.244.0.5\tweb-0\n\n# Entries added by HostAliases.\n1.2.3.4\tfoo\tbar\n5.6.7.8\tbaz\n",
            ),
        ];
        for (domain, aliases, expected) in cases {
            assert_eq!(
                pod_hosts(&address, "web-0", domain, &aliases),
                format!("{LOOPBACK}{expected}")
            );
        }
    }

    #[test]
    fn a_pod_in_the_machines_network_has_the_machines_file() {
        let machine = "127.0.0.1\tlocalhost\n";
        let header = "# Kubernetes-managed hosts file (host network).\n";
        assert_eq!(host_network_hosts(machine, &[]), format!("{header}{machine}"));
        let with_aliases = host_network_hosts(machine, &aliases());
        assert!(
            with_aliases
                .ends_with("localhost\n\n# Entries added by HostAliases.\n1.2.3.4\tfoo\tbar\n5.6.7.8\tbaz\n")
        );
    }
}
