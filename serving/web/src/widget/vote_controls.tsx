/** The controls of `<hearken-vote>`: thumbs with reasons and an edit, or a choice between replies. */

import { render, type JSX } from "preact";
import { useState } from "preact/hooks";
import { language, type Texts } from "../language/language.ts";
import { Refused } from "../live/service.ts";
import type { Opinion, ServiceError } from "../live/types.ts";
import { followPage } from "./colour_scheme.ts";
import { why } from "./errors.ts";
import { KeptVotes } from "./kept_votes.ts";
import { options } from "./options.ts";
import { ReasonChips, toggled } from "./ReasonChips.tsx";
import { type Ballot, useSlot } from "./slot.ts";
import style from "./style.css?inline";
import { VoteThumbs } from "./VoteThumbs.tsx";

/** Shared by all elements, so that votes last as long as the page where the browser keeps nothing. */
const votes = new KeptVotes();

interface Answer {
  id: string;
  status: string;
}

/** Asks the service about a vote, or casts or retracts one. Throws a ServiceError. */
type Ask = (method: "GET" | "POST" | "DELETE", path: string, opinion?: Opinion) => Promise<Answer>;

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
    if (!element.hasAttribute("theme")) followPage(element);
  }

  async draw(completion: string, token: string): Promise<void> {
    const { texts, code, direction } = await language(this.element.getAttribute("lang"));
    const headers = { "Content-Type": "application/json", "X-Feedback-Token": token };
    const ask: Ask = (method, path, opinion) => {
      const vote = opinion && { ...opinion, completion_id: completion, feedback_token: token };
      return this.#fetch(path, { method, headers, body: vote ? JSON.stringify(vote) : null });
    };
    render(
      <div lang={code} dir={direction} key={completion}>
        <Controls
          element={this.element}
          texts={texts}
          completion={completion}
          ask={ask}
          emit={(name, detail) => this.#emit(name, detail)}
        />
      </div>,
      this.root,
    );
  }

  remove(): void {
    render(null, this.root);
  }

  async #fetch(path: string, request: RequestInit): Promise<Answer> {
    let response: Response;
    let answer: Answer & { error?: ServiceError };
    try {
      response = await fetch(`${this.service}/v1/feedback${path}`, { ...request, credentials: "omit" });
      answer = (await response.json()) as typeof answer;
    } catch {
      throw new Refused("offline", "");
    }
    if (response.ok) return answer;
    throw new Refused(answer.error?.code ?? "internal_error", answer.error?.message ?? "");
  }

  #emit(name: string, detail: object): void {
    this.element.dispatchEvent(new CustomEvent(`hearken:${name}`, { detail, bubbles: true, composed: true }));
  }
}

interface Props {
  element: HTMLElement;
  texts: Texts;
  completion: string;
  ask: Ask;
  emit: (name: string, detail: object) => void;
}

function Controls({ element, texts, completion, ask, emit }: Props): JSX.Element {
  const choices = Number(element.getAttribute("choices") ?? 1);
  const [problem, setProblem] = useState<string | null>(null);
  const [done, setDone] = useState("");
  const failed = ({ code, message }: ServiceError, said: string): void => {
    emit("error", { code, message });
    setProblem(said);
  };
  const ballot: Ballot = {
    async find(slot) {
      const kept = votes.find(completion, slot);
      if (!kept) return null;
      try {
        const { status } = await ask("GET", `/${encodeURIComponent(kept.id)}`);
        if (status === "recorded") return kept;
      } catch (error) {
        if ((error as ServiceError).code !== "feedback_not_found") return kept;
      }
      votes.remove(kept.id);
      return null;
    },
    async cast(slot, opinion) {
      setProblem(null);
      try {
        const { id } = await ask("POST", "", opinion);
        const vote = { id, completion, slot, opinion };
        votes.put(vote);
        emit("vote", { id, completion_id: completion, type: opinion.type });
        setDone(texts.voteRecorded);
        return vote;
      } catch (error) {
        failed(error as ServiceError, texts.voteFailed(why(error as ServiceError, texts)));
        return null;
      }
    },
    async retract({ id }) {
      setProblem(null);
      try {
        await ask("DELETE", `/${encodeURIComponent(id)}`);
        votes.remove(id);
        setDone("");
        return true;
      } catch (error) {
        failed(error as ServiceError, texts.retractFailed);
        return false;
      }
    },
  };
  return (
    <>
      {choices > 1 ? (
        <Choice element={element} count={choices} texts={texts} ballot={ballot} />
      ) : (
        <VoteThumbs element={element} texts={texts} ballot={ballot} />
      )}
      {problem && <p class="problem">{problem}</p>}
      <span class="unseen" aria-live="polite">
        {problem ?? done}
      </span>
    </>
  );
}

interface ChoiceProps {
  element: HTMLElement;
  count: number;
  texts: Texts;
  ballot: Ballot;
}

function Choice({ element, count, texts, ballot }: ChoiceProps): JSX.Element {
  const [chosen, change] = useSlot("ranking", ballot);
  const all = Array.from({ length: count }, (_, index) => index);
  const named = options((name) => element.getAttribute(name), {}, texts).reasons;
  const none = chosen?.acceptable === false;
  const [first, others] = chosen?.ranking ?? [];
  const best = others && first?.[0];
  const question = best === undefined ? texts.whatWasWrong : texts.whyBetter(letter(best));
  const toggle = (slug: string): void =>
    void change((now) => now && { ...now, reasons: toggled(now.reasons ?? [], slug) });
  const pick = (label: string, ranking: number[][], acceptable = true): JSX.Element => {
    const is = (opinion: Opinion | null): boolean =>
      opinion?.acceptable === acceptable && JSON.stringify(opinion.ranking) === JSON.stringify(ranking);
    return (
      <button
        key={label}
        class="chip"
        type="button"
        aria-pressed={is(chosen)}
        onClick={() => void change((now) => (is(now) ? null : { type: "ranking", ranking, acceptable }))}
      >
        {label}
      </button>
    );
  };
  return (
    <>
      <div class="reasons" role="group" aria-label={texts.whichBetter}>
        {all.map((each) => pick(texts.better(letter(each)), [[each], all.filter((other) => other !== each)]))}
        {pick(texts.tie, [all])}
        {pick(texts.none, [all], false)}
      </div>
      {(none || best !== undefined) && (
        <div class="reasons" role="group" aria-label={question}>
          <span class="ask" aria-hidden="true">
            {question}
          </span>
          <ReasonChips named={named[none ? "down" : "up"]} given={chosen?.reasons ?? []} toggle={toggle} />
        </div>
      )}
    </>
  );
}

function letter(choice: number): string {
  return String.fromCharCode(65 + choice);
}
