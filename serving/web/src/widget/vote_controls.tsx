/** The controls of `<hearken-vote>`: thumbs with reasons and an edit, or a choice between replies. */

import { render, type JSX } from "preact";
import { useState } from "preact/hooks";
import { language, type Texts } from "../language/language.ts";
import type { ServiceError, Vote } from "../live/types.ts";
import { why } from "./Notices.tsx";
import { useQueue } from "./queue.ts";
import style from "./style.css?inline";
import { VoteThumbs } from "./VoteThumbs.tsx";

/** Casts a vote on the element's completion; returns its id, or null where it was not taken. */
export type Cast = (vote: Partial<Vote>) => Promise<string | null>;
/** Takes back a vote; returns whether that was done. */
export type Retract = (id: string) => Promise<boolean>;

/** Draws the controls into a shadow root, and sends what is done with them. */
export class VoteControls {
  constructor(
    private element: HTMLElement,
    private root: ShadowRoot,
    private service: string,
  ) {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(`${style} :host { display: block; height: auto; }`);
    root.adoptedStyleSheets = [sheet];
  }

  async draw(completion: string, token: string): Promise<void> {
    const { texts, code, direction } = await language(this.element.getAttribute("lang"));
    const headers = { "Content-Type": "application/json", "X-Feedback-Token": token };
    const send = async (vote: Partial<Vote>): Promise<string> => {
      const body = JSON.stringify({ ...vote, completion_id: completion, feedback_token: token });
      const id = await this.#fetch("", { method: "POST", headers, body });
      this.#emit("vote", { id, completion_id: completion, type: vote.type });
      return id;
    };
    const retract = (id: string): Promise<string> => this.#fetch(`/${id}`, { method: "DELETE", headers });
    const controls = <Controls element={this.element} texts={texts} send={send} retract={retract} />;
    render(
      <div lang={code} dir={direction} key={completion}>
        {controls}
      </div>,
      this.root,
    );
  }

  remove(): void {
    render(null, this.root);
  }

  /** Returns the id of the vote that the request was about. Throws a ServiceError. */
  async #fetch(path: string, request: RequestInit): Promise<string> {
    let error: ServiceError = { code: "offline", message: "" };
    try {
      const response = await fetch(`${this.service}/v1/feedback${path}`, { ...request, credentials: "omit" });
      const answer = (await response.json()) as { id: string; error?: ServiceError };
      if (response.ok) return answer.id;
      if (answer.error) error = answer.error;
    } catch {
      // no answer came
    }
    this.#emit("error", { code: error.code, message: error.message });
    throw error;
  }

  #emit(name: string, detail: object): void {
    this.element.dispatchEvent(new CustomEvent(`hearken:${name}`, { detail, bubbles: true, composed: true }));
  }
}

interface Props {
  element: HTMLElement;
  texts: Texts;
  send: (vote: Partial<Vote>) => Promise<string>;
  retract: (id: string) => Promise<string>;
}

function Controls({ element, texts, send, retract }: Props): JSX.Element {
  const choices = Number(element.getAttribute("choices") ?? 1);
  const [problem, setProblem] = useState<string | null>(null);
  const [done, setDone] = useState("");
  const attempt = async (step: () => Promise<string>, said: string): Promise<string | null> => {
    setProblem(null);
    try {
      const id = await step();
      setDone(said);
      return id;
    } catch (error) {
      setProblem(texts.voteFailed(why(error as ServiceError, texts)));
      return null;
    }
  };
  const cast: Cast = (vote) => attempt(() => send(vote), texts.voteRecorded);
  const takeBack: Retract = async (id) => (await attempt(() => retract(id), "")) !== null;
  return (
    <>
      {choices > 1 ? (
        <Choice count={choices} texts={texts} cast={cast} />
      ) : (
        <VoteThumbs element={element} texts={texts} cast={cast} retract={takeBack} />
      )}
      {problem && <p class="problem">{problem}</p>}
      <span class="unseen" aria-live="polite">
        {problem ?? done}
      </span>
    </>
  );
}

function Choice({ count, texts, cast }: { count: number; texts: Texts; cast: Cast }): JSX.Element {
  const [chosen, setChosen] = useState<string | null>(null);
  const all = Array.from({ length: count }, (_, index) => index);
  const enqueue = useQueue();
  const choose = (name: string, ranking: number[][], acceptable: boolean): void =>
    enqueue(async () => {
      if (await cast({ type: "ranking", ranking, acceptable })) setChosen(name);
    });
  const pick = (name: string, label: string, ranking: number[][], acceptable = true): JSX.Element => (
    <button
      key={name}
      class="chip"
      type="button"
      aria-pressed={chosen === name}
      onClick={() => choose(name, ranking, acceptable)}
    >
      {label}
    </button>
  );
  return (
    <div class="reasons" role="group" aria-label={texts.whichBetter}>
      {all.map((each) => {
        const name = String.fromCharCode(65 + each);
        return pick(name, texts.better(name), [[each], all.filter((other) => other !== each)]);
      })}
      {pick("tie", texts.tie, [all])}
      {pick("none", texts.none, [all], false)}
    </div>
  );
}
