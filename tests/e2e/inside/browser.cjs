// Drives the page in headless Chromium. Arguments: the base URL, the browser's path, a folder for screenshots, the
// name of the run, an empty folder for the browser's profile, and `deflate` when the server must agree to compression.
'use strict';

const path = require('node:path');
const { chromium } = require('playwright-core');
const { Plan, expect, expectEqual } = require('./cases.cjs');

const [base, executablePath, folder, name, profiles, deflate] = process.argv.slice(2);
const SIZES = [1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20];

const plan = new Plan(90);
let context;
let page;
const complaints = [];

function watch(opened) {
  opened.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text());
  });
  opened.on('pageerror', (error) => complaints.push(String(error)));
  opened.on('requestfailed', (request) => complaints.push(`${request.url()} failed`));
  opened.on('request', (request) => {
    if (!request.url().startsWith(base)) complaints.push(`asked another host: ${request.url()}`);
  });
}

// Polls a condition inside the page.
async function until(what, condition, argument, timeout = 15_000) {
  try {
    await page.waitForFunction(condition, argument, { timeout });
  } catch {
    throw new Error(`expected within ${timeout / 1000} s: ${what}; #state says "${await page.textContent('#state')}"`);
  }
}

const pixels = () => page.locator('#plot').screenshot();

plan.add('page-opens', async () => {
  context = await chromium.launchPersistentContext(profiles, {
    executablePath,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
    viewport: { width: 1000, height: 800 },
  });
  page = context.pages()[0] ?? (await context.newPage());
  watch(page);
  const answer = await page.goto(`${base}/`, { timeout: 20_000 });
  expectEqual(answer.status(), 200, 'status');
  for (const id of ['url', 'connect', 'disconnect', 'message', 'send', 'log', 'rate', 'rtt', 'plot', 'burst', 'state']) {
    expect((await page.locator(`#${id}`).count()) === 1, `the page has no #${id}`);
  }
  return context.browser()?.version() ?? '';
});

plan.add('connect', async () => {
  await page.click('#connect');
  await until('#state says open', () => document.querySelector('#state').textContent === 'open');
});

plan.add('send-and-see-the-reply', async () => {
  const text = `hello from Chromium, é漢😀 ${Math.random()}`;
  await page.fill('#message', text);
  await page.click('#send');
  await until('the reply in #log', (wanted) => document.querySelector('#log').textContent.includes(wanted), text);
});

plan.add('rate-rtt-and-plot-move', async () => {
  const before = await pixels();
  const rate = () => page.textContent('#rate');
  const idle = await rate();
  await page.click('#burst');
  await until('#rate shows messages', (was) => {
    const shown = document.querySelector('#rate').textContent;
    return shown !== was && /[1-9]/.test(shown);
  }, idle);
  await until('#rtt shows a time', () => /\d/.test(document.querySelector('#rtt').textContent));
  const during = `rate ${(await rate()).trim()}, RTT ${(await page.textContent('#rtt')).trim()}`;
  await page.waitForTimeout(1500);
  expect(!before.equals(await pixels()), '#plot did not change during a burst');
  await page.screenshot({ path: path.join(folder, `page-${name}.png`) });
  return during;
});

plan.add('disconnect', async () => {
  await page.click('#disconnect');
  await until('#state says closed', () => /^closed/.test(document.querySelector('#state').textContent));
});

for (const size of SIZES) {
  plan.add(`script-echoes-${size}`, async () => {
    const outcome = await page.evaluate(
      ([url, bytes]) =>
        new Promise((resolve) => {
          const data = new Uint8Array(bytes);
          for (let at = 0; at < bytes; at += 65_536) crypto.getRandomValues(data.subarray(at, at + 65_536));
          const ws = new WebSocket(url);
          ws.binaryType = 'arraybuffer';
          ws.onopen = () => ws.send(data);
          ws.onclose = (event) => resolve(`closed early with ${event.code} ${event.reason}`);
          ws.onmessage = (event) => {
            const extension = ws.extensions.split(';')[0] || 'no extension';
            const echo = new Uint8Array(event.data);
            const same = echo.length === bytes && echo.every((byte, at) => byte === data[at]);
            ws.onclose = (closed) => resolve(same ? `echoed, closed ${closed.code}, ${extension}` : 'the echo differs');
            ws.close(4000, 'seen');
          };
        }),
      [`${base.replace('http', 'ws')}/ws`, size],
    );
    const extension = deflate ? 'permessage-deflate' : 'no extension';
    expectEqual(outcome, `echoed, closed 4000, ${extension}`, 'outcome');
  });
}

plan.add('nothing-on-the-console', async () => {
  expectEqual(complaints.join(' | '), '', 'errors, warnings and foreign requests');
  await context.close();
});

plan.main().finally(() => context?.close());
