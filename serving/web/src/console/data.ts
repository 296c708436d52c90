/** Reads of the service that follow its changes. */

import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { ask, Refused, sentence } from "./api";
import { type Change, onChange } from "./live";

const LEAST_WAIT = 2_000; // milliseconds between two reads after changes

export interface Loaded<T> {
  data: T | null;
  error: string | null;
  reload: () => void;
}

let signOut: () => void = () => undefined;

/** Names what happens when the key is refused. */
export function onRefusedKey(action: () => void): void {
  signOut = action;
}

/** Signs out if the error says that the key is no longer good. */
export function noteError(error: unknown): string {
  if (error instanceof Refused && error.status === 401) signOut();
  return sentence(error);
}

/**
 * Reads `path` now and after each of the changes `on`. While it reads again, the last data stays. A path of null
 * reads nothing.
 */
export function useData<T>(path: string | null, on: readonly Change[] = []): Loaded<T> {
  const [found, set] = useState<{ path: string | null; data: T | null; error: string | null }>({
    path: null,
    data: null,
    error: null,
  });
  const latest = useRef(0);
  const read = useCallback(() => {
    if (path === null) return;
    const turn = ++latest.current;
    ask<T>(path).then(
      (data) => turn === latest.current && set({ path, data, error: null }),
      (error: unknown) => {
        const message = noteError(error);
        if (turn === latest.current)
          set((before) => ({ path, data: before.path === path ? before.data : null, error: message }));
      },
    );
  }, [path]);
  useEffect(read, [read]);
  const wanted = on.join();
  useEffect(() => {
    if (!wanted) return undefined;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let last = 0;
    const stop = onChange((changed) => {
      if (timer !== undefined || !changed.some((each) => wanted.split(",").includes(each))) return;
      timer = setTimeout(
        () => {
          timer = undefined;
          last = Date.now();
          read();
        },
        Math.max(0, LEAST_WAIT - (Date.now() - last)),
      );
    });
    return () => {
      stop();
      clearTimeout(timer);
    };
  }, [read, wanted]);
  const current = found.path === path;
  return { data: current ? found.data : null, error: current ? found.error : null, reload: read };
}
