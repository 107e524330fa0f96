// The replay estimator of pygrade/evaluation/replay.py and the intervals of pygrade/metrics/intervals.py.

// The 97.5 % point of Student's t.
export function studentT(degrees) {
  if (!(degrees >= 1)) return NaN;
  const x = 1 / degrees;
  if (degrees < 4) return Math.exp(0.67880123 + x * (1.15189795 + x * (0.9247745 - x * 0.21341269)));
  const z = 1.959963984540054;
  const first = (z ** 3 + z) / 4;
  const second = (5 * z ** 5 + 16 * z ** 3 + 3 * z) / 96;
  const third = (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / 384;
  const fourth = (79 * z ** 9 + 776 * z ** 7 + 1482 * z ** 5 - 1920 * z ** 3 - 945 * z) / 92160;
  return z + x * (first + x * (second + x * (third + x * fourth)));
}

function interval(value, influence, users) {
  const [sums, sizes] = [new Map(), new Map()];
  users.forEach((user, i) => {
    sums.set(user, (sums.get(user) ?? 0) + influence[i]);
    sizes.set(user, (sizes.get(user) ?? 0) + 1);
  });
  const count = sums.size;
  if (count < 2 || !Number.isFinite(value)) return { value, low: NaN, high: NaN };
  let [squares, effective] = [0, 0]; // effective number of users: those who have most requests hide their own error
  for (const sum of sums.values()) squares += sum * sum;
  for (const size of sizes.values()) effective += size * size;
  const error = Math.sqrt((squares * count) / (count - 1)) / influence.length;
  const reach = error ? studentT(influence.length ** 2 / effective - 1) * error : 0;
  return { value, low: value - reach, high: value + reach };
}

// mean(new) / mean(old) - 1 of paired requests; those with NaN in either are left out of both.
export function meanLift(fresh, old, users) {
  let [top, base] = [0, 0];
  for (let i = 0; i < fresh.length; ++i) {
    if (Number.isNaN(fresh[i] + old[i])) continue;
    top += fresh[i];
    base += old[i];
  }
  if (base === 0) return { value: NaN, low: NaN, high: NaN };
  const value = top / base - 1;
  const scale = fresh.length / base;
  const influence = Array.from(fresh, (a, i) => (Number.isNaN(a + old[i]) ? 0 : (a - (1 + value) * old[i]) * scale));
  return interval(value, influence, users);
}

const sumOf = (gains, factors) => gains.reduce((sum, gain, rank) => sum + factors[rank] * gain, 0);

// Figures of a ranking by request, of the gains of its first k shown candidates; best: the largest of them discounted.
export const METRICS = {
  value: { label: "value", of: (gains, replay) => sumOf(gains, replay.attention) },
  ndcg: { label: "NDCG", of: (gains, replay, best) => (best > 0 ? sumOf(gains, replay.discount) / best : NaN) },
};

// `METRICS` of rankings by request, and the events of each task on the first k shown candidates.
export class Replay {
  // offsets, positions, gains and events of the rows; attention and discount of the ranks
  constructor(given) {
    Object.assign(this, given);
    this.best = Float64Array.from({ length: this.offsets.length - 1 }, (_, r) => {
      const gains = this.gains
        .slice(this.offsets[r], this.offsets[r + 1])
        .sort()
        .reverse();
      return this.discount.reduce((sum, discount, rank) => sum + discount * (gains[rank] ?? 0), 0);
    });
  }

  // order [R, width]: the candidates of each request, best first, -1 after the last.
  metrics(order, width) {
    const column = () => new Float64Array(this.best.length);
    const metrics = Object.entries(METRICS);
    const result = { events: this.events.map(column) };
    for (const [name] of metrics) result[name] = column();
    for (let r = 0; r < this.best.length; ++r) {
      const gains = [];
      for (let i = r * width; i < (r + 1) * width && order[i] >= 0 && gains.length < this.discount.length; ++i) {
        const row = this.offsets[r] + order[i];
        if (this.positions[row] < 0) continue; // what was not shown can't be judged
        this.events.forEach((events, t) => (result.events[t][r] += this.attention[gains.length] * events[row]));
        gains.push(this.gains[row]);
      }
      for (const [name, metric] of metrics) result[name][r] = metric.of(gains, this, this.best[r]);
    }
    return result;
  }
}
