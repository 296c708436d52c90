import { HearkenError } from "./errors.js";
import type { Delivery, NewWebhook, Policy, Recorded, Retracted, Rollout, Session, Turn, Vote, Webhook } from "./types.js";

/** `user` names another rater (secret keys); `feedbackToken` is the completion's own (publishable keys). */
export interface VoteOptions {
  user?: string;
  feedbackToken?: string;
  idempotencyKey?: string;
}

interface Call {
  method: "GET" | "POST" | "DELETE";
  path: string;
  body?: Record<string, unknown>;
  headers?: Record<string, string>;
  /** Whether it may be sent again when no answer came. */
  safe?: boolean;
}

const AGAIN = [429, 502, 503, 504]; // statuses that pass
const LONGEST_WAIT = 30; // seconds between two attempts

/** A client of the service at `url` with one key. A request that is safe to repeat is sent again `retries` times. Each
 * method throws HearkenError. */
export class Hearken {
  readonly #base: string;
  readonly #key: string;
  readonly #timeout: number;
  readonly #retries: number;

  constructor(url: string, key: string, { timeout = 60, retries = 2 }: { timeout?: number; retries?: number } = {}) {
    this.#base = url.replace(/\/+$/, "").replace(/\/v1$/, "");
    this.#key = key;
    this.#timeout = timeout;
    this.#retries = retries;
  }

  readonly votes = {
    /** Says that a reply was good, or not. `reasons` are slugs such as `concise`. */
    thumb: (
      completionId: string,
      value: "up" | "down",
      { choice = 0, reasons = [], comment, ...rest }: VoteOptions & {
        choice?: number;
        reasons?: string[];
        comment?: string;
      } = {},
    ) => this.#vote(completionId, { type: "thumb", choice, value, reasons, comment }, rest),
    /** Ranks replies: groups of choices, best first, ties together. Not `acceptable`: none was good. `shown` is the
     * order in which they were seen. `reasons` are slugs: why the best is better, or what is wrong with all of them
     * where none was good. */
    rank: (
      completionId: string,
      ranking: number[][],
      { acceptable = true, shown, reasons, comment, ...rest }: VoteOptions & {
        acceptable?: boolean;
        shown?: number[];
        reasons?: string[];
        comment?: string;
      } = {},
    ) => this.#vote(completionId, { type: "ranking", ranking, acceptable, shown, reasons, comment }, rest),
    /** Says what a reply should have been. */
    edit: (
      completionId: string,
      text: string,
      { choice = 0, comment, ...rest }: VoteOptions & { choice?: number; comment?: string } = {},
    ) => this.#vote(completionId, { type: "edit", choice, text, comment }, rest),
    /** Says what a person did with a reply. */
    signal: (
      completionId: string,
      signal: "regenerated" | "copied" | "shared" | "abandoned",
      { choice = 0, ...rest }: VoteOptions & { choice?: number } = {},
    ) => this.#vote(completionId, { type: "signal", choice, signal }, rest),
    /** Returns a vote, and what has become of it. */
    get: (id: string, feedbackToken?: string) =>
      this.#send<Vote>({ method: "GET", path: `feedback/${part(id)}`, headers: token(feedbackToken), safe: true }),
    /** Takes a vote back. */
    retract: (id: string, feedbackToken?: string) =>
      this.#send<Retracted>({ method: "DELETE", path: `feedback/${part(id)}`, headers: token(feedbackToken), safe: true }),
  };

  readonly sessions = {
    /** Returns a token for a page: of `user`, with a secret key; of somebody new, with a publishable one. */
    create: (user?: string) => this.#send<Session>({ method: "POST", path: "sessions", body: { user } }),
  };

  readonly turns = {
    /** Records a prompt and replies that Hearken did not write, so that people can vote on them. */
    record: (
      messages: Record<string, unknown>[],
      replies: string[],
      { user, metadata }: { user?: string; metadata?: Record<string, string> } = {},
    ) => this.#send<Turn>({ method: "POST", path: "turns", body: { messages, replies, user, metadata } }),
  };

  readonly policies = {
    /** Returns the policies, newest first. */
    list: (limit = 100) => this.#list<Policy>(`policies?limit=${limit}`),
    /** Returns a policy with its manifest, lineage and gate report. */
    get: (id: string) => this.#send<Policy>({ method: "GET", path: `policies/${part(id)}`, safe: true }),
    /** Makes a policy live for everybody, once every engine has proved it. One that was rolled back needs a reason. */
    promote: (id: string, reason?: string) =>
      this.#send<Policy>({ method: "POST", path: `policies/${part(id)}/promote`, body: reasoned(reason) }),
    /** Takes the live policy or the canary back. */
    rollBack: (id: string, reason?: string) =>
      this.#send<Policy>({ method: "POST", path: `policies/${part(id)}/rollback`, body: reasoned(reason) }),
    /** Takes back that a policy was rejected or rolled back. */
    reinstate: (id: string, reason?: string) =>
      this.#send<Policy>({ method: "POST", path: `policies/${part(id)}/reinstate`, body: reasoned(reason) }),
  };

