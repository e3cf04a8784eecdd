import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, connect } from 'node:net';
import { PassThrough, Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import * as k8s from '@kubernetes/client-node';
import { config, ownNamespace, pod, running, until } from './suite.mjs';

const own = await ownNamespace();
const SCRIPT = 'echo one; echo two; mkdir /w; echo hello >/w/index.html; httpd -f -p 8080 -h /w';
const wanted = pod('p', SCRIPT);
wanted.spec.containers[0].readinessProbe = { httpGet: { port: 8080 }, periodSeconds: 1 };
await running(own, wanted);

async function run(command, { stdin = null, tty = false } = {}) {
    const [out, fault] = [new PassThrough(), new PassThrough()];
    const said = Promise.all([text(out), text(fault)]);
    const status = await new Promise((resolve, reject) => {
        new k8s.Exec(config).exec(own.namespace, 'p', 'main', command, out, fault, stdin, tty, resolve).catch(reject);
    });
    out.end();
    fault.end();
    return [status, ...await said];
}

test('commands', async () => {
    let [status, out, fault] = await run(['sh', '-c', 'echo out; echo fault >&2']);
    assert.deepEqual([status.status, out, fault], ['Success', 'out\n', 'fault\n']);
    [status] = await run(['sh', '-c', 'exit 7']);
    assert.equal(status.reason, 'NonZeroExitCode');
    assert.equal(status.details.causes[0].message, '7');
    [status, out] = await run(['sh', '-c', 'read line; echo "read $line"'], { stdin: Readable.from(['words\n']) });
    assert.equal(out, 'read words\n');
    [status] = await run(['no-such']);
    assert.equal(status.status, 'Failure');
    [, out] = await run(['tty'], { tty: true });
    assert.match(out, /^\/dev\/pts\//);
});

test('logs', async () => {
    const read = async (name, options) => {
        const stream = new PassThrough();
        const said = text(stream);
        await new k8s.Log(config).log(own.namespace, name, 'main', stream, options);
        return said;
    };
    assert.equal(await read('p', {}), 'one\ntwo\n');
    assert.equal(await read('p', { tailLines: 1 }), 'two\n');
    await running(own, pod('q', 'echo a; sleep 1; echo b', 'Never'));
    assert.equal(await read('q', { follow: true }), 'a\nb\n');
});

test('ports', async () => {
    const forward = new k8s.PortForward(config);
    const server = createServer((socket) => {
        forward.portForward(own.namespace, 'p', [8080], socket, null, socket).catch((error) => socket.destroy(error));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const socket = connect(server.address().port, '127.0.0.1');
    socket.write('GET /index.html HTTP/1.0\r\n\r\n');
    let said = '';
    socket.on('data', (data) => { said += data; });
    await until('an answer', async () => said.endsWith('\r\n\r\nhello\n'));
    socket.destroy();
    server.close();
});
