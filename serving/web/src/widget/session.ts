/** One visitor's chat with a service: the conversation, the votes, the connection, and what is to be said about them. */

import { Chat } from "../chat/chat.ts";
import { Conversations, type Entry } from "../chat/conversations.ts";
import { Questions } from "../chat/questions.ts";
import { Following } from "../chat/following.ts";
import type { CastVote } from "../chat/vote_history.ts";
import { VoteHistory } from "../chat/vote_history.ts";
import { Voting } from "../chat/voting.ts";
import { Keep } from "../live/keep.ts";
import { Service, SESSION } from "../live/service.ts";
import { DROPPED, LiveSocket, SESSION_ENDED } from "../live/socket.ts";
import type { ServiceError } from "../live/types.ts";
import { KeptVotes } from "./kept_votes.ts";
import type { Options } from "./options.ts";

/** What the chat says in a line of its own. */
export type News =
  | { kind: "live"; votes: CastVote[] }
  | { kind: "vote-failed" | "retract-failed"; error: ServiceError | null }
  | { kind: "reply-gone" }
  | { kind: "removed"; entry: Entry; undo: () => void };

type Emit = (name: string, detail: object) => void;

const CONSENT = "consent";
const UNSENT = "consent-unsent"; // the service does not know of the choice yet
const NEWS_SECONDS = 12;

export class Session {
  readonly keep: Keep;
  readonly conversations: Conversations;
  readonly votes: VoteHistory;
  readonly following: Following;
  readonly socket: LiveSocket;
  readonly chat: Chat;
  readonly questions: Questions;
  news: News | null = null;
  announced = "";
  #voting: Voting;
  #listeners = new Set<() => void>();
  #unwatch: () => void;
  #newsTimer = 0;
  #choiceRead = false;
  #frame = 0;

