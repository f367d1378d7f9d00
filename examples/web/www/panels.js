"use strict";
// The map, and what positions do.

const map = new WordMap($("map"), choose);
const waiting = new Map();
/** Does what need not keep up with the keys. */
function later(action) {
  clearTimeout(waiting.get(action));
  waiting.set(
    action,
    setTimeout(async () => {
      try {
        await action();
        report();
      } catch (error) {
        problem(error);
      }
    }, 150),
  );
}

function mapGroups() {
  const find = (word) => {
    try {
      const id = state.words.find(word);
      return tables().has(id) ? [id] : [];
    } catch {
      return []; // not one token of this tokenizer
    }
  };
  return wasm_bindgen.map_words().map((group) => group.split(",").flatMap(find));
}

function showMap() {
  state.groups ??= mapGroups();
  const colors = new Map(state.groups.flatMap((group, i) => group.map((id) => [id, GROUPS[i % GROUPS.length]])));
  const own = new Set([...state.ids, ...state.searched]);
  const others = [...own, ...state.near.map(([, id]) => id)].filter(
    (id) => !isUnseen(id) || state.searched.includes(id),
  );
  const ids = [...new Set([...colors.keys(), ...others])];
  const flat = timed("map", () => tables().flat(new Uint32Array(ids))),
    shares = flat.slice(2 * ids.length);
  $("shares").textContent =
    ` (${Array.from(shares, (x) => `${(100 * x).toFixed(0)} %`).join(" and ")} of the variance)`;
  const gray = ink("--soft");
  map.show(
    pairs(flat.slice(0, 2 * ids.length)).map(([x, y], i) => ({
      id: ids[i],
      text: state.words.text(ids[i]).trim() || visible(ids[i]),
      x,
      y,
      color: colors.get(ids[i]) ?? gray,
      isRinged: own.has(ids[i]),
    })),
  );
}

$("search").onsubmit = (event) => {
  event.preventDefault();
  const word = $("word").value.trim();
  try {
    if (!word) throw new Error("type a word to find");
    const id = state.words.find(word);
    if (!tables().has(id)) throw new Error(`"${word}" has no row in these tables`);
    state.searched.push(id);
    choose(id);
    showMap();
    map.find(id);
    $("found").textContent = isUnseen(id)
      ? `${visible(id)} was never, or hardly ever, met in training: its place means nothing.`
      : "";
  } catch (error) {
    $("found").textContent = `Not on the map: ${error.message}.`;
  }
};
$("zoom-in").onclick = () => map.zoom(STEP);
$("zoom-out").onclick = () => map.zoom(1 / STEP);
$("zoom-all").onclick = () => map.showAll();

// Positions

const place = (i) => state.shownPositions[i];
const wpeMap = new HeatMap(
  $("wpe"),
  $("position-cell"),
  (row, c, x) => `wpe at position ${place(row)}, element ${c}: ${x}`,
);
const alikeMap = new HeatMap(
  $("alike"),
  $("position-cell"),
  (row, c, x) => `cosine of positions ${place(row)} and ${place(c)}: ${x}`,
);
const twoPlaces = new Strips($("two-places"), $("place-cell"));

function showPositions() {
  const [, n_positions, width] = tables().dims();
  const n = Math.min(MAX_CELLS, n_positions);
  state.shownPositions = Array.from({ length: n }, (_, i) => Math.floor((i * n_positions) / n));
  for (const id of ["place-a", "place-b"]) {
    $(id).max = n_positions - 1;
    $(id).value = Math.min(Number($(id).value), n_positions - 1);
  }
  let found;
  try {
    found = tables().positions(new Uint32Array(state.shownPositions));
    $("position-cell").textContent =
      n < n_positions ? `Every ${Math.round(n_positions / n)}th of ${numbers(n_positions)} is shown.` : "";
    $("heat-maps").hidden = false;
  } catch (error) {
    $("heat-maps").hidden = true;
    $("position-cell").textContent = `Not here: ${error.message}.`;
    return;
  }
  const rows = found.slice(0, n * width),
    cosines = found.slice(n * width);
  wpeMap.draw(rows, n, width, largest(rows));
  alikeMap.draw(cosines, n, n, 1);
}

function cosine(values, from, to, width) {
  let [product, left, right] = [0, 0, 0];
  for (let c = 0; c < width; c++) {
    const [x, y] = [values[from * width + c], values[to * width + c]];
    product += x * y;
    left += x * x;
    right += y * y;
  }
  return product / Math.sqrt(left * right || 1);
}

/** The same token at two positions. */
function showPlaces() {
  const id = state.chosen,
    [, n_positions, width] = tables().dims();
  const places = ["place-a", "place-b"].map((field) =>
    Math.min(n_positions - 1, Math.max(0, Math.floor(Number($(field).value) || 0))),
  );
  if (id === undefined) return;
  const values = tables().vectors(new Uint32Array([id, id]), new Uint32Array(places));
  twoPlaces.draw(
    values,
    places.map((p) => `${p}: ${visible(id)}`),
    width,
  );
  const alike = (kind) => wasm_bindgen.decimal(cosine(values, 2 * kind, 2 * kind + 1, width), 2);
  $("places").textContent =
    `Cosine of the two rows of wte ${alike(0)} (one row), of wpe ${alike(1)}, of the sums ${alike(2)}.`;
}
$("place-a").oninput = $("place-b").oninput = () => attempt(showPlaces);
