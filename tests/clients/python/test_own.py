"""The tests that the client's own package has for its dynamic client, but for a few."""

import sys
import types
import unittest

from kubernetes import client, config

# Custom resources, and replication controllers; and one that compares what is decoded twice by identity.
LEFT_OUT = {
    "test_cluster_custom_resources",
    "test_async_namespaced_custom_resources",
    "test_namespaced_custom_resources",
    "test_replication_controller_apis",
    "test_cache_decoder_resource_and_subresource",
}


def get_e2e_configuration():
    settings = client.Configuration()
    config.load_kube_config(client_configuration=settings)
    return settings


# What the package leaves out of what its tests need.
package = types.ModuleType("kubernetes.e2e_test")
package.base = types.ModuleType("kubernetes.e2e_test.base")
package.base.get_e2e_configuration = get_e2e_configuration
sys.modules[package.__name__] = package
sys.modules[package.base.__name__] = package.base


def tests(suite):
    for part in suite:
        if isinstance(part, unittest.TestSuite):
            yield from tests(part)
        elif part._testMethodName not in LEFT_OUT:
            yield part


def load_tests(loader, standard_tests, pattern):
    names = ["kubernetes.dynamic.test_client", "kubernetes.dynamic.test_discovery"]
    return unittest.TestSuite(tests(loader.loadTestsFromNames(names)))
