//! The store as its users see it, in a directory of its own.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use bytes::Bytes;
use stead_store::{
    Change, Closed, CommitError, Condition, OpenError, Options, PastError, Revision, Store, Txn, WatchError,
};
use tokio::task::JoinSet;

fn open(dir: &Path) -> Store<Bytes> {
    Store::open(Options::new(dir)).unwrap()
}

fn put(key: impl Into<String>, value: &'static str) -> Txn {
    Txn::new().put(key, value, Condition::Any)
}

/// What the files of a directory take; those that vanish meanwhile take nothing.
fn bytes_in(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).unwrap();
    files
        .filter_map(|file| Some(file.ok()?.metadata().ok()?.len()))
        .sum()
}

#[tokio::test]
async fn a_directory_is_open_once_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let second = Store::<Bytes>::open(Options::new(dir.path())).err().unwrap();
    assert!(matches!(&second, OpenError::Locked { dir: named } if named == dir.path()));
    let message = format!("open the store in {:?}: another process has it open", dir.path());
    assert_eq!(second.to_string(), message);
    store.close().await;
    let third = open(dir.path());
    drop(third);
    open(dir.path());
}

#[tokio::test]
async fn a_store_of_a_later_version_is_left_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(put("/a/x", "1")).await.unwrap();
    store.close().await;
    let log = dir.path().join("log-00000000000000000001");
    let mut bytes = fs::read(&log).unwrap();
    bytes[8] = 9;
    fs::write(&log, &bytes).unwrap();
    let modified = fs::metadata(&log).unwrap().modified().unwrap();

    let refused = Store::<Bytes>::open(Options::new(dir.path())).err().unwrap();
    assert!(
        matches!(
            refused,
            OpenError::NewerFormat {
                found: 9,
                supported: 1,
                ..
            }
        ),
        "{refused}"
    );
    assert_eq!(fs::read(&log).unwrap(), bytes);
    assert_eq!(fs::metadata(&log).unwrap().modified().unwrap(), modified);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[tokio::test]
async fn a_new_store_takes_little_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(put("/a/x", "1")).await.unwrap();
    assert!(bytes_in(dir.path()) <= 256 << 10);
}

#[tokio::test]
async fn the_log_is_compacted_when_it_is_long_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path());
    (
        options.checkpoint_bytes,
        options.log_chunk_bytes,
        options.history.bytes,
    ) = (20_000, 4096, 0);
    let store = Store::<Bytes>::open(options.clone()).unwrap();
    let mut commits = 0;
    // The thread that does it may be slow.
    while commits < 400 || bytes_in(dir.path()) > 100_000 {
        assert!(commits < 20_000, "what is obsolete stays: {:?}", store.metrics());
        let txn = Txn::new().put(format!("/a/{}", commits % 3), vec![b'x'; 1000], Condition::Any);
        store.commit(txn).await.unwrap();
        commits += 1;
    }
    store.close().await;
    let checkpoints = store.metrics().checkpoints;
    assert!(
        (1..=commits / 20).contains(&checkpoints),
        "{checkpoints} checkpoints of {commits} KB"
    );
    assert_eq!(Store::<Bytes>::open(options).unwrap().snapshot().len(), 3);
}

#[tokio::test]
async fn everything_is_there_after_a_restart_and_watchers_resume() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let seen = store.commit(put("/a/x", "1")).await.unwrap().revision;
    store.commit(put("/a/x", "2")).await.unwrap();
    store
        .commit(
            Txn::new()
                .delete("/a/x", Condition::Any)
                .put("/a/y", "3", Condition::Absent),
        )
        .await
        .unwrap();
    store.close().await;

    let store = open(dir.path());
    assert_eq!(store.revision(), Revision::new(3));
    assert!(store.get("/a/x").is_none());
    assert_eq!(store.get("/a/y").unwrap().value, "3");
    let mut watcher = store.watch("/a/", seen).unwrap();
    let events = watcher.next().await.unwrap();
    assert!(matches!(&events[0].change, Change::Updated { current, previous }
        if current.value == "2" && previous.value == "1"));
    assert!(matches!(&events[1].change, Change::Deleted(last) if last.value == "2"));
    assert!(matches!(&events[2].change, Change::Created(first) if first.value == "3"));
    let past = store.snapshot_at(seen).unwrap();
    assert_eq!(past.get("/a/x").unwrap().value, "1");
    assert_eq!(past.len(), 1);
}

