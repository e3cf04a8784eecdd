//! Several tests on one cluster at once: each has a namespace of its own, with a StatefulSet `web` in it.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stead_tests::api::{Api, Changes};
use stead_tests::artifacts::Image;
use stead_tests::{Cluster, PATIENCE, Program, on_a_cluster, side_by_side};

use crate::is_ready;
use crate::replays::make_namespace;
use crate::statefulsets::name;

const MERGE: &str = "application/merge-patch+json";

/// Something that is checked in a namespace of its own, and that namespace's name.
pub(crate) type Part = (&'static str, fn(&Site<'_>) -> Result<()>);

/// Checks several things on one cluster, all at once: most of them wait.
pub(crate) fn on_one_cluster(parts: &[&[Part]]) -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&two_tools())?;
        let api = Api::open(cluster)?;
        let run = |part: &Part| {
            let namespace = part.0.to_owned();
            make_namespace(&api, &namespace)?;
            part.1(&Site {
                cluster,
                api: &api,
                namespace,
            })
        };
        let parts = parts.iter().flat_map(|parts| parts.iter());
        side_by_side(parts.map(|part| (part.0.to_owned(), || run(part))))
    })
}

/// An image of two tags, `tool:1` and `tool:2`. Images are known by their first tag, and other tests have `tool:1` alone.
pub(crate) fn two_tools() -> Image {
    Image::new("tool:2").arg("--tag", "tool:1")
}

/// A namespace of a cluster.
pub(crate) struct Site<'c> {
    pub(crate) cluster: &'c Cluster<'c>,
    pub(crate) api: &'c Api,
    pub(crate) namespace: String,
}

/// Objects of one kind by their names.
pub(crate) type Objects = BTreeMap<String, Value>;

impl Site<'_> {
    /// The path of a kind's objects: `pods`, `persistentvolumeclaims`, `statefulsets`, `controllerrevisions`.
    pub(crate) fn path(&self, kind: &str) -> String {
        let group = match kind {
            "statefulsets" | "controllerrevisions" => "apis/apps/v1",
            _ => "api/v1",
        };
        format!("/{group}/namespaces/{}/{kind}", self.namespace)
    }

    /// The path of an object.
    pub(crate) fn object(&self, kind: &str, name: &str) -> String {
        format!("{}/{name}", self.path(kind))
    }

    /// Makes the set `web` with this in its spec beside what each set has.
    pub(crate) fn make_set(&self, replicas: u32, more: Value) -> Result<Value> {
        self.make_named("web", replicas, more)
    }

    /// The same by another name.
    pub(crate) fn make_named(&self, name: &str, replicas: u32, more: Value) -> Result<Value> {
        let mut set = set(name, replicas);
        merge(&mut set["spec"], &more);
        self.api.post(&self.path("statefulsets"), &set)
    }

    /// `kubectl LINE` in the namespace.
    pub(crate) fn kubectl(&self, line: &str) -> Program {
        self.cluster.kubectl(&format!("-n {} {line}", self.namespace))
    }

    /// Runs a script in a pod.
    pub(crate) fn exec(&self, pod: &str, script: &str) -> Result<String> {
        self.kubectl(&format!("exec {pod} -- sh -c '{script}'")).ok()
    }

    /// Merges this into an object, or into its part such as `web/status`.
    pub(crate) fn patch(&self, kind: &str, name: &str, patch: &Value) -> Result<Value> {
        let answer = self.api.ask("PATCH", &self.object(kind, name), MERGE, patch)?;
        ensure!(
            answer.code == 200,
            "PATCH {kind} {name}: {} {}",
            answer.code,
            answer.body
        );
        Ok(answer.body)
    }

    /// Changes the spec of the set `web`.
    pub(crate) fn change(&self, spec: Value) -> Result<Value> {
        self.patch("statefulsets", "web", &json!({"spec": spec}))
    }

    /// Changes the image of the set's pods.
    pub(crate) fn change_image(&self, image: &str) -> Result<()> {
        self.kubectl(&format!("set image sts/web main={image}"))
            .ok()
            .map(drop)
    }

    /// Deletes an object, without waiting for its end.
    pub(crate) fn delete(&self, kind: &str, name: &str) -> Result<()> {
        let answer = self
            .api
            .ask("DELETE", &self.object(kind, name), "", &Value::Null)?;
        ensure!(
            answer.code < 300,
            "DELETE {kind} {name}: {} {}",
            answer.code,
            answer.body
        );
        Ok(())
    }

    /// An object.
    pub(crate) fn get(&self, kind: &str, name: &str) -> Result<Value> {
        self.api.get(&self.object(kind, name))
    }

    /// The objects of a kind.
    pub(crate) fn list(&self, kind: &str) -> Result<Objects> {
        let mut list = self.api.get(&self.path(kind))?;
        let items = list["items"].as_array_mut().context("no items")?;
        let named = |object: Value| Ok((name(&object)?, object));
        std::mem::take(items).into_iter().map(named).collect()
    }

    /// Follows a kind's objects until they are as they should be.
    pub(crate) fn until(&self, kind: &str, what: &str, done: impl Fn(&Objects) -> bool) -> Result<Objects> {
        let mut changes = self.api.watch(&self.path(kind))?;
        let until = Instant::now() + PATIENCE;
        let mut objects = Objects::new();
        while !done(&objects) {
            let change = changes.next(until)?;
            let (change, object) = change.with_context(|| {
                let found: Vec<_> = objects.keys().collect();
                format!("{}: not {what} within {PATIENCE:?}: {found:?}", self.namespace)
            })?;
            if change == "DELETED" {
                objects.remove(&name(&object)?);
            } else {
                objects.insert(name(&object)?, object);
            }
        }
        Ok(objects)
    }

    /// Waits until the controller has seen the set as it is now, and it has come to this.
    pub(crate) fn set_until(&self, what: &str, done: impl Fn(&Value) -> bool) -> Result<Value> {
        let is_seen = |set: &Value| set["status"]["observedGeneration"] == set["metadata"]["generation"];
        let web = |sets: &Objects| sets.get("web").is_some_and(|set| is_seen(set) && done(set));
        let mut sets = self.until("statefulsets", what, web)?;
        sets.remove("web").context("it was there")
    }

    /// Waits until all replicas are there, ready and of the newest template.
    pub(crate) fn settled(&self) -> Result<Value> {
        self.set_until("settled", |set| {
            let (replicas, status) = (&set["spec"]["replicas"], &set["status"]);
            ["replicas", "readyReplicas", "updatedReplicas"]
                .iter()
                .all(|count| number(&status[*count]) == number(replicas))
                && status["currentRevision"] == status["updateRevision"]
        })
    }

    /// Waits until a pod is ready, or is not.
    pub(crate) fn pod_is_ready(&self, pod: &str, ready: bool) -> Result<()> {
        let done = |pods: &Objects| pods.get(pod).is_some_and(|pod| is_ready(pod) == ready);
        self.until("pods", &format!("{pod} ready: {ready}"), done)
            .map(drop)
    }

    /// Waits until a pod runs.
    pub(crate) fn pod_runs(&self, pod: &str) -> Result<()> {
        let runs = |pods: &Objects| pods.get(pod).is_some_and(is_started);
        self.until("pods", &format!("{pod} runs"), runs).map(drop)
    }

    /// Waits until the pods are these and no others.
    pub(crate) fn pods_are<N: AsRef<str> + std::fmt::Debug>(&self, names: &[N]) -> Result<Objects> {
        let are = |pods: &Objects| {
            pods.keys()
                .map(String::as_str)
                .eq(names.iter().map(AsRef::as_ref))
        };
        self.until("pods", &format!("{names:?}"), are)
    }

    /// Makes pods ready that are not, or the other way round.
    pub(crate) fn make_ready(&self, pods: &[&str], ready: bool) -> Result<()> {
        let script = if ready {
            "touch /tmp/ready"
        } else {
            "rm /tmp/ready"
        };
        for pod in pods {
            self.exec(pod, script)?;
        }
        for pod in pods {
            self.pod_is_ready(pod, ready)?;
        }
        Ok(())
    }

    /// Follows the pods' changes from now on.
    pub(crate) fn follow(&self) -> Result<Changes> {
        let there = self.list("pods")?.len();
        let mut changes = self.api.watch(&self.path("pods"))?;
        let until = Instant::now() + PATIENCE;
        for _ in 0..there {
            changes.next(until)?.context("the watch shows what is there")?;
        }
        Ok(changes)
    }

    /// The names of the pods with the next changes of this kind, in their order.
    pub(crate) fn next_pods(&self, changes: &mut Changes, kind: &str, count: usize) -> Result<Vec<String>> {
        let until = Instant::now() + PATIENCE;
        let mut names = Vec::new();
        while names.len() < count {
            let change = changes.next(until)?;
            let (what, pod) = change.with_context(|| format!("{kind}: only {names:?}"))?;
            if what == kind {
                names.push(name(&pod)?);
            }
        }
        Ok(names)
    }
}

