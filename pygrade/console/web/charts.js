// Intervals and bars, drawn with elements that scale with their place.
import { h, percent, range, verdictOf } from "./dom.js";

const ROUND = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5];

// The largest |end| of lifts, rounded up, for one scale in a table.
export function reachOf(lifts) {
  const ends = lifts.filter(Boolean).flatMap(({ value, low, high }) => [value, low, high]);
  const most = Math.max(0.005, ...ends.filter(Number.isFinite).map(Math.abs));
  return ROUND.find((size) => size >= most) ?? most;
}

// A lift with its interval, around 0.
export function intervalBar(lift, reach, label = "") {
  const measured = lift && Number.isFinite(lift.value);
  const at = (value) => 50 + 50 * Math.max(-1, Math.min(1, value / reach));
  const text = measured ? `${label} ${percent(lift.value)}, 95 % interval ${range(lift)}` : `${label} unknown`;
  const parts = [h("i.zero")];
  if (measured && Number.isFinite(lift.low)) {
    const [left, right] = [at(lift.low), at(lift.high)];
    parts.push(h("i.band", { style: { left: `${left}%`, width: `${Math.max(right - left, 0.5)}%` } }));
  }
  if (measured) parts.push(h("i.dot", { style: { left: `${at(lift.value)}%` } }));
  return h("div", { class: `interval ${verdictOf(lift)}`, role: "img", "aria-label": text.trim() }, parts);
}

// A share from 0 to 1.
export function shareBar(value, className, most = 1) {
  const width = `${Math.min(100, (100 * value) / most)}%`;
  return h("div.share", h("i", { class: className, style: { width } }));
}

// Contributions of tasks to an item: those that lift it to the right of 0, the others to the left. reach: [right, left].
export function stack(parts, [most, least], tasks, className) {
  const whole = Math.max(most + least, 1e-9);
  const zero = (100 * least) / whole;
  const bar = h("div.stack");
  let [right, left] = [zero, zero];
  parts.forEach((value, t) => {
    const width = (100 * Math.abs(value)) / whole;
    if (!(width > 0.4)) return;
    const start = value > 0 ? right : left - width;
    if (value > 0) right += width;
    else left -= width;
    const style = { left: `${start}%`, width: `${width}%` };
    bar.append(h("i", { class: className(t), title: `${tasks[t]} ${value.toFixed(2)}`, style }));
  });
  bar.append(h("i.zero", { style: { left: `${zero}%` } }));
  return bar;
}