#[tokio::test]
async fn a_read_can_wait_for_a_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let two = Revision::new(2);
    let asked = PastError::Future {
        asked: two,
        newest: Revision::ZERO,
    };
    assert_eq!(store.snapshot_at(two).err(), Some(asked));
    let (waited, ..) = tokio::join!(store.wait_for(two), async {
        store.commit(put("/a/x", "1")).await.unwrap();
        store.commit(put("/a/x", "2")).await.unwrap();
    });
    assert_eq!(waited, Ok(()));
    let (never, ()) = tokio::join!(store.wait_for(Revision::new(9)), store.close());
    assert_eq!(never, Err(Closed));
    assert_eq!(store.wait_for(two).await, Ok(()));
}

#[tokio::test]
async fn closing_commits_what_waits_and_refuses_what_comes_after() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watcher = store.watch("/", Revision::ZERO).unwrap();
    let ((first, second), (), ()) = tokio::join!(
        async { tokio::join!(store.commit(put("/a/x", "1")), store.commit(put("/a/y", "1"))) },
        store.close(),
        store.close(),
    );
    assert!(first.is_ok() && second.is_ok());
    assert!(matches!(
        store.commit(put("/a/z", "1")).await,
        Err(CommitError::Closed)
    ));
    assert_eq!(store.snapshot().len(), 2);
    let mut seen = 0;
    let end = loop {
        match watcher.next().await {
            Ok(events) => seen += events.len(),
            Err(end) => break end,
        }
    };
    assert_eq!((seen, end), (2, WatchError::Closed));
    store.close().await;
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_thread_and_frees_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let clone = store.clone();
    let mut watcher = store.watch("/a/", Revision::ZERO).unwrap();
    drop(store);
    clone.commit(put("/a/x", "1")).await.unwrap();
    drop(clone);
    assert_eq!(watcher.next().await.unwrap().len(), 1);
    assert_eq!(watcher.next().await.err(), Some(WatchError::Closed));
    open(dir.path());
}

#[tokio::test]
async fn a_bookmark_tells_how_much_has_been_seen() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watcher = store.watch("/a/", Revision::ZERO).unwrap();
    assert_eq!(watcher.progress(), Ok(Revision::ZERO));
    store.commit(put("/b/x", "1")).await.unwrap();
    assert_eq!(watcher.progress(), Ok(Revision::new(1)));
    store.commit(put("/a/x", "1")).await.unwrap();
    store.commit(put("/b/x", "2")).await.unwrap();
    assert_eq!(watcher.progress(), Ok(Revision::new(1)), "an event is waiting");
    watcher.next().await.unwrap();
    assert_eq!(watcher.revision(), Revision::new(3));
    assert_eq!(watcher.progress(), Ok(Revision::new(3)));
}

#[tokio::test]
async fn a_watcher_that_falls_behind_is_told_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path());
    options.history.events = 10;
    let store = Store::<Bytes>::open(options).unwrap();
    let mut slow = store.watch("/a/", Revision::ZERO).unwrap();
    let mut quiet = store.watch("/b/", Revision::ZERO).unwrap();
    let mut quick = store.watch("/a/", Revision::ZERO).unwrap();
    store.commit(put("/b/x", "1")).await.unwrap();
    let mut seen = 0;
    for _ in 0..25 {
        store.commit(put("/a/x", "1")).await.unwrap();
        seen += quick.next().await.unwrap().len();
    }
    assert_eq!(seen, 25);
    assert!(matches!(slow.next().await, Err(WatchError::Compacted(_))));
    assert!(quiet.next().await.is_err(), "its one event is gone too");
    assert!(
        store.watch("/c/", Revision::ZERO).is_ok(),
        "nothing of this group was ever dropped"
    );
    assert!(matches!(
        store.snapshot_at(Revision::new(1)),
        Err(PastError::Compacted(_))
    ));
    assert!(store.metrics().history_events <= 10);
}

