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

/** A canvas with one pixel a number. */
function picture(values, width, height, max) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) paint(image.data, i, values[i] / max);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function largest(values) {
  let max = 1e-9;
  for (const x of values) max = Math.max(max, Math.abs(x));
  return max;
}

/** Gives a canvas a height in CSS pixels, and returns its context in these and its width. */
function prepared(canvas, height) {
  const scale = window.devicePixelRatio || 1,
    width = canvas.clientWidth;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.imageSmoothingEnabled = false;
  return [context, width];
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
    this.canvas = canvas;
    this.shown = { values: [], names: [], width: 0 };
    const line = 8,
      gap = 7;
    Object.assign(this, { line, gap, step: 3 * line + gap });
    if (output)
      readable(
        canvas,
        output,
        (x, y) => this.at(x, y),
        () => [3 * this.shown.names.length, this.shown.width],
        (row, c) => this.text(row, c),
      );
  }

  get label() {
    return this.canvas.clientWidth < 500 ? 92 : 150;
  }

  at(x, y) {
    const { names, width } = this.shown,
      t = Math.floor(y / this.step),
      k = Math.floor((y % this.step) / this.line);
    const c = Math.floor(((x - this.label) / (this.canvas.clientWidth - this.label)) * width);
    return t < names.length && k < 3 && c >= 0 ? [3 * t + k, c] : undefined;
  }

  value(row, c) {
    const { values, names, width } = this.shown,
      t = Math.floor(row / 3),
      k = row % 3;
    return values[(k * names.length + t) * width + c];
  }

  text(row, c) {
    const t = Math.floor(row / 3);
    return `${KINDS[row % 3]} of ${this.shown.names[t]}, element ${c}: ${wasm_bindgen.decimal(this.value(row, c), 4)}`;
  }

  draw(values, names, width) {
    this.shown = { values, names, width };
    const n = names.length,
      max = largest(values),
      label = this.label;
    const [context, full] = prepared(this.canvas, Math.max(1, n * this.step - this.gap));
    if (!n) return max;
    context.drawImage(this.picture(max), 0, 0, width, n * this.step, label, 0, full - label, n * this.step);
    context.textBaseline = "middle";
    context.font = "12px ui-monospace, 'DejaVu Sans Mono', monospace";
    context.fillStyle = ink("--ink");
    names.forEach((name, t) =>
      context.fillText(shortened(name, label < 100 ? 8 : 15), 0, t * this.step + 1.5 * this.line),
    );
    context.font = "8px system-ui, sans-serif";
    context.fillStyle = ink("--soft");
    for (let row = 0; row < 3 * n; row++) {
      context.fillText(KINDS[row % 3], label - 20, Math.floor(row / 3) * this.step + ((row % 3) + 0.55) * this.line);
    }
    return max;
  }

  /** All strips, a pixel wide for each element, with the gaps between them. */
  picture(max) {
    const { values, names, width } = this.shown,
      n = names.length,
      { line, step } = this;
    const canvas = Object.assign(document.createElement("canvas"), { width, height: n * step });
    const image = new ImageData(width, n * step),
      n_bytes = 4 * width;
    for (let t = 0; t < n; t++) {
      for (let k = 0; k < 3; k++) {
        const first = (t * step + k * line) * width,
          from = (k * n + t) * width;
        for (let c = 0; c < width; c++) paint(image.data, first + c, values[from + c] / max);
        for (let y = 1; y < line - 1; y++)
          image.data.copyWithin(4 * first + y * n_bytes, 4 * first, 4 * first + n_bytes);
      }
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  redraw() {
    if (this.shown.width) this.draw(this.shown.values, this.shown.names, this.shown.width);
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
    const height = Math.min(300, this.canvas.clientWidth);
    const [context, width] = prepared(this.canvas, height);
    context.drawImage(picture(values, columns, rows, max), 0, 0, width, height);
  }

  redraw() {
    const { values, rows, columns, max } = this.shown;
    if (rows) this.draw(values, rows, columns, max);
  }
}

/** Shows which colour is which number. */
function drawLegend(canvas, max) {
  const [context, width] = prepared(canvas, 26),
    n = 101;
  const ramp = Float32Array.from({ length: n }, (_, i) => (2 * i) / (n - 1) - 1);
  context.drawImage(picture(ramp, n, 1, 1), 0, 0, width, 10);
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
