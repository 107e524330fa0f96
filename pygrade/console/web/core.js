// The C++ core in WebAssembly; csrc/wasm/console.cpp is the other side.

const IMPORTS = { fd_close: () => 8, fd_seek: () => 8, fd_write: () => 8, random_get: () => 8 };

export class Core {
  static async load(bytes) {
    const { instance } = await WebAssembly.instantiate(bytes, { wasi_snapshot_preview1: IMPORTS });
    instance.exports._initialize();
    return new Core(instance.exports);
  }

  constructor(exports) {
    this.exports = exports;
  }

  // The address of a copy of an array in the core's memory; 0 of none.
  keep(array) {
    if (!array) return 0;
    const at = this.exports.allocate(Math.max(array.byteLength, 8));
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    new Uint8Array(this.exports.memory.buffer, at, array.byteLength).set(bytes);
    return at;
  }

  // Calls a function with arrays that are copied for the call, and other arguments; an error of the core becomes one of
  // the page.
  #call(name, ...args) {
    const copies = [];
    try {
      const passed = args.map((value) => {
        if (!ArrayBuffer.isView(value)) return value;
        copies.push(this.keep(value));
        return copies.at(-1);
      });
      const result = this.exports[name](...passed);
      const back = (array, at) => new array.constructor(this.exports.memory.buffer.slice(at, at + array.byteLength));
      return { result, arrays: args.filter(ArrayBuffer.isView).map((array, i) => back(array, copies[i])) };
    } catch (error) {
      throw new Error(this.#text(this.exports.last_error()) || String(error));
    } finally {
      copies.forEach((at) => this.exports.release(at));
    }
  }

  // The text at an address, which ends with 0.
  #text(start) {
    const memory = new Uint8Array(this.exports.memory.buffer);
    return new TextDecoder().decode(memory.slice(start, memory.indexOf(0, start)));
  }

  sha256(bytes) {
    return new TextDecoder().decode(this.#call("sha256", bytes, bytes.length, new Uint8Array(64)).arrays[1]);
  }

  // The requests of a record, as `rank` takes them.
  batch(requests, tasks) {
    const count = requests.offsets.length - 1;
    const names = (list) => this.keep(new TextEncoder().encode(list.map((name) => `${name}\0`).join("")));
    const column = (given) => {
      if (given?.names) return [this.keep(given.places), given.names.length, names(given.names)];
      return [this.keep(given?.vectors ? spread(given) : given), 0, 0];
    };
    const fields = this.#text(this.exports.fields()).split(" ");
    const words = [count, this.keep(requests.offsets), ...fields.flatMap((name) => column(requests[name]))];
    return { at: this.keep(Int32Array.from(words)), requests: count, tasks };
  }

  // The pages of k that a policy {json, tensors} serves to a batch: indices [R, k] within each request, -1 after the
  // last, their scores [R, k], and the served weights [R, T]. search: by page terms, if the policy has them.
  rank(files, batch, k, search = false) {
    const room = [new Int32Array(batch.requests * k), new Float32Array(batch.requests * k)];
    room.push(new Float32Array(batch.requests * batch.tasks));
    const [indices, scores, weights] = this.#serve(files, "rank", batch.at, k, search, ...room);
    return { indices, scores, weights };
  }

  // What each task gives to the scores of a request's `count` candidates by the served weights [T]: [count, T].
  contributions(files, batch, request, weights, count) {
    const room = new Float32Array(count * batch.tasks);
    return this.#serve(files, "contributions", batch.at, request, weights, room)[1];
  }

  // Calls a function of the ranker of a policy.
  #serve({ json, tensors }, name, ...args) {
    const text = new TextEncoder().encode(json);
    const { result: ranker } = this.#call("make_ranker", text, text.length, tensors, tensors.length);
    try {
      return this.#call(name, ranker, ...args).arrays;
    } finally {
      this.exports.delete_ranker(ranker);
    }
  }
}

// The vector of each row, [M, d], of distinct ones and their places.
function spread({ places, vectors, dimension }) {
  const rows = new Float32Array(places.length * dimension);
  places.forEach((at, row) => {
    if (at >= 0) rows.set(vectors.subarray(at * dimension, (at + 1) * dimension), row * dimension);
  });
  return rows;
}
