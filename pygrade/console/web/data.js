// Unpacks what pygrade/console/blob.py packs.

const ARRAYS = { float32: Float32Array, float64: Float64Array, int32: Int32Array, uint8: Uint8Array };

// The bytes of base64 of gzip.
export async function unpackBytes(text) {
  const packed = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The record with its arrays.
export async function unpack(text) {
  const bytes = await unpackBytes(text);
  const size = new DataView(bytes.buffer).getUint32(0, true);
  const record = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + size)));
  const start = Math.ceil((4 + size) / 8) * 8;
  const filled = (value) => {
    if (Array.isArray(value)) return value.map(filled);
    if (value === null || typeof value !== "object") return value;
    if ("array" in value && "at" in value) return new ARRAYS[value.array](bytes.buffer, start + value.at, value.length);
    return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, filled(entry)]));
  };
  return filled(record);
}

// The column [count] of which only some places are not 0.
export function dense(column, count) {
  const result = new Float64Array(count);
  column.places.forEach((place, i) => (result[place] = column.values[i]));
  return result;
}
