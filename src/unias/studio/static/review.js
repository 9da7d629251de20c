// Review: a person says of the borderline photos whether they are good; then the threshold is moved.

import { get, known, listen, modelPath, noteJob, post, query, url } from "./api.js";
import { attempt, button, count, empty, field, h, leaf, put, say } from "./dom.js";
import { facts, verdictWords } from "./inspect.js";
import { changes } from "./threshold.js";

export const TITLE = "Review";

let withMap = true; // kept between visits

/** A note without what it says of the command line's options. */
function plain(text) {
  return text.replace(/\s*\([^()]*--[^()]*\)/g, "");
}

export function show(body) {
  if (!known.model) {
    put(body, empty("No model yet", "Train one first; then its borderline photos can be reviewed.", "#train", "Go to Train"));
    return null;
  }
  const name = known.model;
  const product = h("select", { id: "review-product" }, h("option", { value: "" }, "All products"), known.state.products.map((text) => h("option", { value: text }, text)));
  const place = h("div", {});
  const price = h("div", { id: "review-price", role: "status" });
  const live = h("p", { class: "hidden-text", "aria-live": "polite" });
  let rows = [];
  let at = 0;

  async function load() {
    const found = await attempt(() => get(modelPath(name, `/review${query({ product: product.value })}`)));
    if (!found) return;
    rows = found;
    at = Math.max(0, rows.findIndex((row) => !row.label));
    draw();
  }

  const recalibrate = button("Recalibrate", () => attempt(async () => {
    const answer = await post(modelPath(name, "/recalibrate"), product.value ? { product: product.value } : {});
    const list = answer.products || [{ product: product.value, ...answer }];
    put(
      price,
      h("h2", {}, list.some((row) => row.before.cut !== row.after.cut) ? "The threshold was moved" : "The threshold stays where it was"),
      list.map((row) => h("section", { class: "card" }, h("h3", {}, row.product), changes(row.before, row.after), (row.notes || []).map((text) => h("p", { class: "note" }, plain(text))))),
      (answer.left_out || []).length > 0 && h("p", { class: "note" }, `${count(answer.left_out.length, "photo")} of an unknown product left out.`),
    );
    say("Recalibrated.");
    await load();
    price.scrollIntoView({ block: "nearest" });
  }, recalibrate), { id: "recalibrate", class: "main" });

  let marking = false; // the next photo is not there yet: a second key would say something of a photo nobody has seen

  async function mark(label) {
    const row = rows[at];
    if (!row || marking) return;
    marking = true;
    const done = await attempt(async () => (await post(modelPath(name, "/review"), { id: row.id, label }), true));
    marking = false;
    if (!done) return;
    row.label = label;
    live.textContent = `${leaf(row.id)}: ${label || "not reviewed"}`;
    if (label && rows[at] === row && at < rows.length - 1) at += 1;
    draw();
  }

  function draw() {
    const labelled = rows.filter((row) => row.label);
    if (!rows.length) {
      const judge = button("Judge the photos", () => attempt(async () => noteJob(await post(modelPath(name, "/judge"))), judge), { class: "main" });
      put(place, h("div", { class: "empty" }, h("h2", {}, "Nothing to review"), h("p", {}, "Photos of the test and new photos must be judged first."), h("p", {}, judge)));
      return;
    }
    const row = rows[at];
    const word = row.label ? `You said: ${row.label}` : "Not reviewed yet";
    put(
      place,
      h("p", { class: "quiet", id: "review-place" }, `${at + 1} of ${rows.length}, nearest to the threshold first. ${labelled.length} reviewed.`),
      h(
        "div",
        { class: "inspect" },
        h("div", { class: "seeing plainview" }, h("div", { class: "still" }, h("img", { src: url("/photo", { id: row.id }), alt: `Photo ${leaf(row.id)}`, class: "base" }), h("img", { src: url(modelPath(name, "/layer.png"), { id: row.id, layer: "map" }), alt: "", class: "over", id: "review-map", hidden: !withMap })), h("label", { class: "check" }, h("input", { type: "checkbox", checked: withMap, onchange: (event) => showMap(event.target.checked) }), " Map (m)")),
        h(
          "div",
          { class: "info" },
          h("p", { class: "verdict" }, h("span", { class: `badge ${row.ok ? "ok" : "defect"}` }, `model: ${verdictWords(row)}`)),
          h("p", { class: "name" }, leaf(row.id)),
          facts(row),
          h("p", { class: "big", id: "review-label" }, word),
          h("p", { class: "row" }, button("Good (g)", () => mark("good"), { class: "good", "aria-pressed": String(row.label === "good") }), button("Defect (d)", () => mark("defect"), { class: "bad", "aria-pressed": String(row.label === "defect") }), row.label && button("Take back", () => mark(null), { class: "plain" })),
          h("p", { class: "row" }, button("← Previous", () => move(-1), { disabled: at === 0 }), button("Next →", () => move(1), { disabled: at === rows.length - 1 }), h("a", { href: `#inspect?${new URLSearchParams({ id: row.id })}` }, "Inspect")),
        ),
      ),
    );
    recalibrate.disabled = false; // also with no verdict left: those that moved the threshold before are taken out of it then
  }
  function showMap(shown) {
    withMap = shown;
    draw();
  }
  function move(step) {
    at = Math.max(0, Math.min(rows.length - 1, at + step));
    draw();
  }
  function key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches("select, textarea, input:not([type=checkbox])")) return;
    const does = { g: () => mark("good"), d: () => mark("defect"), u: () => mark(null), m: () => showMap(!withMap), ArrowRight: () => move(1), ArrowLeft: () => move(-1) }[event.key];
    if (!does) return;
    event.preventDefault();
    if (!event.repeat || event.key.startsWith("Arrow")) does();
  }
  document.addEventListener("keydown", key);
  product.addEventListener("change", load);
  recalibrate.disabled = true;
  put(body, h("p", {}, "Look at each photo and say what it is. Then recalibrate: the threshold moves at once, without training."), h("p", { class: "quiet" }, "Good photos that you review join those that the threshold rests on. Review all photos of a stretch, not only the borderline ones: with those alone it comes out higher than it need be. A verdict that you take back counts no more after the next recalibration."), h("div", { class: "fields" }, field("Product", product)), place, live, h("p", { class: "row" }, recalibrate, h("span", { class: "quiet" }, "Keys: g good, d defect, u take back, m map, ← → previous and next.")), price);
  put(place, h("p", { class: "quiet", role: "status" }, "Reading the model …"));
  load();
  const stop = listen((what, detail) => {
    if (what === "ended" && detail.kind === "judge") load();
  });
  return () => {
    stop();
    document.removeEventListener("keydown", key);
  };
}
