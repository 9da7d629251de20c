// Threshold: the held-out good scores, and a line that is moved here, without asking the server.

import { get, known, listen, modelPath, noteJob, post, query } from "./api.js";
import { attempt, button, count, empty, field, h, number, percent, put, say, table } from "./dom.js";
import { histogram } from "./histogram.js";

export const TITLE = "Threshold";

export function show(body) {
  if (!known.model) {
    put(body, empty("No model yet", "Train one first; then the threshold can be moved here.", "#train", "Go to Train"));
    return null;
  }
  const name = known.model;
  const place = h("div", {});
  const select = h("select", { id: "threshold-product" });
  put(place, h("p", { class: "quiet", role: "status" }, "Reading the model …"));
  put(body, field("Product", select), place);
  let open = true;
  let shown = 0;

  async function load(applied = null) {
    const mine = ++shown;
    const scores = await attempt(() => get(modelPath(name, `/scores${query({ product: select.value })}`)));
    if (!scores || !open || mine !== shown) return;
    put(place, screen(name, scores, load, applied));
    if (applied) document.getElementById("threshold-slider")?.focus(); // the one that was moved is gone with the old screen
  }

  (async () => {
    const about = await attempt(() => get(modelPath(name)));
    if (!about || !open) return;
    put(select, about.products.map((row) => h("option", { value: row.name }, row.name)));
    select.addEventListener("change", () => load());
    await load();
  })();
  const stop = listen((what, detail) => {
    if (what === "ended" && ["judge", "train"].includes(detail.kind) && select.value) load();
  });
  return () => {
    open = false;
    stop();
  };
}

/** One product's. `again(applied)` reads it anew: all numbers come from the model, also after a threshold was set. */
function screen(name, scores, again, applied) {
  const n = scores.good.length;
  if (!n) {
    return h("div", {}, h("p", { class: "note" }, "No good photos of this product were held out, so nothing can be promised. Train with more good photos."), h("p", {}, `The cut now: ${number(scores.cut)}.`));
  }
  const first = Math.min(n, Math.max(1, scores.k || 1));
  let k = first;
  const cutAt = (rank) => (rank === first && Number.isFinite(scores.cut) ? scores.cut : scores.good[n - rank]);
  const words = h("p", { class: "big", id: "threshold-words", "aria-live": "polite" });
  const detail = h("p", { class: "quiet" });
  const misses = h("p", { id: "threshold-misses" });
  const price = h("div", { id: "threshold-price", role: "status" }, applied && [
    h("h3", {}, "Applied"),
    applied.after.k !== applied.wish && h("p", { class: "note", id: "threshold-kept" }, `Lower than you chose: ${count(scores.missed.length, "defect")} that people reviewed must fail too. Take those reviews back and recalibrate to move it further.`),
    changes(applied.before, applied.after),
  ]);
  const slider = h("input", { type: "range", min: "1", max: String(n), step: "1", value: String(first), id: "threshold-slider" });
  // To the right = a higher cut = a smaller rank.
  const rankOf = () => n + 1 - Number(slider.value);
  const apply = button("Apply", () => attempt(async () => {
    const wish = k;
    const answer = await post(modelPath(name, "/cut"), { product: scores.product, k: wish });
    say(answer.after.k === wish ? "The threshold is set." : "The threshold is set, lower than you chose.");
    await again({ ...answer, wish });
  }, apply), { class: "main", id: "threshold-apply" });
  const back = button("Back to the present one", () => move(first));
  const picture = histogram(scores, (value) => {
    // The line snaps to the nearest held-out score.
    let best = 1;
    for (let rank = 2; rank <= n; rank++) if (Math.abs(cutAt(rank) - value) < Math.abs(cutAt(best) - value)) best = rank;
    move(best);
  });

  function move(rank) {
    k = rank;
    slider.value = String(n + 1 - k);
    const cut = cutAt(k);
    const above = (list) => list.filter((score) => score > cut).length;
    const bound = scores.bounds[k - 1];
    words.textContent = `${above(scores.good)} of ${n} held-out good photos would fail; at most ${percent(bound)} of all good parts (95% sure).`;
    slider.setAttribute("aria-valuetext", words.textContent);
    const rate = scores.rates ? scores.rates[k - 1] : k / (n + 1);
    detail.textContent = `On average ${percent(rate)} of good parts; wished ${percent(scores.wished)}. Cut ${number(cut)}.` + (rate > scores.wished * 1.000001 && k === 1 && scores.missing > 0 ? ` For the wish ${count(scores.missing, "held-out good photo is", "held-out good photos are")} missing.` : "") + (scores.provisional ? " Provisional: it rests on few photos." : "");
    const bad = scores.defect || [];
    const tested = scores.test_good || [];
    misses.textContent = bad.length
      ? `Of ${count(bad.length, "photo")} with a defect, ${bad.length - above(bad.map((row) => row.score))} would be missed.` + (tested.length ? ` Of ${count(tested.length, "good test photo")}, ${above(tested.map((row) => row.score))} would fail.` : "")
      : scores.judged === false ? "No photo of the test is judged yet, so misses cannot be counted." : "No judged photo shows a defect of this product, so misses cannot be counted.";
    picture.move(cut, words.textContent);
    apply.disabled = k === first;
    back.hidden = k === first;
  }
  slider.addEventListener("input", () => move(rankOf()));
  move(first);
  const judge = button("Judge the test photos", () => attempt(async () => noteJob(await post(modelPath(name, "/judge"))), judge));
  return h(
    "div",
    {},
    h("section", { class: "card" }, words, detail, picture.figure, h("div", { class: "wide" }, field("Move the line", slider, "Left: more parts fail. Right: fewer parts fail. Arrow keys work too.")), misses, scores.judged === false && h("p", { class: "row" }, judge, h("span", { class: "quiet" }, "The photos of the test are not judged yet.")), h("p", { class: "row" }, apply, back)),
    price,
  );
}

/** Before and after, side by side. */
export function changes(before, after) {
  const words = {
    cut: ["Cut", number],
    k: ["Rank of the cut among held-out scores", String],
    promised: ["Good parts failed, on average", percent],
    bound95: ["Good parts failed, at most (95%)", percent],
    good_failed: ["Known good photos that fail", String],
    caught: ["Reviewed defects that are caught", String],
  };
  const rows = Object.entries(words).filter(([key]) => after[key] !== undefined && after[key] !== null);
  return table(["", "Before", "After"], rows.map(([key, [text, write]]) => [text, before[key] === undefined || before[key] === null ? "none" : write(before[key]), write(after[key])]));
}
