// Inspect: one photo after the other, with what the model found in it.

import { get, known, listen, modelPath, noteJob, post, query, thumb, url } from "./api.js";
import { attempt, button, count, empty, field, h, leaf, number, percent, put, say, table } from "./dom.js";
import { kindWords } from "./photos.js";
import { viewer } from "./viewer.js";

export const TITLE = "Inspect";
const QUIET = 120; // milliseconds
const look = { opacity: 0.6, withMask: false, contours: true, level: "map", product: "", which: "all" }; // kept between visits

export function verdictWords(row) {
  return { ok: "good", defect: "defect", "unknown product": "unknown product" }[row.verdict] || (row.ok ? "good" : "defect");
}

function badge(row) {
  const kind = row.verdict === undefined && row.ok === undefined ? "none" : row.verdict === "unknown product" ? "unknown" : row.ok ? "ok" : "defect";
  return h("span", { class: `badge ${kind}` }, kind === "none" ? "not judged" : verdictWords(row));
}

/** What a photo's judgement says, as a list of words. */
export function facts(found) {
  const pairs = [
    ["Product", found.product || `none that the model knows (nearest: ${found.nearest})`],
    ["Score", `${number(found.pred_score)} (0.5 = the threshold)`],
    ["p-value", found.p_value === null || found.p_value === undefined ? "none" : `${number(found.p_value)}: ${percent(found.p_value)} of good parts look at least as unusual`],
    found.width && ["Size", `${found.width} × ${found.height} pixels`],
    found.smallest_defect && ["Smallest defect", `about ${found.smallest_defect.map((side) => Math.ceil(side)).join(" × ")} pixels of this photo can be seen`],
  ].filter(Boolean);
  return h("dl", { class: "facts" }, pairs.map(([term, text]) => [h("dt", {}, term), h("dd", {}, text)]));
}

