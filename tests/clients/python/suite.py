"""What all tests have: clients for the cluster that KUBECONFIG names, and a namespace of each test's own."""

import time
import unittest

from kubernetes import client, config

PATIENCE = 60


def pod(name, script, restart="Always"):
    """A pod that does what a script says, and ends at once when it is asked to."""
    container = {"name": "main", "image": "busybox:1.36", "command": ["sh", "-c", script]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "restartPolicy": restart, "containers": [container]},
    }


class Suite(unittest.TestCase):
    def setUp(self):
        config.load_kube_config()
        self.api = client.ApiClient()
        self.core = client.CoreV1Api(self.api)
        self.apps = client.AppsV1Api(self.api)
        wanted = client.V1Namespace(metadata=client.V1ObjectMeta(generate_name="python-"))
        self.namespace = self.core.create_namespace(wanted).metadata.name
        self.addCleanup(self.core.delete_namespace, self.namespace)
        self.until(lambda: self.core.read_namespaced_service_account("default", self.namespace))

    def until(self, look):
        """Looks until there is something, and returns it."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                seen = look()
            except client.ApiException as error:
                if error.status != 404:
                    raise
                seen = None
            if seen:
                return seen
            self.assertLess(time.monotonic(), deadline, "too late")
            time.sleep(0.05)

    def ready(self, name):
        """Waits until a pod is ready."""

        def look():
            seen = self.core.read_namespaced_pod(name, self.namespace)
            conditions = seen.status.conditions or []
            return any(c.type == "Ready" and c.status == "True" for c in conditions) and seen

        return self.until(look)

    def gone(self, look):
        """Waits until something is not there."""

        def is_gone():
            try:
                look()
            except client.ApiException as error:
                if error.status == 404:
                    return True
                raise
            return False

        self.until(is_gone)
