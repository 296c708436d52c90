/**
 * The conversation sends messages, receives replies, and turns the person's actions into votes. The components draw
 * what it holds, and are told by `subscribe` when that changed.
 */

import { type LiveSocket, TOO_LARGE } from "../live/socket.ts";
import type { Completion, ServiceError } from "../live/types.ts";
import type { Conversation, Conversations } from "./conversations.ts";
import {
  answer,
  isOpen,
  messages,
  newTurn,
  ranking,
  replyOf,
  type Turn,
  type Verdict,
  wanted,
  withoutPair,
} from "./turn.ts";
import type { Voting } from "./voting.ts";

export interface ChatSettings {
  choices: number; // replies to compare
  compareEvery: number; // one message of so many may get two replies to compare, as the service decides; 0: none
  kept: boolean; // false: nothing is stored
}

export interface ChatHandlers {
  changed(): void;
  said(text: string): void;
  replied(completion: Completion, conversation: string): void;
  failed(error: ServiceError): void;
}

const MAX_RESENDS = 5;
const SENT_AGAIN = new Set(["lost", "offline"]);
const TOO_LONG = new Set(["context_length_exceeded", TOO_LARGE]); // sent again with half of the turns before

export class Chat {
  compare = false;
  /** When the message that waits is sent again (milliseconds), and why it waits. */
  resend: { at: number; code: string } | null = null;
  #running: { id: string; turn: Turn } | null = null;
  #resends = 0;
  #timer = 0;

  constructor(
    public conversation: Conversation,
    readonly settings: ChatSettings,
    private socket: LiveSocket,
    private conversations: Conversations,
    private voting: Voting,
    private on: ChatHandlers,
  ) {
    const interrupted: Partial<Turn> = { state: "failed", problem: { code: "lost", message: "" } };
    for (const turn of this.turns) if (isOpen(turn)) Object.assign(turn, interrupted);
  }

  get turns(): Turn[] {
    return this.conversation.turns;
  }

  get busy(): boolean {
    return this.#running !== null;
  }

  send(prompt: string): void {
    this.#add(newTurn(prompt, this.compare ? this.settings.choices : 1));
  }

  stop(): void {
    if (!this.#running) return;
    const { id, turn } = this.#running;
    this.socket.cancel(id);
    this.#end(turn, { state: "stopped" });
  }

  /** Opens another conversation, or the same one as another tab left it. */
  show(conversation: Conversation): void {
    this.stop();
    this.conversation = conversation;
    this.on.changed();
  }

  /** Sends what waits, as soon as there is a connection. */
  resume(): void {
    if (this.#running && this.#running.turn.state === "waiting" && !this.resend)
      this.#ask(this.#running.turn);
  }

  regenerate(turn: Turn): void {
    if (this.busy) return;
    if (turn.state === "done") this.voting.signal(turn, "regenerated");
    const n = turn.state === "done" ? (this.compare ? this.settings.choices : 1) : wanted(turn);
    Object.assign(turn, newTurn(turn.prompt, n), { id: turn.id, again: turn.again });
    this.#start(turn);
  }

  /** Sends another text in place of a message; what came after it goes. */
  rewrite(turn: Turn, prompt: string): void {
    if (this.busy) return;
    const { conversation } = this;
    conversation.turns = this.turns.slice(0, this.turns.indexOf(turn));
    if (conversation.start >= conversation.turns.length) conversation.start = 0;
    this.#add(newTurn(prompt, wanted(turn)));
  }

  /** Asks a message anew after the model has learned; the reply stands beside the one before. */
  askAgain(turn: Turn): void {
    if (this.busy) return;
    const next = newTurn(turn.prompt, 1);
    next.again = {
      of: turn.again?.of ?? turn.id,
      before: answer(turn).original ?? answer(turn).text,
    };
    this.#add(next);
  }

  choose(turn: Turn, verdict: Verdict, reasons: string[] = []): void {
    const before = { verdict: turn.verdict, picked: turn.picked, reasons: turn.reasons ?? [] };
    turn.verdict = verdict;
    turn.reasons = reasons;
    turn.picked = typeof verdict === "number" ? verdict : (turn.shown[0] ?? 0);
    const vote = {
      type: "ranking" as const,
      ranking: ranking(turn, verdict),
      acceptable: verdict !== "none",
      shown: turn.shown,
      ...(reasons.length ? { reasons } : {}),
    };
    const undo = this.#undo(turn, (same) => Object.assign(same, before));
    void this.voting.cast(turn, this.conversation.id, "ranking", "ranking", vote, undo);
    this.#save();
  }

  /** Continues with the reply that stands first, without a vote on the pair that the service asked about. */
  notNow(turn: Turn): void {
    turn.verdict = "skipped";
    turn.picked = turn.shown[0] ?? 0;
    this.#save();
  }

  reconsider(turn: Turn): void {
    turn.verdict = null;
    this.#save();
  }

  /** Votes a reply up or down with reasons and a comment, or takes the vote back (null). Returns whether a vote was
   * recorded. */
  async thumb(
    turn: Turn,
    value: "up" | "down" | null,
    reasons: string[] = [],
    comment = "",
  ): Promise<boolean> {
    const reply = answer(turn);
    const before = { thumb: reply.thumb, reasons: reply.reasons, comment: reply.comment };
    Object.assign(reply, { thumb: value, reasons, comment });
    const choice = turn.replies.indexOf(reply);
    const undo = this.#undo(turn, (same) => Object.assign(same.replies[choice]!, before));
    if (value === null) {
      this.voting.retract(turn.completion ?? "", `thumb ${choice}`, undo);
      this.#save();
      return false;
    }
    const vote = { type: "thumb" as const, choice, value, reasons, ...(comment ? { comment } : {}) };
    const recorded = this.voting.cast(turn, this.conversation.id, `thumb ${choice}`, value, vote, undo);
    this.#save();
    return recorded;
  }

  edit(turn: Turn, text: string): void {
    const reply = answer(turn);
    const before = { text: reply.text, original: reply.original };
    const original = reply.original ?? reply.text;
    const changed = text !== original;
    Object.assign(reply, { text, original: changed ? original : null });
    const choice = turn.replies.indexOf(reply);
    const undo = this.#undo(turn, (same) => Object.assign(same.replies[choice]!, before));
    const vote = { type: "edit" as const, choice, text };
    if (changed) void this.voting.cast(turn, this.conversation.id, `edit ${choice}`, "edit", vote, undo);
    else this.voting.retract(turn.completion ?? "", `edit ${choice}`, undo);
    this.#save();
  }

  copied(turn: Turn): void {
    this.voting.signal(turn, "copied");
  }

  /** A vote was taken back from the list: its turn no longer shows it. */
  withdrawn(conversation: string, completion: string, slot: string): void {
    const [kind, index] = slot.split(" ");
    this.#change(conversation, completion, (turn) => {
      const reply = turn.replies[Number(index ?? 0)];
      if (kind === "ranking") Object.assign(turn, { verdict: null, reasons: [] });
      else if (kind === "thumb" && reply) Object.assign(reply, { thumb: null, reasons: [], comment: "" });
      else if (reply?.original) Object.assign(reply, { text: reply.original, original: null });
    });
  }

