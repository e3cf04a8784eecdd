//! The manifests that several tests use.

/// The example's.
pub(crate) const VISITS: &str = include_str!("../../examples/visits/manifest.yaml");

/// A StatefulSet of the visits app and its headless Service `NAME-headless`. `more` is more of the set's
/// spec, as lines of YAML, each `field: value`.
pub(crate) fn set(name: &str, replicas: u32, more: &[&str]) -> String {
    let more: String = more.iter().map(|line| format!("\n  {line}")).collect();
    format!(
        "\
apiVersion: v1
kind: Service
metadata: {{name: {name}-headless}}
spec:
  clusterIP: None
  selector: {{app: {name}}}
  ports: [{{name: http, port: 8080}}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  serviceName: {name}-headless
  selector: {{matchLabels: {{app: {name}}}}}{more}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
        - name: visits
          image: visits:1
          ports: [{{name: http, containerPort: 8080}}]
          readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
          volumeMounts: [{{name: data, mountPath: /data}}]
  volumeClaimTemplates:
    - metadata: {{name: data}}
      spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}
"
    )
}

/// A StatefulSet whose pods are ready once there is a file `/tmp/go`.
pub(crate) fn held_set(name: &str, replicas: u32, policy: &str) -> String {
    format!(
        "\
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  serviceName: {name}
  podManagementPolicy: {policy}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: tool
          image: tool:1
          command: [sleep, '10000']
          readinessProbe: {{exec: {{command: [test, -e, /tmp/go]}}, periodSeconds: 1}}
"
    )
}

/// A pod with one container of the tool image that runs a script. `more` is more of the container, as lines
/// of YAML, each `field: value`.
pub(crate) fn pod(name: &str, script: &str, more: &[&str]) -> String {
    let more: String = more.iter().map(|line| format!("\n      {line}")).collect();
    format!(
        "\
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: tool:1
      command: [sh, -c, '{script}']{more}
"
    )
}

/// A StatefulSet whose pods prove that no two of one identity run at once: each has a pipe in its volume open
/// as long as any process of it lives, and ends with 3 if it can still be written to when it starts. Each
/// start adds a line to `/data/starts`. `more` is more of the set's spec, as lines of YAML, each
/// `field: value`.
pub(crate) fn locking_set(name: &str, replicas: usize, more: &[&str]) -> String {
    let more: String = more.iter().map(|line| format!("\n  {line}")).collect();
    format!(
        "\
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  serviceName: {name}
  podManagementPolicy: Parallel
  selector: {{matchLabels: {{app: {name}}}}}{more}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
        - name: main
          image: tool:1
          command:
            - sh
            - -c
            - |
              echo start >>/data/starts
              [ -p /data/life ] || busybox mkfifo /data/life
              timeout 0.1 sh -c 'echo >/data/life' && exit 3
              exec 9<>/data/life
              trap 'exit 0' TERM
              sleep 1000000 &
              wait
          volumeMounts: [{{name: data, mountPath: /data}}]
  volumeClaimTemplates:
    - metadata: {{name: data}}
      spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}
"
    )
}
