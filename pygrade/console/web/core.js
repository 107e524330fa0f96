// The C++ core in WebAssembly; csrc/wasm/console.cpp is the other side. Arrays are copied in and out, except those that
// `keep` holds in the core's memory.

const IMPORTS = { wasi_snapshot_preview1: { fd_close: () => 8, fd_seek: () => 8, fd_write: () => 8 } };

class Kept {
  constructor(at, length) {
    this.at = at;
    this.length = length;
  }
}

export class Core {
  static async load(bytes) {
    const { instance } = await WebAssembly.instantiate(bytes, IMPORTS);
    instance.exports._initialize();
    return new Core(instance.exports);
  }

  constructor(exports) {
    this.exports = exports;
    this.temporary = [];
  }

  // A copy that stays, as an argument of the functions below.
  keep(array) {
    if (array === null || array === undefined) return null;
    const kept = new Kept(this.exports.allocate(Math.max(array.byteLength, 8)), array.length);
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    new Uint8Array(this.exports.memory.buffer, kept.at, array.byteLength).set(bytes);
    return kept;
  }

  // An argument: a number, or the address of an array, which is copied for one call unless it is kept.
  #in(value) {
    if (value === null || value === undefined) return 0;
    if (typeof value === "number" || typeof value === "boolean") return value;
    if (value instanceof Kept) return value.at;
    if (!ArrayBuffer.isView(value)) throw new TypeError("want a typed array or one that is kept");
    const copy = this.keep(value);
    this.temporary.push(copy.at);
    return copy.at;
  }

  #room(bytes) {
    const at = this.exports.allocate(Math.max(bytes, 8));
    this.temporary.push(at);
    return at;
  }

  // Calls a function with the arguments that `given()` makes and, last, room for so many numbers, which it returns; Type
  // null: returns what the function does. Frees what was copied; an error of the core becomes one of the page.
  #call(name, Type, length, given) {
    try {
      const bytes = Type ? length * Type.BYTES_PER_ELEMENT : 0;
      const out = this.#room(bytes);
      const result = this.exports[name](...given().map((value) => this.#in(value)), out);
      return Type ? new Type(this.exports.memory.buffer.slice(out, out + bytes)) : result;
    } catch (error) {
      if (error instanceof TypeError) throw error;
      const memory = new Uint8Array(this.exports.memory.buffer);
      const start = this.exports.last_error();
      throw new Error(new TextDecoder().decode(memory.slice(start, memory.indexOf(0, start))) || String(error));
    } finally {
      for (const at of this.temporary.splice(0)) this.exports.release(at);
    }
  }

  // {transform, beta, epsilon, slope[T]}
  #formula(formula) {
    const view = new DataView(new ArrayBuffer(16));
    view.setInt32(0, formula.transform, true);
    view.setFloat32(4, formula.beta, true);
    view.setFloat32(8, formula.epsilon, true);
    view.setUint32(12, this.#in(formula.slope ? Float32Array.from(formula.slope) : null), true);
    return view;
  }

  sha256(bytes) {
    return new TextDecoder().decode(this.#call("sha256", Uint8Array, 64, () => [bytes, bytes.length]));
  }

  // f_t(p) of predictions[M, T].
  transform(predictions, offsets, tasks, formula) {
    const given = () => [predictions, offsets, offsets.length - 1, tasks, this.#formula(formula)];
    return this.#call("transform", Float32Array, predictions.length, given);
  }

  // Σ_t w_t f_t(p) of predictions[M, T]; weights[T], or [R, T].
  fuse(predictions, offsets, tasks, weights, formula) {
    const shared = weights.length === tasks;
    const given = () => [predictions, offsets, offsets.length - 1, tasks, weights, shared, this.#formula(formula)];
    return this.#call("fuse", Float32Array, predictions.length / tasks, given);
  }

  // Scores [M] of a baseline {weights, transform, logarithm, value_tasks, calibration}; multipliers[T] may be null.
  baseline(predictions, offsets, tasks, baseline, formula, multipliers, priced, prices) {
    return this.#call("baseline", Float32Array, predictions.length / tasks, () => [
      ...[predictions, offsets, offsets.length - 1, tasks, Float32Array.from(baseline.weights)],
      ...[this.#formula(formula), baseline.logarithm, multipliers],
      ...[priced.some(Boolean) ? Uint8Array.from(priced) : null, prices, this.#knots(baseline.calibration)],
    ]);
  }

  // Per task {count, x, y}.
  #knots(calibration) {
    if (!calibration.length) return null;
    const view = new DataView(new ArrayBuffer(12 * calibration.length));
    calibration.forEach(([x, y], t) => {
      view.setInt32(12 * t, x.length, true);
      view.setUint32(12 * t + 4, this.#in(Float32Array.from(x)), true);
      view.setUint32(12 * t + 8, this.#in(Float32Array.from(y)), true);
    });
    return view;
  }

  // (1 - trust) z(base) + trust z(fused)
  mix(base, fused, offsets, trust) {
    return this.#call("mix", Float32Array, base.length, () => [base, fused, offsets, offsets.length - 1, trust]);
  }

  // The policy's network, as pygrade/console/arms.py describes it.
  makePolicy(network, tasks, formula) {
    const view = new DataView(new ArrayBuffer(64));
    const { features, inputs, widths, scenarios, evidence_scale: scale, evidence_input: input } = network;
    const flags = [Number(network.context_only), Number(network.trade_offs)];
    [tasks, features, inputs, widths.length, scenarios.length, scale, input, ...flags].forEach((number, i) =>
      view.setInt32(4 * i, number, true),
    );
    [formula.epsilon, network.floor, network.total, network.evidence_prior].forEach((number, i) =>
      view.setFloat32(36 + 4 * i, number, true),
    );
    view.setFloat64(56, formula.beta, true);
    return this.#call("make_policy", null, 0, () => [view, Int32Array.from(widths), network.values]);
  }

  // Weights [R, T] that the policy serves at multipliers [T].
  policyWeights(policy, context, predictions, offsets, tasks, scenarios, multipliers) {
    const requests = offsets.length - 1;
    const given = () => [policy, context, predictions, offsets, requests, scenarios, multipliers];
    return this.#call("policy_weights", Float32Array, requests * tasks, given);
  }

  // The k best of each request: indices [R, k] within the request, padded with -1. rules: {boostMul, boostAdd, groups,
  // caps}, each optional.
  rank(scores, offsets, k, { boostMul, boostAdd, groups, caps } = {}) {
    const requests = offsets.length - 1;
    const rules = [boostMul, boostAdd, groups, caps, caps ? caps.length : 0];
    const given = () => [scores, offsets, requests, k, ...rules, this.#room(requests * k * 4)]; // last: their scores
    return this.#call("rank", Int32Array, requests * k, given);
  }

  // Pages that page terms search, as `rank` gives them: scores [M], root [M], codes [M] and embeddings [M, d] or null.
  search(terms, strength, scores, root, codes, embeddings, offsets, k, { boostMul, boostAdd, groups, caps } = {}) {
    const requests = offsets.length - 1;
    const rules = [boostMul, boostAdd, groups, caps, caps ? caps.length : 0];
    const given = () => [this.#terms(terms, strength), scores, root, codes, embeddings, offsets, requests, k, ...rules];
    return this.#call("search", Int32Array, requests * k, given);
  }

  // {attention, pairs, categories, dimension, beam, cosine}
  #terms({ attention, pairs, categories, dimension, beam, cosine }, strength) {
    const view = new DataView(new ArrayBuffer(32));
    [attention.length, categories, dimension, beam].forEach((number, i) => view.setInt32(4 * i, number, true));
    [cosine, strength].forEach((number, i) => view.setFloat32(16 + 4 * i, number, true));
    view.setUint32(24, this.#in(Float32Array.from(attention)), true);
    view.setUint32(28, this.#in(Float32Array.from(pairs)), true);
    return view;
  }
}
