"use strict";
// Tables of numbers as colours: blue below zero, red above, as strips or as a heat map.

const isDark = matchMedia("(prefers-color-scheme: dark)");
// Less than nothing, nothing, more than nothing.
const COLORS = {
  light: [
    [33, 102, 172],
    [255, 255, 255],
    [190, 30, 45],
  ],
  dark: [
    [96, 165, 250],
    [24, 28, 35],
    [255, 122, 100],
  ],
};

let colors = COLORS[isDark.matches ? "dark" : "light"];
isDark.addEventListener("change", () => {
  colors = COLORS[isDark.matches ? "dark" : "light"];
});

/** Writes the colour of x, -1 to 1, at pixel i. Roots show small numbers too. */
function paint(pixels, i, x) {
  const [below, zero, above] = colors,
    end = x < 0 ? below : above,
    share = Math.min(1, Math.sqrt(Math.abs(x)));
  for (let c = 0; c < 3; c++) pixels[4 * i + c] = zero[c] + (end[c] - zero[c]) * share;
  pixels[4 * i + 3] = 255;
}

/** Gives a canvas one pixel for each number; CSS stretches it. */
function paintAll(canvas, values, width, height, max) {
  Object.assign(canvas, { width, height });
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) paint(image.data, i, values[i] / max);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** The largest magnitude of those that are finite. */
function largest(values) {
  let max = 1e-9;
  for (const x of values) {
    const size = Math.abs(x);
    if (size > max && size < Infinity) max = size;
  }
  return max;
}

/** Gives a canvas a size in CSS pixels, and returns its context in these. */
function prepared(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.imageSmoothingEnabled = false;
  return context;
}

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);

/** Tells the cell under the pointer, or where the arrow keys led. `at` gives the cell of a point, `size` the number of
    rows and columns. */
function readable(canvas, output, at, size, text) {
  let cell = [0, 0];
  const tell = (to) => {
    if (!to) return;
    const [rows, columns] = size();
    cell = [Math.min(Math.max(to[0], 0), rows - 1), Math.min(Math.max(to[1], 0), columns - 1)];
    if (rows > 0 && columns > 0) output.textContent = text(...cell);
  };
  canvas.onpointermove = canvas.onpointerdown = (event) => tell(at(event.offsetX, event.offsetY));
  canvas.onkeydown = (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    tell([cell[0] + step[0], cell[1] + step[1]]);
  };
}

const KINDS = ["wte", "wpe", "sum"];

/** Strips of [3, T, C]: three for each token, all in one scale. */
class Strips {
  constructor(canvas, output) {
    this.canvas = canvas; // a pixel wide for each element; CSS stretches it
    this.labels = Object.assign(document.createElement("canvas"), { className: "labels" });
    this.labels.setAttribute("aria-hidden", "true");
    this.frame = Object.assign(document.createElement("div"), { className: "strips", hidden: true });
    canvas.replaceWith(this.frame);
    this.frame.append(this.labels, canvas);
    this.shown = { values: [], names: [], width: 0 };
    const [line, gap] = [8, 7];
    Object.assign(this, { line, step: 3 * line + gap });
    const size = () => [3 * this.shown.names.length, this.shown.width];
    const at = (x, y) => this.at(x, y);
    readable(canvas, output, at, size, (row, c) => this.text(row, c));
  }

  at(x, y) {
    const t = Math.floor(y / this.step),
      k = Math.floor((y % this.step) / this.line);
    const c = Math.floor((x / this.canvas.clientWidth) * this.shown.width);
    return t < this.shown.names.length && k < 3 ? [3 * t + k, c] : undefined;
  }

  text(row, c) {
    const { values, names, width } = this.shown,
      [t, k] = [Math.floor(row / 3), row % 3];
    const value = wasm_bindgen.decimal(values[(k * names.length + t) * width + c], 4);
    return `${KINDS[k]} of ${names[t]}, element ${c}: ${value}`;
  }

  draw(values, names, width) {
    this.shown = { values, names, width };
    this.frame.hidden = !names.length;
    const max = largest(values);
    if (names.length) {
      this.drawCells(max);
      this.drawLabels();
    }
    return max;
  }

  drawCells(max) {
    const { values, names, width } = this.shown,
      { line, step } = this,
      n = names.length,
      n_bytes = 4 * width;
    const image = new ImageData(width, n * step);
    for (let t = 0; t < n; t++) {
      for (let k = 0; k < 3; k++) {
        const first = (t * step + k * line) * width,
          from = (k * n + t) * width;
        for (let c = 0; c < width; c++) paint(image.data, first + c, values[from + c] / max);
        for (let y = 1; y < line - 1; y++)
          image.data.copyWithin(4 * first + y * n_bytes, 4 * first, 4 * first + n_bytes);
      }
    }
    Object.assign(this.canvas, { width, height: n * step });
    this.canvas.style.height = `${n * step}px`;
    this.canvas.getContext("2d").putImageData(image, 0, 0);
  }

  drawLabels() {
    const { names } = this.shown,
      { line, step } = this,
      width = this.frame.clientWidth < 500 ? 92 : 150;
    const context = prepared(this.labels, width, names.length * step);
    context.textBaseline = "middle";
    context.font = "12px ui-monospace, 'DejaVu Sans Mono', monospace";
    context.fillStyle = ink("--ink");
    const n_letters = width < 100 ? 8 : 15;
    names.forEach((name, t) => context.fillText(shortened(name, n_letters), 0, t * step + 1.5 * line));
    context.font = "8px system-ui, sans-serif";
    context.fillStyle = ink("--soft");
    for (let row = 0; row < 3 * names.length; row++) {
      context.fillText(KINDS[row % 3], width - 20, Math.floor(row / 3) * step + ((row % 3) + 0.55) * line);
    }
  }

  redraw() {
    const { values, names, width } = this.shown;
    this.draw(values, names, width);
  }
}

function shortened(text, n) {
  return text.length > n ? `${text.slice(0, n - 1)}…` : text;
}

/** A heat map of [rows, columns]. */
class HeatMap {
  constructor(canvas, output, text) {
    this.canvas = canvas;
    this.shown = { values: [], rows: 0, columns: 0 };
    const at = (x, y) => [
      Math.floor((y / canvas.clientHeight) * this.shown.rows),
      Math.floor((x / canvas.clientWidth) * this.shown.columns),
    ];
    const value = (row, column) => wasm_bindgen.decimal(this.shown.values[row * this.shown.columns + column], 4);
    readable(
      canvas,
      output,
      at,
      () => [this.shown.rows, this.shown.columns],
      (row, column) => text(row, column, value(row, column)),
    );
  }

  draw(values, rows, columns, max) {
    this.shown = { values, rows, columns, max };
    paintAll(this.canvas, values, columns, rows, max);
  }

  redraw() {
    const { values, rows, columns, max } = this.shown;
    if (rows) this.draw(values, rows, columns, max);
  }
}

/** Shows which colour is which number. */
function drawLegend(canvas, max) {
  const [n, width] = [101, 220],
    context = prepared(canvas, width, 26);
  const ramp = Float32Array.from({ length: n }, (_, i) => (2 * i) / (n - 1) - 1);
  context.drawImage(paintAll(document.createElement("canvas"), ramp, n, 1, 1), 0, 0, width, 10);
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = ink("--soft");
  context.textBaseline = "top";
  [
    [`−${wasm_bindgen.decimal(max, 1)}`, "left", 0],
    ["0", "center", width / 2],
    [wasm_bindgen.decimal(max, 1), "right", width],
  ].forEach(([text, align, x]) => {
    context.textAlign = align;
    context.fillText(text, x, 13);
  });
}
