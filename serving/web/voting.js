/** Casts votes on turns and takes them back, one after the other: the last one said is the one that stands. */

import { announce } from "./dom.js";
import { inWords } from "./words.js";

export class Voting {
  #queue = Promise.resolve();

  /** Calls `settled(turn)` when a vote was recorded, refused or taken back; `complain(text)` when it failed. */
  constructor(live, ledger, settled, complain) {
    Object.assign(this, { live, ledger, settled, complain });
  }

  /** `slot` is what on the turn is voted on, `what` how the list of votes calls it; `undo` when it is refused. */
  cast(turn, vote, slot, what, undo) {
    const { completion, token, prompt } = turn;
    this.#then(turn, async () => {
      try {
        const { id } = await this.live.vote({ completion_id: completion, feedback_token: token, ...vote });
        this.ledger.add({ id, token, completion, slot: `${completion} ${slot}`, what, prompt });
        announce("Your vote is recorded.");
      } catch (error) {
        undo();
        this.complain(`Your vote was not taken. ${inWords(error)}`);
      }
    });
  }

  retract(turn, slot) {
    const place = `${turn.completion} ${slot}`;
    this.#then(turn, async () => {
      const vote = this.ledger.in(place);
      if (!vote) return;
      const response = await this.live.call("DELETE", vote);
      if (response?.ok) this.ledger.remove(vote.id);
      else this.complain("Your vote could not be taken back. Try again in a moment.");
    });
  }

  /** A hint to the trainer, which nobody waits for. */
  signal({ completion, token, picked }, signal) {
    if (!token) return;
    const vote = { type: "signal", choice: picked ?? 0, signal, completion_id: completion, feedback_token: token };
    this.live.vote(vote).catch(() => {});
  }

  #then(turn, step) {
    this.#queue = this.#queue.then(step).then(() => this.settled(turn));
  }
}
