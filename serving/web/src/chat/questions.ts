/** Asks the visitor about pairs of replies, one after the other, until the service knows their taste. */

import type { LiveSocket } from "../live/socket.ts";
import { Refused, type Service } from "../live/service.ts";
import type { NextQuestion, ServiceError } from "../live/types.ts";

export type Preference = 0 | 1 | "tie" | "none";

const PATIENCE = 120; // seconds in which the service makes its first questions
const RETRY = 1500; // milliseconds

export class Questions {
  now: NextQuestion | null = null;
  /** Why there is no question: the code of an error. */
  problem: string | null = null;
  #asking = false;

  constructor(
    private service: Service,
    private socket: LiveSocket,
    private changed: () => void,
  ) {}

  get done(): boolean {
    return this.now !== null && this.now.question === null;
  }

  get busy(): boolean {
    return this.#asking;
  }

  /** Fetches the next question; `skip` is one that is left out. */
  async next(skip: string | null = null): Promise<void> {
    if (this.#asking) return;
    this.#asking = true;
    this.problem = null;
    this.changed();
    try {
      this.now = await this.#patiently(skip);
    } catch (error) {
      this.problem = (error as ServiceError).code;
    }
    this.#asking = false;
    this.changed();
  }

  /** Votes on the pair, then fetches the next one. */
  async answer(preference: Preference): Promise<void> {
    const asked = this.now?.question;
    if (!asked || this.#asking) return;
    this.#asking = true;
    this.changed();
    const ranking = typeof preference === "number" ? [[preference], [1 - preference]] : [[0, 1]];
    try {
      await this.socket.vote({
        type: "ranking",
        completion_id: asked.completion_id,
        feedback_token: asked.feedback_token,
        ranking,
        acceptable: preference !== "none",
        shown: [0, 1],
      });
    } catch (error) {
      this.problem = (error as ServiceError).code;
      this.#asking = false;
      this.changed();
      return;
    }
    this.#asking = false;
    await this.next();
  }

  /** Waits while the service makes its questions. */
  async #patiently(skip: string | null): Promise<NextQuestion> {
    const end = Date.now() + PATIENCE * 1000;
    for (;;) {
      const next = await this.service.question(skip);
      if (next.ready) return next;
      if (Date.now() > end) throw new Refused("not_ready", "");
      await new Promise((resolve) => setTimeout(resolve, RETRY));
    }
  }
}
