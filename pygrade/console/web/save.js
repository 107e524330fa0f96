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

// The files {json, tensors} of the policy that moved sliders make: one weight vector for all requests, or the run's
// policy with its own values of the tasks, multiplied.
export function savedPolicy(model, { mode, weights, multipliers }) {
  const { core, record, tasks } = model;
  const { json, tensors } = model.files(record.templates[mode]);
  if (mode === "tradeoffs") {
    const worth = JSON.parse(json).served.config.values;
    const values = tasks.map((task, t) => worth[task] * multipliers[t]);
    return stamped(core, withNumbers(json, "values", tasks, values), tensors.slice());
  }
  const content = tensors.slice();
  const named = readTensors(content);
  const set = (name, values) => named[name].set(new Uint8Array(Float32Array.from(values).buffer));
  if (tasks.length > 1) set("bounds", [...weights, ...weights]);
  set("static_weights", weights);
  const share = (w) => Math.max(((tasks.length * record.floor + record.total) * w - record.floor) / record.total, 1e-4);
  const biases = Array.from(weights, (w) => Math.log(share(w)));
  set("head.bias", biases);
  return stamped(core, withNumbers(json, "frozen", tasks, weights), content);
}

// policy.json with these numbers in a table of its config: all other bytes stay, as its version is a hash of bytes.
function withNumbers(json, table, tasks, numbers) {
  const of = new Map(tasks.map((task, t) => [task, numberText(numbers[t])]));
  const line = /^( *("(?:[^"\\]|\\.)*"): )[^,\n]*/gm;
  const put = (whole, start, name) => start + of.get(JSON.parse(name));
  return json.replace(new RegExp(`(?<=\n {6}"${table}": \\{\n)[^}]*`), (lines) => lines.replace(line, put));
}

// A number as Python's json writes a float.
function numberText(number) {
  if (number !== 0 && (Math.abs(number) < 1e-4 || Math.abs(number) >= 1e16))
    return number.toExponential().replace(/e([+-])(\d)$/, "e$10$2");
  return Number.isInteger(number) ? `${number}.0` : String(number);
}

// The files with their hashes.
function stamped(core, json, tensors) {
  const text = new TextEncoder();
  const set = (key, value) => {
    json = json.replace(new RegExp(`(\n +"${key}": ")[^"]*`), (_, start) => start + value);
  };
  set("tensors_sha256", core.sha256(tensors));
  set("version", core.sha256(text.encode(/\n {2}"served": \{\n[^]*?\n {2}\}/.exec(json)[0])).slice(0, 12));
  set("json_sha256", "0".repeat(64));
  set("json_sha256", core.sha256(text.encode(json)));
  return { json, tensors };
}

// A zip file of a policy's directory.
export function zipped({ json, tensors }) {
  const name = /"tensors_sha256": "(.{16})/.exec(json)[1];
  return zip({ "policy.json": new TextEncoder().encode(json), [`policy-${name}.safetensors`]: tensors });
}

// Name → bytes of a safetensors file.
function readTensors(content) {
  const size = Number(new DataView(content.buffer, content.byteOffset).getBigUint64(0, true));
  const { __metadata__, ...head } = JSON.parse(new TextDecoder().decode(content.subarray(8, 8 + size)));
  const bytes = ({ data_offsets: [begin, end] }) => content.subarray(8 + size + begin, 8 + size + end);
  return Object.fromEntries(Object.entries(head).map(([name, entry]) => [name, bytes(entry)]));
}

// One array of all bytes; a pair is a number in so many bytes, the lowest first.
function joined(...parts) {
  const little = ([number, bytes]) => Uint8Array.from({ length: bytes }, (_, i) => Math.floor(number / 256 ** i) % 256);
  const arrays = parts.map((part) => (Array.isArray(part) ? little(part) : part));
  const result = new Uint8Array(arrays.reduce((sum, array) => sum + array.length, 0));
  let at = 0;
  for (const array of arrays) {
    result.set(array, at);
    at += array.length;
  }
  return result;
}

// A zip file whose members are stored, not compressed.
function zip(files) {
  const [body, directory] = [[], []];
  let at = 0;
  for (const [name, content] of Object.entries(files)) {
    const title = new TextEncoder().encode(name);
    // What both headers have: version, flags and method, 1 January 1980, checksum, sizes.
    const size = [content.length, 4];
    const facts = joined([20, 2], [0, 6], [0x0021, 2], [crc32(content), 4], size, size, [title.length, 2], [0, 2]);
    const local = joined([0x04034b50, 4], facts, title, content);
    directory.push(joined([0x02014b50, 4], [20, 2], facts, [0, 10], [at, 4], title));
    body.push(local);
    at += local.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const count = [directory.length, 2];
  return joined(...body, ...directory, [0x06054b50, 4], [0, 4], count, count, [size, 4], [at, 4], [0, 2]);
}

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; ++bit) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}
