/**
 * The view of one turn: the message, one reply or two to compare, and their controls.
 *
 * A turn is plain data (see `newTurn`), so it survives a reload. A TurnView draws it and calls `actions`:
 * regenerate, choose(verdict), reconsider, thumb(value), reasons(list), edit(text), copy, all of (turn, …).
 */

import { editor } from "./editor.js";
import { button, h, icon, plural, when } from "./dom.js";
import { showText } from "./text.js";
import { REASONS } from "./messages.js";

export const LETTERS = ["A", "B"];
const VERDICTS = {
  a: "You preferred A.",
  b: "You preferred B.",
  tie: "You called it a tie.",
  neither: "You found neither good.",
};
const TRUNCATED = "The model’s memory is short: it no longer sees the beginning of this chat.";

/** Returns a turn that has just been sent; `n` is 1 or 2. `state`: streaming, done, stopped or failed. */
export function newTurn(prompt, n) {
  const reply = { text: "", policy: null, thumb: null, reasons: [], edited: false };
  return {
    prompt,
    n,
    replies: Array.from({ length: n }, () => ({ ...reply })),
    state: "streaming",
    completion: null,
    token: null,
    picked: null,
    verdict: null,
    problem: null,
    forgot: false,
  };
}

/** Returns the reply with which the conversation continues. */
export function answer(turn) {
  return turn.replies[turn.picked ?? 0];
}

export class TurnView {
  #bodies = [];
  #editor = null;
  #otherOpen = false;
  #frame = 0;

  constructor(turn, voteHistory, actions) {
    this.turn = turn;
    this.voteHistory = voteHistory;
    this.actions = actions;
    this.last = true;
    this.element = h("li", { class: "turn" });
    this.draw();
  }

