// What the peers in JavaScript send, and how they are called: as messages.py.
'use strict';

const SIZES = [1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20];

// `size` bytes of UTF-8 with characters of one to four bytes.
function text(size) {
  const block = `${'0123456789abcdef'.repeat(64).slice(0, 1018)}é漢😀`; // 1,027 bytes: never aligned with a segment
  const whole = Math.floor(size / 1027);
  return block.repeat(whole) + 'x'.repeat(size - whole * 1027);
}

function options([role, where, ...rest]) {
  const after = (name) => (rest.includes(name) ? rest[rest.indexOf(name) + 1] : undefined);
  const most = Number(after('most') ?? Infinity);
  return {
    role,
    where,
    told: rest.includes('told'),
    deflate: rest.includes('deflate'),
    ca: after('ca'),
    sizes: SIZES.filter((size) => size <= most),
    files: rest.includes('files') ? rest.slice(rest.indexOf('files') + 1) : [],
  };
}

module.exports = {
  CLOSES: [[1000, 'done'], [3000, 'the library says so'], [4999, 'so, é漢😀']],
  PARTS: ['one ', '', 'é漢', '😀', ' five'],
  PARTS_BINARY: [1, 70_000, 125, 126, 3],
  PING: Buffer.alloc(125, 'p'),
  options,
  text,
};
