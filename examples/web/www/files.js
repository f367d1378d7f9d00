"use strict";
// Where the tables come from: the model beside the page, dropped files, a server. Starts the page.

// Rows of a file that is elsewhere

const remoteStrips = new Strips($("remote-strips"), $("remote-cell"));
const remotes = new Map();

async function showRemote(file) {
  const known = remotes.get(file.name),
    start = performance.now();
  const before = known?.cost ?? { requests: 0, bytes: 0, rounds: 0 };
  const remote = known ?? (await RemoteTables.open(file));
  remotes.set(file.name, remote);
  const [vocab_size, n_positions, width] = remote.dims;
  const ids = state.all.filter((id) => id < vocab_size).slice(0, n_positions);
  if (!ids.length) throw new Error("Type a text first: its tokens are the rows to fetch.");
  const values = await remote.vectors(
    ids,
    ids.map((_, t) => t),
  );
  const [requests, bytes, rounds] = ["requests", "bytes", "rounds"].map((what) => remote.cost[what] - before[what]);
  state.fetched = { values, ids, width, requests, bytes, rounds, ms: performance.now() - start };
  remoteStrips.draw(values, ids.map(visible), width);
  $("fetched").textContent =
    `${numbers(vocab_size)} × ${numbers(width)}, ${numbers(n_positions)} positions. ` +
    `${numbers(bytes)} of ${numbers(remote.n_bytes)} bytes came, ` +
    `in ${counted(requests, "request")} and ${counted(rounds, "round")}.`;
}

async function fetchRows(file) {
  $("fetch").disabled = true;
  $("fetched").textContent = "fetching …";
  try {
    await showRemote(file);
  } catch (error) {
    remotes.delete(file.name);
    remoteStrips.frame.hidden = true;
    $("fetched").textContent = error.message ?? `${error}`;
  }
  $("fetch").disabled = false;
}

$("remote").onsubmit = (event) => {
  event.preventDefault();
  const url = new URL($("url").value, location.href).href;
  return fetchRows(remotes.get(url)?.file ?? new ServerFile(url));
};

// Checkpoints

async function openFiles(files) {
  const isText = (file) => /\.(json|txt|md)$/i.test(file.name);
  const named = (end) => files.find((file) => file.name.toLowerCase().endsWith(end))?.text();
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
  const [config, tokenizer] = await Promise.all([named("config.json"), named("tokenizer.json")]);
  const read = await Promise.all(weights.map(async (file) => [file.name, new Uint8Array(await file.arrayBuffer())]));
  const trained = new wasm_bindgen.Tables(filesOf(read), config);
  const inside = tokenizer ? undefined : trained.tokenizer_json();
  const words = new wasm_bindgen.Words(tokenizer ?? inside);
  const [vocab_size] = trained.dims();
  if (!tokenizer && !inside && !words.encode("a b").some((id) => id < vocab_size)) {
    throw new Error(
      `${weights[0].name}: its ${numbers(vocab_size)} rows are not for GPT-2's tokenizer. Drop its tokenizer.json too.`,
    );
  }
  const names = weights.map((file) => file.name).join(", ");
  const whose = tokenizer ? "the tokenizer.json" : inside ? "the tokenizer inside" : "GPT-2's tokenizer";
  show(`${names} with ${whose}`, words, { trained });
}

function filesOf(read) {
  const files = new wasm_bindgen.Files();
  for (const [name, bytes] of read) files.add(name, bytes);
  return files;
}

function show(name, words, models) {
  for (const old of Object.values(state.models)) old.free();
  Object.assign(state, { words, models, chosen: undefined, groups: undefined, searched: [] });
  state.unseen = new Set(timed("unseen", () => models.trained.unseen()));
  $("trained").checked = true;
  const [vocab_size, n_positions, width] = models.trained.dims();
  $("model").textContent =
    `${name}: ${numbers(vocab_size)} tokens, ${numbers(n_positions)} positions, ${numbers(width)} elements each`;
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
$("files").onchange = () => attempt(() => openFiles([...$("files").files]));
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
  const words = timed("tokenizer", () => new wasm_bindgen.Words());
  if (embedded) {
    const table = async (text) => new wasm_bindgen.Tables(filesOf([[embedded.name, await bytesOf(text)]]), undefined);
    const models = { trained: await table(embedded.trained), before: await table(embedded.before) };
    show(embedded.name, words, models);
  } else {
    const [weights, config] = await files;
    const came = performance.now();
    const trained = timed(
      "tables",
      () => new wasm_bindgen.Tables(filesOf([[`${folder}/model.safetensors`, new Uint8Array(weights)]]), config),
    );
    show(folder, words, { trained });
    state.times.ready = performance.now() - came;
    report();
  }
  $("text").oninput = () =>
    attempt(() => {
      update();
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
  document.head.append(Object.assign(document.createElement("script"), { src: "test.js" }));
}
