//! One watch and one cache per kind, shared by all who need the kind.
//!
//! Handlers hear of changes in order, after the cache has them; they are called on the informer's
//! own task and only note which keys to look at again. A watch that breaks is taken up again, with
//! back-off; what changed meanwhile comes out as ordinary changes.
//!
//! Reading one's own writes: resource versions are comparable (KEP-5504), so a controller that has
//! written at version R waits with [`Informer::caught_up`] until the cache has seen R, instead of
//! keeping count of what it expects.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures::StreamExt as _;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a cache may lag behind a write before that is no longer waited for: only a broken
/// watch lags so long, and then a conflict or a fresh look tells.
const PATIENCE: Duration = Duration::from_secs(5);

/// An object's namespace and name; the namespace is empty for kinds outside namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Empty for kinds outside namespaces.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl Key {
    /// A key of two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Key {
        Key {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of an object.
    pub fn of(object: &impl Resource) -> Key {
        let meta = object.meta();
        Key::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A kind that can be watched.
pub trait Object:
    Resource<DynamicType: Clone> + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType: Clone> + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static
{
}

/// What happened to an object.
#[derive(Debug)]
pub enum Change<K> {
    /// It is there now.
    Added(Arc<K>),
    /// It is other than it was.
    Updated {
        /// As it was.
        old: Arc<K>,
        /// As it is.
        new: Arc<K>,
    },
    /// It is gone; this was its last state known.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object as it is, or was last.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Change::Added(object) | Change::Deleted(object) | Change::Updated { new: object, .. } => object,
        }
    }
}

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

/// The cache of a kind, and who hears of its changes. Cheap to clone.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Informer {
            shared: Arc::clone(&self.shared),
        }
    }
}

struct Shared<K> {
    objects: RwLock<BTreeMap<Key, Arc<K>>>,
    handlers: Mutex<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
    /// The newest resource version that the cache has.
    seen: watch::Sender<u64>,
}

impl<K: Object> Default for Informer<K> {
    fn default() -> Self {
        Informer::new()
    }
}

impl<K: Object> Informer<K> {
    /// An informer that has seen nothing yet.
    pub fn new() -> Informer<K> {
        let shared = Shared {
            objects: RwLock::default(),
            handlers: Mutex::default(),
            synced: watch::Sender::new(false),
            seen: watch::Sender::new(0),
        };
        Informer {
            shared: Arc::new(shared),
        }
    }

