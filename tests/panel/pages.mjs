// Checks the panel's pages in Chromium, over its DevTools protocol: `tests/panel/run`.
import assert from "node:assert";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";

const out = process.argv[2];
const file = (name) => readFileSync(join(out, "pages", name), "utf8");
const headers = JSON.parse(file("headers.json"));
const asset = (name) => readFileSync(new URL(`../../src/server/http/pages/assets/${name}`, import.meta.url), "utf8");
const axe = readFileSync(join(out, "node_modules/axe-core/axe.min.js"), "utf8");
/** Lines that a job sends while its page is open, and how many a page keeps. */
const LINES = 100_000;
const MOST = 500;
const HOSTILE = `<img src=x onerror="document.title='forged'">\u001b[31mred\u202e`;

// A server with the pages, and with a job that sends many lines and then ends.

const event = (row, kind, payload) =>
  `id: ${row}\nevent: ${kind}\ndata: ${JSON.stringify({ row, run: 1, number: row, ts: 1_767_225_600 + row / 1000, kind, payload })}\n\n`;
let ended = false;
let asked = 0;

async function stream(response) {
  response.writeHead(200, { "content-type": "text/event-stream" });
  for (let from = 1001; from <= 1000 + LINES; from += 1000) {
    let chunk = "";
    for (let row = from; row < from + 1000; row += 1) chunk += event(row, row % 50 ? "stdout" : "result", `line ${row}`);
    if (!response.write(chunk)) await new Promise((drained) => response.once("drain", drained));
  }
  response.write(event(1001 + LINES, "error", HOSTILE));
  ended = true;
  response.end("event: end\ndata: {}\n\n");
}

const server = createServer((request, response) => {
  const path = new URL(request.url, "http://localhost").pathname;
  const send = (type, body) => {
    response.writeHead(200, { ...headers, "content-type": `${type}; charset=utf-8` });
    response.end(body);
  };
  if (path === "/assets/panel.css") return send("text/css", asset("panel.css"));
  if (path === "/assets/panel.js") return send("text/javascript", asset("panel.js"));
  if (path.endsWith("/events")) {
    asked += 1;
    return void stream(response);
  }
  if (path.endsWith("/summary")) return send("text/html", file(ended ? "ended.html" : "running.html"));
  if (path === "/favicon.ico") return response.writeHead(204).end();
  return send("text/html", file(`${path.slice(1)}.html`));
});
await new Promise((listens) => server.listen(0, "127.0.0.1", listens));
const origin = `http://127.0.0.1:${server.address().port}`;

// A browser, by its DevTools protocol: JSON with a NUL after each message.

const profile = mkdtempSync(join(tmpdir(), "koco-panel-"));
const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe"];
const browser = spawn("chromium", [...flags, `--user-data-dir=${profile}`, "about:blank"], {
  stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
});
const [, , , input, output] = browser.stdio;
const calls = new Map();
const problems = [];
let id = 0;
let rest = "";
output.on("data", (data) => {
  const parts = (rest + data).split("\0");
  rest = parts.pop();
  for (const part of parts) {
    const message = JSON.parse(part);
    if (message.id) {
      const { resolve, reject } = calls.get(message.id);
      if (message.error) reject(new Error(JSON.stringify(message.error)));
      else resolve(message.result);
    }
    // What the policy or the script complains about.
    if (message.method === "Runtime.exceptionThrown") problems.push(message.params.exceptionDetails);
    if (message.method === "Log.entryAdded") problems.push(message.params.entry);
  }
});
const call = (method, params = {}, sessionId = undefined) =>
  new Promise((resolve, reject) => {
    id += 1;
    calls.set(id, { resolve, reject });
    input.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
  });

