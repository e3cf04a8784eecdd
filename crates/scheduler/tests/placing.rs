//! The scheduler, and with it the volume controllers, over an API server in memory.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use stead_controllers::volumes::{LocalVolumes, VolumesController};
use stead_informer::{Informers, Recorder};
use stead_scheduler::{NAME, Scheduler};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::support::Server;

/// A server, and what runs over it.
struct Cluster {
    server: Server,
    volumes: TempDir,
    _tasks: JoinSet<()>,
}

impl Cluster {
    fn start() -> Cluster {
        let server = Server::new();
        let volumes = tempfile::tempdir().expect("a directory");
        let (client, shutdown) = (server.client(), CancellationToken::new());
        let informers = Informers::new();
        let mut tasks = JoinSet::new();
        let recorder = |component: &'static str, tasks: &mut JoinSet<()>| {
            let (recorder, writer) = Recorder::new(client.clone(), component, None, shutdown.clone());
            tasks.spawn(writer);
            recorder
        };
        let local = LocalVolumes {
            node: "n".to_owned(),
            directory: volumes.path().join("volumes"),
        };
        let scheduler = Scheduler::new(client.clone(), &informers, recorder(NAME, &mut tasks));
        let controller = VolumesController::new(
            client.clone(),
            &informers,
            recorder("persistentvolume-controller", &mut tasks),
            Some(local),
        );
        for task in informers.run(&client, &shutdown) {
            tasks.spawn(task);
        }
        tasks.spawn(scheduler.run(shutdown.clone()));
        tasks.spawn(controller.run(shutdown));
        Cluster {
            server,
            volumes,
            _tasks: tasks,
        }
    }

    fn add_node(&self) {
        let node = json!({
            "metadata": {"name": "n", "labels": {"kubernetes.io/hostname": "n"}},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}},
        });
        self.server.put("nodes", node);
    }

    fn add_pod(&self, name: &str, extra: Value) {
        let mut spec = json!({"schedulerName": NAME, "containers": [{"name": "c"}]});
        if let (Value::Object(spec), Value::Object(extra)) = (&mut spec, extra) {
            spec.extend(extra);
        }
        self.server.put(
            "pods",
            json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec}),
        );
    }

    fn add_claim(&self, class: &str) {
        let claim = json!({
            "metadata": {"namespace": "ns", "name": "c", "finalizers": ["kubernetes.io/pvc-protection"]},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": class,
                "resources": {"requests": {"storage": "10Mi"}},
            },
            "status": {"phase": "Pending"},
        });
        self.server.put("persistentvolumeclaims", claim);
    }

    async fn bound(&self, pod: &str) {
        let is_bound = |server: &Server| {
            let found = server.get("pods", "ns", pod)?;
            (found["spec"]["nodeName"] == "n").then_some(())
        };
        self.server.until("a bound pod", is_bound).await;
    }

    /// The message of an event about an object.
    async fn told(&self, about: &str, reason: &str) -> String {
        let find = |server: &Server| {
            let events = server.all("events");
            let found = events
                .iter()
                .find(|event| event["involvedObject"]["name"] == about && event["reason"] == reason)?;
            Some(found["message"].as_str().unwrap_or_default().to_owned())
        };
        self.server.until(reason, find).await
    }

    async fn gone(&self, plural: &str, namespace: &str, name: &str) {
        let is_gone = |server: &Server| server.get(plural, namespace, name).is_none().then_some(());
        self.server.until("an end", is_gone).await;
    }
}

fn using_the_claim() -> Value {
    json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]})
}

fn cpu(amount: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]})
}

#[tokio::test]
async fn a_pod_is_bound_as_soon_as_there_is_a_node_for_it() {
    let cluster = Cluster::start();
    cluster.add_pod("p", json!({}));
    assert_eq!(
        cluster.told("p", "FailedScheduling").await,
        "no nodes available to schedule pods"
    );
    cluster.add_node();
    cluster.bound("p").await;
    assert_eq!(
        cluster.told("p", "Scheduled").await,
        "Successfully assigned ns/p to n"
    );
}

