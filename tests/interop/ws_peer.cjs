// The npm package `ws` as a client of an echo server, or as the server. Arguments as of websockets_peer.py.
'use strict';

const { once } = require('node:events');
const { randomBytes } = require('node:crypto');
const { readFileSync } = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const WebSocket = require('ws');
const { Plan, expectEqual } = require('../e2e/inside/cases.cjs');
const { CLOSES, PARTS, PARTS_BINARY, PING, options, text } = require('./messages.cjs');

const given = options(process.argv.slice(2));

async function dial() {
  const ca = given.ca && readFileSync(given.ca);
  const ws = new WebSocket(given.where, { handshakeTimeout: 20_000, perMessageDeflate: given.deflate, ca });
  ws.inbox = [];
  ws.on('message', (data, isBinary) => ws.inbox.push(isBinary ? data : data.toString()));
  ws.ended = once(ws, 'close');
  await once(ws, 'open');
  expectEqual(ws.extensions, given.deflate ? 'permessage-deflate' : '', 'extensions');
  return ws;
}

async function hangUp(ws, code = 1000, reason = '') {
  ws.close(code, reason);
  const [gotCode, gotReason] = await ws.ended;
  expectEqual(`${gotCode} ${gotReason}`, `${code} ${reason}`, 'close frame');
}

async function receive(ws) {
  if (ws.inbox.length === 0) await Promise.race([once(ws, 'message'), ws.ended]);
  if (ws.inbox.length === 0) throw new Error(`closed with ${(await ws.ended)[0]} while a message was awaited`);
  return ws.inbox.shift();
}

async function echo(message, wanted = message) {
  const ws = await dial();
  ws.send(message);
  expectEqual(await receive(ws), wanted, 'echo');
  await hangUp(ws);
}

function sendParts(ws, parts) {
  parts.forEach((part, at) => ws.send(part, { fin: at === parts.length - 1, binary: Buffer.isBuffer(part), compress: true }));
}

async function fragments(parts) {
  const ws = await dial();
  sendParts(ws, parts);
  expectEqual(await receive(ws), Buffer.isBuffer(parts[0]) ? Buffer.concat(parts) : parts.join(''), 'echo');
  await hangUp(ws);
}

function client() {
  const plan = new Plan();
  if (given.told) {
    plan.add('told-fragments', () => echo('fragments', PARTS.join('')));
    plan.add('told-ping', () => echo('ping', 'ponged'));
    plan.add('told-close', async () => {
      const ws = await dial();
      ws.send('close 4001 as told');
      const [code, reason] = await ws.ended;
      expectEqual(`${code} ${reason}`, '4001 as told', 'close frame');
    });
    return plan.main();
  }
  plan.add('open', async () => hangUp(await dial()));
  for (const size of given.sizes) {
    plan.add(`echo-text-${size}`, () => echo(text(size)));
    plan.add(`echo-binary-${size}`, () => echo(randomBytes(size)));
  }
  plan.add('fragments-text', () => fragments(PARTS));
  plan.add('fragments-binary', () => fragments(PARTS_BINARY.map((size) => randomBytes(size))));
  plan.add('ping', async () => {
    const ws = await dial();
    const pong = once(ws, 'pong');
    ws.ping(PING);
    expectEqual((await pong)[0], PING, 'pong');
    await hangUp(ws);
  });
  for (const [code, reason] of CLOSES) {
    plan.add(`close-${code}`, async () => hangUp(await dial(), code, reason));
  }
  return plan.main();
}

function serve() {
  const [cert, key] = given.files.map((file) => readFileSync(file));
  const server = cert ? https.createServer({ cert, key }) : http.createServer();
  const deflate = given.deflate && { threshold: 0 };
  const sockets = new WebSocket.Server({ server, perMessageDeflate: deflate, maxPayload: 64 << 20 });
  sockets.on('connection', (ws) => {
    ws.on('error', (error) => console.error(error));
    ws.on('pong', (payload) => ws.send(PING.equals(payload) ? 'ponged' : 'another pong'));
    ws.on('message', (data, isBinary) => {
      const [word, code, ...reason] = isBinary ? [] : data.toString('utf8', 0, 200).split(' ');
      if (word === 'fragments') sendParts(ws, PARTS);
      else if (word === 'ping') ws.ping(PING);
      else if (word === 'close') ws.close(Number(code), reason.join(' '));
      else ws.send(data, { binary: isBinary });
    });
  });
  server.listen(Number(given.where), '::', () => console.log(JSON.stringify({ serves: true })));
}

if (given.role === 'client') client();
else serve();
