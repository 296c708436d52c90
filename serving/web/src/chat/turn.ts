/** A turn is a message of the person with its replies. It is plain data, so that it survives a reload. */

import type { ChatMessage } from "../live/types.ts";

export interface Reply {
  text: string;
  cut?: boolean; // it reached the longest length
  original: string | null; // before the person edited it
  thumb: "up" | "down" | null;
  reasons: string[];
  comment: string;
}

/** The index of the preferred reply, or none of them; or the person did not want to say. */
export type Verdict = number | "tie" | "none" | "skipped";

export interface Turn {
  id: string;
  prompt: string;
  replies: Reply[];
  shown: number[]; // the replies in the order in which they are on the screen
  state: "streaming" | "waiting" | "done" | "stopped" | "failed";
  problem: { code: string; message: string } | null;
  completion: string | null;
  token: string | null;
  picked: number | null;
  verdict: Verdict | null;
  reasons?: string[]; // why the preferred reply is better, or what is wrong with all of them
  asked: boolean; // the service answered one message with two replies
  forgot: boolean; // the model did not see the beginning of the conversation
  again: { of: string; before: string } | null; // the turn that it asks anew, and what was answered then
}

/** Returns a turn that has just been sent, with room for `n` replies in random order. */
export function newTurn(prompt: string, n: number): Turn {
  const replies = Array.from({ length: n }, newReply);
  const shown = replies.map((_, index) => index);
  for (let last = n - 1; last > 0; last--) {
    const other = Math.floor(Math.random() * (last + 1));
    [shown[last], shown[other]] = [shown[other]!, shown[last]!];
  }
  return {
    id: randomId("t"),
    prompt,
    replies,
    shown,
    state: "streaming",
    problem: null,
    completion: null,
    token: null,
    picked: null,
    verdict: null,
    asked: false,
    forgot: false,
    again: null,
  };
}

function newReply(): Reply {
  return { text: "", original: null, thumb: null, reasons: [], comment: "" };
}

/** Returns a reply of a turn; a second one, which was not asked for, is added at a random place. */
export function replyOf(turn: Turn, choice: number): Reply {
  if (choice === turn.replies.length) {
    turn.replies.push(newReply());
    turn.shown.splice(Math.random() < 0.5 ? 0 : turn.shown.length, 0, choice);
    turn.asked = true;
  }
  return turn.replies[choice]!;
}

/** Returns whether a reply is still to come. */
export function isOpen(turn: Turn): boolean {
  return turn.state === "streaming" || turn.state === "waiting";
}

/** Returns the number of replies that were asked for. */
export function wanted(turn: Turn): number {
  return turn.asked ? 1 : turn.replies.length;
}

/** Takes the second reply of a turn away, before it is sent again. */
export function withoutPair(turn: Turn): void {
  Object.assign(turn, { replies: [newReply()], shown: [0], asked: false });
}

/** Returns the reply with which the conversation continues. */
export function answer(turn: Turn): Reply {
  return turn.replies[turn.picked ?? turn.shown[0] ?? 0]!;
}

/** Returns the letter under which a reply is on the screen. */
export function letter(turn: Turn, choice: number): string {
  return String.fromCharCode(65 + turn.shown.indexOf(choice));
}

/** Returns the history that is sent: the turns that have an answer, and the newest message. */
export function messages(turns: Turn[], newest: Turn): ChatMessage[] {
  const before = turns
    .filter((turn) => answer(turn).text)
    .flatMap((turn): ChatMessage[] => [
      { role: "user", content: turn.prompt },
      { role: "assistant", content: answer(turn).text },
    ]);
  return [...before, { role: "user", content: newest.prompt }];
}

/** Returns the ranking of a verdict: groups of replies, the best first. */
export function ranking(turn: Turn, verdict: Verdict): number[][] {
  const all = turn.replies.map((_, index) => index);
  return typeof verdict === "number" ? [[verdict], all.filter((index) => index !== verdict)] : [all];
}

/** Returns a random id. crypto.randomUUID exists only on https and localhost. */
export function randomId(prefix: string): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `${prefix}-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
