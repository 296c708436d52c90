/** A slot of a completion holds one vote: another one replaces it, and taking it back leaves the slot empty. */

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Opinion } from "../live/types.ts";
import type { KeptVote } from "./kept_votes.ts";

/** What is done with votes on one completion. Nothing throws: what failed has been said. */
export interface Ballot {
  /** Returns the vote that this browser keeps, if it still counts. */
  find(slot: string): Promise<KeptVote | null>;
  /** Returns the vote once it is recorded; null where it was not taken. */
  cast(slot: string, opinion: Opinion): Promise<KeptVote | null>;
  /** Returns whether the vote was taken back. */
  retract(vote: KeptVote): Promise<boolean>;
}

/** Returns what is to be said in place of what the slot holds; null takes it back. */
export type Change = (now: Opinion | null) => Opinion | null;

/**
 * Returns what a slot holds, and a function that changes it, which returns whether that was done. Changes run one after
 * the other, so that each finds what the one before it left.
 */
export function useSlot(slot: string, ballot: Ballot): [Opinion | null, (change: Change) => Promise<boolean>] {
  const [shown, setShown] = useState<Opinion | null>(null);
  const held = useRef<KeptVote | null>(null);
  const last = useRef<Promise<unknown>>(Promise.resolve());
  const enqueue = (step: () => Promise<boolean>): Promise<boolean> => {
    const done = last.current.then(step);
    last.current = done;
    return done;
  };
  const hold = (vote: KeptVote | null): boolean => {
    held.current = vote;
    setShown(vote?.opinion ?? null);
    return true;
  };
  useLayoutEffect(() => void enqueue(async () => hold(await ballot.find(slot))), []);
  const change = (to: Change): Promise<boolean> =>
    enqueue(async () => {
      const now = held.current;
      const next = to(now?.opinion ?? null);
      if (next) {
        const cast = await ballot.cast(slot, next);
        return cast !== null && hold(cast);
      }
      return now === null || ((await ballot.retract(now)) && hold(null));
    });
  return [shown, change];
}
