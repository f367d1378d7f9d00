"use strict";
// Runs the tests of the page and writes what failed.

(async () => {
  check(await ready, `start: ${$("problem").textContent}`);
  if (await ready) {
    for (const [name, test] of Object.entries(tests)) {
      try {
        const n = failures.length;
        await test();
        failures.push(...failures.splice(n).map((failure) => `${name}: ${failure}`));
      } catch (error) {
        failures.push(`${name}: ${error.stack ?? error}`);
      }
    }
  }
  const output = (id, text) =>
    document.body.append(Object.assign(document.createElement("output"), { id, textContent: text }));
  output(
    "measured",
    `ready ${state.times.ready?.toFixed(0)} ms after the weights, a key ${state.median?.toFixed(1)} ms at 64 tokens, ` +
      `${(state.n_bytes / 1e6).toFixed(1)} MB with fresh tables`,
  );
  output("lines", lines.join("\n"));
  output("test", failures.length ? failures.join("\n") : "ok");
})();
