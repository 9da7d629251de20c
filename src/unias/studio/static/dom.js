// Small helpers: elements, numbers and words. Text always goes in as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled" || name === "multiple") node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

/** An HTML element: h("p", {class: "x", onclick: f}, "text", other elements). */
export function h(name, properties, ...children) {
  return fill(document.createElement(name), properties, children);
}

/** An SVG element, in the same way. */
export function s(name, properties, ...children) {
  return fill(document.createElementNS(SVG, name), properties, children);
}

export function put(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function button(text, onclick, more = {}) {
  return h("button", { type: "button", onclick, ...more }, text);
}

let numbers = 0;

/** A label with its field, and a hint that screen readers read with it. */
export function field(text, input, hint = "") {
  const id = input.id || `field-${++numbers}`;
  input.id = id;
  const help = hint && h("p", { class: "quiet", id: `${id}-hint` }, hint);
  if (help) input.setAttribute("aria-describedby", help.id);
  return h("div", { class: "field" }, h("label", { for: id }, text), input, help);
}

export function count(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}

/** A share in percent with as many digits as say something: 0.0213 -> "2.1%". */
export function percent(share) {
  if (share === null || share === undefined || Number.isNaN(share)) return "unknown";
  const value = share * 100;
  return `${value >= 9.95 || value === 0 ? value.toFixed(0) : value >= 0.095 ? value.toFixed(1) : value.toFixed(2)}%`;
}

export function number(value, digits = 3) {
  return value === null || value === undefined ? "none" : Number(value).toPrecision(digits).replace(/e\+?(-?\d+)$/, "e$1");
}

/** Seconds in words. */
export function time(seconds) {
  if (seconds === null || seconds === undefined) return "not known yet";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
}

export function bytes(size) {
  if (size === null || size === undefined) return "";
  const units = ["bytes", "kB", "MB", "GB"];
  let at = 0;
  for (; size >= 1000 && at < 3; at++) size /= 1000;
  return `${at ? size.toFixed(1) : size} ${units[at]}`;
}

/** The last part of a path. */
export function leaf(id) {
  return id.split("/").pop();
}

let timer;

/** Say something at the foot of the page and to screen readers. */
export function say(text, bad = false) {
  const place = document.getElementById("said");
  place.textContent = text;
  place.classList.toggle("bad", bad);
  place.classList.add("shown");
  clearTimeout(timer);
  timer = setTimeout(() => place.classList.remove("shown"), bad ? 12000 : 6000);
}

/** Run what may fail, and say why it did. */
export async function attempt(work, control = null) {
  if (control) control.disabled = true;
  try {
    return await work();
  } catch (error) {
    say(error.message, true);
    return undefined;
  } finally {
    if (control) control.disabled = false;
  }
}

/** What a page shows while there is nothing to show: what is missing, and where to get it. */
export function empty(title, text, link = null, linkText = "") {
  return h("div", { class: "empty" }, h("h2", {}, title), h("p", {}, text), link && h("p", {}, h("a", { class: "go", href: link }, linkText)));
}

/** A table from rows of cells; the first row is the head. */
export function table(head, rows, caption = "") {
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      {},
      caption && h("caption", {}, caption),
      h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, cell)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, at) => h(at ? "td" : "th", at ? {} : { scope: "row" }, cell))))),
    ),
  );
}
