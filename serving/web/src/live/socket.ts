/**
 * The client of WS /v1/live sends chats and votes, and receives notifications. It reconnects with exponential back-off.
 *
 * Votes that are unacknowledged when the connection is lost are sent again: a second vote supersedes the first, so it
 * counts once. A chat is not sent again from here: its `fail` is called with the code `lost`, and its owner resumes it.
 * The visitor's choice whether they are learned from goes the same way, so that it holds for the chats sent after it.
 */

import { Refused, type Service } from "./service.ts";
import type { ChatRequest, Completion, Learned, Limits, Recorded, ServiceError, Vote } from "./types.ts";

export type State = "connecting" | "ready" | "lost" | "refused";

export interface ChatHandlers {
  token(choice: number, text: string): void;
  done(completion: Completion): void;
  fail(error: ServiceError): void;
}

export interface SocketHandlers {
  state(state: State): void;
  /** The service has recorded the visitor's choice. */
  chosen(learning: boolean): void;
  learned(learned: Learned): void;
}

interface PendingVote {
  frame: object;
  resolve(recorded: Recorded): void;
  reject(error: ServiceError): void;
}

interface Frame {
  type: string;
  id: string | null;
  choice: number;
  text: string;
  completion: Completion;
  feedback: Recorded;
  learning: boolean;
  error: { code: string; message: string };
  retry_after?: number;
  limits?: Limits;
}

/** The code of a vote that was not sent, since its person was forgotten. */
export const DROPPED = "dropped";

/** The code of a chat of more bytes than the service takes. */
export const TOO_LARGE = "body_too_large";

const MAX_DELAY = 10_000; // milliseconds
const REFUSED_DELAY = 60_000; // milliseconds until a key that was refused is tried again
const KEY_REFUSED = 4401; // the close code for a wrong key or session

/** The code of the error for a session that has ended, or was not made here. */
export const SESSION_ENDED = "invalid_session";

export class LiveSocket {
  state: State = "connecting";
  limits: Limits | null = null;
  /** The code of the error with which the service refused the key or the session. */
  refusal: string | null = null;
  #socket: WebSocket | null = null;
  #chats = new Map<string, ChatHandlers>();
  #votes = new Map<string, PendingVote>();
  #attempts = 0;
  #lastId = 0;
  #timer = 0;
  #closed = false;
  #renewed = false;
  #listening = new AbortController();

