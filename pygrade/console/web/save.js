// Policies that `FusionPolicy.load` and `BlendedRanker.load` read, in a zip file: policy.json and the tensors it names.

const UNIT = 4096; // shares are multiples of 1 / UNIT: exact as float32, so that they sum to 1

// Weights as multiples of 1 / UNIT that sum to 1, by the largest remainder.
export function exactWeights(wanted) {
  const total = wanted.reduce((sum, w) => sum + w, 0);
  const scaled = wanted.map((w) => (total > 0 ? (w / total) * UNIT : UNIT / wanted.length));
  const units = scaled.map(Math.floor);
  const left = UNIT - units.reduce((sum, n) => sum + n, 0);
  const order = [...scaled.keys()].sort((a, b) => scaled[b] - units[b] - (scaled[a] - units[a]) || a - b);
  for (const t of order.slice(0, left)) units[t] += 1;
  return Float32Array.from(units, (n) => n / UNIT);
}

// A policy of one weight vector, whatever the request: a zip file.
export function staticPolicy(core, policy, tasks, weights) {
  const { json, tensors, version_tail: tail } = policy.static_template;
  const record = structuredClone(json);
  const content = tensors.slice();
  const names = readTensors(content);
  record.config.frozen = Object.fromEntries(tasks.map((task, t) => [task, weights[t]]));
  record.static_weights = [...weights];
  const set = (name, values) => names[name].bytes.set(new Uint8Array(Float32Array.from(values).buffer));
  if (tasks.length > 1) set("bounds", [...weights, ...weights]);
  set("static_weights", weights);
  const share = (w) => Math.max(((tasks.length * policy.floor + policy.total) * w - policy.floor) / policy.total, 1e-4);
  set(
    "head.bias",
    Array.from(weights, (w) => Math.log(share(w))),
  );
  return zipped(core, record, content, tail);
}

// The policy itself with multipliers of the tasks' values as the default of all requests.
export function tradeOffPolicy(core, policy, tasks, multipliers) {
  const { json, tensors, version_tail: tail } = policy.trade_off_template;
  const record = structuredClone(json);
  record.config.values = Object.fromEntries(tasks.map((task, t) => [task, multipliers[t]]));
  const end = tail.slice();
  end.set(new Uint8Array(Float64Array.from(multipliers).buffer), end.length - 8 * tasks.length);
  return zipped(core, record, tensors.slice(), end);
}

function zipped(core, record, tensors, tail) {
  const parts = Object.entries(readTensors(tensors)).sort(([a], [b]) => (a < b ? -1 : 1));
  const text = new TextEncoder();
  const hashed = parts.flatMap(([name, { bytes }]) => [text.encode(name), bytes]);
  record.version = core.sha256(joined([...hashed, tail])).slice(0, 12);
  record.tensors_sha256 = core.sha256(tensors);
  record.json_sha256 = "0".repeat(64);
  const sha256 = core.sha256(text.encode(jsonText(record)));
  record.json_sha256 = sha256;
  return zip({
    "policy.json": text.encode(jsonText(record)),
    [`policy-${record.tensors_sha256.slice(0, 16)}.safetensors`]: tensors,
  });
}

function jsonText(record) {
  return `${JSON.stringify(record, null, 2)}\n`;
}

// Name → {shape, bytes} of a safetensors file.
function readTensors(content) {
  const size = Number(new DataView(content.buffer, content.byteOffset).getBigUint64(0, true));
  const head = JSON.parse(new TextDecoder().decode(content.subarray(8, 8 + size)));
  delete head.__metadata__;
  return Object.fromEntries(
    Object.entries(head).map(
      ([
        name,
        {
          shape,
          data_offsets: [begin, end],
        },
      ]) => [name, { shape, bytes: content.subarray(8 + size + begin, 8 + size + end) }],
    ),
  );
}

function joined(parts) {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}

// A zip file whose members are stored, not compressed.
export function zip(files) {
  const body = [];
  const directory = [];
  let at = 0;
  for (const [name, content] of Object.entries(files)) {
    const title = new TextEncoder().encode(name);
    const facts = new DataView(new ArrayBuffer(26)); // what both headers have
    facts.setUint16(0, 20, true); // version
    facts.setUint16(8, 0x0021, true); // 1 January 1980
    facts.setUint32(10, crc32(content), true);
    facts.setUint32(14, content.length, true);
    facts.setUint32(18, content.length, true);
    facts.setUint16(22, title.length, true);
    const local = joined([littleEndian(0x04034b50, 4), new Uint8Array(facts.buffer), title, content]);
    directory.push(
      joined([
        littleEndian(0x02014b50, 4),
        littleEndian(20, 2),
        new Uint8Array(facts.buffer),
        new Uint8Array(10),
        littleEndian(at, 4),
        title,
      ]),
    );
    body.push(local);
    at += local.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const count = directory.length;
  const end = joined([
    littleEndian(0x06054b50, 4),
    new Uint8Array(4),
    littleEndian(count, 2),
    littleEndian(count, 2),
    littleEndian(size, 4),
    littleEndian(at, 4),
    new Uint8Array(2),
  ]);
  return joined([...body, ...directory, end]);
}

function littleEndian(number, bytes) {
  return Uint8Array.from({ length: bytes }, (_, i) => Math.floor(number / 256 ** i) % 256);
}

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; ++bit) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}
