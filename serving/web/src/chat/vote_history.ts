/**
 * The votes cast from this browser and what has become of each, with the feedback token that allows reading it; the
 * newest MAX_VOTES are kept.
 */

import type { Keep } from "../live/keep.ts";
import type { Life, Recorded } from "../live/types.ts";

export interface CastVote {
  id: string;
  token: string;
  completion: string;
  slot: string; // of the completion; a new vote replaces the one in the same slot
  what: "up" | "down" | "edit" | "ranking";
  prompt: string;
  conversation: string;
  life: Life;
}

const VOTES = "votes";
const MAX_VOTES = 200;
const ENDED = new Set(["retracted", "superseded"]);

export class VoteHistory {
  #read: CastVote[] | null = null;

  constructor(private keep: Keep) {}

  /** All votes, oldest first. */
  get all(): CastVote[] {
    this.#read ??= this.keep.get<CastVote[]>(VOTES) ?? [];
    return this.#read;
  }

  /** The votes that are not live yet, oldest first. */
  get pending(): CastVote[] {
    return this.all.filter((vote) => !vote.life.live_at);
  }

  on(completion: string): CastVote[] {
    return this.all.filter((vote) => vote.completion === completion);
  }

  find(completion: string, slot: string): CastVote | undefined {
    return this.all.find((vote) => vote.completion === completion && vote.slot === slot);
  }

  /** Adds a vote that the service has acknowledged. */
  add(vote: Omit<CastVote, "life">, stage: Recorded["status"]): void {
    const others = this.#newest().filter(
      (kept) => kept.completion !== vote.completion || kept.slot !== vote.slot,
    );
    const life: Life = { stage, votes_needed: null, progress: null, live_at: null };
    this.#save([...others, { ...vote, life }]);
  }

  remove(id: string): void {
    this.#save(this.#newest().filter((vote) => vote.id !== id));
  }

  clear(): void {
    this.#save([]);
  }

  /** Keeps what has become of a vote; returns the vote if it went live just now. */
  follow(id: string, life: Life): CastVote | null {
    const before = this.#newest().find((vote) => vote.id === id);
    if (!before) return null;
    if (ENDED.has(life.stage)) this.remove(id);
    else this.#save(this.all.map((vote) => (vote.id === id ? { ...vote, life } : vote)));
    return life.live_at && !before.life.live_at ? { ...before, life } : null;
  }

  /** Another tab changed a value of the storage. */
  changedElsewhere(name: string): void {
    if (name === VOTES) this.#read = null;
  }

  /** Returns all votes as the storage has them now: another tab may have voted a moment ago. */
  #newest(): CastVote[] {
    this.#read = null;
    return this.all;
  }

  #save(votes: CastVote[]): void {
    this.#read = votes.slice(-MAX_VOTES);
    this.keep.set(VOTES, this.#read);
  }
}
