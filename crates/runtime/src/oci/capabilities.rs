//! What root inside a container may do.

use std::str::FromStr;

use oci_spec::runtime::{Capabilities, Capability};

use super::SpecError;
use crate::config::Security;

/// Docker's default set.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// All of them, in the kernel's order: the place is the number.
const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The capabilities this process has to give, as the bits of `CapBnd` in `/proc/self/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Available(u64);

impl Available {
    /// Those of a process whose `/proc/<pid>/status` this is; all if it does not say.
    pub(crate) fn parse(status: &str) -> Self {
        let field = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
        let bits = field.and_then(|value| u64::from_str_radix(value.trim(), 16).ok());
        bits.map_or(Self::all(), Self)
    }

    pub(crate) const fn all() -> Self {
        Self(u64::MAX)
    }

    fn has(self, name: &str) -> bool {
        let number = ALL.iter().position(|known| *known == name);
        number.is_some_and(|number| self.0 >> number & 1 == 1)
    }
}

/// What a container is granted. What this machine does not have to give is left out: nobody could grant it.
pub(super) fn granted(security: &Security, available: Available) -> Result<Capabilities, SpecError> {
    let add = names(&security.add_capabilities)?;
    let drop = names(&security.drop_capabilities)?;
    let base: &[&str] = match (security.privileged || add.contains(&"ALL"), drop.contains(&"ALL")) {
        (true, _) => &ALL,
        (false, true) => &[],
        (false, false) => &DEFAULT,
    };
    // A name given to both is dropped, unless `drop` says ALL, which comes before the additions.
    let dropped = |name: &str| !security.privileged && drop.contains(&name);
    let all = base
        .iter()
        .copied()
        .chain(add)
        .filter(|name| *name != "ALL" && !dropped(name));
    let possible = all.filter(|name| available.has(name));
    possible
        .map(|name| Capability::from_str(name).map_err(|_| SpecError::Capability(name.to_owned())))
        .collect()
}

/// Normalises names: any case, with or without `CAP_`.
fn names(given: &[String]) -> Result<Vec<&'static str>, SpecError> {
    let known = |given: &String| {
        let upper = given.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let found = ALL.iter().chain(&["ALL"]).find(|known| **known == name).copied();
        found.ok_or_else(|| SpecError::Capability(given.clone()))
    };
    given.iter().map(known).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(privileged: bool, add: &[&str], drop: &[&str], expected: &[&str]) {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let security = Security {
            privileged,
            add_capabilities: owned(add),
            drop_capabilities: owned(drop),
            ..Security::default()
        };
        let mut found: Vec<_> = granted(&security, Available::all())
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        let mut expected = owned(expected);
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{privileged} +{add:?} -{drop:?}");
    }

    fn with(base: &[&'static str], more: &[&'static str], less: &[&str]) -> Vec<&'static str> {
        base.iter()
            .chain(more)
            .copied()
            .filter(|name| !less.contains(name))
            .collect()
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_kubernetes_documents() {
        check(false, &[], &[], &DEFAULT);
        check(
            false,
            &["net_admin", "CAP_SYS_TIME"],
            &[],
            &with(&DEFAULT, &["NET_ADMIN", "SYS_TIME"], &[]),
        );
        check(false, &[], &["CHOWN"], &with(&DEFAULT, &[], &["CHOWN"]));
        check(false, &[], &["ALL"], &[]);
        check(false, &["NET_BIND_SERVICE"], &["ALL"], &["NET_BIND_SERVICE"]);
        check(false, &["ALL"], &[], &ALL);
        check(false, &["ALL"], &["SYS_ADMIN"], &with(&ALL, &[], &["SYS_ADMIN"]));
        check(true, &[], &["ALL"], &ALL);
    }

    #[test]
    fn what_the_machine_does_not_have_is_left_out() {
        let status = "Name:\tx\nCapBnd:\t000001fffeffffff\nCapAmb:\t0\n";
        let security = Security {
            privileged: true,
            ..Security::default()
        };
        let granted = granted(&security, Available::parse(status)).unwrap();
        assert_eq!(granted.len(), 40);
        assert!(!granted.contains(&Capability::SysResource));
    }
}
