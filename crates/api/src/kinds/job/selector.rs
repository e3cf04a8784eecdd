//! A Job's selector: made for it, of labels that no other Job's pods have, unless it says `manualSelector`.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::text;
use crate::error::{Errors, Path};
use crate::go;
use crate::selector::{Selector, validate_label_selector};

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";

/// The labels of a Job's pods; those without a prefix are from before it was asked for.
fn labels(job: &ObjectMeta) -> [(&'static str, &str); 4] {
    let (uid, name) = (text(&job.uid), text(&job.name));
    [
        ("controller-uid", uid),
        ("job-name", name),
        (CONTROLLER_UID, uid),
        ("batch.kubernetes.io/job-name", name),
    ]
}

/// Gives a new Job its selector, and its pods the labels. What is there already stays, and is refused if it is wrong.
pub(super) fn generate(job: &ObjectMeta, spec: &mut JobSpec) {
    let template = spec.template.metadata.get_or_insert_default();
    let of_pods = template.labels.get_or_insert_default();
    for (key, value) in labels(job) {
        of_pods.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    let selector = spec.selector.get_or_insert_default();
    let selected = selector.match_labels.get_or_insert_default();
    let uid = text(&job.uid);
    selected
        .entry(CONTROLLER_UID.to_owned())
        .or_insert_with(|| uid.to_owned());
}

/// Checks that the selector and the labels are as they were made.
pub(super) fn validate_generated(job: &ObjectMeta, spec: &JobSpec, errors: &mut Errors) {
    let Some(selector) = spec
        .selector
        .as_ref()
        .filter(|_| spec.manual_selector != Some(true))
    else {
        return;
    };
    if text(&job.uid).is_empty() {
        errors.required(&Path::new("metadata").child("uid"), "");
    }
    let metadata = spec.template.metadata.as_ref();
    let given = metadata.and_then(|metadata| metadata.labels.as_ref());
    let path = Path::new("spec")
        .child("template")
        .child("metadata")
        .child("labels");
    for (key, value) in labels(job) {
        let why = format!("must be '{value}'");
        match given.and_then(|labels| labels.get(key)) {
            None => errors.required(&path.key(key), &why),
            Some(other) if other != value => {
                errors.invalid(&path.key(key), &go::syntax("map[string]string", &given), &why);
            }
            Some(_) => {}
        }
    }
    let expected: BTreeMap<String, String> = labels(job)
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    if Selector::from_label_selector(Some(selector)).is_ok_and(|selector| !selector.matches(Some(&expected)))
    {
        let shown = go::syntax("v1.LabelSelector", selector);
        errors.invalid(
            &Path::new("spec").child("selector"),
            &shown,
            "`selector` not auto-generated",
        );
    }
}

/// Checks that there is a selector, and that it selects the Job's pods.
pub(super) fn validate(spec: &JobSpec, path: &Path, errors: &mut Errors) {
    match &spec.selector {
        None => errors.required(&path.child("selector"), ""),
        Some(selector) => validate_label_selector(selector, &path.child("selector"), errors),
    }
    let metadata = spec.template.metadata.as_ref();
    let given = metadata.and_then(|metadata| metadata.labels.as_ref());
    if Selector::from_label_selector(spec.selector.as_ref()).is_ok_and(|selector| !selector.matches(given)) {
        let path = path.child("template").child("metadata").child("labels");
        let why = "`selector` does not match template `labels`";
        errors.invalid(&path, &go::syntax("map[string]string", &given), why);
    }
}
