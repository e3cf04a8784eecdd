//! The simulated API server's objects: plain JSON, with every state that there ever was, as watches and rules look
//! back on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Notify;

/// The kinds that are kept. Others are empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Pods,
    Claims,
    Sets,
    Revisions,
}

impl Kind {
    pub(super) const ALL: [Kind; 4] = [Kind::Pods, Kind::Claims, Kind::Sets, Kind::Revisions];

    /// The kind that a path calls so.
    pub(super) fn of_plural(plural: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.names().0 == plural)
    }

    /// Its plural, its name, and its API version.
    pub(super) fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Kind::Pods => ("pods", "Pod", "v1"),
            Kind::Claims => ("persistentvolumeclaims", "PersistentVolumeClaim", "v1"),
            Kind::Sets => ("statefulsets", "StatefulSet", "apps/v1"),
            Kind::Revisions => ("controllerrevisions", "ControllerRevision", "apps/v1"),
        }
    }
}

/// An object; whoever changes it makes a new one.
pub(super) type Object = Arc<Value>;

/// All objects of a kind, by name, from one version to the next one of the kind.
pub(super) struct Snapshot {
    pub(super) version: u64,
    /// When it came about, in milliseconds.
    pub(super) at: u64,
    pub(super) objects: BTreeMap<String, Object>,
    /// What a watch shows of the change that led here.
    pub(super) event: (&'static str, Object),
    /// The same, as it goes over the wire.
    pub(super) line: Bytes,
}

/// A kind's history.
pub(super) struct Table {
    pub(super) history: Vec<Snapshot>,
    changed: Arc<Notify>,
}

impl Table {
    fn new() -> Table {
        let nothing = Snapshot {
            version: 1,
            at: 0,
            objects: BTreeMap::new(),
            event: ("BOOKMARK", Arc::new(Value::Null)),
            line: Bytes::new(),
        };
        Table {
            history: vec![nothing],
            changed: Arc::default(),
        }
    }

    pub(super) fn last(&self) -> &Snapshot {
        self.history.last().expect("a history begins with a state")
    }

    /// Where in the history a version is, or the last one before it.
    pub(super) fn index_at(&self, version: u64) -> usize {
        let after = self
            .history
            .partition_point(|snapshot| snapshot.version <= version);
        after.saturating_sub(1)
    }

    /// Hears of each change. (Those who wait are woken in their order, unlike those of a `watch` channel.)
    pub(super) fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }
}

/// The server's objects.
pub(super) struct Store {
    tables: [Table; 4],
    version: u64,
    uids: u64,
}

impl Store {
    pub(super) fn new() -> Store {
        Store {
            tables: std::array::from_fn(|_| Table::new()),
            version: 1,
            uids: 0,
        }
    }

    pub(super) fn table(&self, kind: Kind) -> &Table {
        &self.tables[kind as usize]
    }

    /// All objects of a kind, as they are.
    pub(super) fn objects(&self, kind: Kind) -> &BTreeMap<String, Object> {
        &self.table(kind).last().objects
    }

    pub(super) fn get(&self, kind: Kind, name: &str) -> Option<&Object> {
        self.objects(kind).get(name)
    }

    /// Whether there is an object of this uid; owners are of two kinds only.
    pub(super) fn is_there(&self, uid: &str) -> bool {
        let all = [Kind::Sets, Kind::Pods]
            .into_iter()
            .flat_map(|kind| self.objects(kind).values());
        all.into_iter().any(|object| text(object, "/metadata/uid") == uid)
    }

    /// Makes an object, which has no uid yet.
    pub(super) fn create(&mut self, kind: Kind, mut object: Value, at: u64) -> Object {
        self.uids += 1;
        object["metadata"]["uid"] = format!("u{}", self.uids).into();
        object["metadata"]["creationTimestamp"] = time(at);
        let (_, name, version) = kind.names();
        object["kind"] = name.into();
        object["apiVersion"] = version.into();
        self.put(kind, object, at)
    }

    /// Writes an object as it is given, but for its version.
    pub(super) fn put(&mut self, kind: Kind, mut object: Value, at: u64) -> Object {
        let name = text(&object, "/metadata/name").to_owned();
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object = Arc::new(object);
        let mut objects = self.objects(kind).clone();
        let former = objects.insert(name, Arc::clone(&object));
        let verb = if former.is_some() { "MODIFIED" } else { "ADDED" };
        self.push(kind, objects, (verb, Arc::clone(&object)), at);
        object
    }

    /// Takes an object away.
    pub(super) fn remove(&mut self, kind: Kind, name: &str, at: u64) {
        let mut objects = self.objects(kind).clone();
        let Some(object) = objects.remove(name) else {
            return;
        };
        self.version += 1;
        let mut last = Value::clone(&object);
        last["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.push(kind, objects, ("DELETED", Arc::new(last)), at);
    }

    fn push(
        &mut self,
        kind: Kind,
        objects: BTreeMap<String, Object>,
        event: (&'static str, Object),
        at: u64,
    ) {
        let line = format!("{}\n", json!({"type": event.0, "object": &*event.1}));
        let table = &mut self.tables[kind as usize];
        table.history.push(Snapshot {
            version: self.version,
            at,
            objects,
            event,
            line: line.into(),
        });
        table.changed.notify_waiters();
    }
}

/// A string within an object; empty where there is none.
pub(super) fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The items of a list within an object.
pub(super) fn list<'v>(object: &'v Value, pointer: &str) -> &'v [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Whether an object's deletion has been asked for.
pub(super) fn is_deleting(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

/// The version of an object.
pub(super) fn version_of(object: &Value) -> u64 {
    text(object, "/metadata/resourceVersion").parse().unwrap_or(0)
}

/// The uid of an object's controller.
pub(super) fn controller_of(object: &Value) -> Option<&str> {
    let owners = list(object, "/metadata/ownerReferences");
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    Some(text(owner, "/uid"))
}

/// A moment of the simulation as the wall clock has it.
pub(super) fn timestamp(at: u64) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(1_800_000_000_000 + at as i64)
        .expect("a time within thousands of years")
}

/// The same as the API has it, in whole seconds.
pub(super) fn time(at: u64) -> Value {
    let second = timestamp(at).as_second();
    let whole = jiff::Timestamp::from_second(second).expect("a second that there was");
    whole.to_string().into()
}
