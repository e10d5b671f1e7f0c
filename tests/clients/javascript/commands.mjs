// Runs commands in a pod with the JavaScript client, over WebSockets. The only
// argument names a namespace to work in; BUSYBOX names the image.

import assert from 'node:assert/strict';
import { PassThrough, Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import * as k8s from '@kubernetes/client-node';

const namespace = process.argv[2];
const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);

async function commandsInPods() {
  const container = {
    name: 'c', image: process.env.BUSYBOX, imagePullPolicy: 'IfNotPresent',
    command: ['sh', '-c', 'trap exit TERM; while :; do sleep 0.2; done'],
  };
  const body = { metadata: { name: 'runs' }, spec: { containers: [container], terminationGracePeriodSeconds: 1 } };
  await core.createNamespacedPod({ namespace, body });
  await new Promise((resolve, reject) => {
    const limit = setTimeout(() => reject(new Error('the pod does not run')), 120_000);
    const watch = new k8s.Watch(config);
    const done = (end) => { clearTimeout(limit); end(); };
    watch.watch(`/api/v1/namespaces/${namespace}/pods`, { fieldSelector: 'metadata.name=runs' },
      (_, pod) => { if (pod.status.phase === 'Running') done(resolve); },
      (error) => { if (error) done(() => reject(error)); }).catch(reject);
  });
  const exec = new k8s.Exec(config);
  async function execute(command, stdin = null, tty = false) {
    const [out, err] = [new PassThrough(), new PassThrough()];
    const status = new Promise((resolve, reject) => {
      exec.exec(namespace, 'runs', 'c', ['sh', '-c', command], out, tty ? null : err, stdin, tty, resolve)
        .then((socket) => socket.on('close', () => { out.end(); err.end(); }), reject);
    });
    const [printed, complained, end] = await Promise.all([text(out), text(err), status]);
    return { printed, complained, end };
  }
  const both = await execute('echo out; echo err >&2');
  assert.deepEqual([both.printed, both.complained, both.end.status], ['out\n', 'err\n', 'Success']);
  const failing = await execute('exit 7');
  assert.equal(failing.end.reason, 'NonZeroExitCode');
  assert.deepEqual(failing.end.details.causes, [{ reason: 'ExitCode', message: '7' }]);
  // The end of the input is told apart from the end of the connection: what comes after it still arrives.
  const piped = await execute('cat; echo end', Readable.from(['one\n', 'two\n']));
  assert.deepEqual([piped.printed, piped.end.status], ['one\ntwo\nend\n', 'Success']);
  await core.deleteNamespacedPod({ name: 'runs', namespace });
}

await commandsInPods();
process.exit(0);
