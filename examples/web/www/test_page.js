"use strict";
// The page tests itself: it types, presses, searches, reads with the keys. `?test` in the address loads this file.

const failures = [];

function check(is_right, what) {
  if (!is_right) failures.push(what);
}

function same(found, expected, what) {
  check(
    JSON.stringify(found) === JSON.stringify(expected),
    `${what}: ${JSON.stringify(found)} instead of ${JSON.stringify(expected)}`,
  );
}

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(is_so, what) {
  for (let i = 0; i < 200 && !is_so(); i++) await wait(25);
  check(is_so(), `never: ${what}`);
}

function type(text) {
  $("text").value = text;
  $("text").dispatchEvent(new Event("input"));
}

const chips = () => [...$("chips").children];
const items = (list) =>
  [...$(list).children].map((item) => `${state.words.quoted(Number(item.dataset.id))} ${item.lastChild.textContent}`);
const press = (id) =>
  chips()
    .find((chip) => chip.lastChild.textContent === `${id}`)
    .click();

const SENTENCE = "Every effort moves you, one token at a time.";
const MOST_BYTES = 45e6; // of the wasm's memory, fresh tables included
const lines = []; // as `embed` and `explore` print them; .ci/web looks for them on their pages

const tests = {
  async "typing makes tokens and vectors"() {
    type(SENTENCE);
    same(state.ids, [6109, 3626, 6100, 345, 11, 530, 11241, 379, 257, 640, 13], "ids");
    same(
      chips()
        .map((chip) => chip.firstChild.textContent)
        .slice(0, 3),
      ["Every", "␣effort", "␣moves"],
      "tokens",
    );
    check(
      chips()[1].className === "unseen" && chips()[3].className === "" && !$("unseen").hidden,
      "marks of unseen tokens",
    );
    $("first").open = true;
    showRows();
    lines.push(...[...$("rows").children].map((row) => [...row.children].map((cell) => cell.textContent).join(" ")));
    check(lines[0] === '0 6109 "Every" 0.1562 -0.0909 0.2471 -0.4000', `rows: ${lines[0]}`);
    type("");
    same(
      [state.ids.length, chips().length, items("next").length, $("problem").hidden],
      [0, 0, 0, true],
      "an empty text",
    );
    type("🙂 ünï");
    check(chips().length > 3 && $("problem").hidden, "bytes that are no characters");
    type("\0x\u202e");
    check($("chips").textContent.startsWith("U+0000"), `what has no shape: ${$("chips").textContent}`);
    type("the ".repeat(200));
    same([state.ids.length, $("left-out").hidden], [128, false], "a text that is too long");
    check($("left-out").textContent.includes("128 positions"), $("left-out").textContent);
  },

  async "a cell tells its number"() {
    type(SENTENCE);
    const canvas = $("strips"),
      [, , width] = tables().dims();
    const x = (0.5 * canvas.clientWidth) / width;
    canvas.onpointermove({ offsetX: x, offsetY: 2.5 * strips.line });
    same($("cell").textContent, "sum of Every, element 0: 0.1562", "under the pointer");
    canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
    same($("cell").textContent, "sum of Every, element 1: -0.0909", "after an arrow key");
  },

  async "neighbours, before training and after"() {
    type("The king said to his father in Egypt");
    for (const word of ["king", "father", "Egypt", "said"]) {
      const id = state.words.find(word);
      for (const when of ["before", "trained"]) {
        $(when).click();
        press(id);
        lines.push(`${when === "before" ? "before" : "after"} ${items("nearest").slice(0, 6).join(" ")}`);
      }
    }
    check(lines.at(-1).startsWith('after " say" 0.66'), lines.at(-1));
    check(items("next").length === 8, "next tokens");
    $("before").click();
    check(!$("no-next").hidden && items("next").length === 0, "no prediction before training");
    $("trained").click();
    check($("no-next").hidden, "a prediction after it");
    const n_bytes = (state.n_bytes = memory.buffer.byteLength);
    check(n_bytes <= MOST_BYTES, `${numbers(n_bytes)} bytes of memory, more than ${numbers(MOST_BYTES)}`);
  },

  async "the map is searched, moved and zoomed"() {
    await until(() => $("map").querySelectorAll("circle").length > 50, "dots");
    const search = (word) => {
      $("word").value = word;
      $("search").onsubmit(new Event("submit"));
      return $("found").textContent;
    };
    same([search("Moses"), state.chosen], ["", state.words.find("Moses")], "Moses");
    const [x, y] = map.pixel(map.points.find((point) => point.id === state.chosen)),
      [width, height] = map.size;
    check(Math.hypot(x - width / 2, y - height / 2) < 1, "what is found is in the middle");
    check(search(" ").includes("type a word"), $("found").textContent);
    check(search("unbelievableness").includes("tokens"), $("found").textContent);
    check(search("software").includes("never"), $("found").textContent);
    const before = map.scale;
    $("map").dispatchEvent(new KeyboardEvent("keydown", { key: "+" }));
    check(map.scale > before, "plus zooms");
    $("zoom-all").click();
    same([map.scale, map.left], [1, 0], "all");
    $("map").onpointerdown({ pointerId: 1, clientX: 10, clientY: 10 });
    $("map").onpointermove({ pointerId: 1, clientX: 30, clientY: 10 });
    $("map").onpointerup({ pointerId: 1 });
    same(map.left, 20, "moved");
    map.showAll();
    const box = $("map").getBoundingClientRect(),
      [left, top] = map.pixel(map.points[3]);
    $("map").onpointerdown({ pointerId: 1, clientX: left, clientY: top });
    $("map").onpointerup({ pointerId: 1 });
    $("map").onclick({ clientX: box.left + left, clientY: box.top + top });
    check(state.chosen === map.at(left, top), "a dot that is pressed");
  },

  async "positions are read"() {
    $("alike").onpointermove({ offsetX: 1, offsetY: 1 });
    same($("position-cell").textContent, "cosine of positions 0 and 0: 1.0000", "a position and itself");
    $("place-b").value = 100;
    $("place-b").oninput();
    check(/wte 1\.00 .*wpe -?0\.\d\d, of the sums 0\.\d\d/.test($("places").textContent), $("places").textContent);
  },

  async "everything has a name"() {
    for (const element of document.querySelectorAll(
      "input, textarea, button, canvas:not([aria-hidden]), svg#map, fieldset",
    )) {
      const label = element.getAttribute("aria-label") ?? element.labels?.[0]?.textContent ?? element.textContent;
      check(label.trim().length > 0, `no name: ${element.outerHTML.slice(0, 80)}`);
    }
    check(document.querySelectorAll("ol:not([aria-label])").length === 0, "a list without a name");
    check(
      document.documentElement.scrollWidth <= innerWidth,
      `wider than the window: ${document.documentElement.scrollWidth}`,
    );
  },

  async "a key is answered in time"() {
    const words = "And God said unto Moses I am that I am and he went down to the land of the king "
      .repeat(4)
      .split(" ");
    const text = (n) => words.slice(0, n).join(" ");
    let n = 1;
    while (state.words.encode(text(n + 1)).length <= 64) n += 1;
    const took = [];
    for (let i = 0; i < 20; i++) {
      type(text(n - (i % 2)));
      took.push(state.times.keystroke);
    }
    took.sort((a, b) => a - b);
    state.median = took[10];
  },
};
