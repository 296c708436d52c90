/** A queue runs steps one after the other, so that each finds what the one before it left. */

import { useRef } from "preact/hooks";

/** Returns a function that adds a step; steps do not throw. */
export function useQueue(): (step: () => Promise<void>) => void {
  const last = useRef(Promise.resolve());
  return (step) => {
    last.current = last.current.then(step);
  };
}
