//! Who runs a container: names to numbers, by the image's `/etc/passwd` and `/etc/group`.

use crate::config::{User, UserName};

/// The contents of an image's user database; empty where it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Users {
    pub(crate) passwd: String,
    pub(crate) group: String,
}

/// A user, in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// All groups, the primary one first. Never empty, so the server's own groups are always dropped.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// A user or group is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// Not in `/etc/passwd`.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// Not in `/etc/group`.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
}

/// A line of `/etc/passwd`.
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Resolves who is asked for, or whom the image names (`user`, `user:group`, numbers for either).
pub(crate) fn resolve(users: &Users, wanted: &User, of_image: &str) -> Result<Identity, UserError> {
    let (image_user, image_group) = match of_image.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (of_image, None),
    };
    // A user asked for replaces the image's, and then its group is meaningless.
    let (uid, entry, group) = match &wanted.uid {
        Some(UserName::Id(uid)) => (*uid, find(users, |entry| entry.uid == *uid), None),
        Some(UserName::Name(name)) => named(users, name, None)?,
        None => named(users, image_user, image_group)?,
    };
    let primary = match (wanted.gid, group) {
        (Some(gid), _) => gid,
        (None, Some(group)) => group_id(users, group)?,
        (None, None) => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut groups = vec![primary];
    let mut add = |gid| {
        if !groups.contains(&gid) {
            groups.push(gid);
        }
    };
    if let Some(entry) = entry.as_ref().filter(|_| !wanted.strict_groups) {
        memberships(users, entry.name).for_each(&mut add);
    }
    wanted.supplementary_groups.iter().copied().for_each(add);
    let home = entry
        .map(|entry| entry.home)
        .filter(|home| !home.is_empty())
        .unwrap_or("/")
        .to_owned();
    Ok(Identity {
        uid,
        gid: primary,
        groups,
        home,
    })
}

type Named<'a, 'b> = (u32, Option<Entry<'a>>, Option<&'b str>);

/// A user by name, or by a number that need not be known. Nothing means root.
fn named<'a, 'b>(users: &'a Users, name: &str, group: Option<&'b str>) -> Result<Named<'a, 'b>, UserError> {
    let by_name = find(users, |entry| entry.name == name);
    match (by_name, name.parse()) {
        (Some(entry), _) => Ok((entry.uid, Some(entry), group)),
        (None, Ok(uid)) => Ok((uid, find(users, |entry| entry.uid == uid), group)),
        (None, Err(_)) if name.is_empty() => Ok((0, find(users, |entry| entry.uid == 0), group)),
        (None, Err(_)) => Err(UserError::NoUser(name.to_owned())),
    }
}

fn find(users: &Users, matches: impl Fn(&Entry<'_>) -> bool) -> Option<Entry<'_>> {
    users
        .passwd
        .lines()
        .filter_map(parse)
        .find(|entry| matches(entry))
}

fn parse(line: &str) -> Option<Entry<'_>> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1).unwrap_or_default();
    Some(Entry { name, uid, gid, home })
}

/// The lines of `/etc/group`: name, number, members.
fn groups(users: &Users) -> impl Iterator<Item = (&str, u32, &str)> {
    users.group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn group_id(users: &Users, group: &str) -> Result<u32, UserError> {
    let by_name = groups(users)
        .find(|(name, ..)| *name == group)
        .map(|(_, gid, _)| gid);
    by_name
        .or_else(|| group.parse().ok())
        .ok_or_else(|| UserError::NoGroup(group.to_owned()))
}

fn memberships<'a>(users: &'a Users, user: &'a str) -> impl Iterator<Item = u32> + 'a {
    let is_member = move |members: &str| members.split(',').any(|member| member.trim() == user);
    groups(users)
        .filter(move |(_, _, members)| is_member(members))
        .map(|(_, gid, _)| gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        Users {
            passwd: "root:x:0:0:root:/root:/bin/sh\n# comment\n\nweb:x:33:44::/srv:/bin/sh\n7:x:70:71::/x:\n"
                .to_owned(),
            group: "root:x:0:\nweb:x:44:\nlog:x:4:root,web\nadm:x:5: web\n".to_owned(),
        }
    }

    fn check(wanted: User, of_image: &str, expected: Result<(u32, u32, &[u32], &str), UserError>) {
        let expected = expected.map(|(uid, gid, groups, home)| Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.to_owned(),
        });
        assert_eq!(
            resolve(&users(), &wanted, of_image),
            expected,
            "{wanted:?} over {of_image:?}"
        );
    }

    #[test]
    fn names_and_numbers_become_an_identity_as_with_containerd() {
        let image = User::default;
        check(image(), "", Ok((0, 0, &[0, 4], "/root")));
        check(image(), "web", Ok((33, 44, &[44, 4, 5], "/srv")));
        check(image(), "33", Ok((33, 44, &[44, 4, 5], "/srv")));
        check(image(), "web:log", Ok((33, 4, &[4, 5], "/srv")));
        check(image(), "1000:2000", Ok((1000, 2000, &[2000], "/")));
        check(image(), "1000", Ok((1000, 0, &[0], "/")));
        // A name that looks like a number is a name first.
        check(image(), "7", Ok((70, 71, &[71], "/x")));
        check(image(), "nosuch", Err(UserError::NoUser("nosuch".into())));
        check(image(), "web:nosuch", Err(UserError::NoGroup("nosuch".into())));
    }

    #[test]
    fn what_the_pod_asks_for_comes_before_the_image() {
        let id = |uid| User {
            uid: Some(UserName::Id(uid)),
            ..User::default()
        };
        check(id(33), "nosuch:nosuch", Ok((33, 44, &[44, 4, 5], "/srv")));
        check(id(1000), "web:log", Ok((1000, 0, &[0], "/")));
        check(
            User {
                gid: Some(9),
                ..id(33)
            },
            "",
            Ok((33, 9, &[9, 4, 5], "/srv")),
        );
        let extra = User {
            supplementary_groups: vec![4, 100],
            ..id(33)
        };
        check(extra.clone(), "", Ok((33, 44, &[44, 4, 5, 100], "/srv")));
        check(
            User {
                strict_groups: true,
                ..extra
            },
            "",
            Ok((33, 44, &[44, 4, 100], "/srv")),
        );
    }
}
