import base64
import threading

import yaml
from kubernetes import client, dynamic, utils, watch
from kubernetes.informer import ADDED, DELETED, SharedInformer
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

from suite import Suite, pod

MANIFEST = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{port: 80}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 2
  serviceName: web
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: "busybox:1.36", command: [sleep, "1000"], volumeMounts: [{name: data, mountPath: /data}]}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
---
apiVersion: v1
kind: ConfigMapList
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: one}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: two}, data: {a: "1"}}
"""


class Objects(Suite):
    def test_sets_of_a_manifest(self):
        made = utils.create_from_yaml(self.api, yaml_objects=list(yaml.safe_load_all(MANIFEST)), namespace=self.namespace)
        self.assertEqual(len([o for some in made for o in some]), 4)
        with self.assertRaises(utils.FailToCreateError) as caught:
            utils.create_from_dict(self.api, next(yaml.safe_load_all(MANIFEST)), namespace=self.namespace)
        self.assertEqual(caught.exception.api_exceptions[0].reason, "Conflict")

        read = lambda: self.apps.read_namespaced_stateful_set("web", self.namespace)
        self.until(lambda: read().status.ready_replicas == 2)
        claims = self.core.list_namespaced_persistent_volume_claim(self.namespace).items
        self.assertEqual([(c.metadata.name, c.status.phase) for c in claims], [("data-web-0", "Bound"), ("data-web-1", "Bound")])

        scale = self.apps.read_namespaced_stateful_set_scale("web", self.namespace)
        scale.spec.replicas = 1
        # The set's status may be written meanwhile: any version will do.
        scale.metadata.resource_version = None
        self.apps.replace_namespaced_stateful_set_scale("web", self.namespace, scale)
        self.gone(lambda: self.core.read_namespaced_pod("web-1", self.namespace))

        uid = self.core.read_namespaced_pod("web-0", self.namespace).metadata.uid
        self.apps.patch_namespaced_stateful_set(
            "web", self.namespace, {"spec": {"template": {"spec": {"containers": [{"name": "main", "env": [{"name": "A", "value": "1"}]}]}}}}
        )
        self.until(lambda: self.core.read_namespaced_pod("web-0", self.namespace).metadata.uid != uid)
        self.until(lambda: read().status.updated_replicas == 1 and read().status.ready_replicas == 1)
        self.assertEqual(read().spec.template.spec.containers[0].command, ["sleep", "1000"])

        self.apps.delete_namespaced_stateful_set("web", self.namespace, propagation_policy="Foreground")
        self.gone(read)

    def test_config_maps_and_secrets(self):
        body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="c"), data={"a": "1"}, binary_data={"b": base64.b64encode(b"\0\1").decode()})
        made = self.core.create_namespaced_config_map(self.namespace, body)
        made.data["a"] = "2"
        newer = self.core.replace_namespaced_config_map("c", self.namespace, made)
        self.assertNotEqual(newer.metadata.resource_version, made.metadata.resource_version)
        with self.assertRaises(client.ApiException) as caught:
            self.core.replace_namespaced_config_map("c", self.namespace, made)
        self.assertEqual((caught.exception.status, caught.exception.reason), (409, "Conflict"))
        secret = client.V1Secret(metadata=client.V1ObjectMeta(name="s"), string_data={"word": "geheim"})
        made = self.core.create_namespaced_secret(self.namespace, secret)
        self.assertEqual(base64.b64decode(made.data["word"]), b"geheim")
        status = self.core.delete_namespaced_secret("s", self.namespace)
        self.assertEqual((status["status"], status["details"]["name"]), ("Success", "s"))
        with self.assertRaises(client.ApiException) as caught:
            self.core.read_namespaced_secret("s", self.namespace)
        self.assertEqual(caught.exception.status, 404)

    def test_pages_and_selectors(self):
        for n in range(7):
            labels = {"odd": str(n % 2)}
            self.core.create_namespaced_config_map(self.namespace, {"metadata": {"name": f"c{n}", "labels": labels}})
        names, token = [], None
        while True:
            page = self.core.list_namespaced_config_map(self.namespace, limit=3, _continue=token, label_selector="odd in (0,1)")
            names += [item.metadata.name for item in page.items]
            token = page.metadata._continue
            if not token:
                break
        self.assertEqual(names, [f"c{n}" for n in range(7)])
        one = self.core.list_namespaced_config_map(self.namespace, field_selector="metadata.name=c3", label_selector="odd=1")
        self.assertEqual(len(one.items), 1)
        self.core.delete_collection_namespaced_config_map(self.namespace, label_selector="odd")
        self.assertEqual(self.core.list_namespaced_config_map(self.namespace, label_selector="odd").items, [])

    def test_patches_of_each_kind(self):
        self.core.create_namespaced_config_map(self.namespace, {"metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}})
        patch = self.core.patch_namespaced_config_map
        seen = patch("c", self.namespace, [{"op": "replace", "path": "/data/a", "value": "3"}])
        self.assertEqual(seen.data, {"a": "3", "b": "2"})
        seen = patch("c", self.namespace, {"data": {"b": None}}, _content_type="application/merge-patch+json")
        self.assertEqual(seen.data, {"a": "3"})
        seen = patch("c", self.namespace, {"data": {"d": "5"}})
        self.assertEqual(seen.data, {"a": "3", "d": "5"})
        wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "6"}}
        apply = lambda **options: patch(
            "c", self.namespace, wanted, field_manager="python", _content_type="application/apply-patch+yaml", **options
        )
        with self.assertRaises(client.ApiException) as caught:
            apply()
        self.assertEqual(caught.exception.status, 409)
        self.assertEqual(apply(force=True).data, {"a": "6", "d": "5"})

    def test_dynamic_clients(self):
        found = dynamic.DynamicClient(self.api)
        maps = found.resources.get(api_version="v1", kind="ConfigMap")
        maps.create(body={"metadata": {"name": "c"}, "data": {"a": "1"}}, namespace=self.namespace)
        applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"b": "2"}}
        seen = maps.server_side_apply(body=applied, namespace=self.namespace, field_manager="dynamic")
        self.assertEqual(seen.data.to_dict(), {"a": "1", "b": "2"})
        events = maps.watch(namespace=self.namespace, name="c", timeout=5)
        self.assertEqual(next(iter(events))["object"].metadata.name, "c")
        sets = found.resources.get(api_version="apps/v1", kind="StatefulSet")
        self.assertEqual(sets.get(namespace=self.namespace).items, [])
        with self.assertRaises(dynamic.exceptions.ResourceNotFoundError):
            found.resources.get(api_version="example.com/v1", kind="None")

    def test_watches_and_informers(self):
        changes = []
        informer = SharedInformer(self.core.list_namespaced_config_map, namespace=self.namespace, label_selector="app=watched")
        informer.add_event_handler(ADDED, lambda seen: changes.append(("added", seen.metadata.name)))
        informer.add_event_handler(DELETED, lambda seen: changes.append(("deleted", seen.metadata.name)))
        informer.start()
        self.addCleanup(informer.stop)
        body = {"metadata": {"name": "c", "labels": {"app": "watched"}}}
        self.core.create_namespaced_config_map(self.namespace, body)
        self.until(lambda: ("added", "c") in changes)
        version = self.core.list_namespaced_config_map(self.namespace).metadata.resource_version
        self.core.patch_namespaced_config_map("c", self.namespace, {"data": {"a": "1"}})
        self.core.delete_namespaced_config_map("c", self.namespace)
        self.until(lambda: ("deleted", "c") in changes)
        # The same from a version on.
        seen = []
        stream = watch.Watch()
        for event in stream.stream(self.core.list_namespaced_config_map, self.namespace, resource_version=version, timeout_seconds=20):
            seen.append((event["type"], event["object"].metadata.name))
            if event["type"] == "DELETED":
                stream.stop()
        self.assertEqual(seen, [("MODIFIED", "c"), ("DELETED", "c")])

    def test_tokens(self):
        request = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=["vault"], expiration_seconds=3600))
        token = self.core.create_namespaced_service_account_token("default", self.namespace, request).status.token
        review = client.V1TokenReview(spec=client.V1TokenReviewSpec(token=token, audiences=["vault"]))
        status = client.AuthenticationV1Api(self.api).create_token_review(review).status
        self.assertTrue(status.authenticated)
        self.assertEqual(status.user.username, f"system:serviceaccount:{self.namespace}:default")

    def test_leaders(self):
        for kind in LeaseLock, ConfigMapLock:
            leads = threading.Event()
            lock = kind("leader", self.namespace, "me")
            settings = electionconfig.Config(
                lock, lease_duration=5, renew_deadline=3, retry_period=1, onstarted_leading=leads.set, onstopped_leading=lambda: None
            )
            threading.Thread(target=leaderelection.LeaderElection(settings).run, daemon=True).start()
            self.assertTrue(leads.wait(30), kind)

    def test_jobs_and_evictions(self):
        batch = client.BatchV1Api(self.api)
        spec = pod("j", "true", restart="Never")["spec"]
        batch.create_namespaced_job(self.namespace, {"metadata": {"name": "j"}, "spec": {"template": {"spec": spec}}})
        self.until(lambda: batch.read_namespaced_job("j", self.namespace).status.succeeded == 1)
        self.core.create_namespaced_pod(self.namespace, pod("p", "sleep 1000"))
        self.ready("p")
        self.core.create_namespaced_pod_eviction("p", self.namespace, client.V1Eviction(metadata=client.V1ObjectMeta(name="p")))
        self.gone(lambda: self.core.read_namespaced_pod("p", self.namespace))
