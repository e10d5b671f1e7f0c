// Drives a server with the JavaScript client: core verbs, patches, watches, an
// informer, dates and events. The only argument names a namespace to work in.

import assert from 'node:assert/strict';
import * as k8s from '@kubernetes/client-node';

const namespace = process.argv[2];
const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);

async function refused(code, call) {
  try {
    await call;
  } catch (error) {
    assert.equal(error.code, code, String(error.body ?? error));
    return error;
  }
  assert.fail(`was not refused with ${code}`);
}

async function verbs() {
  const body = { metadata: { name: 'one' }, data: { a: 'b' } };
  const made = await core.createNamespacedConfigMap({ namespace, body });
  assert.ok(made.metadata.creationTimestamp instanceof Date && made.metadata.uid);
  await refused(409, core.createNamespacedConfigMap({ namespace, body }));
  const read = await core.readNamespacedConfigMap({ name: 'one', namespace });
  read.data.a = 'c';
  assert.equal((await core.replaceNamespacedConfigMap({ name: 'one', namespace, body: read })).data.a, 'c');
  await refused(409, core.replaceNamespacedConfigMap({ name: 'one', namespace, body: read }));
  const list = await core.listNamespacedConfigMap({ namespace, fieldSelector: 'metadata.name=one' });
  assert.deepEqual(list.items.map((item) => item.metadata.name), ['one']);
  assert.deepEqual((await core.listNamespacedPod({ namespace })).items, []);
  const gone = await core.deleteNamespacedConfigMap({ name: 'one', namespace });
  assert.equal(gone.status, 'Success');
  await refused(404, core.readNamespacedConfigMap({ name: 'one', namespace }));
}

async function patches() {
  await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'patched' }, data: { a: 'b' } } });
  const patch = (body, strategy) =>
    core.patchNamespacedConfigMap(
      { name: 'patched', namespace, body, fieldManager: 'javascript' },
      k8s.setHeaderOptions('Content-Type', strategy),
    );
  const operations = [{ op: 'replace', path: '/data/a', value: 'z' }];
  assert.equal((await patch(operations, k8s.PatchStrategy.JsonPatch)).data.a, 'z');
  assert.equal((await patch({ data: { c: 'd' } }, k8s.PatchStrategy.StrategicMergePatch)).data.c, 'd');
  assert.deepEqual((await patch({ data: { c: null } }, k8s.PatchStrategy.MergePatch)).data, { a: 'z' });
  const applied = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'patched' }, data: { e: 'f' } };
  const after = await patch(applied, k8s.PatchStrategy.ServerSideApply);
  assert.deepEqual(after.data, { a: 'z', e: 'f' });
  assert.ok(after.metadata.managedFields.some((entry) => entry.operation === 'Apply'));
}

async function watches() {
  const start = (await core.listNamespacedConfigMap({ namespace })).metadata.resourceVersion;
  const seen = [];
  const watch = new k8s.Watch(config);
  const done = new Promise((resolve, reject) => {
    const query = { resourceVersion: start, fieldSelector: 'metadata.name=watched' };
    const event = (type, object) => {
      seen.push([type, object.data?.n]);
      if (type === 'DELETED') resolve();
    };
    watch
      .watch(`/api/v1/namespaces/${namespace}/configmaps`, query, event, (error) => reject(error ?? 'ended'))
      .catch(reject);
  });
  await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'watched' }, data: { n: '1' } } });
  await core.patchNamespacedConfigMap(
    { name: 'watched', namespace, body: { data: { n: '2' } } },
    k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch),
  );
  await core.deleteNamespacedConfigMap({ name: 'watched', namespace });
  await done;
  assert.deepEqual(seen, [['ADDED', '1'], ['MODIFIED', '2'], ['DELETED', '2']]);
}

async function informers() {
  const list = () => core.listNamespacedSecret({ namespace });
  const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/secrets`, list);
  const added = new Promise((resolve) => informer.on('add', (secret) => resolve(secret.metadata.name)));
  await informer.start();
  await core.createNamespacedSecret({ namespace, body: { metadata: { name: 'informed' }, stringData: { a: 'b' } } });
  assert.equal(await added, 'informed');
  await informer.stop();
}

async function workloads() {
  const body = {
    metadata: { name: 'web' },
    spec: {
      replicas: 0,
      selector: { matchLabels: { app: 'web' } },
      template: { metadata: { labels: { app: 'web' } }, spec: { containers: [{ name: 'c', image: 'nginx' }] } },
    },
  };
  const made = await apps.createNamespacedDeployment({ namespace, body });
  assert.equal(made.spec.progressDeadlineSeconds, 600);
  const scale = await apps.readNamespacedDeploymentScale({ name: 'web', namespace });
  assert.equal(scale.spec.replicas ?? 0, 0);
  const bad = { ...body, metadata: { name: 'bad' }, spec: { ...body.spec, selector: {} } };
  const error = await refused(422, apps.createNamespacedDeployment({ namespace, body: bad }));
  assert.match(String(error.body), /spec\.selector/);
}

// Times with microseconds in leases and events.
async function dates() {
  const coordination = config.makeApiClient(k8s.CoordinationV1Api);
  const renewTime = new k8s.V1MicroTime('2026-01-02T03:04:05.678Z');
  const lease = { metadata: { name: 'lead' }, spec: { holderIdentity: 'me', renewTime } };
  const made = await coordination.createNamespacedLease({ namespace, body: lease });
  assert.equal(new Date(made.spec.renewTime).getTime(), renewTime.getTime());
  const events = config.makeApiClient(k8s.EventsV1Api);
  const regarding = { kind: 'ConfigMap', name: 'patched', namespace };
  const involvedObject = regarding;
  await core.createNamespacedEvent({
    namespace,
    body: { metadata: { name: 'old' }, involvedObject, reason: 'Old', message: 'text', type: 'Normal' },
  });
  const old = await events.readNamespacedEvent({ name: 'old', namespace });
  assert.equal(old.note, 'text');
  const body = {
    metadata: { name: 'new' }, reason: 'New', action: 'Do', type: 'Normal', note: 'text', eventTime: renewTime,
    reportingController: 'example.com/test', reportingInstance: 'one', regarding,
  };
  const event = await events.createNamespacedEvent({ namespace, body });
  assert.equal(new Date(event.eventTime).getTime(), renewTime.getTime());
}

async function objects() {
  const api = k8s.KubernetesObjectApi.makeApiClient(config);
  const metadata = { name: 'generic', namespace };
  const made = await api.create({ apiVersion: 'v1', kind: 'ConfigMap', metadata, data: { a: 'b' } });
  assert.equal(made.data.a, 'b');
  const read = await api.read({ apiVersion: 'v1', kind: 'ConfigMap', metadata });
  assert.equal(read.metadata.uid, made.metadata.uid);
  const list = await api.list('v1', 'ConfigMap', namespace);
  assert.ok(list.items.some((item) => item.metadata.name === 'generic'));
  await api.delete({ apiVersion: 'v1', kind: 'ConfigMap', metadata });
}

for (const step of [verbs, patches, watches, informers, workloads, dates, objects]) {
  try {
    await step();
  } catch (error) {
    console.error(`${step.name}:`, error);
    process.exit(1);
  }
}
process.exit(0);