#[tokio::test]
async fn a_pod_waits_for_room_and_says_so() {
    let cluster = Cluster::start();
    cluster.add_node();
    cluster.add_pod("first", cpu("1500m"));
    cluster.bound("first").await;
    cluster.add_pod("second", cpu("1"));
    let message = cluster.told("second", "FailedScheduling").await;
    assert!(
        message.starts_with("0/1 nodes are available: 1 Insufficient cpu. preemption:"),
        "{message}"
    );
    let condition = |server: &Server| {
        let pod = server.get("pods", "ns", "second")?;
        let condition = pod["status"]["conditions"].get(0)?;
        Some((condition["reason"].clone(), condition["message"].clone()))
    };
    let condition = cluster.server.until("a condition", condition).await;
    assert_eq!(condition, (json!("Unschedulable"), json!(message)));
    cluster.server.delete("pods", "ns", "first");
    cluster.bound("second").await;
}

#[tokio::test]
async fn a_claim_gets_its_directory_with_its_first_pod_and_loses_it_when_deleted() {
    let cluster = Cluster::start();
    cluster.add_node();
    let standard = |server: &Server| server.get("storageclasses", "", "standard");
    cluster.server.until("the class", standard).await;
    cluster.add_claim("standard");
    assert_eq!(
        cluster.told("c", "WaitForFirstConsumer").await,
        "waiting for first consumer to be created before binding"
    );
    cluster.add_pod("p", using_the_claim());
    cluster.bound("p").await;
    let claim = cluster
        .server
        .get("persistentvolumeclaims", "ns", "c")
        .expect("the claim");
    assert_eq!(claim["status"]["phase"], "Bound");
    let name = claim["spec"]["volumeName"].as_str().expect("a volume").to_owned();
    assert_eq!(
        cluster.told("c", "ProvisioningSucceeded").await,
        format!("Successfully provisioned volume {name}")
    );
    let is_bound = |server: &Server| {
        let volume = server.get("persistentvolumes", "", &name)?;
        (volume["status"]["phase"] == "Bound").then_some(volume)
    };
    let volume = cluster.server.until("a bound volume", is_bound).await;
    let path = volume["spec"]["local"]["path"]
        .as_str()
        .expect("a path")
        .to_owned();
    assert!(Path::new(&path).starts_with(cluster.volumes.path()) && Path::new(&path).is_dir());
    std::fs::write(Path::new(&path).join("visits"), "1").expect("written");

    // In use, the claim stays.
    cluster.server.delete("persistentvolumeclaims", "ns", "c");
    let is_going = |server: &Server| {
        let claim = server.get("persistentvolumeclaims", "ns", "c")?;
        claim["metadata"]["deletionTimestamp"].is_string().then_some(())
    };
    cluster.server.until("a claim on its way out", is_going).await;
    assert!(Path::new(&path).join("visits").exists());
    cluster.server.delete("pods", "ns", "p");
    cluster.gone("persistentvolumeclaims", "ns", "c").await;
    cluster.gone("persistentvolumes", "", &name).await;
    assert!(!Path::new(&path).exists());
}

#[tokio::test]
async fn a_claim_is_bound_to_a_volume_that_is_kept_after_it() {
    let cluster = Cluster::start();
    cluster.add_node();
    cluster.add_claim("by-hand");
    assert_eq!(
        cluster.told("c", "ProvisioningFailed").await,
        "storageclass.storage.k8s.io \"by-hand\" not found"
    );
    cluster.add_pod("p", using_the_claim());
    let message = cluster.told("p", "FailedScheduling").await;
    assert!(
        message.contains("pod has unbound immediate PersistentVolumeClaims"),
        "{message}"
    );
    let volume = json!({
        "metadata": {"name": "v"},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "by-hand", "capacity": {"storage": "1Gi"},
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/absent"},
        },
        "status": {"phase": "Pending"},
    });
    cluster.server.put("persistentvolumes", volume);
    cluster.bound("p").await;
    cluster.server.delete("pods", "ns", "p");
    cluster.server.delete("persistentvolumeclaims", "ns", "c");
    let is_released = |server: &Server| {
        let volume = server.get("persistentvolumes", "", "v")?;
        (volume["status"]["phase"] == "Released").then_some(())
    };
    cluster.server.until("a released volume", is_released).await;
}
