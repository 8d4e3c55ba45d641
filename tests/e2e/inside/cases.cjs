// Named cases for the programs in JavaScript; the same lines of JSON as cases.py.
'use strict';

const report = (fields) => process.stdout.write(`${JSON.stringify(fields)}\n`);

class Plan {
  constructor(caseSeconds = 60) {
    this.caseSeconds = caseSeconds;
    this.cases = [];
  }

  // `run` passes by resolving, with an optional note, and fails by throwing.
  add(name, run) {
    this.cases.push([name, run]);
  }

  // Runs every case and reports it; one that fails does not keep the others from running.
  async main() {
    report({ plan: this.cases.map(([name]) => name) });
    for (const [name, run] of this.cases) {
      const started = performance.now();
      const seconds = () => (performance.now() - started) / 1000;
      try {
        const note = await within(run(), this.caseSeconds);
        report({ case: name, ok: true, seconds: seconds(), note: note ?? '' });
      } catch (error) {
        report({ case: name, ok: false, seconds: seconds(), note: String(error) });
      }
    }
  }
}

function within(promise, seconds) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${seconds} s`)), seconds * 1000);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function expect(condition, message) {
  if (!condition) throw new Error(message);
}

function expectEqual(got, wanted, what) {
  const same = Buffer.isBuffer(got) && Buffer.isBuffer(wanted) ? got.equals(wanted) : got === wanted;
  if (!same) throw new Error(`${what}: expected ${shorten(wanted)}, got ${shorten(got)}`);
}

function shorten(value) {
  const text = Buffer.isBuffer(value) ? `${value.length} bytes ${value.toString('hex', 0, 16)}` : String(value);
  return text.length <= 120 ? text : `${text.slice(0, 100)}... (${text.length} long)`;
}

module.exports = { Plan, expect, expectEqual, within };
