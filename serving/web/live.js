/**
 * The socket to /v1/live: chats, votes, and what the service tells by itself. Reconnects with back-off.
 *
 * Events: `state` (detail: "connecting" | "ready" | "lost"), `policy`, `learned`.
 * Votes cast while the socket is away are sent when it is back: voting again only supersedes, so a vote
 * sent twice counts once. A chat is not repeated by itself: its `fail` is called.
 */

const LONGEST_WAIT = 10_000;

export class Live extends EventTarget {
  #socket = null;
  #chats = new Map();
  #votes = new Map();
  #tries = 0;
  #next = 0;
  #timer = 0;
  state = "connecting";
  key = null;

  constructor() {
    super();
    addEventListener("online", () => this.#retryNow());
    document.addEventListener("visibilitychange", () => document.hidden || this.#retryNow());
    this.#connect();
  }

  /** Starts a reply. `on`: token({choice, text}), done(completion), fail({code, message}). Returns its id. */
  chat(request, on) {
    const id = `c${++this.#next}`;
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

  /** A vote; resolves to {id, completion_id, status} when it is durable, rejects with {code, message}. */
  vote(vote) {
    const id = `v${++this.#next}`;
    return new Promise((resolve, reject) => {
      const frame = { type: "feedback", id, feedback: vote };
      this.#votes.set(id, { frame, resolve, reject });
      if (this.state === "ready") this.#send(frame);
    });
  }

  /** GET or DELETE one vote over HTTP; null when the service cannot be reached. */
  async call(method, { id, token }) {
    const headers = { Authorization: `Bearer ${this.key}`, "X-Feedback-Token": token };
    try {
      return await fetch(`/v1/feedback/${encodeURIComponent(id)}`, { method, headers });
    } catch {
      return null;
    }
  }

  async #connect() {
    this.#become(this.#tries ? "lost" : "connecting");
    try {
      const response = await fetch("/config.json", { cache: "no-store" });
      this.key = (await response.json()).publishable_key;
    } catch {
      this.#later();
      return;
    }
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/live`);
    this.#socket = socket;
    socket.onopen = () => this.#send({ type: "auth", key: this.key });
    socket.onmessage = (message) => this.#receive(JSON.parse(message.data));
    socket.onclose = () => {
      const chats = [...this.#chats.values()];
      this.#chats.clear();
      this.#later();
      for (const on of chats) on.fail({ code: "lost", message: "" });
    };
  }

  #receive(frame) {
    const on = this.#chats.get(frame.id);
    const vote = this.#votes.get(frame.id);
    if (frame.type === "ready") {
      this.#tries = 0;
      this.#become("ready", frame);
      for (const { frame: waiting } of this.#votes.values()) this.#send(waiting);
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

  #become(state, frame = null) {
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: { state, frame } }));
  }

  #later() {
    this.#become("lost");
    const wait = Math.min(LONGEST_WAIT, 400 * 2 ** this.#tries++) * (0.75 + Math.random() / 2);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#retry(), wait);
  }

  #retryNow() {
    if (this.#timer) this.#retry();
  }

  #retry() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#connect();
  }
}