  /** Returns what takes a vote on a turn back, whichever conversation is open by then. */
  #undo(turn: Turn, back: (same: Turn) => void): () => void {
    const { id } = this.conversation;
    const completion = turn.completion ?? "";
    return () => this.#change(id, completion, back);
  }

  #change(conversation: string, completion: string, change: (turn: Turn) => void): void {
    if (conversation !== this.conversation.id) {
      this.conversations.change(conversation, completion, change);
      return;
    }
    const turn = this.turns.find((each) => each.completion === completion);
    if (!turn) return;
    change(turn);
    this.#save();
  }

  #add(turn: Turn): void {
    this.turns.push(turn);
    this.#start(turn);
  }

  #start(turn: Turn): void {
    this.#resends = 0;
    this.#ask(turn);
  }

  #ask(turn: Turn): void {
    clearTimeout(this.#timer);
    this.resend = null;
    if (turn.asked) withoutPair(turn);
    for (const reply of turn.replies) reply.text = "";
    turn.state = this.socket.state === "ready" ? "streaming" : "waiting";
    const before = this.#history(turn);
    const request = {
      messages: messages(before, turn),
      n: turn.replies.length,
      compare: this.#mayBecomePair(turn) ? Math.min(0.5, 1 / this.settings.compareEvery) : 0,
      store: this.settings.kept,
      metadata: { conversation_id: this.conversation.id },
    };
    let id = "";
    const current = (): boolean => this.#running?.id === id;
    id = this.socket.chat(request, {
      token: (choice, text) => {
        if (!current()) return;
        replyOf(turn, choice).text += text;
        this.on.changed();
      },
      done: (completion) => current() && this.#done(turn, completion),
      fail: (error) => current() && this.#failed(turn, error, before.length),
    });
    this.#running = { id, turn };
    this.#save();
  }

  #mayBecomePair(turn: Turn): boolean {
    return this.settings.compareEvery > 0 && turn.replies.length === 1 && turn.again === null;
  }

  /** Returns the turns before a message that the model still reads; a message that is asked anew has those of old. */
  #history(turn: Turn): Turn[] {
    const end = this.turns.findIndex((each) => each.id === (turn.again?.of ?? turn.id));
    return this.turns.slice(Math.min(this.conversation.start, end), end);
  }

  #done(turn: Turn, completion: Completion): void {
    for (const choice of completion.choices) {
      const reply = replyOf(turn, choice.index);
      Object.assign(reply, { text: choice.message.content ?? "", cut: choice.finish_reason === "length" });
    }
    const token = completion.hearken.feedback_token;
    this.#end(turn, { state: "done", completion: completion.id, token });
    this.on.replied(completion, this.conversation.id);
  }

  #failed(turn: Turn, error: ServiceError, before: number): void {
    if (TOO_LONG.has(error.code) && before > 0) {
      this.conversation.start = this.turns.indexOf(turn) - Math.floor(before / 2);
      turn.forgot = true;
      this.#ask(turn);
      return;
    }
    if (SENT_AGAIN.has(error.code)) {
      turn.state = "waiting";
      this.#save();
      return;
    }
    if (error.retryAfter && this.#resends < MAX_RESENDS) {
      this.#resends += 1;
      turn.state = "waiting";
      this.resend = { at: Date.now() + error.retryAfter * 1000, code: error.code };
      this.#timer = setTimeout(() => this.#ask(turn), error.retryAfter * 1000);
      this.#save();
      return;
    }
    this.#end(turn, { state: "failed", problem: { code: error.code, message: error.message } });
    this.on.failed(error);
  }

  #end(turn: Turn, fields: Partial<Turn>): void {
    clearTimeout(this.#timer);
    this.resend = null;
    this.#running = null;
    Object.assign(turn, fields);
    this.on.said(turn.replies.map((reply) => reply.text).join("\n"));
    this.#save();
  }

  #save(): void {
    this.conversations.save(this.conversation, this.#running?.turn ?? null);
    this.on.changed();
  }
}
