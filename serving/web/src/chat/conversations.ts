/** The visitor's conversations, kept in this browser; the newest MAX_CONVERSATIONS remain. */

import { shorten } from "../language/language.ts";
import type { Keep } from "../live/keep.ts";
import { isOpen, randomId, type Turn } from "./turn.ts";

export interface Conversation {
  id: string;
  title: string;
  turns: Turn[];
  start: number; // the first turn that still fits into the model's context
}

export interface Entry {
  id: string;
  title: string;
  changed: number;
}

const MAX_CONVERSATIONS = 100;
const LIST = "conversations";
const CURRENT = "current";

export class Conversations {
  #removed = new Set<string>(); // a reply or a vote that ends later saves none of these again
  #known = new Set<string>(); // turns that this tab has read or made: what it took away does not come back

  constructor(private keep: Keep) {}

  get list(): Entry[] {
    return this.keep.get<Entry[]>(LIST) ?? [];
  }

  /** Returns the conversation that was open last, or a new one. */
  open(id = this.keep.get<string>(CURRENT)): Conversation {
    const found = id ? this.keep.get<Conversation>(key(id)) : null;
    if (found) this.#removed.delete(found.id);
    for (const turn of found?.turns ?? []) this.#known.add(turn.id);
    const opened = found ?? { id: randomId("conv"), title: "", turns: [], start: 0 };
    this.keep.set(CURRENT, opened.id);
    return opened;
  }

  /** Opens a new conversation. */
  create(): Conversation {
    this.keep.remove(CURRENT);
    return this.open();
  }

  /** Saves a conversation, together with what another tab has added to it; `running` is the turn that is being asked
   * here. */
  save(conversation: Conversation, running: Turn | null): void {
    if (this.#removed.has(conversation.id)) return;
    this.#merge(conversation, running);
    const first = conversation.turns[0];
    if (!first) return;
    conversation.title ||= shorten(first.prompt, 60);
    const { id, title } = conversation;
    const others = this.list.filter((entry) => entry.id !== id);
    this.#saveList([{ id, title, changed: Date.now() }, ...others]);
    for (const oldest of others.toReversed()) {
      if (this.keep.set(key(id), conversation)) return;
      this.remove(oldest.id); // the storage is full
    }
    this.keep.set(key(id), conversation);
  }

  /** Changes the turn of a completion in a conversation that is not open. */
  change(id: string, completion: string, change: (turn: Turn) => void): void {
    const conversation = this.keep.get<Conversation>(key(id));
    const turn = conversation?.turns.find((each) => each.completion === completion);
    if (!turn) return;
    change(turn);
    this.keep.set(key(id), conversation);
  }

  rename(id: string, title: string): void {
    const conversation = this.keep.get<Conversation>(key(id));
    if (conversation) this.keep.set(key(id), { ...conversation, title });
    this.keep.set(
      LIST,
      this.list.map((entry) => (entry.id === id ? { ...entry, title } : entry)),
    );
  }

  /** Removes a conversation; returns what `restore` needs. */
  remove(id: string): { conversation: Conversation; entry: Entry; place: number } | null {
    this.#removed.add(id);
    const list = this.list;
    const place = list.findIndex((entry) => entry.id === id);
    const entry = list[place];
    const conversation = this.keep.get<Conversation>(key(id));
    this.keep.set(
      LIST,
      list.filter((each) => each.id !== id),
    );
    this.keep.remove(key(id));
    return entry && conversation ? { conversation, entry, place } : null;
  }

  restore({ conversation, entry, place }: { conversation: Conversation; entry: Entry; place: number }): void {
    this.#removed.delete(entry.id);
    this.keep.set(key(entry.id), conversation);
    this.keep.set(LIST, this.list.toSpliced(place, 0, entry));
  }

  /** Removes all conversations. */
  clear(): void {
    for (const { id } of this.list) {
      this.#removed.add(id);
      this.keep.remove(key(id));
    }
    this.keep.set(LIST, []);
  }

  /** Returns whether this browser has a conversation. */
  has(id: string): boolean {
    return this.list.some((entry) => entry.id === id);
  }

  /** Another tab changed a value of the storage: returns whether that is this conversation, and whether it is gone. */
  changedElsewhere(name: string, id: string): "changed" | "removed" | null {
    if (name !== key(id)) return null;
    if (this.keep.get(name) !== null) return "changed";
    this.#removed.add(id);
    return "removed";
  }

  /** Takes over the turns of another tab, and the ends of its replies. */
  #merge(conversation: Conversation, running: Turn | null): void {
    for (const stored of this.keep.get<Conversation>(key(conversation.id))?.turns ?? []) {
      const own = conversation.turns.find((turn) => turn.id === stored.id);
      if (own && own !== running && isOpen(own)) Object.assign(own, stored);
      else if (!own && !this.#known.has(stored.id)) conversation.turns.push(stored);
    }
    for (const turn of conversation.turns) this.#known.add(turn.id);
  }

  #saveList(list: Entry[]): void {
    for (const entry of list.slice(MAX_CONVERSATIONS)) this.keep.remove(key(entry.id));
    this.keep.set(LIST, list.slice(0, MAX_CONVERSATIONS));
  }
}

function key(id: string): string {
  return `conversation.${id}`;
}