export function show(body, values) {
  if (!known.model) {
    put(body, empty("No model yet", "Train one first; then photos can be inspected.", "#train", "Go to Train"));
    return null;
  }
  const name = known.model;
  const view = viewer();
  const list = h("ul", { class: "strip", "aria-label": "Photos", id: "strip" });
  const info = h("div", { class: "info", "aria-live": "polite", id: "info" });
  const place = h("p", { class: "quiet", id: "place" });
  const hint = h("div", {});
  const level = h("select", { id: "level" }, h("option", { value: "map" }, "All levels together"));
  const opacity = h("input", { type: "range", min: 0, max: 1, step: 0.05, value: look.opacity, id: "opacity" });
  const contours = h("input", { type: "checkbox", checked: look.contours, id: "show-contours" });
  const withMask = h("input", { type: "checkbox", checked: look.withMask, id: "show-mask" });
  const which = h("select", {}, [["all", "All"], ["failed", "Failed"], ["passed", "Passed"]].map(([value, text]) => h("option", { value }, text)));
  const product = h("select", {}, h("option", { value: "" }, "All products"), known.state.products.map((text) => h("option", { value: text }, text)));
  which.value = look.which;
  product.value = look.product;
  let rows = [];
  let at = 0;
  let asked = null;

  function restyle() {
    Object.assign(look, { opacity: Number(opacity.value), contours: contours.checked, withMask: withMask.checked });
    view.look(look);
  }
  for (const control of [opacity, contours, withMask]) control.addEventListener("input", restyle);
  level.addEventListener("change", () => {
    look.level = level.value;
    if (rows[at]) view.layer(url(modelPath(name, "/layer.png"), { id: rows[at].id, layer: level.value }));
  });
  for (const control of [which, product]) {
    control.addEventListener("change", () => {
      look.which = which.value;
      look.product = product.value;
      load();
    });
  }
  const judge = button("Judge them all", () => attempt(async () => {
    noteJob(await post(modelPath(name, "/judge")));
    say("The photos are being judged.");
  }, judge));

  async function load(wanted = null) {
    const before = wanted || (rows[at] && rows[at].id);
    const found = await attempt(() => Promise.all([get(modelPath(name, `/list${query({ product: look.product, which: look.which })}`)), get(modelPath(name, "/list")), get(`/photos/list${query({ product: look.product })}`)]));
    if (!found) return;
    const [judged, every, photos] = found;
    const seen = new Set(every.map((row) => row.id));
    const open = photos.filter((row) => row.kind !== "good" && row.width && !seen.has(row.id));
    rows = look.which === "all" ? [...judged, ...open.map(({ id, product: own, kind }) => ({ id, product: own, kind }))] : judged;
    put(hint, open.length > 0 && h("p", { class: "note row" }, `${count(open.length, "photo is", "photos are")} not judged yet. `, judge));
    put(list, rows.map((row, index) => h("li", {}, h("button", { type: "button", onclick: () => go(index), title: row.id }, h("img", { src: thumb(row.id, 96), alt: "", loading: "lazy", width: 72, height: 72 }), badge(row), h("span", { class: "name" }, leaf(row.id))))));
    const index = rows.findIndex((row) => row.id === before);
    if (rows.length) go(index < 0 ? 0 : index);
    else {
      view.clear();
      put(info, h("p", {}, "No photo fits. Drop photos for the test, or new ones, on the page Photos, or choose others above."));
      place.textContent = "";
    }
  }

  async function go(index, quick = false) {
    at = Math.max(0, Math.min(rows.length - 1, index));
    const row = rows[at];
    if (!row) return;
    [...list.children].forEach((item, number_) => item.firstChild.setAttribute("aria-current", String(number_ === at)));
    list.children[at].scrollIntoView({ block: "nearest", inline: "nearest" });
    place.textContent = `${at + 1} of ${rows.length}: ${row.id}`;
    if (asked) asked.abort();
    const mine = (asked = new AbortController());
    // While keys are held down photos fly past: only the one that stays is asked for, or the server would answer them all in turn.
    if (quick) await new Promise((done) => setTimeout(done, QUIET));
    if (mine.signal.aborted) return;
    let found;
    try {
      found = await get(modelPath(name, `/inspect${query({ id: row.id })}`), mine.signal);
    } catch (error) {
      if (error.name !== "AbortError") {
        view.clear();
        put(info, h("p", { class: "note bad" }, error.message));
      }
      return;
    }
    const words = `${leaf(row.id)}: ${verdictWords(found)}, ${count(found.regions.length, "region")}`;
    view.show({ photo: url("/photo", { id: row.id }), width: found.width, height: found.height, words, regions: found.regions, mask: found.regions.length ? url(modelPath(name, "/layer.png"), { id: row.id, layer: "mask" }) : null });
    const levels = (found.levels || []).map(String);
    put(level, h("option", { value: "map" }, "All levels together"), levels.map((text, order) => h("option", { value: text }, `Level ${text}${order === 0 ? " (coarse)" : order === levels.length - 1 ? " (fine)" : ""}`)));
    level.value = levels.includes(look.level) ? look.level : "map";
    view.layer(url(modelPath(name, "/layer.png"), { id: row.id, layer: level.value }));
    restyle();
    info.dataset.id = row.id;
    put(
      info,
      h("p", { class: "verdict" }, badge(found), row.kind && h("span", { class: "quiet" }, `filed as ${kindWords(row.kind)}`)),
      facts(found),
      h("h3", {}, found.regions.length ? `${count(found.regions.length, "region")} marked` : "Nothing is marked"),
      found.regions.length > 0 && h("div", { class: "regions", tabindex: 0, role: "group", "aria-label": "Regions" }, table(["Region", "Score", "Area, pixels"], found.regions.map((region, order) => [button(`Show ${order + 1}`, () => view.goTo(region.box), { class: "plain" }), number(region.score), String(Math.round(region.area))]))),
    );
  }

  function key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches("select, textarea, input:not([type=checkbox])")) return;
    if (event.target.closest(".regions") && /^Arrow(Up|Down)$/.test(event.key)) return; // it scrolls
    if (event.key === "ArrowRight" || event.key === "ArrowDown") go(at + 1, true);
    else if (event.key === "ArrowLeft" || event.key === "ArrowUp") go(at - 1, true);
    else return;
    event.preventDefault();
  }
  document.addEventListener("keydown", key);
  const controls = h(
    "div",
    { class: "controls" },
    field("Map opacity", opacity),
    field("Map", level),
    h("label", { class: "check" }, contours, " Contours"),
    h("label", { class: "check" }, withMask, " Mask"),
  );
  put(
    body,
    h("div", { class: "fields" }, field("Show", which), field("Product", product)),
    hint,
    h("div", { class: "inspect" }, h("div", { class: "seeing" }, view.element, controls, h("p", { class: "row" }, button("← Previous", () => go(at - 1)), button("Next →", () => go(at + 1)), place)), info),
    list,
    h("p", { class: "quiet" }, "Keys: ← → previous and next; wheel or + − zoom, drag to move, 0 whole photo, 1 full resolution."),
  );
  put(info, h("p", { class: "quiet" }, "Reading the model …"));
  load(values.id);
  const stop = listen((what, detail) => {
    if (what === "ended" && detail.kind === "judge") load();
  });
  return () => {
    stop();
    view.close();
    document.removeEventListener("keydown", key);
    if (asked) asked.abort();
  };
}
