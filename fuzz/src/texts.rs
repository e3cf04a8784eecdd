//! Short texts that the API and the node read: selectors, quantities, times, schedules, names of images.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use stead_api::quantity::Quantity;
use stead_api::schedule::{self, Schedule};
use stead_api::selector::{FieldSelector, Selector};
use stead_api::time;
use stead_runtime::images::{DockerConfig, Reference};

use crate::split_line;

/// A selector of labels or of fields.
pub fn selectors(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let labels = json!({"app": "web", "tier": "7", "": ""});
    if let Ok(selector) = Selector::parse(text) {
        selector.matches(labels.as_object());
        selector.matches(None::<&serde_json::Map<String, Value>>);
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        let _ = selector.matches(|field| labels[field].as_str().map(str::to_owned));
        for field in selector.fields() {
            let _ = selector.required(field);
        }
        let _ = selector.renamed(|field| format!("{field}x"));
    }
    if let Ok(selector) = serde_json::from_str(text)
        && let Ok(selector) = Selector::from_label_selector(Some(&selector))
    {
        selector.matches(labels.as_object());
    }
}

/// One or two quantities.
pub fn quantities(input: &[u8]) {
    let (first, second) = split_line(input);
    let read = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<Quantity>().ok();
    let Some(first) = read(first) else {
        return;
    };
    let again: Quantity = first
        .to_string()
        .parse()
        .expect("a quantity as it is written is one");
    assert!((again - first).is_zero(), "{first} reads otherwise");
    assert_eq!(again.to_string(), first.to_string(), "the second time");
    let _ = (
        first.value(),
        first.milli(),
        first.is_negative(),
        first.is_fractional(),
    );
    if let Some(second) = read(second) {
        let (sum, other) = (first + second, second + first);
        assert!((sum - other).is_zero(), "{first} and {second}");
        let difference = first - second;
        let _ = (sum.to_string(), difference.to_string(), first.cmp(&second));
    }
}

/// A time, or a number of seconds.
pub fn times(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(at) = time::parse(text) {
        let written = time::rfc3339_micro(at);
        let again = time::parse(&written).unwrap_or_else(|error| panic!("{written}: {error}"));
        assert_eq!(time::rfc3339_micro(again), written, "{text} reads otherwise");
        let written = time::rfc3339(at);
        time::parse(&written).unwrap_or_else(|error| panic!("{written}: {error}"));
    }
    if let Ok(number) = text.parse() {
        let _ = (time::human_duration(number), time::go_duration(number));
    }
}

/// A schedule; then on lines of their own a time zone and a time.
pub fn schedules(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let mut lines = text.split('\n');
    let Ok(schedule) = Schedule::parse(lines.next().unwrap_or_default()) else {
        return;
    };
    let zone = schedule::zone(lines.next().unwrap_or_default()).unwrap_or(TimeZone::UTC);
    let at = lines.next().and_then(|at| at.parse().ok());
    let mut after = at.unwrap_or(Timestamp::UNIX_EPOCH);
    for _ in 0..5 {
        let Some(next) = schedule.next(after, &zone) else {
            return;
        };
        assert!(next > after, "{next} is not after {after}");
        after = next;
    }
}

/// The name of an image.
pub fn references(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let Ok(reference) = text.parse::<Reference>() else {
        return;
    };
    for reference in [reference.resolved(), reference] {
        let written = reference.to_string();
        let again: Result<Reference, _> = written.parse();
        assert_eq!(again.as_ref(), Ok(&reference), "{written} reads otherwise");
    }
}

/// A configuration of Docker's; then on a line of its own an image.
pub fn credentials(input: &[u8]) {
    let (config, image) = split_line(input);
    let image = std::str::from_utf8(image)
        .ok()
        .and_then(|image| image.parse().ok());
    let image: Reference = image.unwrap_or_else(|| "registry.example.com/app:1".parse().expect("a name"));
    for config in [DockerConfig::parse(config), DockerConfig::parse_cfg(config)]
        .into_iter()
        .flatten()
    {
        let _ = config.credentials(&image);
    }
}
