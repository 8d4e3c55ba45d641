// Headless Chromium as a client. Arguments: `client URL echo|told [deflate] [most BYTES]`; the environment names the
// browser (CHROMIUM), and HOME has a store of certificates that trusts the server's. A page of the server's own opens
// the WebSockets. Scripts can neither send a ping nor a message in fragments, and are not told of pings that come.
'use strict';

const path = require('node:path');
const { chromium } = require('playwright-core');
const { Plan, expectEqual } = require('../e2e/inside/cases.cjs');
const { CLOSES, PARTS, options } = require('./messages.cjs');

const given = options(process.argv.slice(2));
const plan = new Plan(90);
let context;
let page;

async function open() {
  if (page) return;
  context = await chromium.launchPersistentContext(path.join(process.env.HOME, 'profile'), {
    executablePath: process.env.CHROMIUM,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking'],
  });
  page = await context.newPage();
  const healthz = new URL('/healthz', given.where.replace(/^ws/, 'http'));
  const answer = await page.goto(healthz.href, { timeout: 20_000 });
  expectEqual(answer.status(), 200, 'status of the page');
}

// One WebSocket in the page: sends `say` (or `size` bytes of its own making), and tells what came.
async function talk({ say, size, close }) {
  await open();
  return page.evaluate(
    ([url, words, bytes, [code, reason]]) =>
      new Promise((resolve) => {
        const ws = new WebSocket(url);
        let sent = words;
        let echo = null;
        ws.binaryType = 'arraybuffer';
        ws.onopen = () => {
          if (bytes) {
            sent = new Uint8Array(bytes);
            for (let at = 0; at < bytes; at += 65_536) crypto.getRandomValues(sent.subarray(at, at + 65_536));
          }
          if (sent === undefined) ws.close(code, reason);
          else ws.send(sent);
        };
        ws.onmessage = ({ data }) => {
          if (typeof data === 'string') echo = data === sent ? 'the same' : data.slice(0, 100);
          else {
            const got = new Uint8Array(data);
            echo = got.length === bytes && got.every((byte, at) => byte === sent[at]) ? 'the same' : 'other bytes';
          }
          ws.close(code, reason);
        };
        ws.onclose = (event) =>
          resolve(`${ws.extensions.split(';')[0]}|${echo}|${event.code} ${event.reason}|${event.wasClean}`);
      }),
    [given.where, say, size, close ?? [1000, '']],
  );
}

const extension = given.deflate ? 'permessage-deflate' : '';
const expectTalk = async (what, echo, close = '1000 ') =>
  expectEqual(await talk(what), `${extension}|${echo}|${close}|true`, 'extensions, echo, close frame');

if (given.told) {
  plan.add('told-fragments', () => expectTalk({ say: 'fragments' }, PARTS.join('')));
  plan.add('told-ping', () => expectTalk({ say: 'ping' }, 'ponged'));
  plan.add('told-close', () => expectTalk({ say: 'close 4001 as told' }, null, '4001 as told'));
} else {
  plan.add('open', async () => {
    await expectTalk({}, null);
    return context.browser()?.version() ?? '';
  });
  for (const size of given.sizes) {
    plan.add(`echo-text-${size}`, async () => {
      await open();
      // The text is made in the page: that of 16 MiB would take its time on the way there.
      const outcome = await page.evaluate(
        ([url, bytes]) =>
          new Promise((resolve) => {
            const block = `${'0123456789abcdef'.repeat(64).slice(0, 1018)}é漢😀`;
            const whole = Math.floor(bytes / 1027);
            const text = block.repeat(whole) + 'x'.repeat(bytes - whole * 1027);
            const ws = new WebSocket(url);
            let same = false;
            ws.onopen = () => ws.send(text);
            ws.onmessage = ({ data }) => {
              same = data === text;
              ws.close(1000);
            };
            ws.onclose = (event) => resolve(`${same} ${event.code} ${event.wasClean}`);
          }),
        [given.where, size],
      );
      expectEqual(outcome, 'true 1000 true', 'echoed, close code, clean');
    });
    plan.add(`echo-binary-${size}`, () => expectTalk({ size }, 'the same'));
  }
  for (const [code, reason] of CLOSES) {
    plan.add(`close-${code}`, () => expectTalk({ close: [code, reason] }, null, `${code} ${reason}`));
  }
}

plan.main().finally(() => context?.close());
