"use strict";
// A flat map of words that can be moved, zoomed and searched.

const GROUPS = ["#3b82c4", "#d9453d", "#2f9e51", "#9567bd", "#d97a00", "#1795a8"];
const RADIUS = 5,
  STEP = 1.4,
  LARGEST_ZOOM = 40;

function svg(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

class WordMap {
  /** `onChoose` is called with the token of a dot that is pressed. */
  constructor(element, onChoose) {
    this.element = element;
    this.onChoose = onChoose;
    this.points = [];
    this.showAll();
    const held = new Map(); // pointers that are down
    let dragged = 0; // pixels since one went down
    element.onpointerdown = (event) => {
      held.set(event.pointerId, event);
      dragged = 0;
    };
    element.onpointerup = element.onpointercancel = element.onpointerleave = (event) => held.delete(event.pointerId);
    element.onpointermove = (event) => {
      const before = held.get(event.pointerId);
      if (!before) return;
      const [other] = [...held.values()].filter((pointer) => pointer.pointerId !== event.pointerId);
      if (other) {
        // two fingers
        const far = (pointer) => Math.hypot(pointer.clientX - other.clientX, pointer.clientY - other.clientY);
        this.zoom(far(event) / Math.max(1, far(before)));
      } else {
        const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
        dragged += Math.abs(dx) + Math.abs(dy);
        this.move(dx, dy);
      }
      held.set(event.pointerId, event);
    };
    element.onclick = (event) => {
      const box = element.getBoundingClientRect(),
        id = this.at(event.clientX - box.left, event.clientY - box.top);
      if (id !== undefined && dragged < 2 * RADIUS) this.onChoose(id);
    };
    element.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const box = element.getBoundingClientRect();
        this.zoom(event.deltaY < 0 ? STEP : 1 / STEP, event.clientX - box.left, event.clientY - box.top);
      },
      { passive: false },
    );
    element.onkeydown = (event) => {
      const far = 40;
      const action = {
        ArrowLeft: () => this.move(far, 0),
        ArrowRight: () => this.move(-far, 0),
        ArrowUp: () => this.move(0, far),
        ArrowDown: () => this.move(0, -far),
        "+": () => this.zoom(STEP),
        "=": () => this.zoom(STEP),
        "-": () => this.zoom(1 / STEP),
        0: () => this.showAll(),
      }[event.key];
      if (!action) return;
      event.preventDefault();
      action();
    };
  }

  get size() {
    return [this.element.clientWidth || 1, this.element.clientHeight || 1];
  }

  /** `points`: { id, text, x, y, color, isRinged }. */
  show(points) {
    this.points = points;
    this.draw();
  }

  showAll() {
    Object.assign(this, { scale: 1, left: 0, top: 0 });
    this.draw();
  }

  move(dx, dy) {
    this.left += dx;
    this.top += dy;
    this.draw();
  }

  zoom(factor, x = this.size[0] / 2, y = this.size[1] / 2) {
    const scale = Math.min(LARGEST_ZOOM, Math.max(0.5, this.scale * factor)),
      by = scale / this.scale;
    this.left = x - (x - this.left) * by;
    this.top = y - (y - this.top) * by;
    this.scale = scale;
    this.draw();
  }

  /** The token of the dot at a pixel, or just beside it. */
  at(x, y) {
    const far = (point) => Math.hypot(this.pixel(point)[0] - x, this.pixel(point)[1] - y);
    const [first] = [...this.points].sort((left, right) => far(left) - far(right));
    return first && far(first) < 3 * RADIUS ? first.id : undefined;
  }

  /** Brings a token to the middle. */
  find(id) {
    this.found = id;
    const point = this.points.find((point) => point.id === id);
    if (!point) return;
    this.scale = Math.max(this.scale, 3);
    const [x, y] = this.pixel(point),
      [width, height] = this.size;
    this.move(width / 2 - x, height / 2 - y);
  }

  pixel(point) {
    const [width, height] = this.size,
      {
        x: [x0, x1],
        y: [y0, y1],
      } = this.extent,
      edge = 40;
    const on = (v, low, high, n) => edge + ((v - low) / (high - low || 1)) * (n - 2 * edge);
    return [on(point.x, x0, x1, width) * this.scale + this.left, on(point.y, y1, y0, height) * this.scale + this.top];
  }

  get extent() {
    const range = (values) => [Math.min(...values), Math.max(...values)];
    return { x: range(this.points.map((point) => point.x)), y: range(this.points.map((point) => point.y)) };
  }

  draw() {
    const [width, height] = this.size;
    const on = (v, n) => v > -RADIUS && v < n + RADIUS;
    const seen = this.points
      .map((point) => [point, ...this.pixel(point)])
      .filter(([, x, y]) => on(x, width) && on(y, height));
    const sizes = seen.flatMap(([{ text }]) => [Math.ceil(textWidth(text)) + 4, 14]);
    const dots = seen.flatMap(([, x, y]) => [Math.round(x), Math.round(y)]);
    const corners = seen.length
      ? pairs(wasm_bindgen.place_labels(new Int32Array(dots), RADIUS, new Int32Array(sizes), width, height))
      : [];
    const strong = ink("--ink");
    this.element.replaceChildren(
      ...seen.flatMap(([point, x, y], i) => {
        const ring =
          point.id === this.found
            ? { stroke: strong, "stroke-width": 4 }
            : point.isRinged
              ? { stroke: strong, "stroke-width": 2 }
              : {};
        const dot = svg("circle", { cx: x, cy: y, r: RADIUS, fill: point.color, ...ring });
        dot.append(Object.assign(svg("title", {}), { textContent: point.text }));
        const [left, top] = corners[i];
        if (Number.isNaN(left)) return [dot];
        const label = svg("text", { x: left + 2, y: top + 1, fill: strong });
        label.textContent = point.text;
        return [dot, label];
      }),
    );
  }
}

const measure = document.createElement("canvas").getContext("2d");
measure.font = "12px system-ui, 'DejaVu Sans', sans-serif";
const textWidth = (text) => measure.measureText(text).width;