  /** Shows streamed text, once per animation frame. */
  stream() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#bodies.forEach(([choice, body]) => showText(body, this.turn.replies[choice].text));
    });
  }

  /** Redraws the turn; the focus stays on the control that has it. */
  draw() {
    const focused = this.element.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const { turn } = this;
    this.#bodies = [];
    const undecided = turn.n === 2 && !turn.verdict && turn.state !== "failed";
    this.element.replaceChildren(
      h("article", { class: "you", "aria-label": "You" }, h("p", {}, turn.prompt)),
      ...(turn.forgot ? [h("p", { class: "aside" }, TRUNCATED)] : []),
      ...(undecided ? this.#pair() : this.#reply()),
      ...this.#liveVotes(),
    );
    if (focused) this.element.querySelector(`[data-key="${focused}"]`)?.focus({ preventScroll: true });
  }

  focus(key) {
    this.element.querySelector(`[data-key="${key}"]`)?.focus();
  }

  #body(choice) {
    const body = h("div", { class: "text", dir: "auto" });
    const { text } = this.turn.replies[choice];
    showText(body, text);
    this.#bodies.push([choice, body]);
    const waiting = this.turn.state === "streaming";
    return h("div", { class: waiting ? "body waiting" : "body", "aria-busy": waiting ? "true" : null }, body);
  }

  #pair() {
    const { turn } = this;
    const cards = LETTERS.map((letter, choice) => {
      const heading = h("h3", { class: "letter" }, letter);
      return h("article", { class: "card", "aria-label": `Reply ${letter}` }, heading, this.#body(choice));
    });
    const pair = h("div", { class: "pair" }, ...cards);
    if (turn.state !== "done") return [pair, ...this.#problem()];
    const pick = (verdict, label) =>
      button("pick", `pick-${verdict}`, () => this.actions.choose(turn, verdict), {}, label);
    const choice = h(
      "div",
      { class: "choice", role: "group", "aria-label": "Which reply do you prefer?" },
      h("p", {}, "Which do you prefer?"),
      h("div", { class: "picks" }, pick("a", "A"), pick("b", "B"), pick("tie", "Tie"), pick("neither", "Neither")),
    );
    return [pair, choice];
  }

  #reply() {
    const { turn } = this;
    const choice = turn.picked ?? 0;
    const reply = turn.replies[choice];
    const parts = [];
    if (turn.verdict) {
      const change = button("link", "change", () => this.actions.reconsider(turn), {}, "Change");
      const line = { class: "aside", tabindex: "-1", "data-key": "verdict" };
      parts.push(h("p", line, VERDICTS[turn.verdict], " ", change));
    }
    if (this.#editor) parts.push(this.#editor);
    else if (turn.state !== "failed" || reply.text) parts.push(this.#body(choice));
    if (reply.edited && !this.#editor) {
      parts.push(h("p", { class: "aside" }, "Edited by you. Your version teaches the model."));
    }
    parts.push(...this.#problem());
    if (turn.state === "done" && !this.#editor) parts.push(this.#toolbar(reply));
    if (reply.thumb && !this.#editor) parts.push(this.#reasons(reply));
    const article = h("article", { class: "reply", "aria-label": "Reply" }, ...parts);
    return turn.verdict ? [article, this.#other(1 - choice)] : [article];
  }

  #other(choice) {
    const text = h("div", { class: "text", dir: "auto" });
    showText(text, this.turn.replies[choice].text);
    const toggled = (event) => (this.#otherOpen = event.target.open);
    const summary = h("summary", { "data-key": "other" }, `The other reply, ${LETTERS[choice]}`);
    return h("details", { class: "other", open: this.#otherOpen, on: { toggle: toggled } }, summary, text);
  }

  #problem() {
    const { turn } = this;
    if (turn.state !== "failed" && turn.state !== "stopped") return [];
    const again = this.last && button("link", "retry", () => this.actions.regenerate(turn), {}, "Try again");
    if (turn.state === "stopped") return [h("p", { class: "aside" }, "Stopped. ", again)];
    return [h("p", { class: "problem" }, turn.problem, " ", again)];
  }

  #toolbar(reply) {
    const { turn, actions } = this;
    const tool = (key, label, run, pressed = null) =>
      button("icon", key, run, { "aria-label": label, title: label, "aria-pressed": pressed }, icon(key));
    const thumb = (value, label) => {
      const pressed = reply.thumb === value;
      return tool(value, label, () => actions.thumb(turn, pressed ? null : value), String(pressed));
    };
    const first = this.last && !reply.thumb && this.voteHistory.votes.length === 0;
    return h(
      "div",
      { class: "tools", role: "group", "aria-label": "About this reply" },
      turn.token && thumb("up", "Good reply"),
      turn.token && thumb("down", "Bad reply"),
      turn.token && tool("edit", "Edit: show how it should have been", () => this.#edit(reply)),
      navigator.clipboard && tool("copy", "Copy", () => actions.copy(turn)),
      this.last && tool("again", "Another reply", () => actions.regenerate(turn)),
      first && h("span", { class: "nudge" }, "Good or bad? Your vote teaches it."),
      reply.policy && h("span", { class: "policy", title: "The policy that wrote this reply" }, reply.policy),
    );
  }

  #reasons(reply) {
    const chips = REASONS[reply.thumb].map(([slug, label]) => {
      const chosen = reply.reasons.includes(slug);
      const others = reply.reasons.filter((one) => one !== slug);
      const toggle = () => this.actions.reasons(this.turn, chosen ? others : [...others, slug]);
      return button("chip", `reason-${slug}`, toggle, { "aria-pressed": String(chosen) }, label);
    });
    const question = reply.thumb === "up" ? "What was good?" : "What was wrong?";
    const why = h("span", { class: "ask", "aria-hidden": "true" }, "Why?");
    return h("div", { class: "reasons", role: "group", "aria-label": question }, why, ...chips);
  }

  #edit(reply) {
    const close = (text) => {
      this.#editor = null;
      if (text !== null && text !== reply.text) this.actions.edit(this.turn, text);
      this.draw();
      this.focus("edit");
    };
    this.#editor = editor(reply.text, close);
    this.draw();
    this.focus("editor");
  }

  /** Returns the votes on this turn that are live, one line for each policy. */
  #liveVotes() {
    const byPolicy = new Map();
    for (const vote of this.voteHistory.votes) {
      if (vote.completion !== this.turn.completion || !vote.liveAt) continue;
      byPolicy.set(vote.policy, [...(byPolicy.get(vote.policy) ?? []), vote]);
    }
    return [...byPolicy].map(([policy, votes]) => {
      const subject = votes.length === 1 ? "Your vote is" : `${plural(votes.length, "vote")} of yours are`;
      const words = `${subject} part of policy ${policy}, live since ${when(votes[0].liveAt)}`;
      return h("p", { class: "vote-live" }, icon("check"), h("span", {}, words));
    });
  }
}
