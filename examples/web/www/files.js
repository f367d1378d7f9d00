"use strict";
// Where the tables come from: the model beside the page, dropped files, a server. Starts the page.

// Rows of a file that is elsewhere

const remoteStrips = new Strips($("remote-strips"), $("remote-cell"));
const servers = new Map(); // files by their addresses
const remotes = new WeakMap(); // tables by their files
let shownFile; // whose rows were asked for last

async function showRemote(file) {
  const known = remotes.get(file),
    start = performance.now();
  const before = known?.cost ?? { requests: 0, bytes: 0, rounds: 0 };
  const remote = known ?? (await RemoteTables.open(file));
  const [vocab_size, n_positions, width] = remote.dims;
  const ids = state.all.filter((id) => id < vocab_size).slice(0, n_positions);
  if (!ids.length) throw new Error("Type a text first: its tokens are the rows to fetch.");
  const values = await remote.vectors(
    ids,
    ids.map((_, t) => t),
  );
  if (file !== shownFile) return;
  remotes.set(file, remote);
  const [requests, bytes, rounds] = ["requests", "bytes", "rounds"].map((what) => remote.cost[what] - before[what]);
  state.fetched = { values, ids, width, requests, bytes, rounds, ms: performance.now() - start };
  remoteStrips.draw(values, ids.map(visible), width);
  $("fetched").textContent =
    `${file.name}: ${numbers(vocab_size)} × ${numbers(width)}, ${counted(n_positions, "position")}. ` +
    `${numbers(bytes)} of ${numbers(remote.n_bytes)} bytes came, ` +
    `in ${counted(requests, "request")} and ${counted(rounds, "round")}.`;
}

/** Shows rows of a file, unless those of another are asked for before they have come. */
async function fetchRows(file) {
  shownFile = file;
  $("fetched").textContent = "fetching …";
  try {
    await showRemote(file);
  } catch (error) {
    remotes.delete(file);
    servers.delete(file.name);
    if (file !== shownFile) return;
    remoteStrips.frame.hidden = true;
    $("fetched").textContent = error.message ?? `${error}`;
  }
}

/** Rows from the disk follow the text; a server is asked for rows by the button alone. */
function followText() {
  if (shownFile instanceof LocalFile) return fetchRows(shownFile);
}

function absolute(address) {
  try {
    return new URL(address, location.href).href;
  } catch {
    return address; // what is wrong with it will be told where it is fetched
  }
}

$("remote").onsubmit = (event) => {
  event.preventDefault();
  const url = absolute($("url").value);
  if (!servers.has(url)) servers.set(url, new ServerFile(url));
  return fetchRows(servers.get(url));
};

// Checkpoints

let opening = 0; // how many times files were opened: only the last ones are shown

async function openFiles(files) {
  opening += 1;
  const turn = opening;
  const isText = (file) => /\.(json|txt|md|bpe|model|tiktoken|jinja)$/i.test(file.name);
  const weights = files.filter((file) => !isText(file));
  if (!weights.length)
    throw new Error("No weights among these files: drop a .safetensors, .gguf, .pth, .bin or .npz file.");
  const n_bytes = weights.reduce((sum, file) => sum + file.size, 0);
  if (n_bytes > LARGEST_WHOLE) {
    if (weights.length > 1)
      throw new Error(
        `${numbers(n_bytes)} bytes are too many to read whole: drop only the file that holds the input tables.`,
      );
    $("remote").scrollIntoView({ block: "center" });
    return fetchRows(new LocalFile(weights[0]));
  }
  const texts = await Promise.all(files.filter(isText).map(async (file) => [knownName(file.name), await file.text()]));
  const read = await Promise.all(weights.map(async (file) => [file.name, await wholeFile(file)]));
  if (turn !== opening) return;
  let words = wordsOf(texts),
    whose = words.is_gpt2 ? "GPT-2's tokenizer" : "the tokenizer beside it";
  const trained = tablesOf(read, Object.fromEntries(texts)["config.json"]);
  const names = weights.map((file) => file.name).join(", ");
  try {
    const inside = words.is_gpt2 && trained.tokenizer_json();
    if (inside) [words, whose] = [wordsOf([["tokenizer.json", inside]]), "the tokenizer inside"];
    words.check(trained.dims()[0]);
  } catch (error) {
    trained.free();
    throw new Error(`${names} and ${whose}: ${error.message}. Drop its own tokenizer.json too.`);
  }
  show(`${names} with ${whose}`, words, { trained });
}

/** The name of a model's file, also where more stands before it, as in `small-config.json`. */
function knownName(name) {
  const is = (known) => name.toLowerCase().endsWith(known) && !name.toLowerCase().endsWith(`_${known}`);
  return ["config.json", "tokenizer.json"].find(is) ?? name;
}

