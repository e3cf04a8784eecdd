use serde_json::json;

use super::*;

fn config_map() -> Of {
    Of {
        ty: schema::builtin()
            .find("io.k8s.api.core.v1.ConfigMap")
            .expect("ConfigMaps are in the table"),
        part: Part::Whole,
    }
}

fn pod() -> Of {
    Of {
        ty: schema::builtin()
            .find("io.k8s.api.core.v1.Pod")
            .expect("pods are in the table"),
        part: Part::Main,
    }
}

fn writer(manager: &str) -> Writer {
    Writer {
        manager: manager.to_owned(),
        api_version: "v1".to_owned(),
        subresource: String::new(),
        now: "2026-01-01T00:00:00Z".to_owned(),
    }
}

fn with_data(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

/// Manager → fields.
fn owners(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten();
    entries
        .map(|entry| {
            let who = format!("{} {}", entry["manager"], entry["operation"]).replace('"', "");
            (who, entry["fieldsV1"].clone())
        })
        .collect()
}

#[test]
fn a_field_of_another_is_a_conflict_unless_forced() {
    let a = applied(
        config_map(),
        &Value::Null,
        &with_data(json!({"a": "1"})),
        &writer("m1"),
        false,
    )
    .expect("nobody else is there");
    let other = with_data(json!({"a": "2"}));
    let error = applied(config_map(), &a, &other, &writer("m2"), false).expect_err("m1 has set it");
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"m1\": .data.a"
    );
    let b = applied(config_map(), &a, &other, &writer("m2"), true).expect("it is forced");
    assert_eq!(b["data"], json!({"a": "2"}));
    assert_eq!(
        owners(&b),
        [("m2 Apply".to_owned(), json!({"f:data": {"f:a": {}}}))]
    );
}

#[test]
fn what_is_applied_no_more_goes_unless_another_has_it() {
    let both = with_data(json!({"a": "1", "b": "1"}));
    let object = applied(config_map(), &Value::Null, &both, &writer("m1"), false).expect("it is new");
    let object = applied(
        config_map(),
        &object,
        &with_data(json!({"a": "1"})),
        &writer("m2"),
        false,
    )
    .expect("it is the same value");
    let object =
        applied(config_map(), &object, &with_data(json!({})), &writer("m1"), false).expect("it is its own");
    assert_eq!(object["data"], json!({"a": "1"}));
    assert_eq!(
        owners(&object),
        [
            ("m1 Apply".to_owned(), json!({"f:data": {}})),
            ("m2 Apply".to_owned(), json!({"f:data": {"f:a": {}}})),
        ]
    );
}

#[test]
fn labels_that_all_go_leave_the_name() {
    let mut labelled = with_data(json!({"a": "1"}));
    labelled["metadata"]["labels"] = json!({"of": "m1"});
    let object = applied(config_map(), &Value::Null, &labelled, &writer("m1"), false).expect("it is new");
    let plain = with_data(json!({"a": "1"}));
    let object = applied(config_map(), &object, &plain, &writer("m1"), false).expect("it is its own");
    assert_eq!(object["metadata"]["name"], "c");
    assert_eq!(object["metadata"]["labels"], Value::Null);
}

#[test]
fn who_updates_owns_what_they_change() {
    let mut object = with_data(json!({"a": "1", "b": "2"}));
    updated(config_map(), &Value::Null, &mut object, &writer("poster"));
    let mut next = object.clone();
    next["data"] = json!({"a": "1", "b": "3", "c": "4"});
    updated(config_map(), &object, &mut next, &writer("putter"));
    assert_eq!(
        owners(&next),
        [
            (
                "poster Update".to_owned(),
                json!({"f:data": {".": {}, "f:a": {}}})
            ),
            (
                "putter Update".to_owned(),
                json!({"f:data": {"f:b": {}, "f:c": {}}})
            ),
        ]
    );
    let error = applied(
        config_map(),
        &next,
        &with_data(json!({"a": "9"})),
        &writer("m"),
        false,
    )
    .expect_err("the poster has set it");
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"poster\" using v1: .data.a"
    );
}

#[test]
fn an_object_that_was_not_tracked_belongs_to_those_before() {
    let live = with_data(json!({"a": "1"}));
    let error = applied(
        config_map(),
        &live,
        &with_data(json!({"a": "2"})),
        &writer("m"),
        false,
    )
    .expect_err("it was set");
    assert!(
        error.message.contains("\"before-first-apply\" using v1: .data.a"),
        "{error}"
    );
}

