// Photos: drop folders, see what was understood, take out what does not belong.

import { ended, get, jobs, listen, post, query, refresh, startJob, thumb } from "./api.js";
import { attempt, button, count, empty, field, h, leaf, put, say, table } from "./dom.js";
import { dropped, photosOf, picked, send } from "./drop.js";
import { jobCard } from "./jobs.js";

export const TITLE = "Photos";
const PAGE = 60; // thumbnails at a time

const KINDS = [
  ["", "As the folders say (good, test, kinds of defects)"],
  ["good", "Good parts, to learn from"],
  ["test_good", "Good parts, kept for a test"],
  ["defect", "Parts with a defect, for a test"],
  ["new", "New photos, only to be inspected"],
];

export function kindWords(kind) {
  return { good: "good", test_good: "good, for the test", new: "new" }[kind] || `defect: ${kind}`;
}

export function show(body) {
  const counts = h("div", {});
  const gallery = h("section", { "aria-label": "Photos of a kind" });
  const findings = h("section", { "aria-label": "Check of the photos" });
  put(body, taking(() => reload()), counts, findings, gallery);
  let card = null;

  async function reload() {
    const found = await attempt(() => get("/photos"));
    if (!found) return;
    put(counts, understood(found, (product, kind) => browse(gallery, product, kind, reload)));
    showCheck(found);
  }

  function showCheck(found) {
    const job = jobs("check")[0];
    const start = button("Check the photos", () => attempt(async () => {
      await startJob({ kind: "check" });
      if (found) showCheck(found);
    }, start));
    const enough = !found || found.products.length > 0;
    card = job && !ended(job) ? jobCard(job) : null;
    put(
      findings,
      enough && h("h2", {}, "Check"),
      enough && h("p", {}, "Looks for good photos that differ from the others, and for photos that are there twice."),
      card ? card.card : enough && h("p", {}, start),
      job && job.state === "done" && job.result && results(job.result, reload),
      job && job.state === "failed" && h("p", { class: "note bad" }, job.message),
    );
  }

  reload();
  return listen((what, detail) => {
    if (what === "job" && detail.kind === "check") {
      if (card && card.id === detail.id && !ended(detail)) card.update(detail);
      else showCheck(null);
    }
  });
}

/** The field that photos are dropped on, with what they are. */
function taking(done) {
  const folder = h("input", { type: "file", multiple: true, id: "pick-folder", class: "hidden-text", webkitdirectory: true, tabindex: -1, "aria-label": "Folder" });
  const files = h("input", { type: "file", multiple: true, id: "pick-files", class: "hidden-text", accept: "image/*,.tif,.tiff", tabindex: -1, "aria-label": "Files" });
  const kind = h("select", {}, KINDS.map(([value, text]) => h("option", { value }, text)));
  const product = h("input", { type: "text", autocomplete: "off" });
  const defect = h("input", { type: "text", value: "defect", autocomplete: "off" });
  const defectField = field("Name of the defect", defect);
  defectField.hidden = true;
  kind.addEventListener("change", () => (defectField.hidden = kind.value !== "defect"));
  const status = h("p", { role: "status", "aria-live": "polite" });
  const bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Photos sent" });
  const refused = h("div", {});
  const zone = h(
    "div",
    { class: "drop", id: "drop" },
    h("p", { class: "big" }, "Drop folders or photos here"),
    h("p", {}, button("Choose a folder", () => folder.click(), { class: "main" }), " ", button("Choose photos", () => files.click())),
    h("p", { class: "quiet" }, "Photos of good parts are enough. One folder for each product. They stay on this machine."),
    folder,
    files,
    bar,
    status,
  );
  let busy = false;

  async function take(found) {
    const photos = photosOf(found);
    if (busy) return say("Wait until the photos before are in.", true);
    if (!photos.length) return say(found.length ? "No photo among these files (PNG, JPEG, TIFF, BMP)." : "Nothing was dropped.", true);
    busy = true;
    bar.hidden = false;
    bar.value = 0;
    put(refused);
    status.textContent = `Sending ${count(photos.length, "photo")} …`;
    const fields = { product: product.value.trim(), kind: kind.value === "defect" ? defect.value.trim() || "defect" : kind.value };
    const sum = await attempt(() => send(photos, fields, (at, all) => {
      bar.value = at / all;
      status.textContent = `${at} of ${all} photos sent`;
    }));
    busy = false;
    bar.hidden = true;
    status.textContent = sum ? `${count(sum.taken, "photo")} taken in${sum.refused.length ? `, ${sum.refused.length} refused` : ""}.${whereTo(sum.ids)}` : "";
    if (sum && sum.failed) say(`${sum.failed} Drop the folder again: what is in already is not taken twice.`, true);
    if (sum && sum.refused.length) {
      put(refused, h("details", { open: true, class: "note bad" }, h("summary", {}, `${count(sum.refused.length, "file")} refused`), h("ul", {}, sum.refused.slice(0, 200).map((row) => h("li", {}, `${row.name}: ${row.why}`)))));
    }
    await refresh().catch(() => {});
    return done();
  }

  for (const input of [folder, files]) {
    input.addEventListener("change", () => {
      const found = picked(input);
      input.value = "";
      take(found);
    });
  }
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", async (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const found = await attempt(() => dropped(event.dataTransfer));
    if (found) take(found);
  });
  return h(
    "section",
    { "aria-label": "Take photos in" },
    zone,
    h("details", { class: "more" }, h("summary", {}, "What are these photos?"), h("div", { class: "fields" }, field("They are", kind), field("Product", product, "Leave empty to use the names of the folders."), defectField)),
    refused,
  );
}

