/** Casts and retracts votes, one after the other, so that the last one is the active one. */

import type { LiveSocket } from "../live/socket.ts";
import type { Service } from "../live/service.ts";
import type { Opinion, Recorded, ServiceError, Vote } from "../live/types.ts";
import type { Turn } from "./turn.ts";
import type { CastVote, VoteHistory } from "./vote_history.ts";

export interface VotingHandlers {
  settled(): void;
  recorded(recorded: Recorded, vote: Opinion): void;
  failed(error: ServiceError): void;
  retractFailed(): void;
}

const MAX_WAIT = 30; // seconds to wait where there are too many votes at once

export class Voting {
  #queue: Promise<void> = Promise.resolve();
  #undos = new Map<string, (() => void)[]>(); // by slot, of the steps that wait; the first leads to what is recorded

  constructor(
    private socket: LiveSocket,
    private service: Service,
    private history: VoteHistory,
    private on: VotingHandlers,
  ) {}

  /** Casts a vote on a turn; `undo` takes back on the screen what was not taken. Returns whether the vote was
   * recorded. */
  async cast(
    turn: Turn,
    conversation: string,
    slot: string,
    what: CastVote["what"],
    vote: Opinion,
    undo: () => void,
  ): Promise<boolean> {
    const { completion, token, prompt } = turn;
    if (!completion || !token) return false;
    let kept = false;
    await this.#enqueue(`${completion} ${slot}`, undo, async () => {
      try {
        const recorded = await this.#send({ completion_id: completion, feedback_token: token, ...vote });
        const cast = { id: recorded.id, token, completion, slot, what, prompt, conversation };
        this.history.add(cast, recorded.status);
        this.on.recorded(recorded, vote);
        kept = true;
      } catch (error) {
        this.on.failed(error as ServiceError);
      }
      return kept;
    });
    return kept;
  }

  /** Takes back the vote in a slot, if there is one; `undo` shows it again where that fails. */
  retract(completion: string, slot: string, undo: () => void): void {
    void this.#enqueue(`${completion} ${slot}`, undo, async () => {
      const vote = this.history.find(completion, slot);
      if (!vote) return true;
      try {
        await this.service.retract(vote.id, vote.token);
        this.history.remove(vote.id);
        return true;
      } catch {
        this.on.retractFailed();
        return false;
      }
    });
  }

  /** Sends an implicit signal, without waiting for it. */
  signal(turn: Turn, signal: "regenerated" | "copied"): void {
    const { completion, token } = turn;
    if (!completion || !token) return;
    const vote: Vote = { type: "signal", signal, completion_id: completion, feedback_token: token };
    this.socket.vote({ ...vote, choice: turn.picked ?? turn.shown[0] ?? 0 }).catch(() => {});
  }

  async #send(vote: Vote): Promise<Recorded> {
    try {
      return await this.socket.vote(vote);
    } catch (error) {
      const { retryAfter } = error as ServiceError;
      if (!retryAfter || retryAfter > MAX_WAIT) throw error;
      await new Promise((resolve) => setTimeout(resolve, retryAfter * 1000));
      return this.socket.vote(vote);
    }
  }

  /** Runs a step after all before it. Where it fails, and no later one on the slot waits, the screen goes back to what
   * is recorded. */
  #enqueue(slot: string, undo: () => void, step: () => Promise<boolean>): Promise<void> {
    const undos = this.#undos.get(slot) ?? [];
    this.#undos.set(slot, undos);
    undos.push(undo);
    return (this.#queue = this.#queue.then(step).then((done) => {
      if (done) undos.shift();
      else if (undos.length > 1) undos.splice(1, 1);
      else undos.shift()?.();
      if (undos.length === 0) this.#undos.delete(slot);
      this.on.settled();
    }));
  }
}
