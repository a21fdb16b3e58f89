// What koco gives an agent and takes from it: files, named by variables. docs/agent-contract.md has all of them.

import { readFileSync, renameSync, writeFileSync } from "node:fs";

/** An error that ends the job: another attempt would fail, too. */
export class NonRetryableError extends Error {
  override readonly name: string = "NonRetryableError";
}

const usage = { inputTokens: 0, outputTokens: 0 };

/** The job's inputs, as they are in `spec.inputs`. */
export function inputs(): Record<string, unknown> {
  const path = process.env["KODO_INPUTS_FILE"];
  return path === undefined ? {} : JSON.parse(readFileSync(path, "utf8"));
}

/** Reports how far the agent is, and adds what a model has used to what was reported before. */
export function reportProgress(message: string, inputTokens: number, outputTokens: number): void {
  usage.inputTokens += inputTokens;
  usage.outputTokens += outputTokens;
  leave("KODO_PROGRESS_FILE", { message, usage });
}

/** Runs an agent to its end: its value is the job's result, and what it throws its error. */
export async function run(agent: (stopped: AbortSignal) => Promise<unknown>): Promise<void> {
  const stop = new AbortController();
  process.once("SIGTERM", () => stop.abort());
  // The notice of a pause, of jobs with a `pauseNotice`: take SIGUSR2, as Node keeps SIGUSR1 for debuggers.
  if (process.env["KODO_PAUSE_SIGNAL"] === "SIGUSR2") {
    process.on("SIGUSR2", () => process.kill(process.pid, "SIGSTOP"));
  }
  try {
    const result = await agent(stop.signal);
    if (!leave("KODO_RESULT_FILE", result)) {
      console.log(JSON.stringify(result));
    }
  } catch (error) {
    if (stop.signal.aborted) {
      process.exitCode = 143; // as a shell has it
      return;
    }
    const { name, message } = error instanceof Error ? error : new Error(String(error));
    console.error(error);
    leave("KODO_ERROR_FILE", { type: name, message, nonRetryable: error instanceof NonRetryableError });
    process.exitCode = 1;
  }
}

/** Leaves a whole file or none: the pod may end at any time. Returns false outside of koco. */
function leave(variable: string, content: unknown): boolean {
  const path = process.env[variable];
  if (path === undefined) {
    return false;
  }
  writeFileSync(`${path}.new`, JSON.stringify(content));
  renameSync(`${path}.new`, path);
  return true;
}
