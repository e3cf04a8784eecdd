//! What an event says of why a set waits: some causes are in no status, but the one who found them told of them.

use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use kube::{Api, Client};

use super::stuck::Standing;
use super::trouble::Trouble;

/// A question that the events of an object may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// The object's uid.
    pub(super) about: String,
    /// Which of its events.
    pub(super) which: Which,
    /// What is then said, before the answer.
    pub(super) then: Trouble,
    /// With an answer, the set is stuck; otherwise it is only slow.
    pub(super) is_trouble: bool,
}

/// Events that can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// Of a probe that failed.
    Unhealthy,
    /// Any warning.
    Warning,
}

/// Asks what is to be asked, and says it in place of what is known without.
pub(super) async fn explain(client: &Client, namespace: &str, standing: Standing) -> Standing {
    let Some(question) = &standing.question else {
        return standing;
    };
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let which = match question.which {
        Which::Unhealthy => "reason=Unhealthy",
        Which::Warning => "type=Warning",
    };
    let fields = format!("involvedObject.uid={},{which}", question.about);
    match api.list(&ListParams::default().fields(&fields)).await {
        Ok(events) => standing.answered(newest(&events.items)),
        // It is about words only.
        Err(_) => standing,
    }
}

/// What the newest event says, without the words that all of its kind begin with.
fn newest(events: &[Event]) -> Option<&str> {
    let time = |event: &&Event| {
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        let precise = event.event_time.as_ref().map(|time| time.0);
        last.or(precise)
    };
    let message = events.iter().max_by_key(time)?.message.as_deref()?;
    let answer = message
        .split_once(" probe failed: ")
        .map_or(message, |(_, answer)| answer);
    Some(answer.trim()).filter(|answer| !answer.is_empty())
}

impl Standing {
    /// What is said when an event has answered.
    fn answered(mut self, answer: Option<&str>) -> Standing {
        let (Some(question), Some(answer)) = (self.question.take(), answer) else {
            return self;
        };
        let said = Trouble {
            message: format!("{}: {answer}", question.then.message),
            ..question.then
        };
        if self.trouble.is_some() || question.is_trouble {
            self.trouble = Some(said);
        } else {
            self.slow = Some(said);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn events(all: &[(&str, &str)]) -> Vec<Event> {
        let event = |(time, message): &(&str, &str)| {
            let event =
                json!({"metadata": {}, "involvedObject": {}, "lastTimestamp": time, "message": message});
            serde_json::from_value(event).expect("an event")
        };
        all.iter().map(event).collect()
    }

    #[test]
    fn the_newest_event_answers() {
        let all = events(&[
            (
                "2026-01-01T00:00:02Z",
                "Readiness probe failed: it is not there\n",
            ),
            ("2026-01-01T00:00:01Z", "Readiness probe failed: older"),
        ]);
        assert_eq!(newest(&all), Some("it is not there"));
        let plain = [("2026-01-01T00:00:02Z", "storageclass \"x\" not found")];
        assert_eq!(newest(&events(&plain)), Some("storageclass \"x\" not found"));
        assert_eq!(
            newest(&events(&[("2026-01-01T00:00:02Z", "Readiness probe failed: ")])),
            None
        );
        assert_eq!(newest(&[]), None);
    }

    #[test]
    fn an_answer_says_more_than_is_known_without() {
        let question = |is_trouble| Question {
            about: "u".into(),
            which: Which::Warning,
            then: Trouble::new("B", "because".into()),
            is_trouble,
        };
        let known = Trouble::new("A", "known".into());
        let said = Some(Trouble::new("B", "because: of it".into()));
        for (trouble, is_trouble, answer, expected) in [
            (Some(&known), false, Some("of it"), (said.clone(), None)),
            (Some(&known), true, None, (Some(known.clone()), None)),
            (None, false, Some("of it"), (None, said.clone())),
            (None, true, Some("of it"), (said.clone(), None)),
            (None, true, None, (None, None)),
        ] {
            let standing = Standing {
                trouble: trouble.cloned(),
                question: Some(question(is_trouble)),
                ..Standing::default()
            };
            let answered = standing.answered(answer);
            assert_eq!((answered.trouble, answered.slow), expected);
        }
    }
}