/// Counts how often it is woken.
#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_write_wakes_only_the_watchers_of_its_kind() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watchers: Vec<_> = (0..1000)
        .map(|n| {
            store
                .watch(&format!("/kind-{}/", n % 10), Revision::ZERO)
                .unwrap()
        })
        .collect();
    let waker = Arc::new(CountingWaker::default());
    let mut waiting: Vec<_> = watchers
        .iter_mut()
        .map(|watcher| Box::pin(watcher.next()))
        .collect();
    let std_waker = Arc::clone(&waker).into();
    let mut context = Context::from_waker(&std_waker);
    assert!(
        waiting
            .iter_mut()
            .all(|next| next.as_mut().poll(&mut context).is_pending())
    );
    store.commit(put("/kind-3/x", "1")).await.unwrap();
    store.commit(put("/kind-33/x", "1")).await.unwrap();
    let ready = waiting
        .iter_mut()
        .filter_map(|next| match next.as_mut().poll(&mut context) {
            Poll::Ready(events) => Some(events.unwrap().len()),
            Poll::Pending => None,
        });
    assert_eq!(ready.collect::<Vec<_>>(), [1; 100]);
    assert_eq!(waker.0.load(Ordering::Relaxed), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_watchers_each_see_every_event_once_and_in_order() {
    const COMMITS: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watchers = JoinSet::new();
    for number in 0..1000 {
        let prefix = format!("/kind-{}/", number % 10);
        let mut watcher = store.watch(&prefix, Revision::ZERO).unwrap();
        watchers.spawn(async move {
            let (mut seen, mut last) = (0, Revision::ZERO);
            while seen < COMMITS / 10 {
                for event in watcher.next().await.unwrap() {
                    assert!(event.key.starts_with(&prefix) && event.revision > last);
                    (seen, last) = (seen + 1, event.revision);
                }
            }
            seen
        });
    }
    let mut writers = JoinSet::new();
    for number in 0..COMMITS {
        let store = store.clone();
        writers.spawn(async move {
            store
                .commit(put(format!("/kind-{}/x", number % 10), "1"))
                .await
                .unwrap()
        });
    }
    writers.join_all().await;
    let all = tokio::time::timeout(Duration::from_secs(20), watchers.join_all())
        .await
        .unwrap();
    assert_eq!(all, vec![COMMITS / 10; 1000]);
}

#[tokio::test]
async fn writers_that_wait_together_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writers = JoinSet::new();
    for number in 0..200 {
        let store = store.clone();
        writers.spawn(async move {
            store
                .commit(put(format!("/a/{number}"), "1"))
                .await
                .unwrap()
                .revision
        });
    }
    let mut revisions = writers.join_all().await;
    revisions.sort();
    assert!(
        revisions.into_iter().map(u64::from).eq(1..=200),
        "each has a revision of its own"
    );
    let metrics = store.metrics();
    assert_eq!((metrics.commits, metrics.entries), (200, 200));
    assert!(metrics.batches < 100, "{metrics:?}");
}

#[tokio::test]
async fn of_writers_that_race_for_a_revision_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let revision = store.commit(put("/a/x", "0")).await.unwrap().revision;
    let mut writers = JoinSet::new();
    for _ in 0..50 {
        let store = store.clone();
        let txn = Txn::new().put("/a/x", "1", Condition::Unchanged(revision));
        writers.spawn(async move { store.commit(txn).await });
    }
    let outcomes = writers.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for outcome in outcomes {
        if let Err(error) = outcome {
            let CommitError::Conflict(conflict) = error else {
                panic!("{error:?}")
            };
            assert_eq!(conflict.current.unwrap().mod_revision, Revision::new(2));
        }
    }
}

#[tokio::test]
async fn a_writer_that_gives_up_leaves_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for _ in 0..20 {
        let txn = put("/a/x", "1").put("/a/y", "1", Condition::Any);
        let mut commit = pin!(store.commit(txn));
        let waker = Arc::new(CountingWaker::default()).into();
        let _ = commit.as_mut().poll(&mut Context::from_waker(&waker));
    }
    store.commit(put("/b/x", "1")).await.unwrap();
    let snapshot = store.snapshot();
    assert_eq!(snapshot.get("/a/x").is_some(), snapshot.get("/a/y").is_some());
}
