//! The class `standard`, which claims without a class get: made at start if there is none of the
//! name, as the add-ons of other local clusters are.

use std::time::Duration;

use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use stead_informer::semantics::volumes::{WAIT_FOR_FIRST_CONSUMER, annotation};
use stead_informer::{Informers, Key};
use tokio_util::sync::CancellationToken;

use super::provision::PROVISIONER;
use crate::refused::{Refused, is_already_exists};

const NAME: &str = "standard";
const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
/// The wait between attempts; only a server in trouble refuses the first.
const AGAIN: Duration = Duration::from_secs(1);

/// Makes the class, if there is none.
pub(super) async fn ensure(client: &Client, informers: &Informers, shutdown: &CancellationToken) {
    if informers.storage_classes.get(&Key::new("", NAME)).is_some() {
        return;
    }
    let classes = informers.storage_classes.all();
    let class = standard(!classes.iter().any(|class| is_default(class)));
    let api: Api<StorageClass> = Api::all(client.clone());
    loop {
        match api.create(&PostParams::default(), &class).await {
            Ok(_) => return,
            Err(error) if is_already_exists(&error) => return,
            Err(error) => {
                let error = Refused::to("create the default storage class")(error);
                tracing::warn!(%error, "to be tried again");
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

fn is_default(class: &StorageClass) -> bool {
    annotation(&class.metadata, IS_DEFAULT) == Some("true")
}

fn standard(is_default: bool) -> StorageClass {
    let class = json!({
        "metadata": {"name": NAME, "annotations": {IS_DEFAULT: is_default.to_string()}},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": WAIT_FOR_FIRST_CONSUMER,
        "allowVolumeExpansion": true,
    });
    serde_json::from_value(class).expect("all fields are of their types")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_the_default_unless_another_is() {
        for default in [true, false] {
            let class = standard(default);
            assert_eq!(is_default(&class), default);
            assert_eq!(class.provisioner, PROVISIONER);
            assert_eq!(class.reclaim_policy.as_deref(), Some("Delete"));
        }
    }
}
