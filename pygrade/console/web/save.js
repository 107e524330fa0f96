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
  const { json, tensors } = policy.static_template;
  const content = tensors.slice();
  const names = readTensors(content);
  const set = (name, values) => names[name].bytes.set(new Uint8Array(Float32Array.from(values).buffer));
  if (tasks.length > 1) set("bounds", [...weights, ...weights]);
  set("static_weights", weights);
  const share = (w) => Math.max(((tasks.length * policy.floor + policy.total) * w - policy.floor) / policy.total, 1e-4);
  set(
    "head.bias",
    Array.from(weights, (w) => Math.log(share(w))),
  );
  return zipped(core, withNumbers(json, "frozen", tasks, weights), content);
}

// The policy itself with multipliers of the tasks' values as the default of all requests.
export function tradeOffPolicy(core, policy, tasks, multipliers) {
  const { json, tensors } = policy.trade_off_template;
  return zipped(core, withNumbers(json, "values", tasks, multipliers), tensors.slice());
}

// policy.json with these numbers in a table of its config: all other bytes stay, as its version is a hash of bytes.
function withNumbers(json, table, tasks, numbers) {
  const of = new Map(tasks.map((task, t) => [task, numberText(numbers[t])]));
  const line = /^( *("(?:[^"\\]|\\.)*"): )[^,\n]*/gm;
  const put = (whole, start, name) => start + of.get(JSON.parse(name));
  return json.replace(new RegExp(`(?<=\n {6}"${table}": \\{\n)[^}]*`), (lines) => lines.replace(line, put));
}

// A number ≥ 0 as Python's json writes a float.
function numberText(number) {
  if (number !== 0 && (number < 1e-4 || number >= 1e16))
    return number.toExponential().replace(/e([+-])(\d)$/, "e$10$2");
  return Number.isInteger(number) ? `${number}.0` : String(number);
}

function zipped(core, json, tensors) {
  const text = new TextEncoder();
  const sha256 = core.sha256(tensors);
  const set = (key, value) => {
    json = json.replace(new RegExp(`(\n +"${key}": ")[^"]*`), (_, start) => start + value);
  };
  set("tensors_sha256", sha256);
  set("version", core.sha256(text.encode(/\n {2}"served": \{\n[^]*?\n {2}\}/.exec(json)[0])).slice(0, 12));
  set("json_sha256", "0".repeat(64));
  set("json_sha256", core.sha256(text.encode(json)));
  return zip({ "policy.json": text.encode(json), [`policy-${sha256.slice(0, 16)}.safetensors`]: tensors });
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