async function wholeFile(file) {
  try {
    return new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name}: the browser cannot read it. If it is a folder, drop the files in it.`);
  }
}

/** The tokenizer that these files hold, or else GPT-2's. */
function wordsOf(texts) {
  return new wasm_bindgen.Words(
    texts.map(([name]) => name),
    texts.map(([, text]) => text),
  );
}

/** The bytes of the files from which tables are being read. */
let held = [];
/** Called by the wasm. */
function heldBytes(at, start, end) {
  return held[at].subarray(start, end);
}

function tablesOf(read, config) {
  const files = new wasm_bindgen.Files();
  for (const [name, bytes] of read) files.add(name, bytes.length);
  held = read.map(([, bytes]) => bytes);
  try {
    return new wasm_bindgen.Tables(files, config);
  } finally {
    held = [];
  }
}

function show(name, words, models) {
  for (const old of Object.values(state.models)) old.free();
  Object.assign(state, { words, models, chosen: undefined, groups: undefined, searched: [] });
  state.unseen = new Set(timed("unseen", () => models.trained.unseen()));
  $("trained").checked = true;
  const [vocab_size, n_positions, width] = models.trained.dims();
  $("model").textContent =
    `${name}: ${counted(vocab_size, "token")}, ${counted(n_positions, "position")}, ${counted(width, "element")} each`;
  showAll();
}

function showAll() {
  update();
  if (state.chosen !== undefined) choose(state.chosen);
  showPositions();
  report();
}

$("when").onchange = () =>
  attempt(() => {
    if (isBefore()) state.models.before ??= timed("fresh", () => state.models.trained.fresh(SEED));
    showAll();
  });
$("files").onchange = () => {
  const files = [...$("files").files];
  $("files").value = ""; // else the same files cannot be chosen again
  return attempt(() => openFiles(files));
};
ondragover = (event) => {
  event.preventDefault();
  $("drop").hidden = false;
};
ondragleave = (event) => {
  $("drop").hidden = event.relatedTarget === null;
};
ondrop = (event) => {
  event.preventDefault();
  $("drop").hidden = true;
  if (!$("page").inert) return attempt(() => openFiles([...event.dataTransfer.files]));
};

// The start

let memory;
function report() {
  const shown = Object.entries(state.times)
    .map(([name, ms]) => `${name} ${ms.toFixed(1)}`)
    .join(", ");
  $("times").textContent =
    `Milliseconds: ${shown}. Memory of the wasm: ${(memory.buffer.byteLength / 1e6).toFixed(1)} MB.`;
}

async function fetched(path) {
  const answer = await answerOf(path);
  if (!answer.ok)
    throw new Error(`${path}: the server answers with status ${answer.status}. Run examples/web/build again.`);
  return answer;
}

async function bytesOf(base64, isPacked) {
  const blob = await (await fetch(`data:;base64,${base64}`)).blob();
  const stream = isPacked ? blob.stream().pipeThrough(new DecompressionStream("gzip")) : blob.stream();
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function start() {
  if (typeof WebAssembly === "undefined") throw new Error("This browser has no WebAssembly, which the page needs.");
  if (typeof wasm_bindgen === "undefined") throw new Error("The page is not built: run examples/web/build.");
  const embedded = $("embedded") && JSON.parse($("embedded").textContent);
  if (!embedded && location.protocol === "file:") {
    throw new Error(
      "A page from the disk may read no other files: run examples/web/serve 8000 and open http://127.0.0.1:8000/.",
    );
  }
  // The weights are on their way while the tokenizer is made.
  const folder = "tiny-gpt2",
    files = embedded
      ? undefined
      : Promise.all([
          fetched(`${folder}/model.safetensors`).then((answer) => answer.arrayBuffer()),
          fetched(`${folder}/config.json`).then((answer) => answer.text()),
        ]);
  files?.catch(() => {}); // told where it is awaited
  const begin = performance.now();
  try {
    const module_or_path = embedded ? await bytesOf(embedded.wasm, true) : await fetched("pkg/web_bg.wasm");
    memory = (await wasm_bindgen({ module_or_path })).memory;
  } catch (error) {
    if (!(error instanceof WebAssembly.CompileError)) throw error;
    throw new Error(
      `This browser is too old: the page needs Chrome 91, Firefox 89, Safari 16.4 or newer (${error.message}).`,
    );
  }
  state.times.wasm = performance.now() - begin;
  const words = timed("tokenizer", () => wordsOf(Object.entries(embedded?.tokenizer ?? {})));
  if (embedded) {
    const table = async (text) => tablesOf([[embedded.name, await bytesOf(text)]]);
    const models = { trained: await table(embedded.trained), before: await table(embedded.before) };
    show(embedded.name, words, models);
  } else {
    const [weights, config] = await files;
    const came = performance.now();
    const trained = timed("tables", () => tablesOf([[`${folder}/model.safetensors`, new Uint8Array(weights)]], config));
    show(folder, words, { trained });
    state.times.ready = performance.now() - came;
    report();
  }
  $("text").oninput = () =>
    attempt(() => {
      update();
      later(followText);
    });
  $("first").ontoggle = () => attempt(showRows);
  for (const part of ["page", "model-choice"]) $(part).inert = false;
}

function redraw() {
  for (const drawing of [strips, twoPlaces, remoteStrips, wpeMap, alikeMap, map])
    (drawing.redraw ?? drawing.draw).call(drawing);
  if (state.scale) drawLegend($("legend"), state.scale);
}
isDark.onchange = redraw;
onresize = () => later(redraw);

const ready = attempt(async () => {
  await start();
  return true;
});
if (new URLSearchParams(location.search).has("test")) {
  for (const src of ["test_page.js", "test_files.js", "test.js"])
    document.head.append(Object.assign(document.createElement("script"), { src, async: false }));
}
