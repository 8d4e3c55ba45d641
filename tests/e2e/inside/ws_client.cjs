// Drives a WebSocket echo server with the npm package `ws`. Argument: the URL.
'use strict';

const { once } = require('node:events');
const { randomBytes } = require('node:crypto');
const net = require('node:net');
const tls = require('node:tls');
const WebSocket = require('ws');
const { Plan, expect, expectEqual, within } = require('./cases.cjs');

const URL_ = process.argv[2];
const EXTENSIONS = process.argv[3] === 'deflate' ? 'permessage-deflate' : '';
const TARGET = new URL(URL_);
const HOST = TARGET.hostname.replace(/[[\]]/g, '');
const PORTS = { 'ws:': 80, 'wss:': 443 };
const SIZES = [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20];
const CLOSES = [[1000, 'done'], [3000, 'the library says so'], [4999, 'the application says so, é漢😀']];

const plan = new Plan();

async function open() {
  // The TCP connection is ours, so that it can be reset below TLS, too.
  const tcp = net.connect({ host: HOST, port: TARGET.port || PORTS[TARGET.protocol] });
  const createConnection = () => (TARGET.protocol === 'wss:' ? tls.connect({ socket: tcp, host: HOST }) : tcp);
  const ws = new WebSocket(URL_, { handshakeTimeout: 20_000, createConnection });
  ws.tcp = tcp;
  ws.inbox = [];
  ws.waiting = [];
  ws.on('message', (data, isBinary) => {
    const message = isBinary ? data : data.toString();
    if (ws.waiting.length > 0) ws.waiting.shift().resolve(message);
    else ws.inbox.push(message);
  });
  ws.on('close', (code) => {
    for (const { reject } of ws.waiting) reject(new Error(`closed with ${code} while a message was awaited`));
  });
  await once(ws, 'open');
  if (ws.extensions !== EXTENSIONS) throw new Error(`extensions are "${ws.extensions}", expected "${EXTENSIONS}"`);
  ws.on('error', () => {}); // 'close' follows, and is what the cases look at
  return ws;
}

// The next message: a string for text, a Buffer for binary.
function next(ws) {
  if (ws.inbox.length > 0) return Promise.resolve(ws.inbox.shift());
  return new Promise((resolve, reject) => ws.waiting.push({ resolve, reject }));
}

async function close(ws, code = 1000, reason = '') {
  const closed = once(ws, 'close');
  ws.close(code, reason);
  const [gotCode, gotReason] = await closed;
  return [gotCode, gotReason.toString()];
}

// `size` bytes of UTF-8 with characters of one to four bytes.
function randomText(size) {
  const block = `${randomBytes(509).toString('hex')}é漢😀`; // 1,027 bytes: never aligned with a segment
  const whole = Math.floor(size / 1027);
  return block.repeat(whole) + 'x'.repeat(size - whole * 1027);
}

plan.add('open', async () => {
  const ws = await open();
  expectEqual(ws.readyState, WebSocket.OPEN, 'state');
  await close(ws);
});

for (const size of SIZES) {
  plan.add(`echo-text-${size}`, async () => {
    const ws = await open();
    const text = randomText(size);
    expectEqual(Buffer.byteLength(text), size, 'bytes of the test text');
    ws.send(text);
    expectEqual(await next(ws), text, 'echo');
    await close(ws);
  });
  plan.add(`echo-binary-${size}`, async () => {
    const ws = await open();
    const data = randomBytes(size);
    ws.send(data);
    expectEqual(await next(ws), data, 'echo');
    await close(ws);
  });
}

async function sendFragments(ws, parts, options) {
  parts.forEach((part, at) => ws.send(part, { ...options, fin: at === parts.length - 1 }));
}

plan.add('fragments-text', async () => {
  const ws = await open();
  const parts = ['one ', '', 'é漢', '😀', ' five'];
  await sendFragments(ws, parts, { binary: false });
  expectEqual(await next(ws), parts.join(''), 'echo');
  await close(ws);
});

plan.add('fragments-binary', async () => {
  const ws = await open();
  const parts = [1, 70_000, 125, 126, 3].map((size) => randomBytes(size));
  await sendFragments(ws, parts, { binary: true });
  expectEqual(await next(ws), Buffer.concat(parts), 'echo');
  await close(ws);
});

plan.add('ping', async () => {
  const ws = await open();
  for (const size of [0, 1, 125]) {
    const payload = randomBytes(size);
    const pong = once(ws, 'pong');
    ws.ping(payload);
    const [got] = await within(pong, 10);
    expectEqual(got, payload, 'pong');
  }
  await close(ws);
});

plan.add('ping-between-fragments', async () => {
  const ws = await open();
  for (const [at, letter] of ['a', 'b', 'c'].entries()) {
    ws.send(Buffer.alloc(1000, letter), { binary: true, fin: at === 2 });
    const pong = once(ws, 'pong');
    ws.ping(letter);
    const [got] = await within(pong, 10);
    expectEqual(got.toString(), letter, 'pong');
  }
  const wanted = Buffer.concat(['a', 'b', 'c'].map((letter) => Buffer.alloc(1000, letter)));
  expectEqual(await next(ws), wanted, 'echo');
  await close(ws);
});

for (const [code, reason] of CLOSES) {
  plan.add(`close-${code}`, async () => {
    const ws = await open();
    ws.send('before');
    expectEqual(await next(ws), 'before', 'echo');
    const [gotCode, gotReason] = await close(ws, code, reason);
    expectEqual(gotCode, code, 'close code');
    expectEqual(gotReason, reason, 'close reason');
  });
}

plan.add('in-flight-1000', async () => {
  const ws = await open();
  const messages = Array.from({ length: 1000 }, (_, number) => `${number} `.padEnd(100, 'x'));
  for (const message of messages) ws.send(message);
  for (const message of messages) expectEqual(await next(ws), message, 'echo in order');
  await close(ws);
});

plan.add('connections-200', async () => {
  const one = async (number) => {
    const ws = await open();
    for (let round = 0; round < 10; round += 1) {
      const message = `connection ${number} round ${round}`;
      ws.send(message);
      expectEqual(await next(ws), message, 'echo');
    }
    expectEqual((await close(ws))[0], 1000, 'close code');
  };
  await Promise.all(Array.from({ length: 200 }, (_, number) => one(number)));
});

async function stillServes() {
  const ws = await open();
  ws.send('still there?');
  expectEqual(await next(ws), 'still there?', 'echo on a new connection');
  await close(ws);
}

plan.add('reset', async () => {
  for (let round = 0; round < 20; round += 1) {
    const ws = await open();
    ws.send(randomBytes(1000));
    const closed = once(ws, 'close');
    ws.tcp.resetAndDestroy();
    await closed;
  }
  await stillServes();
});

plan.add('fin-without-close', async () => {
  const ws = await open();
  ws.send('last words');
  expectEqual(await next(ws), 'last words', 'echo');
  const ended = once(ws._socket, 'close');
  ws._socket.end();
  await within(ended, 15); // the server finished its side as well
  expect(ws.inbox.length === 0, 'a message came after our FIN');
  await stillServes();
});

plan.main();