  readonly rollouts = {
    /** Returns the rollouts, newest first. */
    list: (limit = 100) => this.#list<Rollout>(`rollouts?limit=${limit}`),
    /**
     * Lets a policy answer some of the people, in a duel one reply of some pairs; as the project's rollouts are without
     * a `mode`. Without a share, people's votes decide.
     */
    start: (policy: string, { share, mode }: { share?: number; mode?: "canary" | "duel" } = {}) =>
      this.#send<Rollout>({ method: "POST", path: "rollouts", body: { policy, share, mode } }),
    /** Makes the policy of a running trial live. */
    promote: (id: string, reason?: string) =>
      this.#send<Rollout>({ method: "POST", path: `rollouts/${part(id)}/promote`, body: reasoned(reason) }),
    /** Takes the policy of a rollout back. */
    rollBack: (id: string, reason?: string) =>
      this.#send<Rollout>({ method: "POST", path: `rollouts/${part(id)}/rollback`, body: reasoned(reason) }),
  };

  readonly webhooks = {
    /** Returns where events are sent. */
    list: () => this.#list<Webhook>("webhooks"),
    /** Sends events to `url` from now on: those of the types in `events`, or all. */
    create: (url: string, events: string[] = []) =>
      this.#send<NewWebhook>({ method: "POST", path: "webhooks", body: { url, events } }),
    /** Sends nothing more to a webhook. */
    delete: (id: string) => this.#send<{ id: string; deleted: true }>({ method: "DELETE", path: `webhooks/${part(id)}`, safe: true }),
    /** Sends to a webhook again that had failed for too long. */
    enable: (id: string) => this.#send<{ id: string; disabled_at: null }>({ method: "POST", path: `webhooks/${part(id)}/enable`, safe: true }),
    /** Sends all events since a time again, under the same ids. */
    replay: (id: string, since: Date) =>
      this.#send<{ id: string; replayed: number }>({
        method: "POST",
        path: `webhooks/${part(id)}/replay`,
        body: { since: since.toISOString() },
        safe: true,
      }),
    /** Returns the deliveries of a webhook, newest first, from before the one with the id `before`. */
    deliveries: (id: string, { limit = 100, before }: { limit?: number; before?: string } = {}) =>
      this.#list<Delivery>(
        `webhooks/${part(id)}/deliveries?limit=${limit}${before ? `&before=${part(before)}` : ""}`,
      ),
  };

  #vote(completionId: string, said: Record<string, unknown>, options: VoteOptions): Promise<Recorded> {
    const { user, feedbackToken, idempotencyKey = randomKey() } = options;
    const body = { completion_id: completionId, user, feedback_token: feedbackToken, ...said };
    const headers = { "Idempotency-Key": idempotencyKey };
    return this.#send<Recorded>({ method: "POST", path: "feedback", body, headers, safe: true });
  }

  async #list<T>(path: string): Promise<T[]> {
    return (await this.#send<{ data: T[] }>({ method: "GET", path, safe: true })).data;
  }

  async #send<T>(call: Call): Promise<T> {
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await this.#once<T>(call);
      } catch (thrown) {
        const error = thrown instanceof HearkenError ? thrown : new HearkenError(`The service does not answer: ${thrown}.`);
        const passes = error.status === null || AGAIN.includes(error.status);
        if (!call.safe || !passes || attempt >= this.#retries) throw error;
        const seconds = Math.min(error.retryAfter ?? 0.5 * 2 ** attempt, LONGEST_WAIT);
        await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
      }
    }
  }

  async #once<T>(call: Call): Promise<T> {
    const answer = await fetch(`${this.#base}/v1/${call.path}`, {
      method: call.method,
      headers: {
        Authorization: `Bearer ${this.#key}`,
        ...(call.body ? { "Content-Type": "application/json" } : {}),
        ...call.headers,
      },
      signal: AbortSignal.timeout(1000 * this.#timeout),
      ...(call.body ? { body: JSON.stringify(call.body) } : {}),
    });
    const text = await answer.text();
    if (answer.ok) return (text ? JSON.parse(text) : undefined) as T;
    throw refusal(answer, text);
  }
}

function refusal(answer: Response, text: string): HearkenError {
  const after = Number(answer.headers.get("Retry-After") ?? "NaN");
  let said: { message?: string; code?: string; param?: string } = {};
  try {
    said = (JSON.parse(text) as { error?: typeof said }).error ?? {};
  } catch {
    // Something between the service and here answered.
  }
  return new HearkenError(
    said.message ?? `The service answered ${answer.status}.`,
    answer.status,
    said.code ?? null,
    said.param ?? null,
    Number.isFinite(after) ? after : null,
  );
}

/** Returns a random key. crypto.randomUUID exists only on https and localhost. */
function randomKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function part(id: string): string {
  return encodeURIComponent(id);
}

function token(feedbackToken: string | undefined): Record<string, string> {
  return feedbackToken === undefined ? {} : { "X-Feedback-Token": feedbackToken };
}

function reasoned(reason: string | undefined): Record<string, unknown> {
  return reason === undefined ? {} : { reason };
}
