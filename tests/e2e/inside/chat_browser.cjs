// Two windows of headless Chromium in one chat room. Arguments as for browser.cjs.
'use strict';

const path = require('node:path');
const { chromium } = require('playwright-core');
const { Plan } = require('./cases.cjs');

const [base, executablePath, folder, name] = process.argv.slice(2);
const plan = new Plan(60);

plan.add('two-browsers-talk', async () => {
  const browser = await chromium.launch({
    executablePath,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-background-networking', '--disable-sync'],
  });
  try {
    const windows = [];
    for (const who of ['ada', 'bob']) {
      const page = await (await browser.newContext()).newPage();
      await page.goto(`${base}/`, { timeout: 20_000 });
      await page.click('#connect');
      await page.waitForFunction(() => document.querySelector('#state').textContent === 'open', null, {
        timeout: 15_000,
      });
      windows.push({ who, page });
    }
    for (const { who, page } of windows) {
      const text = `${who} says é漢😀`;
      await page.fill('#message', text);
      await page.click('#send');
      for (const { page: reader } of windows.filter((other) => other.who !== who)) {
        await reader.waitForFunction((wanted) => document.querySelector('#log').textContent.includes(wanted), text, {
          timeout: 15_000,
        });
      }
    }
    await windows[1].page.screenshot({ path: path.join(folder, `chat-${name}.png`) });
  } finally {
    await browser.close();
  }
});

plan.main();
