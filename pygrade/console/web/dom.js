// Elements and numbers. Text from data enters as text nodes alone.

// An element, "tag.class.class"; attributes, which may be left out, that begin with "on" are listeners, `style` is an
// object, null and false are left out.
export function h(kind, ...content) {
  const [tag, ...classes] = kind.split(".");
  const element = document.createElement(tag);
  const attributes = content[0]?.constructor === Object ? content.shift() : {};
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.entries(value).forEach(([key, text]) => element.style.setProperty(key, text));
    else element.setAttribute(name, value === true ? "" : value);
  }
  const absent = [null, undefined, false];
  element.append(...content.flat(Infinity).filter((child) => !absent.includes(child)));
  element.classList.add(...classes);
  return element;
}

export function note(...children) {
  return h("p.note", ...children);
}

export function button(text, onclick, attributes = {}) {
  return h("button", { type: "button", onclick, ...attributes }, text);
}

// A choice among texts; chosen gets the number of one.
export function select(texts, chosen, { selected = 0, ...attributes } = {}) {
  const options = texts.map((text, i) => h("option", { value: i, selected: i === selected }, text));
  return h("select", { onchange: (event) => chosen(Number(event.target.value)), ...attributes }, options);
}

export function byId(id) {
  return document.getElementById(id);
}

export function show(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter(Boolean));
}

// Names and values.
export function facts(pairs) {
  return pairs.map(([name, value]) => h("span", `${name} `, h("b", String(value ?? "n/a"))));
}

// A table that a narrow screen scrolls. A text in a row is a number, an element is wide; a <th> or <td> stays as it is.
// numbers: columns after the first whose heads are those of numbers.
export function table(name, head, rows, { numbers = head.length, className = "" } = {}) {
  if (!rows.length) return note("nothing yet");
  const heads = head.map((text, i) =>
    text instanceof Element ? text : h("th", { scope: "col", class: i > 0 && i <= numbers ? "number" : "" }, text),
  );
  const cell = (content) =>
    content?.tagName === "TD" ? content : h(content instanceof Element ? "td.wide" : "td.number", content);
  const body = rows.map(([first, ...rest]) => h("tr", h("th", { scope: "row" }, first), rest.flat().map(cell)));
  const shown = h("table", { class: className }, heads.length ? h("thead", h("tr", heads)) : null, h("tbody", body));
  return h("div.scroll", { tabindex: 0, role: "region", "aria-label": name }, shown);
}

const MINUS = "−";

// +1.6 %
export function percent(value, digits = 1) {
  if (value === null || !Number.isFinite(value)) return "n/a";
  const text = Math.abs(100 * value).toFixed(digits);
  return `${value < 0 && Number(text) !== 0 ? MINUS : "+"}${text} %`;
}

export function share(value, digits = 1) {
  return Number.isFinite(value) ? `${(100 * value).toFixed(digits)} %` : "n/a";
}

export function count(value) {
  return Number.isFinite(value) ? value.toLocaleString("en-US", { maximumFractionDigits: 0 }) : "n/a";
}

// +1.20 ± 0.30 %, as `lift_text` of pygrade/metrics/texts.py.
export function liftText({ value, low, high }) {
  if (value === null || !Number.isFinite(value)) return "n/a";
  const bounded = low !== null && high !== null && Number.isFinite(high - low);
  return `${value < 0 ? "-" : "+"}${Math.abs(100 * value).toFixed(2)}${bounded ? ` ± ${(50 * (high - low)).toFixed(2)}` : ""} %`;
}

// −0.4 to +3.6 %
export function range(lift, digits = 1) {
  if (!lift || !Number.isFinite(lift.low)) return "interval unknown";
  return `${percent(lift.low, digits).replace(" %", "")} to ${percent(lift.high, digits)}`;
}

// better, worse or undecided
export function verdictOf(lift) {
  if (!lift || !Number.isFinite(lift.low)) return "undecided";
  return lift.low > 0 ? "better" : lift.high < 0 ? "worse" : "undecided";
}

// The class of a task's color.
export function taskClass(index) {
  return `task task-${index % 8}`;
}

export function taskMark(index) {
  return h("i", { class: taskClass(index) });
}

export function download(name, bytes, type) {
  const url = URL.createObjectURL(new Blob([bytes], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
