// One page, six steps: what the address says after # is shown.

import { chooseModel, current, follow, known, listen, post, refresh } from "./api.js";
import { attempt, field, h, put } from "./dom.js";
import { jobWords } from "./jobs.js";
import * as photos from "./photos.js";
import * as train from "./train.js";
import * as threshold from "./threshold.js";
import * as inspect from "./inspect.js";
import * as review from "./review.js";
import * as exporting from "./export.js";

const PAGES = { photos, train, threshold, inspect, review, export: exporting };
const place = document.getElementById("page");
let name = null;
let leave = null;

/** What stands after #: ["inspect", {id: "…"}]. */
function address() {
  const [page, rest] = location.hash.slice(1).split("?");
  return [Object.hasOwn(PAGES, page) ? page : "photos", Object.fromEntries(new URLSearchParams(rest || ""))];
}

function show(focus = false) {
  const [next, values] = address();
  if (leave) leave();
  leave = null;
  name = next;
  for (const link of document.querySelectorAll("#steps a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const page = PAGES[name];
  document.title = `${page.TITLE} – UniAS studio`;
  const body = h("div", { class: "body" });
  put(place, h("h1", {}, page.TITLE), body);
  leave = page.show(body, values) || null;
  if (focus) place.focus({ preventScroll: false });
}

function top() {
  const state = known.state;
  document.getElementById("lost").hidden = known.connected;
  if (!state) return;
  document.getElementById("folder").textContent = state.folder;
  const select = document.getElementById("model");
  const names = state.models.map((model) => model.name);
  document.getElementById("model-field").hidden = names.length === 0;
  if ([...select.options].map((option) => option.value).join("\n") !== names.join("\n")) {
    put(select, names.map((text) => h("option", { value: text }, text)));
  }
  if (known.model) select.value = known.model;
  const job = current();
  const line = document.getElementById("job");
  line.hidden = !job;
  if (job) put(line, h("a", { href: job.kind === "export" ? "#export" : job.kind === "check" ? "#photos" : "#train" }, jobWords(job)));
}

document.getElementById("model").addEventListener("change", (event) => chooseModel(event.target.value));
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  place.focus();
});
// A file dropped beside the field must not replace the page.
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
window.addEventListener("hashchange", () => show(true));
listen((what) => {
  top();
  if (what === "model") show();
});

/** A studio with a token asks for it once; the server remembers it in a cookie. */
function signIn() {
  const token = h("input", { type: "password", autocomplete: "off", required: true });
  const submit = (event) => {
    event.preventDefault();
    attempt(async () => {
      await post("/login", { token: token.value });
      start();
    });
  };
  put(place, h("h1", {}, "Sign in"), h("form", { class: "card", onsubmit: submit }, field("Token", token, "It stands in the file that the studio was started with."), h("p", {}, h("button", { type: "submit", class: "main" }, "Sign in"))));
  token.focus();
}

async function start() {
  try {
    await refresh();
  } catch (error) {
    if (error.status === 401) return signIn();
    put(place, h("h1", {}, "The studio does not answer"), h("p", { class: "note bad", role: "alert" }, error.message));
    setTimeout(start, 3000);
    return;
  }
  follow();
  show();
}

start();