let session;
const page = (method, params) => call(method, params, session);
async function value(expression) {
  const { result, exceptionDetails } = await page("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
  assert.ok(!exceptionDetails, JSON.stringify(exceptionDetails));
  return result.value;
}
/** Waits until an expression holds in the page. */
async function until(expression) {
  for (const began = Date.now(); Date.now() - began < 120_000; ) {
    if (await value(expression)) return;
    await new Promise((wake) => setTimeout(wake, 100));
  }
  assert.fail(`${expression} never held: ${await value("document.body.innerText.slice(0, 2000)")}`);
}
async function open(path) {
  await page("Page.navigate", { url: `${origin}${path}` });
  await until(`location.pathname === ${JSON.stringify(path)} && document.readyState === "complete"`);
}

const LOOKS = [
  { name: "light", width: 1280, scheme: "light" },
  { name: "dark", width: 1280, scheme: "dark" },
  { name: "narrow", width: 400, scheme: "light" },
  { name: "narrow-dark", width: 400, scheme: "dark" },
];

async function look({ width, scheme }) {
  await page("Emulation.setDeviceMetricsOverride", { width, height: 900, deviceScaleFactor: 1, mobile: false });
  await page("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
}

async function check(path, { name }) {
  await value(axe);
  const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
  const options = JSON.stringify({ runOnly: { type: "tag", values: tags } });
  const found = await value(
    `axe.run(document, ${options}).then((r) => r.violations.map((v) => [v.id, v.help, v.nodes.map((n) => n.html + " " + n.failureSummary)]))`,
  );
  assert.deepEqual(found, [], `${path} ${name}`);
  const [shown, wide] = await value("[window.innerWidth, document.documentElement.scrollWidth]");
  assert.ok(wide <= shown, `${path} ${name}: ${wide} of ${shown} pixels`);
  const picture = await page("Page.captureScreenshot", { captureBeyondViewport: false });
  writeFileSync(join(out, "pictures", `${path.slice(1)}-${name}.png`), Buffer.from(picture.data, "base64"));
}

try {
  const { targetId } = await call("Target.createTarget", { url: "about:blank" });
  session = (await call("Target.attachToTarget", { targetId, flatten: true })).sessionId;
  for (const domain of ["Page", "Runtime", "Log"]) await page(`${domain}.enable`);

  for (const path of ["/jobs", "/none", "/ended", "/sign-in", "/refused", "/forbidden"]) {
    for (const one of LOOKS) {
      await look(one);
      await open(path);
      await check(path, one);
    }
  }

  // Without the script, all is there but for what is live.
  await page("Emulation.setScriptExecutionDisabled", { value: true });
  await open("/running");
  assert.equal(await value(`document.querySelector("#live").textContent`), "Reload the page for newer events.");
  assert.equal(await value(`document.querySelector("#hold").hidden`), true);
  assert.equal(asked, 0);
  await page("Emulation.setScriptExecutionDisabled", { value: false });

  // A hundred thousand lines come, and the page stays as large as it is.
  await look(LOOKS[0]);
  await open("/running");
  await until(`document.querySelectorAll(".lines li").length === ${MOST}`);
  await until(`document.querySelector("#event-${1001 + LINES}")`);
  assert.equal(await value(`document.querySelectorAll(".lines li").length`), MOST);
  const last = `document.querySelector("#event-${1001 + LINES} .text")`;
  assert.equal(await value(`${last}.textContent`), HOSTILE.replace("\u001b[31m", "").replace("\u202e", "\\u{202e}"));
  assert.equal(await value(`${last}.children.length`), 0);
  assert.notEqual(await value("document.title"), "forged");
  const first = await value(`document.querySelector(".lines li").id.slice(6)`);
  assert.ok((await value(`document.querySelector("#older").href`)).endsWith(`before=${first}#events`));
  // Its end comes without a reload.
  await until(`document.querySelector("#overview").dataset.phase === "Succeeded"`);
  assert.ok(await value(`document.querySelector("#hold").hidden`));
  for (const one of LOOKS) {
    await look(one);
    await value(`document.querySelector("#events").scrollIntoView()`);
    await check("/running", one);
  }
  assert.equal(asked, 1, "the end is no reason to ask again");
  assert.deepEqual(problems, []);
  console.log(`the pages are in order; their pictures are in ${join(out, "pictures")}`);
} finally {
  server.closeAllConnections();
  server.close();
  if (browser.exitCode === null && browser.signalCode === null) {
    // Asked to end, it ends its processes first. Killed, it leaves them, and they write into the profile for a moment more.
    const gone = new Promise((exits) => browser.once("exit", exits));
    const late = setTimeout(() => browser.kill("SIGKILL"), 10_000);
    call("Browser.close").catch(() => {});
    await gone;
    clearTimeout(late);
  }
  rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
}