  constructor(
    private service: Service,
    private on: SocketHandlers,
  ) {
    const { signal } = this.#listening;
    addEventListener("online", () => this.#reconnectNow(), { signal });
    document.addEventListener("visibilitychange", () => document.hidden || this.#reconnectNow(), { signal });
    void this.#connect();
  }

  close(): void {
    this.#closed = true;
    this.#listening.abort();
    clearTimeout(this.#timer);
    this.#socket?.close();
  }

  /** Connects anew, as whoever the session is now; votes that wait are dropped. */
  restart(): void {
    const dropped = [...this.#votes.values()];
    this.#votes.clear();
    this.#socket?.close();
    for (const vote of dropped) vote.reject({ code: DROPPED, message: "" });
  }

  /** Connects soon, with another session, where the one before was refused. */
  retry(): void {
    if (this.state === "refused") this.#scheduleReconnect();
  }

  /** Starts a chat; returns its id. */
  chat(request: ChatRequest, on: ChatHandlers): string {
    const id = `c${++this.#lastId}`;
    const frame = { type: "chat", id, ...request };
    if (this.state !== "ready") {
      queueMicrotask(() => on.fail({ code: "lost", message: "" }));
    } else if (this.limits && bytes(frame) > this.limits.bytes) {
      queueMicrotask(() => on.fail({ code: TOO_LARGE, message: "" })); // the service would not say of which chat
    } else {
      this.#chats.set(id, on);
      this.#send(frame);
    }
    return id;
  }

  cancel(id: string): void {
    if (this.#chats.delete(id) && this.state === "ready") this.#send({ type: "cancel", id });
  }

  /** Sends a vote; resolves once it is durable, rejects with a ServiceError. */
  vote(vote: Vote): Promise<Recorded> {
    const id = `v${++this.#lastId}`;
    return new Promise((resolve, reject) => {
      const frame = { type: "feedback", id, feedback: vote };
      this.#votes.set(id, { frame, resolve, reject });
      if (this.state === "ready") this.#send(frame);
    });
  }

  /** Tells the service whether the visitor is learned from, where it is connected. */
  choose(learning: boolean): void {
    if (this.state === "ready") this.#send({ type: "consent", id: `s${++this.#lastId}`, learning });
  }

  async #connect(): Promise<void> {
    this.#setState(this.#attempts ? "lost" : "connecting");
    let auth: object;
    try {
      auth = { type: "auth", key: await this.service.key(), session: await this.service.session() };
    } catch (error) {
      if (this.#closed) return;
      if (error instanceof Refused && (error.status === 401 || error.status === 403)) {
        this.refusal = error.code;
        this.#refused();
      } else this.#scheduleReconnect(error instanceof Refused ? error.retryAfter : undefined);
      return;
    }
    if (this.#closed) return;
    const socket = new WebSocket(this.service.socketUrl);
    this.#socket = socket;
    socket.onopen = () => this.#send(auth);
    socket.onmessage = (message) => this.#receive(JSON.parse(message.data as string) as Frame);
    socket.onclose = (event) => this.#lost(event.code);
  }

  #lost(code: number): void {
    const chats = [...this.#chats.values()];
    this.#chats.clear();
    if (this.#closed) return;
    const refused = code === KEY_REFUSED;
    const ended = refused && this.refusal === SESSION_ENDED && !this.#renewed;
    this.#renewed = ended && this.service.renewSession();
    if (refused && !this.#renewed) this.#refused();
    else this.#scheduleReconnect();
    for (const on of chats) on.fail({ code: "lost", message: "" });
  }

  #receive(frame: Frame): void {
    const on = this.#chats.get(frame.id ?? "");
    switch (frame.type) {
      case "ready":
        this.#attempts = 0;
        this.#renewed = false;
        this.limits = frame.limits ?? null;
        this.#setState("ready");
        for (const vote of this.#votes.values()) this.#send(vote.frame);
        return;
      case "token":
        on?.token(frame.choice, frame.text);
        return;
      case "done":
        this.#chats.delete(frame.id ?? "");
        on?.done(frame.completion);
        return;
      case "recorded":
        this.#settle(frame)?.resolve(frame.feedback);
        return;
      case "error": {
        const { retry_after: retryAfter } = frame;
        const error: ServiceError = { ...frame.error, ...(retryAfter ? { retryAfter } : {}) };
        this.#chats.delete(frame.id ?? "");
        if (frame.id === null) this.refusal = error.code;
        else if (on) on.fail(error);
        else this.#settle(frame)?.reject(error);
        return;
      }
      case "consent":
        this.on.chosen(frame.learning);
        return;
      case "learned":
        this.on.learned(frame as unknown as Learned);
    }
  }

  #settle(frame: Frame): PendingVote | undefined {
    const vote = this.#votes.get(frame.id ?? "");
    this.#votes.delete(frame.id ?? "");
    return vote;
  }

  #send(frame: object): void {
    this.#socket?.send(JSON.stringify(frame));
  }

  #setState(state: State): void {
    this.state = state;
    this.on.state(state);
  }

  #scheduleReconnect(seconds?: number): void {
    this.#setState("lost");
    const backOff = Math.min(MAX_DELAY, 400 * 2 ** this.#attempts++) * (0.75 + Math.random() / 2);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#reconnect(), seconds ? seconds * 1000 : backOff);
  }

  #refused(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#reconnect(), REFUSED_DELAY);
    this.#setState("refused");
  }

  #reconnectNow(): void {
    if (this.#timer) this.#reconnect();
  }

  #reconnect(): void {
    clearTimeout(this.#timer);
    this.#timer = 0;
    void this.#connect();
  }
}

function bytes(frame: object): number {
  return new TextEncoder().encode(JSON.stringify(frame)).length;
}
