/**
 * The conversation: sends messages, takes in replies, turns what a person does into votes. Survives a
 * reload of the tab (sessionStorage) and leaves how it looks to TurnView.
 */

import { announce, randomId } from "./dom.js";
import { LETTERS, TurnView, answer, newTurn } from "./turn.js";
import { Voting } from "./voting.js";
import { inWords } from "./words.js";

const KEY = "hearken.chat";
const SENT = "hearken.sent";
const COMPARE_EVERY = 5;
const RANKINGS = { a: [[0], [1]], b: [[1], [0]], tie: [[0, 1]], neither: [[0, 1]] };
const WHAT = {
  up: "Good reply",
  down: "Bad reply",
  a: "Preferred A",
  b: "Preferred B",
  tie: "A tie",
  neither: "Neither was good",
};

export class Chat {
  #live;
  #ledger;
  #list;
  #views = new Map();
  #running = null;
  #voting;

  /** Calls `changed()` when a turn began, ended or was voted on, `answered(policy)`, `complain(text)`. */
  constructor({ live, ledger, list, user, changed, answered, complain }) {
    Object.assign(this, { user, changed, answered, compare: false });
    const settled = (turn) => {
      this.#views.get(turn)?.draw();
      this.#changed();
    };
    this.#voting = new Voting(live, ledger, settled, complain);
    this.#live = live;
    this.#ledger = ledger;
    this.#list = list;
    const kept = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
    this.id = kept?.id ?? randomId("conv");
    this.turns = kept?.turns ?? [];
    this.start = kept?.start ?? 0;
    for (const turn of this.turns) {
      if (turn.state === "streaming") Object.assign(turn, { state: "failed", problem: inWords({ code: "lost" }) });
      this.#show(turn);
    }
  }

  get busy() {
    return this.#running !== null;
  }

  send(prompt) {
    const sent = Number(localStorage.getItem(SENT) ?? 0);
    localStorage.setItem(SENT, sent + 1);
    const n = this.compare || sent % COMPARE_EVERY === COMPARE_EVERY - 2 ? 2 : 1;
    const turn = newTurn(prompt, n);
    this.turns.push(turn);
    this.#show(turn);
    this.#ask(turn);
  }

  stop() {
    if (!this.#running) return;
    const { id, turn } = this.#running;
    this.#live.cancel(id);
    this.#end(turn, { state: "stopped" }, "Stopped.");
  }

  /** A new, empty conversation. */
  clear() {
    this.stop();
    this.id = randomId("conv");
    this.turns = [];
    this.start = 0;
    this.#views.clear();
    this.#list.replaceChildren();
    this.#changed();
  }

  redraw() {
    for (const view of this.#views.values()) view.draw();
  }

  #show(turn) {
    for (const view of this.#views.values()) {
      if (!view.last) continue;
      view.last = false;
      view.draw();
    }
    const view = new TurnView(turn, this.#ledger, this);
    this.#views.set(turn, view);
    this.#list.append(view.element);
  }

  #ask(turn) {
    const past = this.turns.slice(this.start, this.turns.indexOf(turn)).filter((one) => answer(one).text);
    const messages = past.flatMap((one) => [
      { role: "user", content: one.prompt },
      { role: "assistant", content: answer(one).text },
    ]);
    messages.push({ role: "user", content: turn.prompt });
    const request = { messages, n: turn.n, user: this.user, metadata: { conversation_id: this.id } };
    const id = this.#live.chat(request, {
      token: ({ choice, text }) => {
        if (this.#running?.id !== id) return;
        turn.replies[choice].text += text;
        this.#views.get(turn)?.stream();
      },
      done: (completion) => this.#running?.id === id && this.#done(turn, completion),
      fail: (error) => this.#running?.id === id && this.#failed(turn, error, past.length),
    });
    this.#running = { id, turn };
    announce(turn.n === 2 ? "Two replies are being written." : "A reply is being written.");
    this.#views.get(turn).draw();
    this.#changed();
  }

  #done(turn, completion) {
    completion.choices.forEach((choice, index) => {
      turn.replies[index].text = choice.message.content;
      turn.replies[index].policy = completion.hearken.policies[index];
    });
    this.answered(turn.replies[0].policy);
    const said = turn.replies.map((reply, index) => (turn.n === 2 ? `Reply ${LETTERS[index]}: ${reply.text}` : reply.text));
    const ended = { state: "done", completion: completion.id, token: completion.hearken.feedback_token };
    this.#end(turn, ended, said.join(" "));
  }

  /** When the model cannot take the whole conversation, its older half is left out and it is asked again. */
  #failed(turn, error, past) {
    if (error.code === "context_length_exceeded" && past > 0) {
      this.start = this.turns.indexOf(turn) - Math.floor(past / 2);
      turn.forgot = true;
      this.#ask(turn);
      return;
    }
    this.#end(turn, { state: "failed", problem: inWords(error) }, inWords(error));
  }

  #end(turn, fields, said) {
    this.#running = null;
    Object.assign(turn, fields);
    this.#views.get(turn)?.draw();
    announce(said);
    this.#changed();
  }

  #changed() {
    sessionStorage.setItem(KEY, JSON.stringify({ id: this.id, turns: this.turns, start: this.start }));
    this.changed();
  }

  // What a person can do with a turn; called by its view.

  again(turn) {
    if (this.busy) return;
    if (turn.state === "done") this.#voting.signal(turn, "regenerated");
    const n = turn.state === "done" ? (this.compare ? 2 : 1) : turn.n;
    Object.assign(turn, newTurn(turn.prompt, n));
    this.#ask(turn);
  }

  choose(turn, verdict) {
    turn.verdict = verdict;
    turn.picked = verdict === "b" ? 1 : 0;
    this.#views.get(turn).draw();
    this.#views.get(turn).focus("verdict");
    const vote = { type: "ranking", ranking: RANKINGS[verdict], acceptable: verdict !== "neither" };
    this.#voting.cast(turn, vote, "ranking", WHAT[verdict], () => (turn.verdict = null));
  }

  reconsider(turn) {
    turn.verdict = null;
    this.#views.get(turn).draw();
    this.#views.get(turn).focus("pick-a");
  }

  thumb(turn, value) {
    const reply = answer(turn);
    reply.thumb = value;
    reply.reasons = [];
    this.#views.get(turn).draw();
    if (value) this.#castThumb(turn, reply);
    else this.#voting.retract(turn, `thumb ${turn.picked ?? 0}`);
  }

  reasons(turn, reasons) {
    const reply = answer(turn);
    reply.reasons = reasons;
    this.#views.get(turn).draw();
    this.#castThumb(turn, reply);
  }

  edit(turn, text) {
    const reply = answer(turn);
    const slot = `edit ${turn.picked ?? 0}`;
    const before = reply.text;
    reply.original ??= before;
    reply.text = text;
    reply.edited = text !== reply.original;
    const undo = () => Object.assign(reply, { text: before, edited: before !== reply.original });
    if (reply.edited) this.#voting.cast(turn, { type: "edit", choice: turn.picked ?? 0, text }, slot, "Edited", undo);
    else this.#voting.retract(turn, slot);
  }

  async copy(turn) {
    await navigator.clipboard.writeText(answer(turn).text);
    announce("Copied.");
    this.#voting.signal(turn, "copied");
  }

  #castThumb(turn, reply) {
    const choice = turn.picked ?? 0;
    const vote = { type: "thumb", choice, value: reply.thumb, reasons: reply.reasons };
    this.#voting.cast(turn, vote, `thumb ${choice}`, WHAT[reply.thumb], () => (reply.thumb = null));
  }
}