/** " As: 20 good of screw, 3 with scratch of screw." of photos that were taken in. */
function whereTo(ids) {
  const counts = new Map();
  for (const id of new Set(ids)) {
    const [home, product, split, kind] = id.split("/");
    const word = home === "new" ? "new" : split === "ground_truth" ? `masks of ${product}` : kind === "good" ? `good of ${product}${split === "test" ? " for the test" : ""}` : `with the defect ${kind} of ${product}`;
    counts.set(word, (counts.get(word) || 0) + 1);
  }
  return counts.size ? ` As: ${[...counts].slice(0, 12).map(([word, number]) => `${number} ${word}`).join(", ")}${counts.size > 12 ? ", …" : ""}.` : "";
}

function understood(found, open) {
  const many = found.products.length > 0 || found.photos_new > 0;
  if (!many) return empty("No photos yet", "Drop a folder with photos of good parts above. Twenty or more for each product are a start; a hundred are better.");
  const cell = (product, kind, number) => (number ? button(String(number), () => open(product, kind), { class: "plain", "aria-label": `Show ${count(number, "photo")}: ${product} ${kindWords(kind)}` }) : "0");
  const rows = found.products.map((row) => [
    row.name,
    cell(row.name, "good", row.good),
    cell(row.name, "test_good", row.test_good),
    Object.keys(row.defects).length ? Object.entries(row.defects).map(([kind, number]) => h("div", {}, `${kind}: `, cell(row.name, kind, number))) : "0",
    row.sizes.slice(0, 3).map(([width, height, number]) => `${width} × ${height}${row.sizes.length > 1 ? ` (${number})` : ""}`).join(", ") + (row.sizes.length > 3 ? ", …" : ""),
  ]);
  const warnings = [...(found.warnings || []), ...found.products.flatMap((row) => row.warnings.map((text) => (text.startsWith(row.name) ? text : `${row.name}: ${text}`)))];
  return h(
    "section",
    { "aria-label": "What was understood" },
    h("h2", {}, "What is there"),
    rows.length > 0 && table(["Product", "Good", "Good for the test", "Defects for the test", "Size in pixels"], rows),
    found.photos_new > 0 && h("p", {}, "New photos, only to be inspected: ", cell("", "new", found.photos_new)),
    warnings.length > 0 && h("ul", { class: "note" }, warnings.map((text) => h("li", {}, text))),
    found.unreadable.length > 0 && h("details", { class: "note bad" }, h("summary", {}, `${count(found.unreadable.length, "file")} cannot be read`), h("ul", {}, found.unreadable.slice(0, 100).map((row) => h("li", {}, typeof row === "string" ? row : `${row.id || row.name}: ${row.why || ""}`)))),
    rows.length > 0 && h("p", {}, h("a", { class: "go", href: "#train" }, "Next: train")),
  );
}

