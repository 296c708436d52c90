/** The controls of `<hearken-vote>`: thumbs with reasons and a comment, an edit, or a choice between replies. */

import { render, type JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { language, type Texts } from "../language/language.ts";
import type { ServiceError, Vote } from "../live/types.ts";
import { Icon } from "./icons.tsx";
import { why } from "./Notices.tsx";
import { options } from "./options.ts";
import style from "./style.css?inline";

interface Props {
  element: HTMLElement;
  texts: Texts;
  send: (vote: Partial<Vote>) => Promise<string | null>;
  retract: () => Promise<void>;
}

/** Draws the controls into a shadow root, and sends what is done with them. */
export class VoteControls {
  #id: string | null = null;

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
    const send = async (vote: Partial<Vote>): Promise<string | null> => {
      const body = JSON.stringify({ ...vote, completion_id: completion, feedback_token: token });
      const answer = await this.#fetch("", { method: "POST", headers, body }, texts);
      if (answer.id) this.#id = answer.id;
      if (answer.id) this.#emit("vote", { id: answer.id, completion_id: completion, type: vote.type });
      return answer.problem;
    };
    const retract = async (): Promise<void> => {
      if (this.#id) await this.#fetch(`/${this.#id}`, { method: "DELETE", headers }, texts);
    };
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

  async #fetch(
    path: string,
    request: RequestInit,
    texts: Texts,
  ): Promise<{ id?: string; problem: string | null }> {
    let error: ServiceError = { code: "offline", message: "" };
    try {
      const response = await fetch(`${this.service}/v1/feedback${path}`, { ...request, credentials: "omit" });
      const answer = (await response.json()) as { id: string; error: ServiceError };
      if (response.ok) return { id: answer.id, problem: null };
      error = answer.error;
    } catch {
      // no answer came
    }
    this.#emit("error", { code: error.code, message: error.message });
    return { problem: texts.voteFailed(why(error, texts)) };
  }

  #emit(name: string, detail: object): void {
    this.element.dispatchEvent(new CustomEvent(`hearken:${name}`, { detail, bubbles: true, composed: true }));
  }
}

function Controls({ element, texts, send, retract }: Props): JSX.Element {
  const choices = Number(element.getAttribute("choices") ?? 1);
  const choice = Number(element.getAttribute("choice") ?? 0);
  const [problem, setProblem] = useState<string | null>(null);
  const [done, setDone] = useState("");
  const cast = async (vote: Partial<Vote>): Promise<boolean> => {
    const failed = await send(vote);
    setProblem(failed);
    setDone(failed === null ? texts.voteRecorded : "");
    return failed === null;
  };
  return (
    <>
      {choices > 1 ? (
        <Choice count={choices} texts={texts} cast={cast} />
      ) : (
        <Thumbs element={element} choice={choice} texts={texts} cast={cast} retract={retract} />
      )}
      {problem && <p class="problem">{problem}</p>}
      <span class="unseen" aria-live="polite">
        {problem ?? done}
      </span>
    </>
  );
}

type Cast = (vote: Partial<Vote>) => Promise<boolean>;

function Choice({ count, texts, cast }: { count: number; texts: Texts; cast: Cast }): JSX.Element {
  const [chosen, setChosen] = useState<string | null>(null);
  const all = Array.from({ length: count }, (_, index) => index);
  const choose = async (name: string, ranking: number[][], acceptable: boolean): Promise<void> => {
    if (await cast({ type: "ranking", ranking, acceptable })) setChosen(name);
  };
  const pick = (name: string, label: string, ranking: number[][], acceptable = true): JSX.Element => (
    <button
      class="chip"
      type="button"
      aria-pressed={chosen === name}
      onClick={() => void choose(name, ranking, acceptable)}
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

interface ThumbsProps {
  element: HTMLElement;
  choice: number;
  texts: Texts;
  cast: Cast;
  retract: () => Promise<void>;
}

function Thumbs({ element, choice, texts, cast, retract }: ThumbsProps): JSX.Element {
  const [thumb, setThumb] = useState<"up" | "down" | null>(null);
  const [reasons, setReasons] = useState<string[]>([]);
  const [editing, setEditing] = useState(false);
  const named = options((name) => element.getAttribute(name), {}, texts).reasons;
  const original = element.getAttribute("text");
  const vote = async (value: "up" | "down" | null, why: string[] = []): Promise<void> => {
    const before = { thumb, reasons };
    setThumb(value);
    setReasons(why);
    if (value === null) await retract();
    else if (!(await cast({ type: "thumb", choice, value, reasons: why }))) {
      setThumb(before.thumb);
      setReasons(before.reasons);
    }
  };
  const toggle = (slug: string): string[] =>
    reasons.includes(slug) ? reasons.filter((each) => each !== slug) : [...reasons, slug];
  return (
    <>
      <div class="tools" role="group" aria-label={texts.aboutReply}>
        {(["up", "down"] as const).map((value) => (
          <button
            key={value}
            class="icon"
            type="button"
            aria-label={value === "up" ? texts.good : texts.bad}
            aria-pressed={thumb === value}
            onClick={() => void vote(thumb === value ? null : value)}
          >
            <Icon name={value} />
          </button>
        ))}
        {original !== null && (
          <button
            class="icon"
            type="button"
            aria-label={texts.edit}
            aria-expanded={editing}
            onClick={() => setEditing(!editing)}
          >
            <Icon name="edit" />
          </button>
        )}
      </div>
      {thumb && (
        <div
          class="reasons"
          role="group"
          aria-label={thumb === "up" ? texts.whatWasGood : texts.whatWasWrong}
        >
          {named[thumb].map(([slug, label]) => (
            <button
              key={slug}
              class="chip"
              type="button"
              aria-pressed={reasons.includes(slug)}
              onClick={() => void vote(thumb, toggle(slug))}
            >
              <bdi>{label}</bdi>
            </button>
          ))}
        </div>
      )}
      {editing && (
        <Editor
          text={original ?? ""}
          texts={texts}
          close={() => setEditing(false)}
          save={(text) => cast({ type: "edit", choice, text })}
        />
      )}
    </>
  );
}

interface EditorProps {
  text: string;
  texts: Texts;
  close: () => void;
  save: (text: string) => Promise<boolean>;
}

function Editor({ text, texts, close, save }: EditorProps): JSX.Element {
  const [written, setWritten] = useState(text);
  const [input, setInput] = useState<HTMLTextAreaElement | null>(null);
  useEffect(() => input?.focus(), [input]);
  const submit = async (event: Event): Promise<void> => {
    event.preventDefault();
    if (written.trim() && (await save(written.trim()))) close();
  };
  return (
    <form class="editor" onSubmit={(event) => void submit(event)}>
      <textarea
        ref={setInput}
        dir="auto"
        aria-label={texts.editorLabel}
        value={written}
        onInput={(event) => setWritten(event.currentTarget.value)}
      />
      <div class="editor-end">
        <button class="quiet" type="button" onClick={close}>
          {texts.cancel}
        </button>
        <button class="solid" type="submit">
          {texts.save}
        </button>
      </div>
    </form>
  );
}
