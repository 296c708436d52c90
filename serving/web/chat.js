/**
 * The conversation sends messages, receives replies, and turns the user's actions into votes. It survives a
 * reload of the tab (sessionStorage); TurnView draws it.
 */

import { announce, randomId } from "./dom.js";
import { LETTERS, TurnView, answer, newTurn } from "./turn.js";
import { Voting } from "./voting.js";
import { errorMessage } from "./messages.js";

const KEY = "hearken.chat";
const SENT = "hearken.sent";
const COMPARE_EVERY = 5; // messages; one of so many gets two replies to compare
const RANKINGS = { a: [[0], [1]], b: [[1], [0]], tie: [[0, 1]], neither: [[0, 1]] };
const LABELS = {
  up: "Good reply",
  down: "Bad reply",
  a: "Preferred A",
  b: "Preferred B",
  tie: "A tie",
  neither: "Neither was good",
};

export class Chat {
  #live;
  #voteHistory;
  #list;
  #views = new Map();
  #running = null;
  #voting;

  /** Calls `onChange()` when a turn began, ended or was voted on, `onPolicy(policy)` when one answered, and
   * `onError(text)`. */
  constructor({ live, voteHistory, list, user, onChange, onPolicy, onError }) {
    Object.assign(this, { user, onChange, onPolicy, compare: false });
    const onSettled = (turn) => {
      this.#views.get(turn)?.draw();
      this.#saveAndNotify();
    };
    this.#voting = new Voting(live, voteHistory, onSettled, onError);
    this.#live = live;
    this.#voteHistory = voteHistory;
    this.#list = list;
    const kept = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
    this.id = kept?.id ?? randomId("conv");
    this.turns = kept?.turns ?? [];
    this.start = kept?.start ?? 0;
    for (const turn of this.turns) {
      if (turn.state === "streaming") Object.assign(turn, { state: "failed", problem: errorMessage({ code: "lost" }) });
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

  /** Starts a new, empty conversation. */
  clear() {
    this.stop();
    this.id = randomId("conv");
    this.turns = [];
    this.start = 0;
    this.#views.clear();
    this.#list.replaceChildren();
    this.#saveAndNotify();
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
    const view = new TurnView(turn, this.#voteHistory, this);
    this.#views.set(turn, view);
    this.#list.append(view.element);
  }

  #ask(turn) {
    const previous = this.turns.slice(this.start, this.turns.indexOf(turn)).filter((one) => answer(one).text);
    const messages = previous.flatMap((one) => [
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
      fail: (error) => this.#running?.id === id && this.#failed(turn, error, previous.length),
    });
    this.#running = { id, turn };
    announce(turn.n === 2 ? "Two replies are being written." : "A reply is being written.");
    this.#views.get(turn).draw();
    this.#saveAndNotify();
  }

  #done(turn, completion) {
    completion.choices.forEach((choice, index) => {
      turn.replies[index].text = choice.message.content;
      turn.replies[index].policy = completion.hearken.policies[index];
    });
    this.onPolicy(turn.replies[0].policy);
    const said = turn.replies.map((reply, index) => (turn.n === 2 ? `Reply ${LETTERS[index]}: ${reply.text}` : reply.text));
    const ended = { state: "done", completion: completion.id, token: completion.hearken.feedback_token };
    this.#end(turn, ended, said.join(" "));
  }

  /** Retries without the older half of the conversation when it exceeds the context. */
  #failed(turn, error, previous) {
    if (error.code === "context_length_exceeded" && previous > 0) {
      this.start = this.turns.indexOf(turn) - Math.floor(previous / 2);
      turn.forgot = true;
      this.#ask(turn);
      return;
    }
    this.#end(turn, { state: "failed", problem: errorMessage(error) }, errorMessage(error));
  }

  #end(turn, fields, said) {
    this.#running = null;
    Object.assign(turn, fields);
    this.#views.get(turn)?.draw();
    announce(said);
    this.#saveAndNotify();
  }

  #saveAndNotify() {
    sessionStorage.setItem(KEY, JSON.stringify({ id: this.id, turns: this.turns, start: this.start }));
    this.onChange();
  }

  // The actions of a turn's view.

  regenerate(turn) {
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
    this.#voting.cast(turn, vote, "ranking", LABELS[verdict], () => (turn.verdict = null));
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
    this.#voting.cast(turn, vote, `thumb ${choice}`, LABELS[reply.thumb], () => (reply.thumb = null));
  }
}
