"use strict";
// The page tests itself: it drops files and fetches rows.

async function drop(files) {
  const data = new DataTransfer();
  files.forEach((file) => data.items.add(file));
  await window.ondrop(Object.assign(new Event("drop"), { dataTransfer: data }));
}

/** A file of tables with so many tokens. */
function tableOf(n_rows) {
  const header = { "wte.weight": { dtype: "F32", shape: [n_rows, 1], data_offsets: [0, 4 * n_rows] } };
  header["wpe.weight"] = { dtype: "F32", shape: [2, 1], data_offsets: [4 * n_rows, 4 * n_rows + 8] };
  const text = JSON.stringify(header).padEnd(256);
  return new File([new BigUint64Array([256n]), text, new Float32Array(n_rows + 2)], "rows.safetensors");
}

async function fetchFrom(url) {
  $("url").value = url;
  await $("remote").onsubmit(new Event("submit"));
  return $("fetched").textContent;
}

/** Runs an action with another `fetch`. */
async function withFetch(stub, action) {
  const own = window.fetch;
  window.fetch = stub;
  try {
    return await action();
  } finally {
    window.fetch = own;
  }
}

Object.assign(tests, {
  async "files are dropped"() {
    const bytes = await (await fetch("tiny-gpt2/model.safetensors")).arrayBuffer();
    const config = await (await fetch("tiny-gpt2/config.json")).text();
    type("In the beginning");
    const before = items("next");
    await drop([new File([bytes], "mine.safetensors"), new File([config], "config.json")]);
    check(
      $("model").textContent.startsWith("mine.safetensors with GPT-2's tokenizer: 50,257 tokens") &&
        $("problem").hidden,
      $("model").textContent,
    );
    same(items("next"), before, "the same model predicts the same");
    await Promise.all(["a", "b"].map((name) => drop([new File([bytes], `${name}.safetensors`)])));
    check($("model").textContent.startsWith("b.safetensors"), `the last of two: ${$("model").textContent}`);
    const folder = new File([], "folder");
    folder.arrayBuffer = () => Promise.reject(new DOMException("not found", "NotFoundError"));
    const pair = ["vocab.json", "merges.txt"].map((name, i) => new File([['{"a": 0}', "#version: 0.2\n"][i]], name));
    const refused = async (files) => {
      await drop(files);
      check(!$("problem").hidden, "no sentence");
      return $("problem").textContent;
    };
    for (const [files, expected] of [
      [[new File(["hello, no checkpoint"], "a.txt")], "No weights among these files"],
      [[new File(["hello, no checkpoint"], "a.bin")], "a.bin"],
      [[new File([bytes.slice(0, 100000)], "cut.safetensors")], "cut.safetensors"],
      [[new File([bytes], "x.safetensors"), new File(["{"], "config.json")], "configuration"],
      [[folder], "folder: the browser cannot read it"],
      [[new File([bytes], "x.safetensors"), pair[0]], "`merges.txt` is missing"],
      [[new File([bytes], "x.safetensors"), new File([], "tokenizer.model")], "SentencePiece"],
      [[tableOf(300)], "rows.safetensors and GPT-2's tokenizer: the tokenizer has ids up to 50256"],
    ]) {
      const text = await refused(files);
      check(text.includes(expected) && !text.includes("\n"), text);
    }
    check(state.ids.length === 3, "the old model stays");
    await drop([tableOf(1), ...pair]);
    check(state.ids.length === 0 && $("problem").textContent.includes("no token for"), "a byte without a token");
    type("aa");
    same([state.ids, $("problem").textContent], [[0, 0], ""], "a vocabulary of its own");
    await drop([new File([bytes], "mine.safetensors"), new File([config], "small-config.json")]);
  },

  async "rows are fetched"() {
    const url = "tiny-gpt2/model.safetensors";
    type("Every effort moves you");
    await fetchFrom(url);
    const bits = (values) => [...new Uint32Array(new Float32Array(values).buffer)].join();
    const local = () => tables().vectors(new Uint32Array(state.ids), new Uint32Array(state.ids.map((_, t) => t)));
    check(
      state.fetched && bits(state.fetched.values) === bits(local()),
      "rows of the server have the bits of those in memory",
    );
    same([state.fetched.rounds, state.fetched.bytes], [2, 16384 + 8 * 128], "the first fetch");
    type("Every effort moves you forward");
    await fetchFrom(url);
    check(bits(state.fetched.values) === bits(local()), "one more word");
    same([state.fetched.rounds, state.fetched.bytes], [1, 2 * 128], "one more word");
    await fetchFrom(url);
    same([state.fetched.rounds, state.fetched.requests], [0, 0], "the same again");
  },

  async "what cannot be fetched is a sentence"() {
    const answer = (status, body, headers) => async () => new Response(body, { status, headers });
    const bytes = new Uint8Array(await (await fetch("tiny-gpt2/model.safetensors")).arrayBuffer());
    const cut = async (_, { method, headers }) => {
      const [start, last] = /(\d+)-(\d+)/
        .exec(headers?.Range ?? "0-0")
        .slice(1)
        .map(Number);
      if (method === "HEAD") return new Response(null, { headers: { "Content-Length": bytes.length } });
      return new Response(bytes.slice(start, start ? last : last + 1), { status: 206 });
    };
    for (const [name, stub, expected] of [
      ["404", answer(404, ""), "no such file (status 404)"],
      ["500", answer(500, ""), "status 500"],
      ["200", answer(200, "whole"), "no byte ranges"],
      ["length", answer(206, "x"), "does not say how long"],
      ["cut", cut, "cut short"],
      [
        "broken",
        answer(206, new ReadableStream({ pull: (body) => body.error() }), { "Content-Range": "bytes 0-9/10" }),
        "broke off",
      ],
      [
        "none",
        async () => {
          throw new TypeError("Failed to fetch");
        },
        "no answer",
      ],
    ]) {
      const text = await withFetch(stub, () => fetchFrom(`stub-${name}`));
      check(text.includes(expected) && text.includes(`stub-${name}`), `${name}: ${text}`);
    }
    const text = await fetchFrom("style.css");
    check(text.includes("style.css") && !text.includes("\n"), `no checkpoint: ${text}`);
    check((await fetchFrom("no/such/file")).includes("status 404"), $("fetched").textContent);
    check((await fetchFrom("http://[")).includes("http://[: no answer"), $("fetched").textContent);
  },
});
