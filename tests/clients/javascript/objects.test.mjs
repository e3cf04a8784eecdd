import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as k8s from '@kubernetes/client-node';
import { apps, config, core, gone, ownNamespace, until } from './suite.mjs';

const own = await ownNamespace();

const set = (replicas) => ({
    apiVersion: 'apps/v1',
    kind: 'StatefulSet',
    metadata: { name: 'web', namespace: own.namespace },
    spec: {
        replicas,
        serviceName: 'web',
        selector: { matchLabels: { app: 'web' } },
        template: {
            metadata: { labels: { app: 'web' } },
            spec: {
                terminationGracePeriodSeconds: 0,
                containers: [{ name: 'main', image: 'busybox:1.36', command: ['sleep', '1000'] }],
            },
        },
        volumeClaimTemplates: [{
            metadata: { name: 'data' },
            spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '10Mi' } } },
        }],
    },
});

test('sets are made, scaled and deleted', async () => {
    const web = { ...own, name: 'web' };
    await apps.createNamespacedStatefulSet({ ...own, body: set(1) });
    await assert.rejects(apps.createNamespacedStatefulSet({ ...own, body: set(1) }), { code: 409 });
    const ready = (replicas) => until(`${replicas} replicas`, async () =>
        (await apps.readNamespacedStatefulSet(web)).status.readyReplicas === replicas);
    await ready(1);
    const scale = await apps.readNamespacedStatefulSetScale(web);
    scale.spec.replicas = 2;
    // The set's status may be written meanwhile: any version will do.
    delete scale.metadata.resourceVersion;
    await apps.replaceNamespacedStatefulSetScale({ ...web, body: scale });
    await ready(2);
    const claims = await core.listNamespacedPersistentVolumeClaim(own);
    assert.deepEqual(claims.items.map((claim) => claim.status.phase), ['Bound', 'Bound']);
    await apps.deleteNamespacedStatefulSet({ ...web, propagationPolicy: 'Foreground' });
    await gone('the set', () => apps.readNamespacedStatefulSet(web));
    assert.deepEqual((await core.listNamespacedPod(own)).items, []);
});

test('what is wrong is told', async () => {
    await assert.rejects(core.readNamespacedConfigMap({ ...own, name: 'none' }), (error) => {
        assert.equal(error.code, 404);
        assert.equal(JSON.parse(error.body).message, 'configmaps "none" not found');
        return true;
    });
    await assert.rejects(core.createNamespacedConfigMap({ ...own, body: { metadata: { name: 'No' } } }), { code: 422 });
});

test('patches of each kind', async () => {
    const name = 'patched';
    await core.createNamespacedConfigMap({ ...own, body: { metadata: { name }, data: { a: '1', b: '2' } } });
    const patch = (kind, body, options = {}) => core.patchNamespacedConfigMap(
        { ...own, name, body, ...options }, k8s.setHeaderOptions('Content-Type', kind));
    let seen = await patch(k8s.PatchStrategy.JsonPatch, [{ op: 'replace', path: '/data/a', value: '3' }]);
    assert.deepEqual(seen.data, { a: '3', b: '2' });
    seen = await patch(k8s.PatchStrategy.MergePatch, { data: { b: null } });
    assert.deepEqual(seen.data, { a: '3' });
    seen = await patch(k8s.PatchStrategy.StrategicMergePatch, { data: { c: '4' } });
    assert.deepEqual(seen.data, { a: '3', c: '4' });
    const applied = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name }, data: { a: '5' } };
    const asMe = { fieldManager: 'javascript' };
    await assert.rejects(patch(k8s.PatchStrategy.ServerSideApply, applied, asMe), { code: 409 });
    seen = await patch(k8s.PatchStrategy.ServerSideApply, applied, { ...asMe, force: true });
    assert.deepEqual(seen.data, { a: '5', c: '4' });
});

test('objects of any kind', async () => {
    const client = k8s.KubernetesObjectApi.makeApiClient(config);
    const manifest = `
apiVersion: v1
kind: Service
metadata: {name: any}
spec: {selector: {app: any}, ports: [{port: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: any}
data: {a: "1"}
`;
    const specs = k8s.loadAllYaml(manifest);
    for (const spec of specs) {
        spec.metadata.namespace = own.namespace;
        await client.create(spec);
    }
    const [service, map] = specs;
    assert.match((await client.read(service)).spec.clusterIP, /^10\./);
    let seen = await client.patch({ ...map, data: { b: '2' } });
    assert.deepEqual(seen.data, { a: '1', b: '2' });
    seen = await client.patch({ ...map, data: { a: '3' } }, undefined, undefined, 'javascript', true, k8s.PatchStrategy.ServerSideApply);
    assert.deepEqual(seen.data, { a: '3', b: '2' });
    seen = await client.replace({ ...seen, data: {} });
    const listed = await client.list('v1', 'ConfigMap', own.namespace, undefined, undefined, undefined, 'metadata.name=any');
    assert.equal(listed.items.length, 1);
    for (const spec of specs) {
        await client.delete(spec);
        await assert.rejects(client.read(spec), { code: 404 });
    }
});

test('watches and informers', async () => {
    const path = `/api/v1/namespaces/${own.namespace}/configmaps`;
    const labelSelector = 'app=watched';
    const seen = [];
    const list = () => core.listNamespacedConfigMap({ ...own, labelSelector });
    const informer = k8s.makeInformer(config, path, list, labelSelector);
    for (const kind of ['add', 'update', 'delete']) {
        informer.on(kind, (map) => seen.push(`${kind} ${map.metadata.name}`));
    }
    await informer.start();
    const { resourceVersion } = (await core.listNamespacedConfigMap(own)).metadata;
    const events = [];
    let ended;
    const end = new Promise((resolve) => { ended = resolve; });
    const watch = await new k8s.Watch(config).watch(path, { resourceVersion, labelSelector, allowWatchBookmarks: true },
        (type, map) => events.push(`${type} ${map.metadata.name}`), ended);

    const name = 'watched';
    await core.createNamespacedConfigMap({ ...own, body: { metadata: { name, labels: { app: name } } } });
    const map = await core.readNamespacedConfigMap({ ...own, name });
    await core.replaceNamespacedConfigMap({ ...own, name, body: { ...map, data: { a: '1' } } });
    await until('the informer', async () => informer.get(name, own.namespace)?.data?.a === '1');
    await core.deleteNamespacedConfigMap({ ...own, name });
    await until('all changes', async () => seen.length === 3 && events.length === 3);
    assert.deepEqual(seen, ['add watched', 'update watched', 'delete watched']);
    assert.deepEqual(events, ['ADDED watched', 'MODIFIED watched', 'DELETED watched']);
    await informer.stop();
    watch.abort();
    await end;
});

test('tokens', async () => {
    const audiences = ['vault'];
    const { token } = (await core.createNamespacedServiceAccountToken(
        { ...own, name: 'default', body: { spec: { audiences, expirationSeconds: 3600 } } })).status;
    const reviews = config.makeApiClient(k8s.AuthenticationV1Api);
    const { status } = await reviews.createTokenReview({ body: { spec: { token, audiences } } });
    assert.equal(status.user.username, `system:serviceaccount:${own.namespace}:default`);
});
