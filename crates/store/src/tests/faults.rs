//! A disk that is full or fails: writes are refused, reads go on, and all is well afterwards.

use super::*;
use crate::CommitError;
use crate::disk::sim::Faults;

fn store_with_one_entry() -> (SimDisk, Store<Bytes>) {
    let disk = SimDisk::new(Image::new());
    let store = open(&disk).unwrap();
    block_on(store.commit(put("/a/x", "one"))).unwrap();
    (disk, store)
}

fn used(disk: &SimDisk) -> usize {
    disk.image().values().map(Vec::len).sum()
}

/// While the disk fails, the write is refused and nothing changes; then it works again, and what
/// was refused is nowhere, even if the power goes.
fn check(faults: impl Fn(&SimDisk) -> Faults, is_expected: impl Fn(&CommitError<Bytes>) -> bool) {
    let (disk, store) = store_with_one_entry();
    let before = contents(&store);
    let mut watcher = store.watch("/a/", store.revision()).unwrap();
    disk.set_faults(faults(&disk));
    for _ in 0..3 {
        let refused = block_on(store.commit(put("/a/x", vec![b'2'; 300]))).unwrap_err();
        assert!(is_expected(&refused), "{refused:?}");
        assert_eq!(
            (contents(&store), store.revision()),
            (before.clone(), Revision::new(1))
        );
    }
    disk.set_faults(Faults::NONE);
    let committed = block_on(store.commit(put("/a/y", "three"))).unwrap();
    assert_eq!(committed.revision, Revision::new(2));
    let seen = block_on(watcher.next()).unwrap();
    assert_eq!(seen.iter().map(|event| &*event.key).collect::<Vec<_>>(), ["/a/y"]);
    let reopened = open_image(&disk.image()).unwrap();
    assert_eq!(contents(&reopened), contents(&store));
    assert_eq!(store.metrics().failures, 3);
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    let is_full = |error: &CommitError<_>| matches!(error, CommitError::DiskFull(_));
    check(
        |disk| Faults {
            capacity: used(disk),
            ..Faults::NONE
        },
        is_full,
    );
    // Not even room for what would be cut back.
    check(
        |disk| Faults {
            capacity: used(disk) + 100,
            no_cut: true,
            ..Faults::NONE
        },
        |_| true,
    );
}

#[test]
fn a_failed_sync_refuses_the_write() {
    let is_io = |error: &CommitError<_>| matches!(error, CommitError::Io(_));
    check(
        |_| Faults {
            no_sync: true,
            ..Faults::NONE
        },
        is_io,
    );
    check(
        |_| Faults {
            no_sync: true,
            no_cut: true,
            ..Faults::NONE
        },
        is_io,
    );
}

#[test]
fn a_refused_write_is_cut_off_at_once_or_when_the_store_is_closed() {
    let faults = Faults {
        no_sync: true,
        ..Faults::NONE
    };
    for faults in [
        faults,
        Faults {
            no_cut: true,
            ..faults
        },
    ] {
        let (disk, store) = store_with_one_entry();
        disk.set_faults(faults);
        block_on(store.commit(put("/a/x", "two"))).unwrap_err();
        assert_eq!(
            open_image(&disk.image()).unwrap().get("/a/x").unwrap().value != "two",
            !faults.no_cut
        );
        disk.set_faults(Faults::NONE);
        drop(store);
        assert_eq!(
            open_image(&disk.image()).unwrap().get("/a/x").unwrap().value,
            "one"
        );
    }
}

#[test]
fn a_conflict_is_told_even_when_the_disk_is_full() {
    let (disk, store) = store_with_one_entry();
    disk.set_faults(Faults {
        capacity: 0,
        ..Faults::NONE
    });
    let conflicting = Txn::new().put("/a/x", "two", Condition::Absent);
    let (written, conflict) = block_on(async {
        // Both in one batch: the first would have made the second's condition true.
        let deletion = Txn::new()
            .delete("/a/x", Condition::Any)
            .put("/b", vec![0; 300], Condition::Any);
        tokio::join!(store.commit(deletion), store.commit(conflicting))
    });
    assert!(matches!(written, Err(CommitError::DiskFull(_))));
    let Err(CommitError::Conflict(conflict)) = conflict else {
        panic!("{conflict:?}")
    };
    assert_eq!(conflict.current.unwrap().value, "one");
}

#[test]
fn a_full_disk_puts_off_checkpoints_but_not_writes_that_still_fit() {
    let (disk, store) = store_with_one_entry();
    // Room for the log's chunks, but not for a segment or a checkpoint beside it.
    let mut refused = 0;
    for step in 0..40 {
        disk.set_faults(Faults {
            capacity: used(&disk) + 130,
            no_dir_sync: true,
            ..Faults::NONE
        });
        refused += usize::from(block_on(store.commit(put("/a/x", vec![step; 50]))).is_err());
    }
    assert!(refused < 40);
    assert!(store.metrics().checkpoint_failures > 0);
    disk.set_faults(Faults::NONE);
    for step in 0.. {
        assert!(step < 100_000, "no checkpoint: {:?}", store.metrics());
        block_on(store.commit(put("/a/x", vec![step as u8; 50]))).unwrap();
        if store.metrics().checkpoints > 0 {
            break;
        }
    }
    let expected = contents(&store);
    block_on(store.close());
    assert_eq!(contents(&open_image(&disk.image()).unwrap()), expected);
}

#[test]
fn a_log_can_be_opened_on_a_full_disk() {
    let (disk, store) = store_with_one_entry();
    drop(store);
    disk.set_faults(Faults {
        capacity: used(&disk),
        ..Faults::NONE
    });
    let store = open(&disk).unwrap();
    assert_eq!(store.revision(), Revision::new(1));
    block_on(store.commit(put("/a/x", "2"))).expect("there is room in the chunk");
}

#[test]
fn a_value_whose_decoding_panics_closes_the_store() {
    #[derive(Clone)]
    struct Picky;
    impl crate::Value for Picky {
        fn decode(_key: &str, bytes: &Bytes, _revision: Revision) -> Self {
            assert_ne!(bytes, "bad");
            Self
        }
        fn encode(&self, _out: &mut Vec<u8>) {}
    }
    let disk = SimDisk::new(Image::new());
    let store = Store::<Picky>::open_on(Arc::new(disk.clone()), &options()).unwrap();
    let mut watcher = store.watch("/a/", Revision::ZERO).unwrap();
    for value in ["bad", "good"] {
        let outcome = block_on(store.commit(put("/a/x", value)));
        assert!(matches!(outcome, Err(CommitError::Closed)), "{outcome:?}");
    }
    assert_eq!(block_on(watcher.next()).err(), Some(crate::WatchError::Closed));
    assert!(block_on(store.wait_for(Revision::new(1))).is_err());
    block_on(store.close());
    assert_eq!(open_image(&disk.image()).unwrap().revision(), Revision::ZERO);
}
