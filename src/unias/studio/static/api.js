// The studio's own server, and what is known of it: state, jobs, and the model that was chosen.

const BASE = "/studio/api";
const listeners = new Set();

/** What the page knows. `jobs` is by id. */
export const known = { state: null, jobs: new Map(), model: null, connected: true };

/** A request that was refused; the message is for people. */
export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function reason(response) {
  try {
    const body = await response.json();
    const error = body.error || body.detail;
    const text = typeof error === "string" ? error : JSON.stringify(error);
    return body.hint ? `${text} ${body.hint}` : text;
  } catch {
    return `The studio answered ${response.status} ${response.statusText}.`;
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(BASE + path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The studio does not answer. Is it still running?");
  }
  if (!response.ok) throw new Refused(response.status, await reason(response));
  return response;
}

export async function get(path, signal) {
  return (await ask(path, { signal, cache: "no-store" })).json();
}

export async function getText(path) {
  return (await ask(path, { cache: "no-store" })).text();
}

export async function post(path, body = {}) {
  const options = { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  return (await ask(path, options)).json();
}

export async function postForm(path, form) {
  return (await ask(path, { method: "POST", body: form })).json();
}

/** "?a=1&b=2" of what is given; empty values are left out. */
export function query(values) {
  const given = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

export function url(path, values = {}) {
  return BASE + path + query(values);
}

export function modelPath(name, rest = "") {
  return `/models/${encodeURIComponent(name)}${rest}`;
}

export function thumb(id, side = 160) {
  return url("/thumb", { id, side });
}

/** Call `heard` at every change; returns how to stop. */
export function listen(heard) {
  listeners.add(heard);
  return () => listeners.delete(heard);
}

function tell(what, detail = null) {
  for (const heard of [...listeners]) heard(what, detail);
}

function choose() {
  const names = known.state.models.map((model) => model.name);
  const wanted = [known.model, localStorage.getItem("unias-model"), known.state.chosen_model];
  known.model = wanted.find((name) => names.includes(name)) || names[names.length - 1] || null;
}

export function chooseModel(name) {
  known.model = name;
  localStorage.setItem("unias-model", name);
  tell("model", name);
}

export async function refresh() {
  known.state = await get("/state");
  known.jobs.clear();
  for (const job of known.state.jobs) known.jobs.set(job.id, job);
  choose();
  tell("state");
}

const ENDED = ["done", "failed", "cancelled", "lost"];

export function ended(job) {
  return ENDED.includes(job.state);
}

/** Jobs, the newest first. */
export function jobs(kind = null) {
  const found = [...known.jobs.values()].filter((job) => !kind || job.kind === kind);
  return found.sort((a, b) => (a.id < b.id ? 1 : -1)); // an id begins with its time
}

/** The job that runs, or the first that waits. */
export function current() {
  const alive = jobs().filter((job) => !ended(job));
  return alive.find((job) => job.state === "running") || alive[alive.length - 1] || null;
}

function take(job) {
  const before = known.jobs.get(job.id);
  known.jobs.set(job.id, job);
  tell("job", job);
  if (ended(job) && !(before && ended(before))) {
    refresh().then(() => tell("ended", job)).catch(() => {});
  }
}

/** Hear of jobs for as long as the page is open. The browser connects again by itself. */
export function follow() {
  const source = new EventSource(`${BASE}/events`);
  source.addEventListener("job", (event) => take(JSON.parse(event.data)));
  source.addEventListener("open", async () => {
    known.connected = true;
    tell("connected");
    await refresh().catch(() => {}); // a job may have ended between the first look and now
  });
  source.addEventListener("error", () => {
    known.connected = false;
    tell("connected");
    // A browser gives up where the answer was no stream (a server that is just starting, say): then we try again.
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, 3000);
  });
}

/** Start a job and know of it at once. */
export async function startJob(wishes) {
  const path = wishes.kind === "check" ? "/photos/check" : "/jobs";
  const job = await post(path, wishes);
  take(job);
  return job;
}

/** Note a job that another request started. */
export function noteJob(job) {
  take(job);
  return job;
}
