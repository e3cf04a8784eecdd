//! What every namespace has for its pods: the service account `default`, the cluster's certificate
//! in the ConfigMap `kube-root-ca.crt`, and the tokens of secrets made for them.
//!
//! Pods cannot start without the first two, so they are made as soon as a namespace is there, and
//! made again when somebody deletes or changes them.

mod plan;
mod tokens;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use stead_informer::{Change, Informers, Key, Objects, Queue, Reconciled, Recorder, Task};
use tokio_util::sync::CancellationToken;

use self::plan::{ACCOUNT_NAME, is_active, root_certificates};
use crate::refused::{Refused, is_already_exists, is_conflict, is_namespace_terminating, is_not_found};

/// Namespaces, and secrets, that are looked at at a time.
const WORKERS: usize = 16;
/// The account that pods have unless they ask for another.
const DEFAULT_ACCOUNT: &str = "default";
/// The ConfigMap that kubelets mount beside the token.
const ROOT_CERTIFICATES: &str = "kube-root-ca.crt";

/// The controller.
pub struct ServiceAccountsController {
    client: Client,
    informers: Informers,
    recorder: Recorder,
    /// The cluster's certificate authority, in PEM.
    root_ca: String,
    namespaces: Queue<Key>,
    secrets: Queue<Key>,
}

impl ServiceAccountsController {
    /// A controller that hears of changes from now on. `root_ca` is the certificate, in PEM, that
    /// pods check the API server with.
    pub fn new(
        client: Client,
        informers: &Informers,
        root_ca: String,
        recorder: Recorder,
    ) -> Arc<ServiceAccountsController> {
        let (namespaces, secrets) = (Queue::new(), Queue::new());
        listen(informers, &namespaces, &secrets);
        let informers = informers.clone();
        Arc::new(ServiceAccountsController {
            client,
            informers,
            recorder,
            root_ca,
            namespaces,
            secrets,
        })
    }

    /// Works until cancelled.
    pub fn run(self: Arc<Self>, shutdown: CancellationToken) -> Task {
        Box::pin(async move {
            self.informers.synced().await;
            let namespaces = Objects {
                name: "serviceaccounts",
                queue: self.namespaces.clone(),
                concurrency: WORKERS,
                informer: self.informers.namespaces.clone(),
                recorder: self.recorder.clone(),
            };
            let secrets = Objects {
                name: "serviceaccount-tokens",
                queue: self.secrets.clone(),
                concurrency: WORKERS,
                informer: self.informers.secrets.clone(),
                recorder: self.recorder.clone(),
            };
            let furnish = |controller: Arc<Self>, key| async move { controller.furnish(&key).await };
            let fill = |controller: Arc<Self>, key| async move { controller.fill_secret(&key).await };
            join(
                namespaces.run(Arc::clone(&self), shutdown.clone(), furnish),
                secrets.run(self, shutdown, fill),
            )
            .await;
        })
    }

    /// Makes what a namespace lacks.
    async fn furnish(&self, key: &Key) -> Result<Reconciled, Refused> {
        let Some(namespace) = self
            .informers
            .namespaces
            .get(key)
            .filter(|namespace| is_active(namespace))
        else {
            return Ok(Reconciled::Done);
        };
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        let (account, certificates) = join(self.ensure_account(name), self.ensure_certificates(name)).await;
        account.and(certificates).map(|()| Reconciled::Done)
    }

    async fn ensure_account(&self, namespace: &str) -> Result<(), Refused> {
        if self
            .informers
            .service_accounts
            .get(&Key::new(namespace, DEFAULT_ACCOUNT))
            .is_some()
        {
            return Ok(());
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(DEFAULT_ACCOUNT.to_owned()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        match api.create(&PostParams::default(), &account).await {
            Ok(_) => Ok(()),
            Err(error) if is_already_exists(&error) || is_namespace_terminating(&error) => Ok(()),
            Err(error) => Err(Refused::to(format!(
                "create the default service account of {namespace}"
            ))(error)),
        }
    }

    /// The shared cache has no content of ConfigMaps, so one that is there is read, which happens
    /// once per change of it.
    async fn ensure_certificates(&self, namespace: &str) -> Result<(), Refused> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let is_there = self
            .informers
            .config_maps
            .get(&Key::new(namespace, ROOT_CERTIFICATES))
            .is_some();
        let existing = if is_there {
            api.get_opt(ROOT_CERTIFICATES)
                .await
                .map_err(Refused::to(format!("get {ROOT_CERTIFICATES} of {namespace}")))?
        } else {
            None
        };
        let written = match existing {
            None => {
                api.create(&PostParams::default(), &root_certificates(None, &self.root_ca))
                    .await
            }
            Some(existing) => {
                let wanted = root_certificates(Some(&existing), &self.root_ca);
                if wanted == existing {
                    return Ok(());
                }
                api.replace(ROOT_CERTIFICATES, &PostParams::default(), &wanted)
                    .await
            }
        };
        match written {
            Ok(_) => Ok(()),
            Err(error) if is_already_exists(&error) || is_namespace_terminating(&error) => Ok(()),
            // It has been changed or deleted meanwhile, which brings the next look.
            Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(()),
            Err(error) => Err(Refused::to(format!("write {ROOT_CERTIFICATES} of {namespace}"))(
                error,
            )),
        }
    }
}

/// Notes which namespaces and secrets to look at when something changes.
fn listen(informers: &Informers, namespaces: &Queue<Key>, secrets: &Queue<Key>) {
    let queue = namespaces.clone();
    informers
        .namespaces
        .on_change(move |change| queue.add(Key::of(&**change.object())));
    let (queue, tokens, known) = (namespaces.clone(), secrets.clone(), informers.secrets.clone());
    informers.service_accounts.on_change(move |change| {
        let Change::Deleted(account) = change else { return };
        let namespace = account.metadata.namespace.as_deref().unwrap_or_default();
        if account.metadata.name.as_deref() == Some(DEFAULT_ACCOUNT) {
            queue.add(Key::new("", namespace));
        }
        for secret in known.in_namespace(namespace) {
            if account_of(&secret) == account.metadata.name.as_ref() {
                tokens.add(Key::of(&*secret));
            }
        }
    });
    let queue = namespaces.clone();
    informers.config_maps.on_change(move |change| {
        let meta = &change.object().metadata;
        if meta.name.as_deref() == Some(ROOT_CERTIFICATES) {
            queue.add(Key::new("", meta.namespace.clone().unwrap_or_default()));
        }
    });
    let queue = secrets.clone();
    informers.secrets.on_change(move |change| {
        if let Change::Added(secret) | Change::Updated { new: secret, .. } = change
            && account_of(secret).is_some()
        {
            queue.add(Key::of(&**secret));
        }
    });
}

/// The account that a secret's token is for, as its annotation says.
fn account_of(secret: &PartialObjectMeta<Secret>) -> Option<&String> {
    let annotations: Option<&BTreeMap<String, String>> = secret.metadata.annotations.as_ref();
    annotations?.get(ACCOUNT_NAME)
}
