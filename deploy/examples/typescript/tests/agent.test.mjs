// The agent as koco runs it, with the fake model of the Python examples.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

const here = new URL("..", import.meta.url).pathname;
const fake = new URL("../../python/agents/fake_model.py", import.meta.url).pathname;
let model;
let address;

before(async () => {
  model = spawn("python3", [fake, "--port", "0"], { stdio: ["ignore", "pipe", "ignore"] });
  const [line] = await once(model.stdout, "data");
  address = String(line).trim();
});

after(async () => {
  model.kill();
  await once(model, "exit");
});

function start(inputs, env = {}) {
  const folder = mkdtempSync(join(tmpdir(), "koco-typescript-"));
  const file = (name) => join(folder, name);
  writeFileSync(file("inputs"), JSON.stringify(inputs));
  const child = spawn(process.execPath, [join(here, "dist/agent.js")], {
    env: {
      PATH: process.env.PATH,
      KODO_INPUTS_FILE: file("inputs"),
      KODO_RESULT_FILE: file("result"),
      KODO_ERROR_FILE: file("error"),
      KODO_PROGRESS_FILE: file("progress"),
      OPENAI_BASE_URL: address,
      ...env,
    },
    stdio: "ignore",
  });
  const ended = once(child, "exit").then(([code]) => {
    const read = (name) => (existsSync(file(name)) ? JSON.parse(readFileSync(file(name), "utf8")) : undefined);
    const left = { code, result: read("result"), error: read("error"), progress: read("progress") };
    rmSync(folder, { recursive: true });
    return left;
  });
  return { child, ended };
}

test("it calls its tools, and reports what the model has used", async () => {
  const { code, result, error, progress } = await start({ city: "Bergen" }).ended;
  assert.deepEqual([code, error], [0, undefined]);
  assert.deepEqual(result, {
    answer: "In Bergen there will be rain. Take an umbrella.",
    tools: ["forecast", "clothing"],
  });
  assert.deepEqual(progress, { message: "answers", usage: { inputTokens: 3, outputTokens: 3 } });
});

test("wrong inputs are not tried again", async () => {
  const { code, error } = await start({}).ended;
  assert.equal(code, 1);
  assert.deepEqual(error, {
    type: "NonRetryableError",
    message: "inputs.city is missing, or no string",
    nonRetryable: true,
  });
});

test("SIGTERM ends it without a result or an error", async () => {
  const server = createServer(() => child.kill()); // and never answers
  await once(server.listen(0, "127.0.0.1"), "listening");
  const { child, ended } = start({ city: "Bergen" }, { OPENAI_BASE_URL: `http://127.0.0.1:${server.address().port}` });
  assert.deepEqual(await ended, { code: 143, result: undefined, error: undefined, progress: undefined });
  server.closeAllConnections();
  server.close();
});
