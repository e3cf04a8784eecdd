//! The store's log: frames that are whole, with any bodies, and files of any bytes.

use std::fs;

use bytes::Bytes;
use stead_store::{Options, Store, fuzz};
use tempfile::TempDir;

/// A byte; then the bodies of frames, each with its length in two bytes before it. The byte is how the file is
/// spoilt: not at all when even, else at the place of which it is the quarter.
pub fn log(input: &[u8]) {
    let Some((&spoilt, mut rest)) = input.split_first() else {
        return;
    };
    let mut bodies = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(after.len());
        let (body, after) = after.split_at(length);
        fuzz::body(body);
        bodies.push(body);
        rest = after;
    }
    // Files take time: only logs that promise something are opened.
    if bodies.is_empty() || bodies.len() > 8 {
        return;
    }
    let (name, mut file) = fuzz::log(bodies);
    if spoilt % 2 == 1 {
        let at = (usize::from(spoilt) / 2 * 4).min(file.len() - 1);
        file[at] ^= spoilt;
    }
    let dir = TempDir::new().expect("make a folder");
    fs::write(dir.path().join(name), &file).expect("write a log");
    let options = Options::new(dir.path());
    if let Ok(store) = Store::<Bytes>::open(options.clone()) {
        let (revision, entries) = content(&store);
        drop(store);
        let again = Store::<Bytes>::open(options).expect("what was opened opens again");
        assert_eq!(content(&again), (revision, entries), "it reads otherwise");
    }
}

fn content(store: &Store<Bytes>) -> (u64, Vec<(String, Bytes)>) {
    let snapshot = store.snapshot();
    let entries = snapshot.prefix("");
    let entries = entries.map(|(key, entry)| (key.to_string(), entry.value.clone()));
    (snapshot.revision().get(), entries.collect())
}

/// Logs with a few transactions.
pub fn seeds() -> Vec<Vec<u8>> {
    let one = fuzz::transaction(&[("/pods/default/web-0", Some(b"{}")), ("/a", Some(b""))]);
    let two = fuzz::transaction(&[("/pods/default/web-0", None), ("/b", Some(&[7; 300]))]);
    let both = [one.clone(), two.clone()].concat();
    let input = |spoilt: u8, bodies: &[&[u8]]| {
        let mut input = vec![spoilt];
        for body in bodies {
            let length = u16::try_from(body.len()).expect("a short body");
            input.extend(length.to_le_bytes());
            input.extend(*body);
        }
        input
    };
    vec![
        input(0, &[&one]),
        input(0, &[&one, &two]),
        input(2, &[&both, &one]),
        input(33, &[&one, &two]),
    ]
}
