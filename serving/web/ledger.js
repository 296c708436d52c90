/**
 * The votes cast from this browser: what for, and when each went live. Kept in localStorage, with the
 * feedback token that lets us ask about them; the newest 200.
 */

const KEY = "hearken.votes";
const MOST = 200;

export class Ledger {
  constructor() {
    this.#load();
    addEventListener("storage", (event) => event.key === KEY && this.#load()); // another tab voted
  }

  /** {id, token, completion, slot, what, prompt}; a new vote in a slot takes the old one's place. */
  add(vote) {
    this.votes = this.votes.filter((kept) => kept.slot !== vote.slot);
    this.votes.push({ ...vote, policy: null, liveAt: null });
    this.#save();
  }

  remove(id) {
    this.votes = this.votes.filter((vote) => vote.id !== id);
    this.#save();
  }

  /** Notes that a vote is live; returns it when that is news, else null. */
  learned(id, policy, liveAt) {
    const vote = this.votes.find((vote) => vote.id === id);
    if (!vote || vote.liveAt) return null;
    vote.policy = policy;
    vote.liveAt = liveAt;
    this.#save();
    return vote;
  }

  /** The standing vote in a slot, or undefined. */
  in(slot) {
    return this.votes.find((vote) => vote.slot === slot);
  }

  get waiting() {
    return this.votes.filter((vote) => !vote.liveAt);
  }

  #load() {
    this.votes = JSON.parse(localStorage.getItem(KEY) ?? "[]");
  }

  #save() {
    this.votes = this.votes.slice(-MOST);
    localStorage.setItem(KEY, JSON.stringify(this.votes));
  }
}
