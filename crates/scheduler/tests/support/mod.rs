//! As much of an API server as the scheduler and the volume controllers need: objects in memory,
//! optimistic concurrency, watches, finalizers, bindings. It checks and defaults nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

/// How long a test waits for what must come.
const DEADLINE: Duration = Duration::from_secs(10);

/// The server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Server {
    state: Arc<Mutex<State>>,
    revision: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    revision: u64,
    /// By plural, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    /// What watches are told: revision, plural, event.
    log: Vec<(u64, String, Value)>,
}

/// What a request is about.
struct Target {
    plural: String,
    namespace: String,
    name: Option<String>,
    subresource: Option<String>,
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

impl Server {
    pub(crate) fn new() -> Server {
        Server {
            state: Arc::default(),
            revision: watch::Sender::new(0),
        }
    }

    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An object, if it is there.
    pub(crate) fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        self.state().objects.get(&key).cloned()
    }

    /// All objects of a kind.
    pub(crate) fn all(&self, plural: &str) -> Vec<Value> {
        let state = self.state();
        let of_kind = state.objects.iter().filter(|((kind, _, _), _)| kind == plural);
        of_kind.map(|(_, object)| object.clone()).collect()
    }

    /// Makes or replaces an object, as somebody else would.
    pub(crate) fn put(&self, plural: &str, object: Value) {
        self.state().store(plural, object);
        self.announce();
    }

    /// Deletes an object, as somebody else would.
    pub(crate) fn delete(&self, plural: &str, namespace: &str, name: &str) {
        self.state()
            .delete(&(plural.to_owned(), namespace.to_owned(), name.to_owned()));
        self.announce();
    }

    fn announce(&self) {
        let revision = self.state().revision;
        self.revision.send_replace(revision);
    }

    /// Waits until something holds, and returns it; shows all there is when it does not come.
    pub(crate) async fn until<T>(&self, what: &str, look: impl Fn(&Server) -> Option<T>) -> T {
        let mut revision = self.revision.subscribe();
        let found = async {
            loop {
                revision.borrow_and_update();
                if let Some(found) = look(self) {
                    return found;
                }
                revision.changed().await.expect("the server is there");
            }
        };
        match tokio::time::timeout(DEADLINE, found).await {
            Ok(found) => found,
            Err(_) => {
                let objects: Vec<_> = self.state().objects.values().cloned().collect();
                panic!("{what} has not come: {}", json!(objects));
            }
        }
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (head, body) = request.into_parts();
        let target = target(head.uri.path());
        let query = head.uri.query().unwrap_or_default().to_owned();
        if head.method == Method::GET && query.contains("watch=") {
            return self.watch(&target, &query);
        }
        let body = body.collect().await.expect("a body").to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (code, answer) = self.state().perform(&head.method, &target, body);
        self.announce();
        let body = Full::new(Bytes::from(answer.to_string())).boxed_unsync();
        Response::builder().status(code).body(body).expect("a response")
    }

    fn watch(&self, target: &Target, query: &str) -> Answer {
        let from = query
            .split('&')
            .find_map(|part| part.strip_prefix("resourceVersion="))
            .and_then(|version| version.parse().ok())
            .unwrap_or(0);
        let start = (
            self.clone(),
            self.revision.subscribe(),
            target.plural.clone(),
            from,
        );
        let events = stream::unfold(start, |(server, mut revision, plural, from)| async move {
            loop {
                revision.borrow_and_update();
                let next = {
                    let state = server.state();
                    let mut log = state.log.iter();
                    log.find(|(at, kind, _)| *at > from && *kind == plural)
                        .map(|(at, _, event)| (*at, format!("{event}\n")))
                };
                if let Some((at, line)) = next {
                    let frame = http_body::Frame::data(Bytes::from(line));
                    return Some((Ok::<_, Infallible>(frame), (server, revision, plural, at)));
                }
                revision.changed().await.ok()?;
            }
        });
        Response::new(StreamBody::new(events).boxed_unsync())
    }
}

