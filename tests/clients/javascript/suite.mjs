// What all tests have: clients for the cluster that KUBECONFIG names, and a namespace of a test's own.
import { after } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import * as k8s from '@kubernetes/client-node';

const PATIENCE = 60_000;

export const config = new k8s.KubeConfig();
config.loadFromDefault();
export const core = config.makeApiClient(k8s.CoreV1Api);
export const apps = config.makeApiClient(k8s.AppsV1Api);

// Looks until there is something, and returns it. What is not there yet, is not there yet.
export async function until(what, look) {
    const deadline = Date.now() + PATIENCE;
    for (;;) {
        const seen = await look().catch((error) => {
            if (error.code !== 404) throw error;
        });
        if (seen) return seen;
        if (Date.now() > deadline) throw new Error(`${what}: too late`);
        await sleep(50);
    }
}

export const gone = (what, look) =>
    until(what, () => look().then(() => false, (error) => {
        if (error.code !== 404) throw error;
        return true;
    }));

// Makes a namespace for the tests of a file, which is deleted after them.
export async function ownNamespace() {
    const made = await core.createNamespace({ body: { metadata: { generateName: 'javascript-' } } });
    const own = { namespace: made.metadata.name };
    after(() => core.deleteNamespace({ name: own.namespace }));
    await until('the default account', () => core.readNamespacedServiceAccount({ ...own, name: 'default' }));
    return own;
}

// A pod that does what a script says, and ends at once when it is asked to.
export const pod = (name, script, restartPolicy = 'Always') => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, labels: { app: name } },
    spec: {
        terminationGracePeriodSeconds: 0,
        restartPolicy,
        containers: [{ name: 'main', image: 'busybox:1.36', command: ['sh', '-c', script] }],
    },
});

export async function running(own, wanted) {
    await core.createNamespacedPod({ ...own, body: wanted });
    return until(`${wanted.metadata.name} is ready`, async () => {
        const seen = await core.readNamespacedPod({ ...own, name: wanted.metadata.name });
        return seen.status.conditions?.some((c) => c.type === 'Ready' && c.status === 'True') && seen;
    });
}
