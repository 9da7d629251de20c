// Scores as bars, with a line that can be dragged. Plain SVG.

import { h, number, put, s } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP] = [720, 260, 16, 16, 28, 22];

/** {figure, move(cut, words)}: bars of held-out good, test good and defects; `dragged(score)` is called while the line is. */
export function histogram(scores, dragged) {
  const groups = [
    ["good", "held-out good", scores.good],
    ["test", "good, of the test", (scores.test_good || []).map((row) => row.score)],
    ["defect", "with a defect", (scores.defect || []).map((row) => row.score)],
  ].filter(([, , values]) => values.length);
  // A few far defects must not squeeze all else into one bar: what lies beyond is drawn at the edge.
  const good = scores.good;
  const low = Math.min(good[0], scores.cut);
  const top = Math.max(good[good.length - 1], scores.cut);
  const all = groups.flatMap(([, , values]) => values);
  const from = Math.min(low, ...all) - (top - low || 1) * 0.04;
  const to = Math.min(Math.max(...all, top), top + 1.5 * (top - low || Math.abs(top) || 1)) + (top - low || 1) * 0.06;
  const bins = Math.max(12, Math.min(48, Math.round(2 * Math.sqrt(all.length)) + 12));
  const x = (value) => LEFT + ((Math.min(Math.max(value, from), to) - from) / (to - from)) * (WIDTH - LEFT - RIGHT);
  const counts = groups.map(([, , values]) => {
    const found = new Array(bins).fill(0);
    for (const value of values) found[Math.min(bins - 1, Math.max(0, Math.floor(((value - from) / (to - from)) * bins)))] += 1;
    return found;
  });
  const highest = Math.max(...counts.flat(), 1);
  const step = (WIDTH - LEFT - RIGHT) / bins;
  const bars = groups.flatMap(([name], group) => counts[group].map((value, bin) => {
    const tall = (value / highest) * (HEIGHT - TOP - BOTTOM);
    const wide = (step - 2) / groups.length;
    return value ? s("rect", { class: `bar-${name}`, x: (LEFT + bin * step + 1 + group * wide).toFixed(2), y: (HEIGHT - BOTTOM - tall).toFixed(2), width: Math.max(wide, 1).toFixed(2), height: tall.toFixed(2) }) : null;
  }));
  const shade = s("rect", { class: "fails", x: 0, y: TOP, width: 0, height: HEIGHT - TOP - BOTTOM });
  const line = s("line", { class: "cut", y1: TOP - 4, y2: HEIGHT - BOTTOM });
  const grip = s("circle", { class: "grip", cy: TOP - 6, r: 9 });
  const label = s("text", { class: "tick", y: HEIGHT - BOTTOM + 20, x: WIDTH - RIGHT, "text-anchor": "end" }, "higher score = more unusual →");
  const svg = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "histogram", id: "histogram" }, shade, s("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }), bars, s("text", { class: "tick", x: LEFT, y: HEIGHT - BOTTOM + 20 }, number(from + (to - from) * 0.02)), label, line, grip);

  function at(event) {
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * WIDTH;
    return from + ((place - LEFT) / (WIDTH - LEFT - RIGHT)) * (to - from);
  }
  svg.addEventListener("pointerdown", (event) => {
    svg.setPointerCapture(event.pointerId);
    dragged(at(event));
  });
  svg.addEventListener("pointermove", (event) => {
    if (svg.hasPointerCapture(event.pointerId)) dragged(at(event));
  });

  function move(cut, words) {
    const place = x(cut);
    for (const [name, value] of [["x1", place], ["x2", place]]) line.setAttribute(name, value);
    grip.setAttribute("cx", place);
    shade.setAttribute("x", place);
    shade.setAttribute("width", Math.max(0, WIDTH - RIGHT - place));
    svg.setAttribute("aria-label", `Histogram of scores. ${words}`);
  }
  const beyond = all.filter((value) => value > to).length;
  const legend = h("ul", { class: "legend" });
  put(legend, groups.map(([name, text, values]) => h("li", { class: `key-${name}` }, `${values.length} ${text}`)), beyond > 0 && h("li", {}, `${beyond} beyond the right edge`));
  return { figure: h("figure", {}, svg, legend), move };
}