/** Tiles with a box each to take them out or to move them. */
function tiles(rows, words, done) {
  const chosen = new Set();
  const remove = button("Take out", () => act((ids) => post("/photos/remove", { ids }), "taken out (kept in the folder removed)", remove), { disabled: true });
  const target = h("select", { "aria-label": "Move to" }, h("option", { value: "good" }, "good"), h("option", { value: "test_good" }, "good, for the test"), h("option", { value: "defect" }, "defect"), h("option", { value: "new" }, "new"));
  const whose = h("input", { type: "text", autocomplete: "off", "aria-label": "Product of new photos", placeholder: "product" });
  whose.hidden = rows.every((row) => row.product); // new photos are of none yet
  const move = button("Move", () => act(async (ids) => {
    const products = new Map();
    for (const id of ids) {
      const name = rows.find((row) => row.id === id).product || whose.value.trim();
      if (!name && target.value !== "new") throw new Error("Say of which product these photos are.");
      products.set(name, [...(products.get(name) || []), id]);
    }
    for (const [product, some] of products) await post("/photos/move", { ids: some, product, kind: target.value });
  }, "moved", move), { disabled: true });
  const number = h("span", { role: "status", class: "quiet" }, "None chosen");

  function changed() {
    remove.disabled = move.disabled = chosen.size === 0;
    number.textContent = chosen.size ? `${chosen.size} chosen` : "None chosen";
  }
  async function act(work, word, control) {
    const ids = [...chosen];
    if (await attempt(async () => (await work(ids), true), control)) {
      say(`${count(ids.length, "photo")} ${word}.`);
      await refresh().catch(() => {});
      done();
    }
  }
  const list = h("ul", { class: "tiles" });
  const more = button("Show more", () => add());
  let at = 0;
  function add() {
    for (const row of rows.slice(at, at + PAGE)) {
      const box = h("input", { type: "checkbox", onchange: () => {
        box.checked ? chosen.add(row.id) : chosen.delete(row.id);
        changed();
      } });
      list.append(h("li", {}, h("label", {}, h("img", { src: thumb(row.id), alt: "", loading: "lazy", width: 120, height: 120 }), h("span", { class: "name" }, box, " ", h("span", { title: row.id }, leaf(row.id))), words(row) && h("span", { class: "quiet" }, words(row)))));
    }
    at += PAGE;
    more.hidden = at >= rows.length;
  }
  add();
  return h("div", {}, list, h("p", {}, more), h("p", { class: "row bar" }, number, remove, h("span", { class: "row" }, move, " to ", target, whose)));
}

async function browse(place, product, kind, done) {
  const rows = await attempt(() => get(`/photos/list${query({ product, kind })}`));
  if (!rows) return;
  const again = () => {
    done();
    browse(place, product, kind, done);
  };
  const heading = h("h2", { tabindex: -1 }, `${product || "All products"}: ${kindWords(kind)}`);
  put(place, heading, rows.length ? tiles(rows.map((row) => ({ product, ...row })), (row) => (row.width ? `${row.width} × ${row.height}` : "cannot be read"), again) : h("p", {}, "No photos of this kind."), h("p", {}, button("Close", () => put(place), { class: "plain" })));
  heading.focus();
}

/** What a check found, as far as it is still there: photos may have been taken out or moved since. */
function results(result, done) {
  const box = h("div", { id: "findings" });
  const notes = [...(result.errors || []), ...(result.warnings || []), ...(result.note ? [result.note] : []), ...(result.few || []).map((name) => `${name}: too few good photos to say which differ`)];
  const named = [...new Set([...result.odd.map((row) => row.id), ...(result.duplicates || []).flat()])];

  async function fill() {
    const answer = named.length ? await attempt(() => post("/photos/present", { ids: named.slice(0, 10000) })) : { ids: [] };
    if (!answer) return;
    const here = new Set(answer.ids);
    const odd = result.odd.filter((row) => here.has(row.id));
    const twice = (result.duplicates || []).map((ids) => ids.filter((id) => here.has(id))).filter((ids) => ids.length > 1);
    const again = twice.flatMap((ids) => ids.slice(1).map((id) => ({ id, product: id.split("/")[1], why: `the same as ${leaf(ids[0])}` })));
    put(
      box,
      h("h3", {}, odd.length ? `${count(odd.length, "photo differs", "photos differ")} from the others` : result.compared === 0 ? "No photos were compared" : "No photo differs from the others"),
      odd.length > 0 && h("p", {}, "Look at them: take out a photo of a bad part or of another product. A good part may stay."),
      odd.length > 0 && tiles(odd, (row) => row.why, done),
      h("h3", {}, again.length ? `${count(again.length, "photo is", "photos are")} there twice` : "No photo is there twice"),
      again.length > 0 && tiles(again, (row) => row.why, done),
      notes.length > 0 && h("ul", { class: "note" }, notes.map((text) => h("li", {}, text))),
    );
  }
  fill();
  return box;
}
