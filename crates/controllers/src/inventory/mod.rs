//! Everything there is: which kinds the API serves, and the metadata of all their objects.
//!
//! Garbage collection and the deletion of namespaces concern objects of every kind, also of kinds
//! that come and go with CustomResourceDefinitions; both learn of them here, through one metadata
//! watch per kind. Only what [`Item`] holds is kept of an object. Events are left out.

mod item;
pub(crate) mod kinds;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use kube::runtime::watcher;
use kube::{Api, Client};
use stead_informer::{Change, Informer, Task};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use self::item::{FOREGROUND, Item, ORPHAN};
pub(crate) use self::kinds::{Kind, Kinds};

/// The first wait after discovery failed; it doubles up to the longest.
const BACKOFF_BASE: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A definition's kind may be served a moment after the definition says so.
const SETTLE: Duration = Duration::from_secs(1);

type Handler = Box<dyn Fn(&Arc<Kind>, &Change<Item>) + Send + Sync>;

/// The kinds that are served, and their objects.
pub struct Inventory {
    client: Client,
    handlers: Arc<RwLock<Vec<Handler>>>,
    state: Mutex<State>,
    /// Whether discovery has succeeded once.
    discovered: watch::Sender<bool>,
    /// Something may have changed what is served.
    stale: Arc<Notify>,
}

#[derive(Default)]
struct State {
    kinds: Arc<Kinds>,
    /// By group and plural.
    watched: BTreeMap<(String, String), Watched>,
}

struct Watched {
    kind: Arc<Kind>,
    informer: Informer<Item>,
    stop: CancellationToken,
}

impl Inventory {
    /// An inventory that knows nothing yet.
    pub fn new(client: Client) -> Arc<Inventory> {
        Arc::new(Inventory {
            client,
            handlers: Arc::default(),
            state: Mutex::default(),
            discovered: watch::Sender::new(false),
            stale: Arc::default(),
        })
    }

    /// Calls a handler for all changes of all objects from now on.
    pub(crate) fn on_change(&self, handler: impl Fn(&Arc<Kind>, &Change<Item>) + Send + Sync + 'static) {
        self.handlers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(handler));
    }

    /// What is served, as far as is known.
    pub(crate) fn kinds(&self) -> Arc<Kinds> {
        Arc::clone(&self.state().kinds)
    }

    /// Asks what is served at this moment.
    pub(crate) async fn discover(&self) -> Result<Kinds, kube::Error> {
        kinds::discover(&self.client).await
    }

    /// Waits until it is known what is served, and all objects are.
    pub(crate) async fn synced(&self) {
        // The sender lives as long as this handle.
        let _ = self
            .discovered
            .subscribe()
            .wait_for(|discovered| *discovered)
            .await;
        let informers: Vec<_> = self
            .state()
            .watched
            .values()
            .map(|watched| watched.informer.clone())
            .collect();
        for informer in informers {
            informer.synced().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds kinds and watches their objects until cancelled.
    pub fn run(self: Arc<Self>, shutdown: CancellationToken) -> Task {
        Box::pin(async move {
            let mut watches: JoinSet<Watched> = JoinSet::new();
            let mut backoff = BACKOFF_BASE;
            let mut look_again = None;
            loop {
                match kinds::discover(&self.client).await {
                    Ok(kinds) => {
                        backoff = BACKOFF_BASE;
                        self.follow(kinds, &mut watches, &shutdown);
                        self.discovered.send_replace(true);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "discovery failed");
                        look_again = Some(backoff);
                        backoff = (backoff * 2).min(BACKOFF_MAX);
                    }
                }
                loop {
                    let again = look_again.unwrap_or_default();
                    tokio::select! {
                        () = shutdown.cancelled() => {
                            while watches.join_next().await.is_some() {}
                            return;
                        }
                        Some(Ok(ended)) = watches.join_next() => self.forget(&ended),
                        () = self.stale.notified() => {
                            look_again = Some(SETTLE);
                            break;
                        }
                        () = tokio::time::sleep(again), if look_again.is_some() => {
                            look_again = None;
                            break;
                        }
                    }
                }
            }
        })
    }

    /// Starts watching what is new, and stops watching what is not served any more. Kinds of groups
    /// that cannot be reached just now are kept.
    fn follow(&self, mut kinds: Kinds, watches: &mut JoinSet<Watched>, shutdown: &CancellationToken) {
        let mut state = self.state();
        let is_unknown = |kind: &Kind| kinds.unknown.contains(&kind.resource.api_version);
        let unreachable: Vec<_> = state
            .watched
            .values()
            .map(|watched| Arc::clone(&watched.kind))
            .filter(|kind| is_unknown(kind))
            .collect();
        for kind in unreachable {
            if kinds
                .find(&kind.resource.api_version, &kind.resource.kind)
                .is_none()
            {
                kinds.all.push(kind);
            }
        }
        let is_watchable = |kind: &Kind| {
            ["list", "watch", "delete"].into_iter().all(|verb| kind.can(verb)) && !kind.is_event()
        };
        let wanted: BTreeMap<_, _> = kinds
            .all
            .iter()
            .filter(|kind| is_watchable(kind))
            .map(|kind| {
                (
                    (kind.resource.group.clone(), kind.resource.plural.clone()),
                    Arc::clone(kind),
                )
            })
            .collect();
        state.watched.retain(|key, watched| {
            let stays = wanted.get(key) == Some(&watched.kind);
            if !stays {
                watched.stop.cancel();
            }
            stays
        });
        for (key, kind) in wanted {
            state
                .watched
                .entry(key)
                .or_insert_with(|| self.watch(kind, watches, shutdown));
        }
        state.kinds = Arc::new(kinds);
    }

    fn watch(
        &self,
        kind: Arc<Kind>,
        watches: &mut JoinSet<Watched>,
        shutdown: &CancellationToken,
    ) -> Watched {
        let informer: Informer<Item> = Informer::new();
        let (handlers, stale, of) = (
            Arc::clone(&self.handlers),
            Arc::clone(&self.stale),
            Arc::clone(&kind),
        );
        let defines_kinds = matches!(
            kind.resource.plural.as_str(),
            "customresourcedefinitions" | "apiservices"
        );
        informer.on_change(move |change| {
            for handler in handlers.read().unwrap_or_else(PoisonError::into_inner).iter() {
                handler(&of, change);
            }
            if defines_kinds {
                stale.notify_one();
            }
        });
        let stop = shutdown.child_token();
        let api: Api<Item> = Api::all_with(self.client.clone(), &kind.resource);
        let running = informer
            .clone()
            .run(api, watcher::Config::default(), stop.clone());
        let (ended_kind, ended_informer, ended_stop) = (Arc::clone(&kind), informer.clone(), stop.clone());
        watches.spawn(async move {
            running.await;
            Watched {
                kind: ended_kind,
                informer: ended_informer,
                stop: ended_stop,
            }
        });
        Watched { kind, informer, stop }
    }

    /// Tells that the objects of a kind that is not served any more are gone.
    fn forget(&self, ended: &Watched) {
        for item in ended.informer.all() {
            let change = Change::Deleted(item);
            for handler in self
                .handlers
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
            {
                handler(&ended.kind, &change);
            }
        }
    }
}
