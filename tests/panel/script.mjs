// Tests of the panel's script that need no browser: `node --test tests/panel/script.mjs`.
import assert from "node:assert";
import { readFileSync } from "node:fs";
import test from "node:test";

const source = readFileSync(new URL("../../src/server/http/pages/assets/panel.js", import.meta.url), "utf8");
// The file's name doesn't say that it is a module.
const { Waiting, isOf, time, visible } = await import(`data:text/javascript,${encodeURIComponent(source)}`);

test("nothing that agents print acts on a page", () => {
  const cases = JSON.parse(readFileSync(new URL("visible.json", import.meta.url), "utf8"));
  for (const [text, expected] of cases) assert.equal(visible(text), expected);
  for (let c = 0; c < 0xffff; c += 1) {
    const acts = /[\p{Cc}\p{Bidi_Control}\p{Zl}\p{Zp}]/u;
    const character = String.fromCharCode(c);
    const kept = character === "\n" || character === "\t" || !acts.test(character);
    assert.equal(visible(character) === character, kept, c.toString(16));
  }
});

test("times are written as the server does", () => {
  assert.deepEqual(time(1767225600.25), ["2026-01-01T00:00:00.250Z", "2026-01-01 00:00:00.250 UTC"]);
  assert.deepEqual(time(1e300), ["", ""]);
});

test("a part has its kinds", () => {
  assert.deepEqual(["all", "output", "typed"].map((part) => isOf(part, "stderr")), [true, true, false]);
  assert.deepEqual(["all", "output", "typed"].map((part) => isOf(part, "result")), [true, false, true]);
});

test("a burst waits in no more room than a page has", () => {
  const waiting = new Waiting(500);
  for (let n = 1; n <= 100_000; n += 1) {
    waiting.add(n);
    assert.ok(waiting.lines.length <= 1000);
  }
  const lines = waiting.take();
  assert.deepEqual([lines.length, lines[0], lines.at(-1), waiting.take()], [500, 99_501, 100_000, []]);
});

test("the script never makes HTML of a text", () => {
  for (const sink of ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("]) {
    assert.ok(!source.includes(sink), sink);
  }
  assert.ok(source.split("\n").length < 300);
});
