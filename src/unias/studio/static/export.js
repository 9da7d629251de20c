// Export: a model for other programs, made here and downloaded.

import { ended, get, jobs, known, listen, modelPath, startJob, url } from "./api.js";
import { attempt, bytes, empty, field, h, put, say, table } from "./dom.js";
import { jobCard } from "./jobs.js";

export const TITLE = "Export";

const FORMATS = [
  ["onnx", "ONNX: runs nearly everywhere"],
  ["openvino", "OpenVINO: fast on Intel processors"],
  ["torch", "PyTorch: one file, no Python code of UniAS needed"],
];

export function show(body) {
  if (!known.model) {
    put(body, empty("No model yet", "Train one first; then it can be exported.", "#train", "Go to Train"));
    return null;
  }
  const name = known.model;
  const format = h("select", { id: "format" }, FORMATS.map(([value, text]) => h("option", { value }, text)));
  const int8 = h("input", { type: "checkbox", id: "int8" });
  const note = h("p", { class: "quiet" });
  const start = h("button", { type: "submit", class: "main" }, "Export");
  const running = h("div", {});
  const made = h("div", {});
  let card = null;

  function allowed() {
    int8.disabled = format.value !== "openvino";
    if (int8.disabled) int8.checked = false;
    note.textContent = int8.disabled ? "8-bit numbers are for OpenVINO." : "8-bit numbers: smaller and faster; the threshold is set anew on its own scores.";
  }
  format.addEventListener("change", allowed);
  allowed();

  function follow() {
    const job = jobs("export")[0];
    if (!job) return;
    if (!card || card.id !== job.id) {
      card = jobCard(job);
      put(running, card.card);
    } else card.update(job);
  }
  async function list() {
    const found = await attempt(() => get("/exports"));
    if (!found) return;
    const link = (path, text) => h("a", { href: url(path), download: "", class: "go" }, text);
    put(
      made,
      h("h2", {}, "Ready to download"),
      table(["Name", "What it is", "Size", ""], [
        ...found.map((row) => [row.name, `${row.model}, ${row.to}${row.int8 ? ", 8-bit" : ""}`, bytes(row.bytes), link(`/exports/${encodeURIComponent(row.name)}/download`, "Download")]),
        [name, "the model itself, for unias predict and unias serve", "", link(modelPath(name, "/download"), "Download")],
      ]),
    );
  }
  put(
    body,
    h(
      "form",
      {
        class: "card",
        onsubmit: (event) => {
          event.preventDefault();
          attempt(async () => {
            await startJob({ kind: "export", model: name, to: format.value, int8: int8.checked });
            say("The export stands in line.");
          }, start);
        },
      },
      h("h2", {}, `Export ${name}`),
      h("div", { class: "fields" }, field("Format", format), h("label", { class: "check" }, int8, " 8-bit numbers (int8)")),
      note,
      h("p", { class: "row" }, start),
    ),
    running,
    made,
  );
  follow();
  list();
  return listen((what, detail) => {
    if (what === "job" && detail.kind === "export") follow();
    if (what === "job" && detail.kind === "export" && ended(detail)) list();
  });
}
