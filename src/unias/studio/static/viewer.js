// A photo at its full resolution with layers over it: wheel to zoom, drag to pan.

import { button, h, put, s } from "./dom.js";

const MOST = 32; // screen pixels a photo pixel
const STEP = 1.25;

/** {element, show({photo, width, height, layers, regions}), look({opacity, mask, contours}), goTo(box)}. */
export function viewer() {
  const photo = h("img", { alt: "", draggable: "false", class: "photo" });
  const map = h("img", { alt: "", draggable: "false", class: "layer", id: "layer-map" });
  const mask = h("img", { alt: "", draggable: "false", class: "layer", id: "layer-mask" });
  const lines = s("svg", { class: "contours", id: "contours", "aria-hidden": "true" });
  const stage = h("div", { class: "stage" }, photo, map, mask, lines);
  const frame = h("div", { class: "frame", tabindex: 0, id: "viewer", role: "img", "aria-label": "Photo" }, stage);
  const level = h("span", { class: "zoom", id: "zoom", role: "status" });
  let [width, height, scale, left, top, fitted] = [1, 1, 1, 0, 0, true];

  function fitScale() {
    return Math.min(frame.clientWidth / width, frame.clientHeight / height) || 1;
  }
  function draw() {
    stage.style.width = `${width}px`;
    stage.style.height = `${height}px`;
    stage.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
    stage.classList.toggle("pixels", scale >= 3);
    lines.style.strokeWidth = String(2 / scale); // as wide at every zoom
    level.textContent = `${Math.round(scale * 100)}%`;
  }
  function keepInside() {
    const [wide, tall] = [width * scale, height * scale];
    const hold = (at, room, size) => (size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, at)));
    left = hold(left, frame.clientWidth, wide);
    top = hold(top, frame.clientHeight, tall);
  }
  function zoom(factor, x = frame.clientWidth / 2, y = frame.clientHeight / 2) {
    const least = Math.min(fitScale(), 1);
    const next = Math.min(MOST, Math.max(least, scale * factor));
    left = x - ((x - left) / scale) * next;
    top = y - ((y - top) / scale) * next;
    scale = next;
    fitted = scale === least;
    keepInside();
    draw();
  }
  function fit() {
    scale = fitScale();
    fitted = true;
    keepInside();
    draw();
  }
  function full() {
    zoom(1 / scale);
  }

  frame.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = frame.getBoundingClientRect();
    zoom(Math.exp(-Math.max(-100, Math.min(100, event.deltaY)) * 0.0025), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  frame.addEventListener("pointerdown", (event) => {
    if (event.button === 0) frame.setPointerCapture(event.pointerId);
  });
  frame.addEventListener("pointermove", (event) => {
    if (!frame.hasPointerCapture(event.pointerId)) return;
    left += event.movementX;
    top += event.movementY;
    keepInside();
    draw();
  });
  frame.addEventListener("dblclick", () => (fitted ? full() : fit()));
  frame.addEventListener("keydown", (event) => {
    if (event.key === "+" || event.key === "=") zoom(STEP);
    else if (event.key === "-") zoom(1 / STEP);
    else if (event.key === "0") fit();
    else if (event.key === "1") full();
    else return;
    event.preventDefault();
  });
  const observer = new ResizeObserver(() => {
    if (fitted) fit();
    else {
      keepInside();
      draw();
    }
  });
  observer.observe(frame);

  function show(what) {
    [width, height] = [what.width, what.height];
    photo.src = what.photo;
    frame.setAttribute("aria-label", what.words);
    mask.src = what.mask || "";
    mask.hidden = !what.mask;
    lines.setAttribute("viewBox", `0 0 ${width} ${height}`);
    put(lines, (what.regions || []).map((region) => s("polygon", { points: region.contour.map((point) => point.join(",")).join(" ") })));
    fit();
  }
  const tools = h("div", { class: "row tools" }, button("−", () => zoom(1 / STEP), { "aria-label": "Zoom out" }), level, button("+", () => zoom(STEP), { "aria-label": "Zoom in" }), button("Fit", fit), button("100%", full));

  return {
    element: h("div", {}, frame, tools),
    frame,
    show,
    clear() {
      for (const image of [photo, map, mask]) image.removeAttribute("src");
      put(lines);
    },
    layer(src) {
      map.hidden = !src;
      if (src) map.src = src;
    },
    look({ opacity, withMask, contours }) {
      map.style.opacity = String(opacity);
      mask.style.opacity = withMask ? "0.6" : "0";
      lines.classList.toggle("off", !contours);
    },
    goTo([x, y, wide, tall]) {
      scale = Math.min(8, Math.max(fitScale(), 0.4 * Math.min(frame.clientWidth / Math.max(wide, 1), frame.clientHeight / Math.max(tall, 1))));
      left = frame.clientWidth / 2 - (x + wide / 2) * scale;
      top = frame.clientHeight / 2 - (y + tall / 2) * scale;
      fitted = false;
      keepInside();
      draw();
    },
    close() {
      observer.disconnect();
    },
  };
}
