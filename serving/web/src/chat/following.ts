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
  #met = false;

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

  /** Asks what has become of the newest votes: of those that are not live, unless the list is open. */
  async look(most = this.watched ? MAX_REQUESTS : FEW): Promise<void> {
    const votes = this.watched ? this.history.all : this.history.pending;
    await Promise.all(votes.slice(-most).map((vote) => this.#lookAt(vote)));
    this.on.changed();
  }

  /** There is a connection: asks for all once, since the visitor may have been away for days. */
  connected(): void {
    void this.look(this.#met ? FEW : MAX_REQUESTS);
    this.#met = true;
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
