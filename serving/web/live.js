/**
 * The client of WS /v1/live sends chats and votes, and receives notifications. It reconnects with
 * exponential back-off.
 *
 * Events: `state` (detail: "connecting" | "ready" | "lost"), `policy`, `learned`.
 * Votes that are unacknowledged when the connection is lost are sent again: a second vote supersedes the
 * first, so it counts once. A chat is not sent again: its `fail` is called.
 */

const MAX_DELAY = 10_000; // milliseconds

export class LiveClient extends EventTarget {
  #socket = null;
  #chats = new Map();
  #votes = new Map();
  #attempts = 0;
  #lastId = 0;
  #timer = 0;
  state = "connecting";
  key = null;

  constructor() {
    super();
    addEventListener("online", () => this.#reconnectNow());
    document.addEventListener("visibilitychange", () => document.hidden || this.#reconnectNow());
    this.#connect();
  }

  /** Starts a chat; returns its id. `on`: token({choice, text}), done(completion), fail({code, message}). */
  chat(request, on) {
    const id = `c${++this.#lastId}`;
    if (this.state !== "ready") {
      queueMicrotask(() => on.fail({ code: "offline", message: "" }));
      return id;
    }
    this.#chats.set(id, on);
    this.#send({ type: "chat", id, ...request });
    return id;
  }

  cancel(id) {
    if (this.#chats.has(id)) this.#send({ type: "cancel", id });
  }

  /** Sends a vote; resolves to {id, completion_id, status} once it is durable, rejects with {code, message}. */
  vote(vote) {
    const id = `v${++this.#lastId}`;
    return new Promise((resolve, reject) => {
      const frame = { type: "feedback", id, feedback: vote };
      this.#votes.set(id, { frame, resolve, reject });
      if (this.state === "ready") this.#send(frame);
    });
  }

  /** Reads (GET) or retracts (DELETE) a vote over HTTP; null when the service cannot be reached. */
  async request(method, { id, token }) {
    const headers = { Authorization: `Bearer ${this.key}`, "X-Feedback-Token": token };
    try {
      return await fetch(`/v1/feedback/${encodeURIComponent(id)}`, { method, headers });
    } catch {
      return null;
    }
  }

  async #connect() {
    this.#setState(this.#attempts ? "lost" : "connecting");
    try {
      const response = await fetch("/config.json", { cache: "no-store" });
      this.key = (await response.json()).publishable_key;
    } catch {
      this.#scheduleReconnect();
      return;
    }
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/live`);
    this.#socket = socket;
    socket.onopen = () => this.#send({ type: "auth", key: this.key });
    socket.onmessage = (message) => this.#receive(JSON.parse(message.data));
    socket.onclose = () => {
      const chats = [...this.#chats.values()];
      this.#chats.clear();
      this.#scheduleReconnect();
      for (const on of chats) on.fail({ code: "lost", message: "" });
    };
  }

  #receive(frame) {
    const on = this.#chats.get(frame.id);
    const vote = this.#votes.get(frame.id);
    if (frame.type === "ready") {
      this.#attempts = 0;
      this.#setState("ready", frame);
      for (const { frame: unsent } of this.#votes.values()) this.#send(unsent);
    } else if (frame.type === "token") {
      on?.token(frame);
    } else if (frame.type === "done") {
      this.#chats.delete(frame.id);
      on?.done(frame.completion);
    } else if (frame.type === "recorded") {
      this.#votes.delete(frame.id);
      vote?.resolve(frame.feedback);
    } else if (frame.type === "error") {
      this.#chats.delete(frame.id);
      this.#votes.delete(frame.id);
      (on?.fail ?? vote?.reject)?.(frame.error);
    } else {
      this.dispatchEvent(new CustomEvent(frame.type, { detail: frame }));
    }
  }

  #send(frame) {
    this.#socket.send(JSON.stringify(frame));
  }

  #setState(state, frame = null) {
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: { state, frame } }));
  }

  #scheduleReconnect() {
    this.#setState("lost");
    const delay = Math.min(MAX_DELAY, 400 * 2 ** this.#attempts++) * (0.75 + Math.random() / 2);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#reconnect(), delay);
  }

  #reconnectNow() {
    if (this.#timer) this.#reconnect();
  }

  #reconnect() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#connect();
  }
}
