// Jobs as people see them: words, a bar, the loss curve.

import { ended, getText, post } from "./api.js";
import { attempt, button, h, number, percent, put, s, say, time } from "./dom.js";

const NAMES = { train: "Training", export: "Export", check: "Check of the photos", judge: "Judging photos", extend: "Learning more" };

const STATES = {
  waiting: "waits for its turn",
  running: "running",
  done: "done",
  failed: "failed",
  cancelled: "cancelled",
  lost: "lost: its process ended without a word",
};

export function jobName(job) {
  const of = job.wishes && (job.wishes.name || job.wishes.model);
  return (NAMES[job.kind] || job.kind) + (of ? ` ${of}` : "");
}

function share(job) {
  return job.state === "done" ? 1 : job.steps ? Math.min(1, (job.step || 0) / job.steps) : null;
}

/** One line for the head of the page. */
export function jobWords(job) {
  if (job.state === "waiting") return `${jobName(job)}: ${STATES.waiting}`;
  const done = share(job);
  const left = job.left === null || job.left === undefined ? "" : `, ${time(job.left)} left`;
  return `${jobName(job)}: ${job.stage || "starting"}${done === null ? "" : ` ${percent(done)}`}${left}`;
}

/** A loss curve as SVG: points [[step, loss]…], as far as the job has come. */
export function lossCurve(points) {
  const usable = points.filter(([, loss]) => Number.isFinite(loss));
  if (usable.length < 2) return h("p", { class: "quiet" }, "The loss curve appears when training has made some steps.");
  const [width, height, left, bottom] = [640, 160, 52, 24];
  const last = Math.max(...usable.map(([step]) => step), 1);
  const first = Math.min(...usable.map(([step]) => step));
  const high = Math.max(...usable.map(([, loss]) => loss));
  const low = Math.min(...usable.map(([, loss]) => loss), high - 1e-9);
  const x = (step) => left + ((step - first) / Math.max(last - first, 1)) * (width - left - 8);
  const y = (loss) => 8 + ((high - loss) / (high - low)) * (height - bottom - 16);
  const path = usable.map(([step, loss]) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(" ");
  const words = `Loss from ${number(usable[0][1])} to ${number(usable[usable.length - 1][1])} in ${last} steps; lower is better.`;
  return h(
    "figure",
    { class: "curve" },
    s(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words },
      s("line", { class: "axis", x1: left, y1: height - bottom, x2: width - 8, y2: height - bottom }),
      s("line", { class: "axis", x1: left, y1: 8, x2: left, y2: height - bottom }),
      s("text", { class: "tick", x: left - 6, y: y(high) + 8, "text-anchor": "end" }, number(high)),
      s("text", { class: "tick", x: left - 6, y: y(low), "text-anchor": "end" }, number(low)),
      s("text", { class: "tick", x: width - 8, y: height - 6, "text-anchor": "end" }, `step ${last}`),
      s("polyline", { class: "loss", points: path }),
    ),
    h("figcaption", {}, words),
  );
}

/** A card that follows one job: bar, time left, cancel, log. Call its update(job) at every event. */
export function jobCard(job, { curve = false } = {}) {
  const bar = h("progress", { max: 1, "aria-label": jobName(job) });
  const line = h("p", { class: "jobstate" });
  const live = h("p", { class: "hidden-text", role: "status", "aria-live": "polite" });
  const message = h("p", { class: "quiet" });
  const chart = h("div", {});
  const log = h("pre", { class: "log", hidden: true, tabindex: 0, "aria-label": "Log" });
  const cancel = button("Cancel", () =>
    attempt(async () => {
      await post(`/jobs/${encodeURIComponent(job.id)}/cancel`);
      say("The job is being stopped.");
    }, cancel),
  );
  const show = button("Show log", async () => {
    log.hidden = !log.hidden;
    show.textContent = log.hidden ? "Show log" : "Hide log";
    show.setAttribute("aria-expanded", String(!log.hidden));
    if (!log.hidden) await readLog();
  }, { "aria-expanded": "false", class: "plain" });
  const card = h(
    "section",
    { class: "card job", "aria-label": jobName(job) },
    h("h2", {}, jobName(job)),
    bar,
    line,
    live,
    message,
    chart,
    h("p", { class: "row" }, cancel, show),
    log,
  );
  let points = [];
  let spoken = "";
  let drawn = 0;

  async function readLog() {
    const text = await attempt(() => getText(`/jobs/${encodeURIComponent(job.id)}/log`));
    if (text !== undefined) {
      log.textContent = text || "Nothing is in the log yet.";
      log.scrollTop = log.scrollHeight;
    }
  }

  function update(next, history = null) {
    const changed = next.state !== job.state || next.stage !== job.stage;
    job = next;
    if (history) points = history;
    if (Number.isFinite(job.loss) && /^training/.test(job.stage) && (!points.length || points[points.length - 1][0] < job.step)) points.push([job.step, job.loss]);
    card.dataset.state = job.state;
    const done = share(job);
    if (done === null) bar.removeAttribute("value");
    else bar.value = done;
    bar.hidden = ended(job) && job.state !== "done";
    const parts = [STATES[job.state] || job.state];
    if (job.state === "running") {
      parts[0] = job.stage || "starting";
      if (job.steps) parts.push(`step ${job.step || 0} of ${job.steps}`);
      parts.push(`${time(job.seconds || 0)} so far`, job.left === null || job.left === undefined ? "time left not known yet" : `${time(job.left)} left`);
      if (Number.isFinite(job.loss)) parts.push(`loss ${number(job.loss)}`);
    } else if (ended(job) && job.seconds) parts.push(`after ${time(job.seconds)}`);
    line.textContent = parts.join(" · ");
    // Screen readers hear stages and tenths, not every step.
    const tenth = done === null ? "" : ` ${Math.floor(done * 10) * 10}%`;
    const words = `${jobName(job)}: ${job.state === "running" ? job.stage || "starting" : STATES[job.state]}${tenth}`;
    if (words !== spoken) live.textContent = spoken = words;
    message.textContent = job.state !== "done" && job.message && !job.message.startsWith(job.stage || "\0") && job.message !== job.state ? job.message : "";
    message.classList.toggle("bad", job.state === "failed");
    cancel.hidden = ended(job);
    if (curve && (points.length !== drawn || !drawn)) {
      drawn = points.length;
      put(chart, points.length > 1 || !ended(job) ? lossCurve(points) : "");
    }
    if (changed && !log.hidden) readLog();
  }

  update(job);
  return { card, update, id: job.id };
}
