//! What is said of a pod that fits nowhere, as the `FailedScheduling` event and the pod's condition
//! have it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::filter::Rejection;

/// Why a pod cannot be placed, on all nodes together.
#[derive(Debug)]
pub(crate) enum Reasons<'r> {
    /// The same on every node.
    Everywhere(&'r str),
    /// What each node objects.
    ByNode(&'r [Vec<Rejection>]),
}

/// Whether making room would help, as seen from one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Room {
    /// It would not.
    NotHelpful,
    /// It would, but there is nobody to make it.
    NoVictims,
    /// Pods of lower priority could make room; this scheduler leaves them alone.
    LeftAlone,
}

/// The message. `room` tells of each node whether making room would help; none where the pod is not
/// to have room made for it.
pub(crate) fn failure(nodes: usize, reasons: &Reasons<'_>, room: Option<&[Room]>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut text = format!("0/{nodes} nodes are available: ");
    match reasons {
        Reasons::Everywhere(why) => text.push_str(why),
        Reasons::ByNode(rejections) => {
            text.push_str(&counted(rejections.iter().flatten().map(ToString::to_string)));
        }
    }
    match room {
        None => text.push_str(". preemption: not eligible due to preemptionPolicy=Never."),
        Some(room) => {
            let room = counted(room.iter().map(|room| room_text(*room).to_owned()));
            // Writing to a String does not fail.
            let _ = write!(text, ". preemption: 0/{nodes} nodes are available: {room}.");
        }
    }
    text
}

fn room_text(room: Room) -> &'static str {
    match room {
        Room::NotHelpful => "Preemption is not helpful for scheduling",
        Room::NoVictims => "No preemption victims found for incoming pod",
        Room::LeftAlone => "Preemption of pods with lower priority is not supported by this scheduler",
    }
}

/// Reasons with how often each was given, sorted as texts.
fn counted(reasons: impl Iterator<Item = String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_insert(0) += 1;
    }
    let mut texts: Vec<_> = counts
        .into_iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    texts.sort();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insufficient(resource: &str) -> Rejection {
        Rejection::Insufficient {
            resource: resource.to_owned(),
            ever: false,
        }
    }

    #[test]
    fn messages_are_those_of_kubernetes() {
        let one = [vec![insufficient("cpu")]];
        let several = [
            vec![insufficient("cpu"), insufficient("memory")],
            vec![Rejection::Taint],
            vec![insufficient("cpu")],
        ];
        for (nodes, reasons, room, expected) in [
            (
                1,
                Reasons::ByNode(&one),
                Some(&[Room::NoVictims][..]),
                "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
                 1 No preemption victims found for incoming pod.",
            ),
            // The recording of 1.28 ends in two full stops; newer versions in one.
            (
                1,
                Reasons::Everywhere("persistentvolumeclaim \"nosuch\" not found"),
                Some(&[Room::NotHelpful]),
                "0/1 nodes are available: persistentvolumeclaim \"nosuch\" not found. preemption: \
                 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
            ),
            (
                3,
                Reasons::ByNode(&several),
                Some(&[Room::NoVictims, Room::NotHelpful, Room::NoVictims]),
                "0/3 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint(s), \
                 2 Insufficient cpu. preemption: 0/3 nodes are available: 1 Preemption is not helpful for \
                 scheduling, 2 No preemption victims found for incoming pod.",
            ),
            (
                1,
                Reasons::ByNode(&one),
                None,
                "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to \
                 preemptionPolicy=Never.",
            ),
            (
                0,
                Reasons::ByNode(&[]),
                Some(&[]),
                "no nodes available to schedule pods",
            ),
        ] {
            assert_eq!(failure(nodes, &reasons, room), expected);
        }
    }
}