/// Has the pod's first container started?
fn is_started(pod: &Value) -> bool {
    pod.pointer("/status/containerStatuses/0/started") == Some(&json!(true))
}

/// A count of a status, where absent is zero.
pub(crate) fn number(count: &Value) -> i64 {
    count.as_i64().unwrap_or(0)
}

/// Where a pod's image is.
pub(crate) fn image(pod: &Value) -> &str {
    pod.pointer("/spec/containers/0/image")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The name of the revision that a pod was made from.
pub(crate) fn revision(pod: &Value) -> &Value {
    &pod["metadata"]["labels"]["controller-revision-hash"]
}

/// An object's uid.
pub(crate) fn uid(object: &Value) -> &Value {
    &object["metadata"]["uid"]
}

/// A set whose pods are ready as long as there is a file `/tmp/ready`, which they make when they start.
fn set(name: &str, replicas: u32) -> Value {
    let labels = json!({"app": name});
    let probe = json!({
        "exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1,
    });
    json!({"metadata": {"name": name}, "spec": {
        "replicas": replicas,
        "serviceName": name,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main",
                "image": "tool:1",
                "command": ["sh", "-c", "touch /tmp/ready; exec sleep 100000"],
                "readinessProbe": probe,
            }],
        }},
    }})
}

/// For a set's spec: pods that are not ready before somebody makes them so.
pub(crate) fn held() -> Value {
    json!({"template": {"spec": {"containers": [{"command": ["sleep", "100000"]}]}}})
}

/// For a set's spec: a claim `data`, mounted at `/data`.
pub(crate) fn with_claims() -> Value {
    let mount = json!([{"name": "data", "mountPath": "/data"}]);
    json!({
        "template": {"spec": {"containers": [{"volumeMounts": mount}]}},
        "volumeClaimTemplates": [{
            "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
        }],
    })
}

/// The two together.
pub(crate) fn and(mut one: Value, other: Value) -> Value {
    merge(&mut one, &other);
    one
}

/// Puts the fields of one value into another; of lists, those of equal place.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) if into.len() == from.len() => {
            into.iter_mut()
                .zip(from)
                .for_each(|(into, from)| merge(into, from));
        }
        (into, from) => *into = from.clone(),
    }
}
