/** Casts and retracts votes on turns, one after the other, so that the last one is the active one. */

import { announce } from "./dom.js";
import { errorMessage } from "./messages.js";

export class Voting {
  #queue = Promise.resolve();

  /** Calls `onSettled(turn)` when a vote was recorded, refused or retracted; `onError(text)` when it failed. */
  constructor(live, voteHistory, onSettled, onError) {
    Object.assign(this, { live, voteHistory, onSettled, onError });
  }

  /** Casts a vote. `slot` is the part of the turn, `what` the label in the list of votes; `undo` runs on failure. */
  cast(turn, vote, slot, what, undo) {
    const { completion, token, prompt } = turn;
    this.#enqueue(turn, async () => {
      try {
        const { id } = await this.live.vote({ completion_id: completion, feedback_token: token, ...vote });
        this.voteHistory.add({ id, token, completion, slot: `${completion} ${slot}`, what, prompt });
        announce("Your vote is recorded.");
      } catch (error) {
        undo();
        this.onError(`Your vote was not taken. ${errorMessage(error)}`);
      }
    });
  }

  retract(turn, slot) {
    const key = `${turn.completion} ${slot}`;
    this.#enqueue(turn, async () => {
      const vote = this.voteHistory.find(key);
      if (!vote) return;
      const response = await this.live.request("DELETE", vote);
      if (response?.ok) this.voteHistory.remove(vote.id);
      else this.onError("Your vote could not be retracted. Try again in a moment.");
    });
  }

  /** Sends an implicit signal to the trainer, without waiting for it. */
  signal({ completion, token, picked }, signal) {
    if (!token) return;
    const vote = { type: "signal", choice: picked ?? 0, signal, completion_id: completion, feedback_token: token };
    this.live.vote(vote).catch(() => {});
  }

  #enqueue(turn, step) {
    this.#queue = this.#queue.then(step).then(() => this.onSettled(turn));
  }
}
