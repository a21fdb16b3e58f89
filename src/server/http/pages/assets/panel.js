// Keeps a job's page up to date: its events as the server sends them, and what became of it. Without it the page shows the
// same after a reload. What agents have written is only ever set as text.

/** How often lines are added, so that a burst costs one change of the page. */
const EVERY = 250;
/** How often the overview is asked for, and after how long a stream that was refused is. */
const REFRESH = 15_000;
const AGAIN = 5_000;
/** How much is shown of a line, as the server does it. */
const SHOWN = 16 * 1024;

/**
 * A text without what would act on the page: sequences that set a terminal's colours are removed, other controls are
 * escaped. As `visible` of the server; both are held to tests/panel/visible.json.
 */
export function visible(text) {
  const sequence = /\x1b\[[0-?]*[ -/]*[@-~]/g;
  const acts = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
  const escaped = (c) => (c === "\r" ? "\\r" : `\\u{${c.charCodeAt(0).toString(16)}}`);
  return text.replace(sequence, "").replace(acts, escaped);
}

/** When an event was, as the server writes it. */
export function time(seconds) {
  const at = new Date(Math.floor(seconds * 1000));
  if (!Number.isFinite(at.getTime())) return ["", ""];
  const exact = at.toISOString();
  return [exact, `${exact.slice(0, -1).replace("T", " ")} UTC`];
}

/** Whether a part of the events has those of this kind. */
export function isOf(part, kind) {
  const output = kind === "stdout" || kind === "stderr";
  return part === "all" || output === (part === "output");
}

/** The lines that are to be added: the last so many, however many come. */
export class Waiting {
  constructor(most) {
    this.most = most;
    this.lines = [];
  }

  add(line) {
    this.lines.push(line);
    // Not with each line: that would move all of them each time.
    if (this.lines.length > 2 * this.most) this.lines = this.lines.slice(-this.most);
  }

  take() {
    const lines = this.lines.slice(-this.most);
    this.lines = [];
    return lines;
  }
}

class Page {
  constructor(log) {
    this.log = log;
    this.list = log.querySelector("ol");
    this.line = document.querySelector("#line").content.firstElementChild;
    this.status = document.querySelector("#live");
    this.hold = document.querySelector("#hold");
    const { job, after, most, part, kinds } = log.dataset;
    Object.assign(this, { job, part, after: Number(after), most: Number(most), kinds: kinds.split(" ") });
    this.waiting = new Waiting(this.most);
    this.held = false;
    this.ended = false;
    this.hold.hidden = false;
    this.hold.addEventListener("click", () => this.toggle());
    document.addEventListener("visibilitychange", () => this.resume());
    this.refreshing = setInterval(() => this.refresh(), REFRESH);
    this.resume();
  }

  say(text) {
    if (this.status.textContent !== text) this.status.textContent = text;
  }

  toggle() {
    this.held = !this.held;
    this.hold.textContent = this.held ? "Resume updates" : "Pause updates";
    if (this.held) this.say("Updates are paused.");
    this.resume();
  }

  /** Follows the events while somebody may be looking: a browser has few connections, a user few streams. */
  resume() {
    const wanted = !this.held && !this.ended && !document.hidden;
    if (wanted && !this.source) this.open();
    if (!wanted && this.source) this.close();
  }

  close() {
    this.source.close();
    this.source = undefined;
  }

  open() {
    const source = new EventSource(`/api/v1/executions/${this.job}/events?after=${this.after}`);
    this.source = source;
    source.addEventListener("open", () => this.say("Updates are live."));
    for (const kind of this.kinds) {
      // A failed connection is an event of the name `error`, too: it has no data.
      source.addEventListener(kind, (event) => (event.data === undefined ? this.failed(source) : this.take(event)));
    }
    source.addEventListener("end", () => this.end());
  }

  failed(source) {
    if (source !== this.source) return;
    this.say("Updates are interrupted. Trying again.");
    // The browser tries again by itself unless it was refused.
    if (source.readyState !== EventSource.CLOSED) return;
    this.close();
    this.refresh();
    setTimeout(() => this.resume(), AGAIN);
  }

  end() {
    this.ended = true;
    clearInterval(this.refreshing);
    this.resume();
    this.hold.hidden = true;
    this.say("The job has ended.");
    this.refresh();
  }

  take(message) {
    const event = JSON.parse(message.data);
    this.after = Math.max(this.after, event.row);
    if (!isOf(this.part, event.kind)) return;
    // Not the event, whose payload may be large.
    this.waiting.add(this.element(event));
    this.timer ??= setTimeout(() => this.flush(), EVERY);
  }

  /** Adds what waits, and removes the oldest beyond what a page has. */
  flush() {
    this.timer = undefined;
    const atEnd = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 40;
    document.querySelector("#no-events")?.remove();
    this.list.append(...this.waiting.take());
    const tooMany = this.list.children.length - this.most;
    for (let n = 0; n < tooMany; n += 1) this.list.firstElementChild.remove();
    if (tooMany > 0) this.link();
    if (atEnd) window.scrollTo(0, document.documentElement.scrollHeight);
  }

  /** The link to what is no longer here. */
  link() {
    const first = this.list.firstElementChild.id.slice("event-".length);
    const older = document.querySelector("#older");
    older.href = `/jobs/${this.job}?show=${this.part}&before=${first}#events`;
    older.hidden = false;
  }

  element(event) {
    const item = this.line.cloneNode(true);
    const [exact, shown] = time(event.ts);
    item.id = `event-${event.row}`;
    item.className = event.kind;
    item.querySelector("time").dateTime = exact;
    item.querySelector("time").textContent = shown;
    item.querySelector(".run").textContent = `run ${event.run}`;
    item.querySelector(".kind").textContent = event.kind;
    const text = item.querySelector(".text");
    text.textContent = visible(event.payload.slice(0, SHOWN));
    if (event.payload.length > SHOWN) {
      const all = document.createElement("a");
      all.href = `/api/v1/executions/${this.job}/events?after=${event.row - 1}&limit=1`;
      all.textContent = "all of it";
      text.append("… ", all);
    }
    return item;
  }

  /** Takes the overview from the server, which makes it as it made the page. */
  async refresh() {
    if ((this.held && !this.ended) || document.hidden) return;
    const answer = await fetch(`/jobs/${this.job}/summary`).catch(() => undefined);
    if (answer?.status === 401) this.say("The session has ended: reload the page to sign in.");
    if (!answer?.ok) return;
    const made = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("#overview");
    const shown = document.querySelector("#overview");
    // What somebody is at stays.
    if (!made || shown.contains(document.activeElement) || !document.getSelection().isCollapsed) return;
    if (made.dataset.phase !== shown.dataset.phase) this.say(`Phase: ${made.dataset.phase}.`);
    shown.replaceWith(document.adoptNode(made));
  }
}

if (globalThis.document) {
  const log = document.querySelector("#log[data-job]");
  if (log) new Page(log);
}
