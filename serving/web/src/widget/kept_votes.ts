/** The votes that `<hearken-vote>` cast from this browser; the newest MAX_VOTES are kept. */

import { Keep } from "../live/keep.ts";
import type { Opinion } from "../live/types.ts";

export interface KeptVote {
  id: string;
  completion: string;
  slot: string; // of the completion; a new vote replaces the one in the same slot
  opinion: Opinion;
}

const VOTES = "votes";
const MAX_VOTES = 200;

export class KeptVotes {
  #keep = new Keep("vote");

  find(completion: string, slot: string): KeptVote | null {
    return this.#all.find((vote) => vote.completion === completion && vote.slot === slot) ?? null;
  }

  put(vote: KeptVote): void {
    const others = this.#all.filter(
      (kept) => kept.completion !== vote.completion || kept.slot !== vote.slot,
    );
    this.#keep.set(VOTES, [...others, vote].slice(-MAX_VOTES));
  }

  remove(id: string): void {
    this.#keep.set(
      VOTES,
      this.#all.filter((vote) => vote.id !== id),
    );
  }

  clear(): void {
    this.#keep.remove(VOTES);
  }

  /** All votes as the storage has them now, oldest first: another tab may have voted a moment ago. */
  get #all(): KeptVote[] {
    return this.#keep.get<KeptVote[]>(VOTES) ?? [];
  }
}
