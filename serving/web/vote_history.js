/**
 * The vote history lists the votes cast from this browser, and when each went live. It is in localStorage,
 * with the feedback token that allows reading a vote's status; the newest MAX_VOTES are kept.
 */

const KEY = "hearken.votes";
const MAX_VOTES = 200;

export class VoteHistory {
  constructor() {
    this.#load();
    addEventListener("storage", (event) => event.key === KEY && this.#load()); // another tab voted
  }

  /** Adds {id, token, completion, slot, what, prompt}; a new vote replaces the one in the same slot. */
  add(vote) {
    this.votes = this.votes.filter((kept) => kept.slot !== vote.slot);
    this.votes.push({ ...vote, policy: null, liveAt: null });
    this.#save();
  }

  remove(id) {
    this.votes = this.votes.filter((vote) => vote.id !== id);
    this.#save();
  }

  /** Marks a vote as part of a live policy; returns it, or null when it is unknown or already marked. */
  markLive(id, policy, liveAt) {
    const vote = this.votes.find((vote) => vote.id === id);
    if (!vote || vote.liveAt) return null;
    vote.policy = policy;
    vote.liveAt = liveAt;
    this.#save();
    return vote;
  }

  /** Returns the active vote in a slot, or undefined. */
  find(slot) {
    return this.votes.find((vote) => vote.slot === slot);
  }

  /** The votes that no live policy has learned from yet. */
  get pending() {
    return this.votes.filter((vote) => !vote.liveAt);
  }

  #load() {
    this.votes = JSON.parse(localStorage.getItem(KEY) ?? "[]");
  }

  #save() {
    this.votes = this.votes.slice(-MAX_VOTES);
    localStorage.setItem(KEY, JSON.stringify(this.votes));
  }
}
