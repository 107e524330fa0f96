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
    new Uint8Array(this.exports.memory.buffer, kept.at, array.byteLength).set(bytesOf(array));
    return kept;
  }

  // The address of an array, which is copied for this call unless it is kept.
  #in(array) {
    if (array === null || array === undefined) return 0;
    if (array instanceof Kept) return array.at;
    if (!ArrayBuffer.isView(array)) throw new TypeError("want a typed array or one that is kept");
    const copy = this.keep(array);
    this.temporary.push(copy.at);
    return copy.at;
  }

  #room(bytes) {
    const at = this.exports.allocate(Math.max(bytes, 8));
    this.temporary.push(at);
    return at;
  }

  // Calls work(…) and frees what it copied; an error of the core becomes one of the page.
  #call(work) {
    try {
      return work();
    } catch (error) {
      if (error instanceof TypeError) throw error;
      const memory = new Uint8Array(this.exports.memory.buffer);
      const start = this.exports.last_error();
      throw new Error(new TextDecoder().decode(memory.slice(start, memory.indexOf(0, start))) || String(error));
    } finally {
      for (const at of this.temporary.splice(0)) this.exports.release(at);
    }
  }

  #read(Type, at, length) {
    return new Type(this.exports.memory.buffer.slice(at, at + length * Type.BYTES_PER_ELEMENT));
  }

  // {transform, beta, epsilon, slope[T]}
  #formula(formula) {
    const view = new DataView(new ArrayBuffer(16));
    view.setInt32(0, formula.transform, true);
    view.setFloat32(4, formula.beta, true);
    view.setFloat32(8, formula.epsilon, true);
    view.setUint32(12, this.#in(formula.slope ? Float32Array.from(formula.slope) : null), true);
    return this.#in(view);
  }

  sha256(bytes) {
    return this.#call(() => {
      const digits = this.#room(64);
      this.exports.sha256(this.#in(bytes), bytes.length, digits);
      return new TextDecoder().decode(this.#read(Uint8Array, digits, 64));
    });
  }

  // f_t(p) of predictions[M, T].
  transform(predictions, offsets, tasks, formula) {
    return this.#call(() => {
      const out = this.#room(predictions.length * 4);
      this.exports.transform(
        this.#in(predictions),
        this.#in(offsets),
        offsets.length - 1,
        tasks,
        this.#formula(formula),
        out,
      );
      return this.#read(Float32Array, out, predictions.length);
    });
  }

  // Σ_t w_t f_t(p) of predictions[M, T]; weights[T], or [R, T].
  fuse(predictions, offsets, tasks, weights, formula) {
    return this.#call(() => {
      const rows = predictions.length / tasks;
      const out = this.#room(rows * 4);
      this.exports.fuse(
        this.#in(predictions),
        this.#in(offsets),
        offsets.length - 1,
        tasks,
        this.#in(weights),
        weights.length === tasks,
        this.#formula(formula),
        out,
      );
      return this.#read(Float32Array, out, rows);
    });
  }

  // Scores [M] of a baseline {weights, transform, logarithm, value_tasks, calibration}; multipliers[T] may be null.
  baseline(predictions, offsets, tasks, baseline, formula, multipliers, priced, prices) {
    return this.#call(() => {
      const rows = predictions.length / tasks;
      const out = this.#room(rows * 4);
      this.exports.baseline(
        this.#in(predictions),
        this.#in(offsets),
        offsets.length - 1,
        tasks,
        this.#in(Float32Array.from(baseline.weights)),
        this.#formula(formula),
        baseline.logarithm,
        this.#in(multipliers),
        priced.some(Boolean) ? this.#in(Uint8Array.from(priced)) : 0,
        this.#in(prices),
        this.#knots(baseline.calibration),
        out,
      );
      return this.#read(Float32Array, out, rows);
    });
  }

  // Per task {count, x, y}.
  #knots(calibration) {
    if (!calibration.length) return 0;
    const view = new DataView(new ArrayBuffer(12 * calibration.length));
    calibration.forEach(([x, y], t) => {
      view.setInt32(12 * t, x.length, true);
      view.setUint32(12 * t + 4, this.#in(Float32Array.from(x)), true);
      view.setUint32(12 * t + 8, this.#in(Float32Array.from(y)), true);
    });
    return this.#in(view);
  }

  // (1 - trust) z(base) + trust z(fused)
  mix(base, fused, offsets, trust) {
    return this.#call(() => {
      const out = this.#room(base.length * 4);
      this.exports.mix(this.#in(base), this.#in(fused), this.#in(offsets), offsets.length - 1, trust, out);
      return this.#read(Float32Array, out, base.length);
    });
  }

  // The policy's network, as pygrade/console/arms.py describes it.
  makePolicy(network, tasks, formula) {
    return this.#call(() => {
      const view = new DataView(new ArrayBuffer(64));
      const whole = [
        tasks,
        network.features,
        network.inputs,
        network.widths.length,
        network.scenarios.length,
        network.evidence_scale,
        network.evidence_input,
        Number(network.context_only),
        Number(network.trade_offs),
      ];
      whole.forEach((number, i) => view.setInt32(4 * i, number, true));
      [formula.epsilon, network.floor, network.total, network.evidence_prior].forEach((number, i) =>
        view.setFloat32(36 + 4 * i, number, true),
      );
      view.setFloat64(56, formula.beta, true);
      return this.exports.make_policy(
        this.#in(view),
        this.#in(Int32Array.from(network.widths)),
        this.#in(network.values),
      );
    });
  }

  // Weights [R, T] that the policy serves at multipliers [T].
  policyWeights(policy, context, predictions, offsets, tasks, scenarios, multipliers) {
    return this.#call(() => {
      const requests = offsets.length - 1;
      const out = this.#room(requests * tasks * 4);
      this.exports.policy_weights(
        policy,
        this.#in(context),
        this.#in(predictions),
        this.#in(offsets),
        requests,
        this.#in(scenarios),
        this.#in(multipliers),
        out,
      );
      return this.#read(Float32Array, out, requests * tasks);
    });
  }

  // The k best of each request: indices [R, k] within the request, padded with -1. rules: {boostMul, boostAdd, groups,
  // caps}, each optional.
  rank(scores, offsets, k, rules = {}) {
    return this.#call(() => {
      const requests = offsets.length - 1;
      const values = this.#room(requests * k * 4);
      const indices = this.#room(requests * k * 4);
      this.exports.rank(
        this.#in(scores),
        this.#in(offsets),
        requests,
        k,
        this.#in(rules.boostMul),
        this.#in(rules.boostAdd),
        this.#in(rules.groups),
        this.#in(rules.caps),
        rules.caps ? rules.caps.length : 0,
        values,
        indices,
      );
      return this.#read(Int32Array, indices, requests * k);
    });
  }
}

function bytesOf(array) {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}
