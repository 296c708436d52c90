/** Learning status: the status line, the notification that a vote went live, and the list of votes. */

import { h, plural, quote, when } from "./dom.js";

const byId = (id) => document.getElementById(id);

export class Status {
  policy = null;

  constructor(live, voteHistory) {
    this.live = live;
    this.voteHistory = voteHistory;
    byId("status").addEventListener("click", () => this.#openVotes());
    byId("news-close").addEventListener("click", () => (byId("news").hidden = true));
  }

  draw() {
    const { votes, pending } = this.voteHistory;
    const ready = this.live.state === "ready";
    const learning = ready && pending.length > 0;
    byId("status").dataset.state = learning ? "learning" : this.live.state;
    const count = votes.length ? `${plural(votes.length, "vote")} from you` : "No votes from you yet";
    const parts = [
      this.policy && h("span", {}, `Policy ${this.policy} answers`),
      h("span", {}, learning ? `${count}, ${pending.length} being learned` : count),
    ];
    const away = this.live.state === "lost" ? "Reconnecting…" : "Connecting…";
    byId("status-text").replaceChildren(...(ready ? parts.filter(Boolean) : [away]));
  }

  /** Shows that these votes are now part of a live policy. */
  showLearned(votes) {
    const { policy, liveAt } = votes.at(-1);
    const subject = votes.length === 1 ? `Your vote on ${quote(votes[0].prompt)} is` : `${votes.length} of your votes are`;
    this.showMessage(`${subject} part of policy ${policy}, live since ${when(liveAt)}.`);
    byId("news").dataset.kind = "learned";
  }

  showMessage(text) {
    byId("news-text").textContent = text;
    byId("news").dataset.kind = "note";
    byId("news").hidden = false;
  }

  #openVotes() {
    const { votes, pending } = this.voteHistory;
    const live = votes.length - pending.length;
    byId("votes-summary").textContent = votes.length
      ? `${plural(votes.length, "vote")}, ${live} in a live policy. Training starts by itself when enough came in.`
      : "None yet. Vote on a reply and follow here when the model has learned from it.";
    const rows = votes.map(({ what, prompt, policy, liveAt }) =>
      h(
        "li",
        { class: liveAt ? "live" : null },
        h("span", {}, `${what}, on ${quote(prompt, 60)}`),
        h("span", { class: "vote-status" }, liveAt ? `in ${policy}, live since ${when(liveAt)}` : "recorded, waiting to be learned"),
      ),
    );
    byId("votes-list").replaceChildren(...rows.reverse());
    byId("votes").showModal();
  }
}
