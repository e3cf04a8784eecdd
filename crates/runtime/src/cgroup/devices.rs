//! Which device nodes a container may use, whatever nodes it makes for itself (the default capabilities
//! include `MKNOD`). v1 has files for this; v2 has a BPF program, see [`super::bpf`].

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::bpf;

/// Character or block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceKind {
    Char,
    Block,
}

/// Some devices that may be used. A missing number stands for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceRule {
    pub(crate) kind: DeviceKind,
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    pub(crate) access: Access,
}

/// What may be done with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// Make a node for it.
    pub(crate) make: bool,
}

impl Access {
    const ALL: Self = Self {
        read: true,
        write: true,
        make: true,
    };
    const MAKE: Self = Self {
        read: false,
        write: false,
        make: true,
    };

    /// From some of `r`, `w` and `m`.
    pub(crate) fn parse(text: &str) -> Self {
        let has = |letter| text.contains(letter);
        Self {
            read: has('r'),
            write: has('w'),
            make: has('m'),
        }
    }

    fn letters(self) -> String {
        [(self.read, 'r'), (self.write, 'w'), (self.make, 'm')]
            .into_iter()
            .filter_map(|(allowed, letter)| allowed.then_some(letter))
            .collect()
    }
}

/// What a container may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DeviceRules {
    /// A privileged container: everything.
    All,
    /// These and nothing else.
    Only(Vec<DeviceRule>),
}

impl DeviceRules {
    /// What every container may use, as with runc: make any node, and use the harmless ones, terminals
    /// included; and `extra`.
    pub(crate) fn container(extra: impl IntoIterator<Item = DeviceRule>) -> Self {
        let make = |kind| DeviceRule {
            kind,
            major: None,
            minor: None,
            access: Access::MAKE,
        };
        let node = |major, minor| DeviceRule {
            kind: DeviceKind::Char,
            major: Some(major),
            minor,
            access: Access::ALL,
        };
        let mut rules = vec![make(DeviceKind::Char), make(DeviceKind::Block)];
        // null, zero, full, random and urandom; tty, console and ptmx; the terminals of devpts.
        rules.extend([3, 5, 7, 8, 9].map(|minor| node(1, Some(minor))));
        rules.extend([0, 1, 2].map(|minor| node(5, Some(minor))));
        rules.push(node(136, None));
        rules.extend(extra);
        Self::Only(rules)
    }

    pub(super) fn apply_v1(&self, dir: &Path) -> io::Result<()> {
        let Self::Only(rules) = self else { return Ok(()) };
        fs::write(dir.join("devices.deny"), "a")?;
        rules
            .iter()
            .try_for_each(|rule| fs::write(dir.join("devices.allow"), rule.to_v1()))
    }

    pub(super) fn apply_v2(&self, dir: &Path) -> io::Result<()> {
        let Self::Only(rules) = self else { return Ok(()) };
        bpf::attach(&fs::File::open(dir)?, &bpf::program(rules))
    }
}

impl DeviceRule {
    /// The device a node of the host stands for; `None` if it is not a device node.
    pub(crate) fn of_node(path: &Path, access: Access) -> io::Result<Option<Self>> {
        let metadata = fs::metadata(path)?;
        let kind = match metadata.file_type() {
            kind if kind.is_char_device() => DeviceKind::Char,
            kind if kind.is_block_device() => DeviceKind::Block,
            _ => return Ok(None),
        };
        let device = metadata.rdev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        Ok(Some(Self {
            kind,
            major: Some(major),
            minor: Some(minor),
            access,
        }))
    }

    fn to_v1(self) -> String {
        let kind = match self.kind {
            DeviceKind::Char => 'c',
            DeviceKind::Block => 'b',
        };
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        format!(
            "{kind} {}:{} {}",
            number(self.major),
            number(self.minor),
            self.access.letters()
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rules_read_as_the_v1_files_want_them() {
        let DeviceRules::Only(rules) = DeviceRules::container([]) else {
            unreachable!()
        };
        let text: Vec<_> = rules.iter().map(|rule| rule.to_v1()).collect();
        assert_eq!(text[..3], ["c *:* m", "b *:* m", "c 1:3 rwm"]);
        assert_eq!(text.last().unwrap(), "c 136:* rwm");
    }

    #[test]
    fn a_node_names_its_device_and_a_file_names_none() {
        let null = DeviceRule::of_node(Path::new("/dev/null"), Access::parse("rw"))
            .unwrap()
            .unwrap();
        assert_eq!(null.to_v1(), "c 1:3 rw");
        assert_eq!(
            DeviceRule::of_node(Path::new("/proc/self/stat"), Access::ALL).unwrap(),
            None
        );
    }

    /// Removed when it goes.
    struct Group(std::path::PathBuf);

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = fs::remove_dir(&self.0);
        }
    }

    #[test]
    fn cgroup_v2_enforces_the_rules() {
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let Some(root) = roots
            .into_iter()
            .find(|root| root.join("cgroup.controllers").exists())
        else {
            return;
        };
        let group = Group(root.join(format!("stead-test-devices-{}", std::process::id())));
        fs::create_dir(&group.0).unwrap();
        let procs = group.0.join("cgroup.procs");
        let run = || {
            // Opened only: some kernels give a record of the log whole or not at all.
            let read = "(: < /dev/zero) && echo zero; (: < /dev/kmsg) && echo kmsg";
            let script = format!("exec 2> /dev/null; echo $$ > {}; {read}", procs.display());
            let output = std::process::Command::new("sh")
                .args(["-c", &script])
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(run(), "zero\nkmsg\n");
        DeviceRules::container([]).apply_v2(&group.0).unwrap();
        assert_eq!(run(), "zero\n");
    }
}