    /// Calls a handler for all changes from now on. Register handlers before [`Informer::run`], so
    /// that they hear of everything.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.shared
            .handlers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(handler));
    }

    /// An object of the cache.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.objects().get(key).cloned()
    }

    /// All objects of the cache, ordered by namespace and name.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.objects().values().cloned().collect()
    }

    /// The objects of a namespace, ordered by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let start = Bound::Included(Key::new(namespace, ""));
        let objects = self.objects();
        let from = objects.range((start, Bound::Unbounded));
        from.take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    fn objects(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<Key, Arc<K>>> {
        self.shared.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the cache holds all there is.
    pub async fn synced(&self) {
        // The sender lives as long as this handle.
        let _ = self.shared.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Waits until the cache has seen a resource version, as one gets from a write of this kind. Says whether it has:
    /// one whose watch is broken is not waited for any longer after a while.
    pub async fn caught_up(&self, version: u64) -> bool {
        let mut seen = self.shared.seen.subscribe();
        let waited = tokio::time::timeout(PATIENCE, seen.wait_for(|seen| *seen >= version)).await;
        matches!(waited, Ok(Ok(_)))
    }

    /// Watches until cancelled.
    pub async fn run(self, api: Api<K>, config: watcher::Config, shutdown: CancellationToken) {
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        let mut listing: Option<BTreeMap<Key, Arc<K>>> = None;
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                None => return,
                Some(Err(error)) => {
                    tracing::debug!(kind = std::any::type_name::<K>(), %error, "a watch broke")
                }
                Some(Ok(watcher::Event::Init)) => listing = Some(BTreeMap::new()),
                Some(Ok(watcher::Event::InitApply(object))) => {
                    listing
                        .get_or_insert_default()
                        .insert(Key::of(&object), cached(object));
                }
                Some(Ok(watcher::Event::InitDone)) => {
                    self.replace(listing.take().unwrap_or_default());
                    self.shared.synced.send_replace(true);
                }
                Some(Ok(watcher::Event::Apply(object))) => self.apply(cached(object)),
                Some(Ok(watcher::Event::Delete(object))) => self.delete(&cached(object)),
            }
        }
    }

    fn apply(&self, new: Arc<K>) {
        let version = revision_of(&*new);
        let old = self.write().insert(Key::of(&*new), Arc::clone(&new));
        let change = match old {
            Some(old) => Change::Updated { old, new },
            None => Change::Added(new),
        };
        self.tell(&change);
        self.saw(version);
    }

    fn delete(&self, object: &Arc<K>) {
        let last = self.write().remove(&Key::of(&**object));
        if last.is_some() {
            self.tell(&Change::Deleted(Arc::clone(object)));
        }
        self.saw(revision_of(&**object));
    }

    /// Takes a whole list over, and tells how it differs from what was there.
    fn replace(&self, new: BTreeMap<Key, Arc<K>>) {
        let version = new
            .values()
            .map(|object| revision_of(&**object))
            .max()
            .unwrap_or(0);
        let old = std::mem::replace(&mut *self.write(), new.clone());
        for (key, object) in &old {
            if !new.contains_key(key) {
                self.tell(&Change::Deleted(Arc::clone(object)));
            }
        }
        for (key, new) in new {
            match old.get(&key) {
                Some(old) if old.meta().resource_version == new.meta().resource_version => {}
                Some(old) => self.tell(&Change::Updated {
                    old: Arc::clone(old),
                    new,
                }),
                None => self.tell(&Change::Added(new)),
            }
        }
        self.saw(version);
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<Key, Arc<K>>> {
        self.shared
            .objects
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A handler that panics misses this change; nobody else does, and the watch goes on.
    fn tell(&self, change: &Change<K>) {
        let handlers = self.shared.handlers.lock();
        for handler in handlers.unwrap_or_else(PoisonError::into_inner).iter() {
            if catch_unwind(AssertUnwindSafe(|| handler(change))).is_err() {
                let (kind, key) = (std::any::type_name::<K>(), Key::of(&**change.object()));
                tracing::error!(kind, %key, "whoever hears of changes panicked");
            }
        }
    }

    fn saw(&self, version: u64) {
        self.shared.seen.send_if_modified(|seen| {
            let newer = version > *seen;
            *seen = version.max(*seen);
            newer
        });
    }
}

/// An object as the cache has it: without who has set which fields, which nobody asks it for, and which would take
/// more memory than all else. (An update that does not say so leaves it as it is.)
fn cached<K: Resource>(mut object: K) -> Arc<K> {
    object.meta_mut().managed_fields = None;
    Arc::new(object)
}

/// An object's resource version as a number; zero where it is none.
pub fn revision_of(object: &impl Resource) -> u64 {
    object
        .meta()
        .resource_version
        .as_deref()
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn config_map(namespace: &str, name: &str, version: u64) -> Arc<ConfigMap> {
        let object = json!({"metadata": {"namespace": namespace, "name": name, "resourceVersion": version.to_string()}});
        Arc::new(serde_json::from_value(object).expect("a ConfigMap"))
    }

    /// An informer, and what its handler heard.
    fn heard() -> (Informer<ConfigMap>, Arc<Mutex<Vec<String>>>) {
        let informer = Informer::new();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heard);
        informer.on_change(move |change| {
            let verb = match change {
                Change::Added(_) => "added",
                Change::Updated { .. } => "updated",
                Change::Deleted(_) => "deleted",
            };
            log.lock()
                .expect("no panic")
                .push(format!("{verb} {}", Key::of(&**change.object())));
        });
        (informer, heard)
    }

    #[test]
    fn a_new_list_comes_out_as_changes() {
        let (informer, heard) = heard();
        for object in [
            config_map("a", "x", 1),
            config_map("a", "y", 2),
            config_map("b", "z", 3),
        ] {
            informer.apply(object);
        }
        heard.lock().expect("no panic").clear();
        let list = [
            config_map("a", "x", 1),
            config_map("a", "y", 5),
            config_map("a", "new", 6),
        ];
        informer.replace(
            list.into_iter()
                .map(|object| (Key::of(&*object), object))
                .collect(),
        );
        assert_eq!(
            *heard.lock().expect("no panic"),
            ["deleted b/z", "added a/new", "updated a/y"]
        );
        let names: Vec<_> = informer
            .in_namespace("a")
            .iter()
            .map(|object| Key::of(&**object).name)
            .collect();
        assert_eq!(names, ["new", "x", "y"]);
        assert!(informer.in_namespace("b").is_empty());
    }

    #[test]
    fn a_handler_that_panics_misses_one_change() {
        let informer = Informer::<ConfigMap>::new();
        let heard = Arc::new(Mutex::new(Vec::new()));
        informer
            .on_change(|change| assert!(change.object().metadata.name.as_deref() != Some("bad"), "planted"));
        let log = Arc::clone(&heard);
        informer.on_change(move |change| {
            let key = Key::of(&**change.object());
            log.lock().expect("no panic").push(key.name);
        });
        informer.apply(config_map("a", "bad", 1));
        informer.apply(config_map("a", "good", 2));
        assert_eq!(*heard.lock().expect("no panic"), ["bad", "good"]);
        assert_eq!(informer.all().len(), 2);
    }

    #[tokio::test]
    async fn a_writer_waits_for_its_own_write() {
        let (informer, _) = heard();
        let waiting = tokio::spawn({
            let informer = informer.clone();
            async move {
                informer.caught_up(7).await;
                informer
                    .get(&Key::new("a", "x"))
                    .map(|object| revision_of(&*object))
            }
        });
        informer.apply(config_map("a", "y", 6));
        informer.apply(config_map("a", "x", 7));
        assert_eq!(waiting.await.expect("no panic"), Some(7));
    }
}
