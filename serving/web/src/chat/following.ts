/** Follows what becomes of the visitor's votes, until the model that learned from them is live. */

import type { Service } from "../live/service.ts";
import { Refused } from "../live/service.ts";
import type { Learned } from "../live/types.ts";
import type { CastVote, VoteHistory } from "./vote_history.ts";

const MAX_REQUESTS = 20; // at once
const FEW = 3; // votes that are followed while nobody looks at the list
const SOON = 10_000; // milliseconds to the next look; each takes longer, until something happens
const LATE = 120_000;
const TOGETHER = 250; // milliseconds in which the votes of one round come, one by one

export class Following {
  /** Whether the list of votes is open: then all are followed. */
  watched = false;
  #went: CastVote[] = [];
  #timer = 0;
  #period = SOON;

  /** Calls `live(votes)` when votes went live, and `changed()` when anything else became of one. */
  constructor(
    private service: Service,
    private history: VoteHistory,
    private on: { live(votes: CastVote[]): void; changed(): void },
  ) {
    this.#schedule();
  }

  close(): void {
    clearTimeout(this.#timer);
  }

  /** Looks often again: the visitor has just voted. */
  hurry(): void {
    this.#period = SOON;
    void this.look();
    this.#schedule();
  }

  /** Asks what has become of the newest votes that are not live. */
  async look(most = this.watched ? MAX_REQUESTS : FEW): Promise<void> {
    await Promise.all(this.history.pending.slice(-most).map((vote) => this.#lookAt(vote)));
    this.on.changed();
  }

  /** Asks for all: after a new policy, or a time without connection. */
  lookAtAll(): Promise<void> {
    return this.look(MAX_REQUESTS);
  }

  /** Takes the service's word that a vote is live. */
  learned({ feedback_id: id, live_at }: Learned): void {
    this.#live(this.history.follow(id, { stage: "live", votes_needed: null, progress: null, live_at }));
  }

  #schedule(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (!document.hidden) void this.look();
      this.#period = this.watched ? SOON : Math.min(LATE, this.#period * 1.5);
      this.#schedule();
    }, this.#period);
  }

  async #lookAt(vote: CastVote): Promise<void> {
    try {
      this.#live(this.history.follow(vote.id, await this.service.life(vote.id, vote.token)));
    } catch (error) {
      if (error instanceof Refused && error.status === 404) this.history.remove(vote.id);
    }
  }

  #live(vote: CastVote | null): void {
    if (!vote) return;
    this.#went.push(vote);
    if (this.#went.length > 1) return;
    setTimeout(() => {
      this.on.live(this.#went);
      this.#went = [];
    }, TOGETHER);
  }
}
