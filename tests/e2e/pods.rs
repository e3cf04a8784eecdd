//! Pods: what their containers find, and what becomes of them.

use anyhow::{Result, ensure};
use stead_tests::artifacts::Image;
use stead_tests::on_a_cluster;

use crate::manifests::pod;
use crate::{Tests, check_contains};

pub(crate) const TESTS: Tests = &[
    ("pods: volumes and environment", volumes),
    (
        "pods: init containers run one after the other, first",
        init_containers,
    ),
    (
        "pods: a container that fails its liveness probe is restarted",
        liveness,
    ),
    ("pods: a pod that is done is done", restart_policies),
    ("pods: a pod too large waits, and says why", unschedulable),
    ("pods: limits hold", limits),
    ("pods: ending one is graceful", graceful),
];

fn volumes() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        cluster.apply(
            "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: blue, size: large}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: hidden}
---
apiVersion: v1
kind: Pod
metadata: {name: full, labels: {app: full}, annotations: {note: seen}}
spec:
  hostname: named
  subdomain: under
  containers:
    - name: main
      image: tool:1
      command: [sleep, '10000']
      resources: {limits: {memory: 32Mi}}
      envFrom: [{configMapRef: {name: settings}}, {secretRef: {name: keys, optional: true}, prefix: KEY_}]
      env:
        - {name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
        - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: ADDRESS, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
        - {name: GREETING, value: I am $(NAME)}
      volumeMounts:
        - {name: settings, mountPath: /settings}
        - {name: keys, mountPath: /keys, readOnly: true}
        - {name: own, mountPath: /own}
        - {name: all, mountPath: /all}
        - {name: scratch, mountPath: /scratch}
        - {name: settings, mountPath: /one/size, subPath: size}
  volumes:
    - {name: settings, configMap: {name: settings}}
    - {name: keys, secret: {secretName: keys, defaultMode: 0400}}
    - {name: own, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
    - name: all
      projected:
        sources:
          - {configMap: {name: settings, items: [{key: color, path: in/color}]}}
          - {secret: {name: keys}}
          - {downwardAPI: {items: [{path: note, fieldRef: {fieldPath: 'metadata.annotations[''note'']'}}]}}
    - {name: scratch, emptyDir: {}}
",
        )?;
        cluster.wait_for("pod/full", "condition=Ready")?;
        let env = cluster.in_pod("full", "env")?;
        let address = cluster.field("pod full", "/status/podIP")?;
        check_contains(
            &env,
            &[
                "color=blue",
                "KEY_password=hidden",
                "COLOR=blue",
                "PASSWORD=hidden",
                "NAME=full",
                &format!("ADDRESS={address}"),
                "MEMORY=33554432",
                "GREETING=I am full",
                "KUBERNETES_SERVICE_HOST=",
                "HOSTNAME=named",
            ],
        )?;
        for (script, said) in [
            ("cat /settings/color", "blue"),
            ("cat /keys/password", "hidden"),
            ("stat -L -c %a /keys/password", "400"),
            ("cat /own/labels", "app=\"full\""),
            ("cat /all/in/color /all/password /all/note", "bluehiddenseen"),
            ("cat /one/size", "large"),
            ("echo x >/scratch/x && cat /scratch/x", "x"),
            ("hostname", "named"),
            (
                "ls /var/run/secrets/kubernetes.io/serviceaccount",
                "ca.crt\nnamespace\ntoken",
            ),
            (
                "cat /var/run/secrets/kubernetes.io/serviceaccount/namespace",
                "default",
            ),
        ] {
            let found = cluster.in_pod("full", script)?;
            ensure!(found.trim() == said, "{script}: {found:?}");
        }
        check_contains(
            &cluster.in_pod("full", "cat /etc/hosts")?,
            &[&format!(
                "{address}\tnamed.under.default.svc.cluster.local\tnamed"
            )],
        )
    })
}

fn init_containers() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        cluster.apply(
            "
apiVersion: v1
kind: Pod
metadata: {name: prepared}
spec:
  restartPolicy: Never
  initContainers:
    - {name: first, image: 'tool:1', command: [sh, -c, echo one >>/work/log], volumeMounts: [{name: work, mountPath: /work}]}
    - {name: second, image: 'tool:1', command: [sh, -c, echo two >>/work/log], volumeMounts: [{name: work, mountPath: /work}]}
  containers:
    - {name: main, image: 'tool:1', command: [cat, /work/log], volumeMounts: [{name: work, mountPath: /work}]}
  volumes: [{name: work, emptyDir: {}}]
",
        )?;
        cluster.wait_for("pod/prepared", "jsonpath={.status.phase}=Succeeded")?;
        let log = cluster.kubectl("logs prepared -c main").ok()?;
        ensure!(log == "one\ntwo\n", "{log}");
        Ok(())
    })
}