impl State {
    fn perform(&mut self, method: &Method, target: &Target, body: Value) -> (u16, Value) {
        let Some(name) = target.name.clone() else {
            if *method == Method::POST {
                return self.create(target, body);
            }
            let in_namespace = |namespace: &str| target.namespace.is_empty() || namespace == target.namespace;
            let items: Vec<_> = self
                .objects
                .iter()
                .filter(|((plural, namespace, _), _)| *plural == target.plural && in_namespace(namespace))
                .map(|(_, object)| object.clone())
                .collect();
            let version = self.revision.to_string();
            let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items});
            return (200, list);
        };
        let key = (target.plural.clone(), target.namespace.clone(), name.clone());
        let Some(old) = self.objects.get(&key).cloned() else {
            return failure(404, "NotFound", &name);
        };
        match *method {
            Method::GET => (200, old),
            Method::DELETE => {
                self.delete(&key);
                (200, old)
            }
            Method::POST if target.subresource.as_deref() == Some("binding") => {
                let mut bound = old;
                bound["spec"]["nodeName"] = body["target"]["name"].clone();
                self.store(&target.plural, bound);
                (
                    201,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
                )
            }
            Method::PUT if body["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] => {
                failure(409, "Conflict", &name)
            }
            Method::PUT => {
                let is_status = target.subresource.as_deref() == Some("status");
                let (mut new, other) = if is_status { (old, body) } else { (body, old) };
                // Either writes its part and leaves the other's.
                new["status"] = other["status"].clone();
                (200, self.store(&target.plural, new))
            }
            Method::PATCH
                if body["metadata"]["uid"].is_string()
                    && body["metadata"]["uid"] != old["metadata"]["uid"] =>
            {
                failure(409, "Conflict", &name)
            }
            Method::PATCH => {
                let mut new = old;
                merge(&mut new, body);
                (200, self.store(&target.plural, new))
            }
            _ => failure(405, "MethodNotAllowed", &name),
        }
    }

    fn create(&mut self, target: &Target, mut object: Value) -> (u16, Value) {
        if !target.namespace.is_empty() {
            object["metadata"]["namespace"] = target.namespace.as_str().into();
        }
        if self.objects.contains_key(&key(&target.plural, &object)) {
            return failure(409, "AlreadyExists", "");
        }
        if target.plural == "persistentvolumes" {
            object["status"] = json!({"phase": "Pending"});
        }
        (201, self.store(&target.plural, object))
    }

    fn store(&mut self, plural: &str, mut object: Value) -> Value {
        self.revision += 1;
        let key = key(plural, &object);
        let is_new = !self.objects.contains_key(&key);
        let meta = &mut object["metadata"];
        meta["resourceVersion"] = self.revision.to_string().into();
        if meta["uid"].is_null() {
            meta["uid"] = format!("uid-{}", self.revision).into();
        }
        let is_held = meta["finalizers"]
            .as_array()
            .is_some_and(|finalizers| !finalizers.is_empty());
        let is_over = meta["deletionTimestamp"].is_string() && !is_held;
        let event = if is_over {
            self.objects.remove(&key);
            "DELETED"
        } else {
            self.objects.insert(key, object.clone());
            if is_new { "ADDED" } else { "MODIFIED" }
        };
        let event = json!({"type": event, "object": object});
        self.log.push((self.revision, plural.to_owned(), event));
        object
    }

    fn delete(&mut self, key: &(String, String, String)) {
        if let Some(mut object) = self.objects.get(key).cloned() {
            object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            self.store(&key.0, object);
        }
    }
}

fn key(plural: &str, object: &Value) -> (String, String, String) {
    let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    (plural.to_owned(), field("namespace"), field("name"))
}

fn failure(code: u16, reason: &str, name: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": format!("{reason} {name}"), "metadata": {},
    });
    (code, status)
}

fn target(path: &str) -> Target {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    // `api/v1` or `apis/GROUP/VERSION`.
    if parts.next() == Some("apis") {
        parts.next();
    }
    parts.next();
    let mut parts: Vec<_> = parts.map(str::to_owned).collect();
    let namespace = if parts.len() > 2 && parts[0] == "namespaces" {
        let namespace = parts.remove(1);
        parts.remove(0);
        namespace
    } else {
        String::new()
    };
    let mut parts = parts.into_iter();
    Target {
        plural: parts.next().unwrap_or_default(),
        namespace,
        name: parts.next(),
        subresource: parts.next(),
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (into @ Value::Object(_), Value::Object(from)) => {
            for (name, value) in from {
                merge(&mut into[name], value);
            }
        }
        (into, from) => *into = from,
    }
}
