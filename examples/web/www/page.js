"use strict";
// The page: what is typed and pressed, and what is shown for it.

const $ = (id) => document.getElementById(id);
const SEED = 123; // of the tables before training, as in `explore`
const N_LISTED = 8,
  MAX_CELLS = 128,
  MAX_CHIPS = 2000;
const LARGEST_WHOLE = 128e6; // bytes of a checkpoint that is read whole
const SHOWN_FIRST = 4;

const state = { words: undefined, models: {}, ids: [], chosen: undefined, unseen: new Set(), searched: [], times: {} };
const isBefore = () => $("before").checked;
const tables = () => (isBefore() && state.models.before) || state.models.trained;

// Texts

const SIGNS = { " ": "␣", "\n": "⏎", "\t": "⇥" };
/** Signs for what has no shape of its own: spaces, controls, marks that turn the direction of writing. */
const sign = (c) => SIGNS[c] ?? `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
const visible = (id) => state.words.text(id).replace(/[\p{Z}\p{Cc}\p{Cf}]/gu, sign) || "∅";
const isUnseen = (id) => tables() === state.models.trained && state.unseen.has(id);
const hue = (id) => Math.round((id * 137.508) % 360);

function problem(error) {
  $("problem").hidden = !error;
  $("problem").textContent = error ? `${error.message ?? error}` : "";
}

/** Runs an action; what goes wrong is a sentence on the page. */
async function attempt(action) {
  try {
    problem();
    return await action();
  } catch (error) {
    problem(error);
  }
}

function timed(name, action) {
  const start = performance.now(),
    result = action();
  state.times[name] = performance.now() - start;
  return result;
}

/** Gives a list as many children as there are items, and changes them rather than make new ones. */
function fill(parent, items, make, change) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  items.forEach((item, i) => change(parent.children[i] ?? parent.appendChild(make()), item, i));
}

// Text, tokens, vectors

const strips = new Strips($("strips"), $("cell"));

function update() {
  const start = performance.now();
  const [, n_positions, width] = tables().dims();
  let all = [];
  try {
    all = [...timed("encode", () => state.words.encode($("text").value))];
  } catch (error) {
    problem(error); // some vocabularies have no token for some bytes
  }
  const known = all.filter((id) => tables().has(id));
  state.all = all.slice(0, MAX_CHIPS);
  state.ids = known.slice(0, n_positions);
  $("count").textContent = `${numbers(all.length)}`;
  leftOut(all.length - known.length, known.length - state.ids.length, n_positions);
  timed("tokens", showTokens);
  showVectors(width);
  timed("next", showNext);
  if (!state.ids.includes(state.chosen)) choose(longest(state.ids));
  if ($("first").open) showRows();
  state.times.keystroke = performance.now() - start;
  later(showMap);
}

/** The longest token, of those that training met if there are any. */
function longest(ids) {
  const met = ids.filter((id) => !isUnseen(id)),
    length = (id) => state.words.text(id).length;
  return (met.length ? met : ids).reduce(
    (best, id) => (best === undefined || length(id) > length(best) ? id : best),
    undefined,
  );
}

function leftOut(n_unknown, n_beyond, n_positions) {
  const notes = [];
  if (n_unknown) notes.push(`Left out for want of a row in these tables: ${counted(n_unknown, "token")}.`);
  if (n_beyond)
    notes.push(
      `The model has ${counted(n_positions, "position")}. Left out at the end: ${counted(n_beyond, "token")}.`,
    );
  $("left-out").hidden = !notes.length;
  $("left-out").textContent = notes.join(" ");
}

function showTokens() {
  const make = () => {
    const chip = document.createElement("button");
    chip.append(document.createElement("span"), " ", document.createElement("small"));
    chip.type = "button";
    chip.onclick = () => choose(Number(chip.lastChild.textContent));
    return chip;
  };
  fill($("chips"), state.all, make, (chip, id) => {
    const kind = !tables().has(id) ? "none" : isUnseen(id) ? "unseen" : "";
    if (chip.className !== kind) chip.className = kind;
    if (chip.lastChild.textContent === `${id}`) return;
    chip.firstChild.textContent = visible(id);
    chip.lastChild.textContent = id;
    chip.style.setProperty("--hue", hue(id));
  });
  markChosen();
  $("unseen").hidden = !state.all.some(isUnseen);
}

function markChosen() {
  for (const chip of $("chips").children) {
    const pressed = chip.lastChild.textContent === `${state.chosen}`;
    if (chip.getAttribute("aria-pressed") !== `${pressed}`) chip.setAttribute("aria-pressed", pressed);
  }
}

function showVectors(width) {
  const { ids } = state,
    positions = ids.map((_, t) => t);
  state.values = timed("vectors", () =>
    ids.length ? tables().vectors(new Uint32Array(ids), new Uint32Array(positions)) : [],
  );
  $("width").textContent = numbers(width);
  const max = timed("draw", () => strips.draw(state.values, ids.map(visible), width));
  if (state.scale !== max) drawLegend($("legend"), max);
  state.scale = max;
}

/** The elements as text, in `embed`'s digits. */
function showRows() {
  const [, , width] = tables().dims(),
    n = state.ids.length,
    shown = Math.min(SHOWN_FIRST, width);
  const make = () => document.createElement("tr");
  fill($("rows"), state.ids, make, (row, id, t) => {
    const sum = state.values.slice((2 * n + t) * width, (2 * n + t) * width + shown);
    const cells = [t, id, state.words.quoted(id), ...Array.from(sum, (x) => wasm_bindgen.decimal(x, 4))];
    fill(
      row,
      cells,
      () => document.createElement("td"),
      (cell, text) => {
        cell.textContent = text;
      },
    );
  });
}

// Lists

function list(element, found, share, text) {
  const make = () => {
    const item = document.createElement("li");
    item.append(document.createElement("span"), document.createElement("b"));
    return item;
  };
  fill(element, found, make, (item, [value, id]) => {
    item.firstChild.textContent = visible(id);
    item.lastChild.textContent = text(value);
    item.dataset.id = id;
    item.className = isUnseen(id) ? "unseen" : "";
    item.style.setProperty("--share", `${Math.max(0, 100 * share(value))}%`);
  });
}

function choose(id) {
  state.chosen = id;
  markChosen();
  $("chosen").textContent = $("twice").textContent = id === undefined ? "…" : visible(id);
  state.near = id === undefined ? [] : timed("nearest", () => pairs(tables().nearest(id, N_LISTED)));
  list(
    $("nearest"),
    state.near,
    (cosine) => cosine,
    (cosine) => wasm_bindgen.decimal(cosine, 2),
  );
  showPlaces();
  later(showMap);
}

function showNext() {
  let found = [],
    reason = "";
  try {
    if (state.ids.length) found = pairs(tables().next(new Uint32Array(state.ids), N_LISTED));
  } catch (error) {
    reason = `Not here: ${error.message}.`;
  }
  $("no-next").hidden = !reason;
  $("no-next").textContent = reason;
  list(
    $("next"),
    found,
    (p) => p,
    (p) => `${wasm_bindgen.decimal(100 * p, 1)} %`,
  );
}