#[test]
fn lists_are_merged_by_their_keys_and_in_order() {
    let container = |name: &str, more: Value| {
        let mut container = json!({"name": name});
        for (field, value) in more.as_object().into_iter().flatten() {
            container[field] = value.clone();
        }
        container
    };
    let pod_of = |containers: Vec<Value>| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}});
    let first = pod_of(vec![
        container("a", json!({"image": "x"})),
        container("b", json!({"image": "y"})),
    ]);
    let live = applied(pod(), &Value::Null, &first, &writer("m1"), false).expect("it is new");
    let second = pod_of(vec![
        container("new", json!({"image": "z"})),
        container("b", json!({"workingDir": "/"})),
    ]);
    let live = applied(pod(), &live, &second, &writer("m2"), false).expect("there is no conflict");
    let names: Vec<&Value> = live["spec"]["containers"]
        .as_array()
        .expect("containers")
        .iter()
        .map(|container| &container["name"])
        .collect();
    assert_eq!(names, ["a", "new", "b"]);
    assert_eq!(
        live["spec"]["containers"][2],
        json!({"name": "b", "image": "y", "workingDir": "/"})
    );
    // The first gives up one that is its own, and one that is shared.
    let live = applied(pod(), &live, &pod_of(vec![]), &writer("m1"), false).expect("they are its own");
    assert_eq!(
        live["spec"]["containers"],
        json!([{"name": "new", "image": "z"}, {"name": "b", "workingDir": "/"}])
    );
}

#[test]
fn fields_that_are_not_there_are_refused() {
    let bad = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a", "imag": "x"}]}});
    let error = applied(pod(), &Value::Null, &bad, &writer("m"), false).expect_err("there is no such field");
    assert_eq!(
        error.message,
        "failed to create typed patch object (/p; v1, Kind=Pod): .spec.containers[name=\"a\"].imag: \
         field not declared in schema"
    );
}

#[test]
fn long_lists_take_no_time_and_no_notes() {
    let ports: Vec<Value> = (1..=60_000)
        .map(|port| json!({"containerPort": port, "protocol": "TCP"}))
        .collect();
    let mut object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a", "ports": ports}]}});
    let begin = std::time::Instant::now();
    updated(pod(), &Value::Null, &mut object, &writer("m"));
    assert!(!is_tracked(&object));
    let merged = applied(pod(), &object, &object, &writer("m"), false).expect("it is the same");
    assert_eq!(merged["spec"], object["spec"]);
    // It is seconds on a busy machine; to compare each with each would take minutes.
    assert!(begin.elapsed().as_secs() < 30, "{:?}", begin.elapsed());
}

#[test]
fn old_updaters_are_put_together() {
    let mut object = with_data(json!({}));
    for number in 0..15 {
        let old = object.clone();
        object["data"][format!("k{number}")] = "v".into();
        let by = Writer {
            now: format!("2026-01-01T00:00:{number:02}Z"),
            ..writer(&format!("m{number}"))
        };
        updated(config_map(), &old, &mut object, &by);
    }
    let owners = owners(&object);
    assert_eq!(owners.len(), 10);
    assert_eq!(owners[0].0, "ancient-changes Update");
}

#[test]
fn nothing_in_a_list_or_map_leaves_what_others_put_there() {
    let theirs = applied(
        config_map(),
        &Value::Null,
        &with_data(json!({"a": "1"})),
        &writer("m1"),
        false,
    )
    .expect("nobody else is there");
    let mine = applied(
        config_map(),
        &theirs,
        &with_data(Value::Null),
        &writer("m2"),
        false,
    )
    .expect("nothing is changed");
    assert_eq!(mine["data"], json!({"a": "1"}));
}

#[test]
fn elements_are_told_apart_by_keys_that_each_has() {
    let pod_with = |containers: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}});
    for (containers, expected) in [
        (json!([{"name": "a"}, {"name": "b"}]), None),
        (
            json!([{"name": "a"}, {"name": "a"}]),
            Some(".spec.containers: duplicate entries for key [name=\"a\"]"),
        ),
        (
            json!([{"image": "a"}]),
            Some(
                ".spec.containers: element 0: associative list with keys has an element that omits key field \"name\" (and doesn't have default value)",
            ),
        ),
    ] {
        let result = applied(
            pod(),
            &Value::Null,
            &pod_with(containers.clone()),
            &writer("m"),
            false,
        );
        match (result, expected) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => assert!(error.message.ends_with(expected), "{}", error.message),
            (result, _) => panic!("{containers}: {result:?}"),
        }
    }
}
