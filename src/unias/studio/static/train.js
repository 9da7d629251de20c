// Train: a name, some minutes, start. The job is the server's: this page only looks at it.

import { chooseModel, ended, getText, jobs, known, listen, startJob } from "./api.js";
import { attempt, button, empty, field, h, put, say, table, time } from "./dom.js";
import { jobCard, jobName } from "./jobs.js";

export const TITLE = "Train";
const LOSS = /training\D*(\d+)(?:\/\d+)?.*?loss (\d[\d.e+-]*)/gim;

function freeName() {
  const taken = new Set([...known.state.models.map((model) => model.name), ...jobs("train").map((job) => job.wishes.name)]);
  let at = 1;
  while (taken.has(`model ${at}`)) at++;
  return `model ${at}`;
}

export function show(body) {
  const form = h("div", {});
  const present = h("div", {});
  const past = h("div", {});
  put(body, present, form, past);
  let card = null;

  /** `fresh`: a training has just ended. */
  function fill(fresh = false) {
    const open = jobs("train").filter((job) => !ended(job));
    const shown = open[open.length - 1] || jobs("train").find((job) => card && job.id === card.id) || jobs("train")[0];
    if (shown && (!card || card.id !== shown.id)) {
      card = jobCard(shown, { curve: true });
      put(present, card.card);
      const mine = card;
      // What was before the page was loaded stands in the log.
      getText(`/jobs/${encodeURIComponent(shown.id)}/log`).then((text) => {
        const points = [...text.matchAll(LOSS)].map((found) => [Number(found[1]), Number(found[2])]);
        if (card === mine && points.length) mine.update(known.jobs.get(shown.id), points);
      }).catch(() => {});
    }
    if (card && shown) card.update(known.jobs.get(card.id));
    after(fresh);
    history();
  }

  let next = null;
  function after(fresh) {
    const job = card && known.jobs.get(card.id);
    const done = job && job.state === "done";
    if (done && next !== job.id) {
      next = job.id;
      const name = (job.result && job.result.model) || job.wishes.name;
      if (fresh && known.state.models.some((model) => model.name === name) && known.model !== name) chooseModel(name);
      if (!card.card.querySelector("a.go")) card.card.append(h("p", {}, h("a", { class: "go", href: "#threshold" }, "Next: set the threshold")));
    }
  }

  function history() {
    const old = jobs("train").filter((job) => ended(job) && (!card || job.id !== card.id));
    put(past, old.length > 0 && h("h2", {}, "Before"), old.length > 0 && table(["Job", "State", "Took", ""], old.map((job) => [jobName(job), job.state, time(job.seconds), job.message || ""])));
  }

  put(form, known.state.products.length ? asking(() => fill()) : empty("No photos to learn from", "Drop photos of good parts first.", "#photos", "Go to Photos"));
  fill();
  return listen((what, detail) => {
    if (what === "ended" && detail.kind === "train") {
      next = null;
      fill(true);
    } else if ((what === "job" && detail.kind === "train") || what === "state") fill();
  });
}

function asking(done) {
  const name = h("input", { type: "text", value: freeName(), maxlength: 64, required: true, autocomplete: "off" });
  const minutes = h("input", { type: "number", value: "20", min: "0.1", max: "10080", step: "any", required: true });
  const alarms = h("input", { type: "number", value: "1", min: "0.1", max: "50", step: "any", required: true });
  const start = h("button", { type: "submit", class: "main" }, "Start training");
  return h(
    "form",
    {
      class: "card",
      onsubmit: (event) => {
        event.preventDefault();
        attempt(async () => {
          await startJob({ kind: "train", name: name.value.trim(), minutes: Number(minutes.value), preset: "small", false_alarms: Number(alarms.value) / 100 });
          say("The training stands in line; you may close this page.");
          name.value = freeName();
          done();
        }, start);
      },
    },
    h("h2", {}, "Train a model"),
    h("p", {}, `One model for all products: ${known.state.products.join(", ")}.`),
    h(
      "div",
      { class: "fields" },
      field("Name", name, "Letters, digits, space, dot, plus, dash."),
      field("Minutes", minutes, "More minutes find finer defects. 20 is a good start without a graphics card."),
      field("False alarms wished, %", alarms, "Of 100 good parts, so many may fail on average. A fifth of the good photos is held back for it: a promise of 1% takes 99 of them, so about 500 good photos a product; with fewer the rate that they allow is shown. It can be moved later."),
    ),
    h("p", { class: "row" }, start),
    h("p", { class: "quiet" }, "Some good photos are held back to set the threshold. Training goes on when this page is closed."),
  );
}
