/** What has changed on the service, as it says by server-sent events, so that no view needs a reload. */

import { useEffect, useState } from "preact/hooks";
import { key, request } from "./api";

export type Change = "votes" | "rounds" | "policies" | "rollouts" | "training";

const LONGEST_WAIT = 30_000;
const listeners = new Set<(changed: Change[]) => void>();
const watchers = new Set<(live: boolean) => void>();
let running: AbortController | null = null;

function tell(changed: Change[]): void {
  for (const listener of listeners) listener(changed);
}

function setLive(live: boolean): void {
  for (const watcher of watchers) watcher(live);
}

async function listen(signal: AbortSignal): Promise<void> {
  let wait = 1_000;
  while (!signal.aborted && key() !== null) {
    try {
      const answer = await request("console/events", { signal });
      if (!answer.ok || answer.body === null) throw new Error("refused");
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const lines = (rest + value).split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines) {
          if (!line.startsWith("data: ")) continue;
          const { changed } = JSON.parse(line.slice(6)) as { changed: Change[] };
          // The first event of a connection: what happened before it was not told.
          tell(changed.length ? changed : ["votes", "rounds", "policies", "rollouts", "training"]);
          wait = 1_000;
          setLive(true);
        }
      }
    } catch {
      // it is away, or this console was closed
    }
    if (signal.aborted) return;
    setLive(false);
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(2 * wait, LONGEST_WAIT);
  }
}

export function startListening(): void {
  running?.abort();
  running = new AbortController();
  void listen(running.signal);
}

export function stopListening(): void {
  running?.abort();
  running = null;
}

/** Calls `listener` after each change, until the returned function is called. */
export function onChange(listener: (changed: Change[]) => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Whether the service tells this console of changes now. */
export function useLive(): boolean {
  const [live, set] = useState(true);
  useEffect(() => {
    watchers.add(set);
    return () => void watchers.delete(set);
  }, []);
  return live;
}
