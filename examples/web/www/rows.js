"use strict";
// The rows of a file that is not in memory: ask, fetch what is missing, ask again.

const FIRST_BYTES = 16384; // the header of GPT-2's file

const numbers = (n) => n.toLocaleString("en");
const counted = (n, what) => `${numbers(n)} ${what}${n === 1 ? "" : "s"}`;

async function answerOf(url, options) {
  try {
    return await fetch(url, options);
  } catch {
    throw new Error(
      `${url}: no answer. Is the address right, and does its server allow other pages to read it (CORS)?`,
    );
  }
}

/** A file of a server that serves byte ranges. */
class ServerFile {
  constructor(url) {
    this.name = url;
    this.requests = 0;
  }

  async range(start, end) {
    const stop = new AbortController();
    this.requests += 1;
    const answer = await answerOf(this.name, { headers: { Range: `bytes=${start}-${end - 1}` }, signal: stop.signal });
    if (answer.status !== 206) stop.abort(); // else the whole file comes
    if (answer.status === 404) throw new Error(`${this.name}: the server has no such file (status 404).`);
    if (answer.status === 200) {
      throw new Error(
        `${this.name}: the server sends whole files, no byte ranges. Use one that knows ranges, such as ` +
          "examples/web/serve, or download the file and drop it here.",
      );
    }
    if (answer.status !== 206) throw new Error(`${this.name}: the server answers with status ${answer.status}.`);
    const version = answer.headers.get("ETag"); // of another origin only if the server exposes it
    if (this.version && version && version !== this.version) {
      throw new Error(`${this.name}: the file has changed on the server. Fetch its rows again.`);
    }
    this.version ??= version;
    return answer;
  }

  async bytes(answer) {
    try {
      return new Uint8Array(await answer.arrayBuffer());
    } catch {
      throw new Error(`${this.name}: the server broke off in the middle of an answer. Fetch the rows again.`);
    }
  }

  async read(start, end) {
    return this.bytes(await this.range(start, end));
  }

  /** The length of the file and its first bytes, in one round. */
  async open() {
    this.requests += 1;
    const [head, first] = await Promise.all([answerOf(this.name, { method: "HEAD" }), this.range(0, FIRST_BYTES)]);
    const total = first.headers.get("Content-Range")?.split("/")[1];
    // Of another origin the length is the one header that every server lets a page read.
    const n_bytes = Number(total ?? head.headers.get("Content-Length"));
    if (!(n_bytes > 0)) throw new Error(`${this.name}: the server does not say how long the file is.`);
    return [n_bytes, await this.bytes(first)];
  }
}

/** A file of this machine that is too large to be read whole. */
class LocalFile {
  constructor(file) {
    this.file = file;
    this.name = file.name;
    this.requests = 0;
  }

  async read(start, end) {
    this.requests += 1;
    return new Uint8Array(await this.file.slice(start, end).arrayBuffer());
  }

  async open() {
    return [this.file.size, await this.read(0, Math.min(FIRST_BYTES, this.file.size))];
  }
}

/** The tables of such a file. */
class RemoteTables {
  static async open(file) {
    const [n_bytes, first] = await file.open();
    const remote = new RemoteTables();
    Object.assign(remote, { file, n_bytes, bytes: first.length, rounds: 1 });
    const expected = Math.min(FIRST_BYTES, n_bytes);
    if (first.length < expected) throw cutShort(file, first.length, expected);
    remote.rows = new wasm_bindgen.Remote(file.name, n_bytes);
    remote.rows.put(0, first);
    remote.dims = await remote.ask(() => remote.rows.open());
    return remote;
  }

  /** Repeats a question until nothing is missing. */
  async ask(question) {
    for (;;) {
      let answer, error;
      try {
        answer = question();
      } catch (e) {
        error = e;
      }
      const missing = pairs(this.rows.missing());
      if (!missing.length) {
        if (error) throw error;
        return answer;
      }
      this.rounds += 1;
      await Promise.all(
        missing.map(async ([start, end]) => {
          const bytes = await this.file.read(start, end);
          if (bytes.length !== end - start) throw cutShort(this.file, bytes.length, end - start);
          this.bytes += bytes.length;
          this.rows.put(start, bytes);
        }),
      );
    }
  }

  vectors(ids, positions) {
    return this.ask(() => this.rows.vectors(new Uint32Array(ids), new Uint32Array(positions)));
  }

  /** What was fetched so far. */
  get cost() {
    return { requests: this.file.requests, bytes: this.bytes, rounds: this.rounds };
  }
}

function cutShort(file, got, wanted) {
  return new Error(`${file.name}: ${numbers(got)} bytes came instead of ${numbers(wanted)}. The file was cut short.`);
}

function pairs(flat) {
  return Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i], flat[2 * i + 1]]);
}