fn liveness() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        let probe =
            "livenessProbe: {exec: {command: [test, -e, /tmp/alive]}, periodSeconds: 1, failureThreshold: 1}";
        cluster.apply(&pod(
            "frail",
            "echo begin; touch /tmp/alive; exec sleep 10000",
            &[probe],
        ))?;
        cluster.wait_for("pod/frail", "condition=Ready")?;
        cluster.in_pod("frail", "rm /tmp/alive")?;
        cluster.wait_for(
            "pod/frail",
            "jsonpath={.status.containerStatuses[0].restartCount}=1",
        )?;
        cluster.wait_for("pod/frail", "condition=Ready")?;
        let events = cluster.kubectl("describe pod frail").ok()?;
        check_contains(&events, &["Unhealthy", "Liveness probe failed", "Killing"])?;
        ensure!(cluster.kubectl("logs frail --previous").ok()? == "begin\n");
        Ok(())
    })
}

fn restart_policies() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        for (name, policy, exit) in [("good", "OnFailure", 0), ("bad", "Never", 7)] {
            let manifest = pod(name, &format!("exit {exit}"), &[]);
            let policy = format!("spec:\n  restartPolicy: {policy}");
            cluster.apply(&manifest.replace("spec:", &policy))?;
        }
        cluster.wait_for("pod/good", "jsonpath={.status.phase}=Succeeded")?;
        cluster.wait_for("pod/bad", "jsonpath={.status.phase}=Failed")?;
        let table = cluster.kubectl("get pods --no-headers").ok()?;
        check_contains(&table, &["Completed", "Error"])?;
        let code = cluster.field("pod bad", "/status/containerStatuses/0/state/terminated/exitCode")?;
        ensure!(code == "7", "{code}");
        cluster.apply(&pod("again", "exit 3", &[]))?;
        cluster.wait_for(
            "pod/again",
            "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff",
        )
    })
}

fn unschedulable() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        let large = "resources: {requests: {cpu: '1000'}}";
        cluster.apply(&pod("large", "exec sleep 10000", &[large]))?;
        cluster.wait_for("pod/large", "condition=PodScheduled=false")?;
        check_contains(
            &cluster.kubectl("describe pod large").ok()?,
            &[
                "FailedScheduling",
                "0/1 nodes are available",
                "1 Insufficient cpu",
            ],
        )?;
        cluster.kubectl("delete pod large").ok().map(drop)
    })
}

fn limits() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        let small = "resources: {limits: {memory: 16Mi, cpu: 100m}}";
        // More memory than there is, in one variable of the shell.
        let greedy = "x=$(head -c 64000000 /dev/zero | tr \"\\\\000\" x); echo survived";
        let manifest = pod("greedy", greedy, &[small]);
        cluster.apply(&manifest.replace("spec:", "spec:\n  restartPolicy: Never"))?;
        cluster.wait_for("pod/greedy", "jsonpath={.status.phase}=Failed")?;
        let reason = cluster.field(
            "pod greedy",
            "/status/containerStatuses/0/state/terminated/reason",
        )?;
        ensure!(reason == "OOMKilled", "{reason}");
        Ok(())
    })
}

fn graceful() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        let script =
            "trap \"echo ended >/host/ended; exit 0\" TERM; touch /tmp/up; while true; do sleep 0.05; done";
        let mounts = "volumeMounts: [{name: host, mountPath: /host}]";
        let ready = "readinessProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1}";
        let dir = cluster.machine.dir().join("host");
        std::fs::create_dir(&dir)?;
        let volumes = format!("spec:\n  volumes: [{{name: host, hostPath: {{path: {dir:?}}}}}]");
        let manifest = pod("polite", script, &[mounts, ready]).replace("spec:", &volumes);
        cluster.apply(&manifest.replace(
            "terminationGracePeriodSeconds: 1",
            "terminationGracePeriodSeconds: 30",
        ))?;
        cluster.wait_for("pod/polite", "condition=Ready")?;
        cluster.kubectl("delete pod polite").ok()?;
        ensure!(std::fs::read_to_string(dir.join("ended"))? == "ended\n");
        // And one that does not listen is ended when its time is up.
        cluster.apply(&pod("deaf", "trap : TERM; while true; do sleep 0.05; done", &[]))?;
        cluster.wait_for("pod/deaf", "condition=Ready")?;
        cluster.kubectl("delete pod deaf").ok()?;
        std::fs::remove_dir_all(dir)?;
        Ok(())
    })
}