  constructor(
    readonly service: Service,
    keep: Keep,
    readonly options: Options,
    emit: Emit,
  ) {
    this.keep = keep;
    this.conversations = new Conversations(keep);
    this.votes = new VoteHistory(keep);
    this.following = new Following(service, this.votes, {
      live: (votes) => {
        this.tell({ kind: "live", votes });
        for (const vote of votes) emit("learned", { feedback_id: vote.id, live_at: vote.life.live_at });
      },
      changed: () => this.changed(),
    });
    this.socket = new LiveSocket(service, {
      state: (state) => {
        if (state === "ready") {
          emit("ready", {});
          if (this.keep.get(UNSENT)) this.socket.choose(this.consent === "yes");
          else void this.#readChoice().catch(() => {}); // the service obeys it all the same
          this.chat.resume();
          this.following.connected();
        }
        if (state === "refused" && this.socket.refusal === SESSION_ENDED)
          emit("error", { code: SESSION_ENDED, message: "The session has ended, or was not made here." });
        this.changed();
      },
      chosen: (learning) => {
        if (learning === (this.consent === "yes")) this.keep.remove(UNSENT);
      },
      learned: (learned) => this.following.learned(learned),
    });
    this.#voting = new Voting(this.socket, service, this.votes, {
      settled: () => this.changed(),
      recorded: ({ id, completion_id }, { type }) => {
        emit("vote", { id, completion_id, type });
        this.following.hurry();
      },
      failed: (error) => {
        if (error.code !== DROPPED) this.tell({ kind: "vote-failed", error });
      },
      retractFailed: () => this.tell({ kind: "retract-failed", error: null }),
    });
    const settings = { choices: options.choices, compareEvery: options.compareEvery, kept: this.kept };
    this.chat = new Chat(this.conversations.open(), settings, this.socket, this.conversations, this.#voting, {
      changed: () => this.changed(),
      said: (text) => this.announce(text),
      replied: ({ id }, conversation_id) => emit("reply", { completion_id: id, conversation_id }),
      failed: ({ code, message }) => emit("error", { code, message }),
    });
    this.questions = new Questions(service, this.socket, () => this.changed());
    this.#unwatch = keep.watch((name) => this.#changedElsewhere(name));
  }

  close(): void {
    this.chat.stop();
    this.following.close();
    this.socket.close();
    this.#unwatch();
    clearTimeout(this.#newsTimer);
  }

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Redraws, once for all that changes before the next frame. */
  changed(): void {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      for (const listener of this.#listeners) listener();
    });
  }

  announce(text: string): void {
    this.announced = text;
    this.changed();
  }

  tell(news: News | null): void {
    clearTimeout(this.#newsTimer);
    this.news = news;
    if (news?.kind === "removed") this.#newsTimer = setTimeout(() => this.tell(null), NEWS_SECONDS * 1000);
    this.changed();
  }

  /** The visitor's own word: `yes`, `no`, or none yet. */
  get consent(): "yes" | "no" | null {
    return this.keep.get<"yes" | "no">(CONSENT);
  }

  set consent(word: "yes" | "no") {
    this.keep.set(UNSENT, true);
    this.#keepChoice(word);
    this.socket.choose(word === "yes");
  }

  /** Whether chats are stored, and may be voted on. */
  get kept(): boolean {
    if (this.options.consent === "off" || this.consent === "no") return false;
    return this.options.consent === "on" || this.consent === "yes";
  }

  /** Whether the visitor may be asked for their tone: where the project has several, and answers are kept. */
  get asksForTone(): boolean {
    return this.options.tone && this.kept;
  }

  open(id: string): void {
    this.chat.show(this.conversations.open(id));
  }

  create(): void {
    this.chat.show(this.conversations.create());
  }

  remove(id: string): void {
    const current = id === this.chat.conversation.id;
    if (current) this.chat.stop();
    const removed = this.conversations.remove(id);
    if (current) this.create();
    if (!removed) return;
    const undo = (): void => {
      this.conversations.restore(removed);
      if (current) this.open(id);
      this.tell(null);
    };
    this.tell({ kind: "removed", entry: removed.entry, undo });
  }

  rename(id: string, title: string): void {
    this.conversations.rename(id, title);
    if (id === this.chat.conversation.id) this.chat.conversation.title = title;
    this.changed();
  }

  retract(vote: CastVote): void {
    this.#voting.retract(vote.completion, vote.slot, () => {});
    this.chat.withdrawn(vote.conversation, vote.completion, vote.slot);
  }

  /** Asks the service to erase the visitor, and forgets what this browser keeps. */
  async forget(): Promise<void> {
    this.chat.stop();
    await this.service.forget();
    this.conversations.clear();
    this.votes.clear();
    new KeptVotes().clear();
    if (this.consent === "yes") this.keep.remove(CONSENT);
    else if (this.consent === "no") this.keep.set(UNSENT, true); // whoever comes next here says no, too
    this.chat.settings.kept = this.kept;
    this.create();
    this.socket.restart();
  }

  /** Takes over what the visitor chose in another browser, or tells the service what they chose in this one. */
  async #readChoice(): Promise<void> {
    if (this.#choiceRead) return;
    const { learning } = await this.service.choice();
    this.#choiceRead = true;
    if (this.keep.get(UNSENT)) return;
    const word = this.consent;
    if (learning !== null) this.#keepChoice(learning ? "yes" : "no");
    else if (word !== null) this.consent = word; // chosen when only the browser knew
  }

  #keepChoice(word: "yes" | "no"): void {
    this.keep.set(CONSENT, word);
    this.chat.settings.kept = this.kept;
    this.changed();
  }

  #changedElsewhere(name: string): void {
    const { conversation } = this.chat;
    this.votes.changedElsewhere(name);
    if (name === CONSENT) this.chat.settings.kept = this.kept;
    if (name === SESSION) {
      // The visitor was forgotten there: nothing more is said here as who they were.
      this.service.readSessionAgain();
      this.socket.restart();
    }
    const found = this.conversations.changedElsewhere(name, conversation.id);
    if (found === "removed" || (found === "changed" && !this.chat.busy)) this.open(conversation.id);
    this.changed();
  }
}
