/** "Find your tone": ten pairs, one after the other; then replies are chosen for this visitor. */

import type { JSX } from "preact";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import type { Preference } from "../chat/questions.ts";
import { useShared } from "./context.ts";
import { Dialog } from "./Dialog.tsx";
import { Markdown } from "./Markdown.tsx";

const LETTERS = ["A", "B"];

export function TonePanel({ close }: { close: () => void }): JSX.Element {
  const { session, language } = useShared();
  const { texts } = language;
  const { questions } = session;
  const { now } = questions;
  const body = useRef<HTMLDivElement>(null);
  useEffect(() => void questions.next(), []);
  const asked = now?.question?.completion_id;
  useLayoutEffect(() => {
    if (asked) body.current?.querySelector<HTMLElement>(".question")?.focus();
  }, [asked, questions.problem]);
  const answer = (preference: Preference): void => void questions.answer(preference);
  return (
    <Dialog title={texts.tone.title} close={close}>
      <div class="tone" ref={body}>
        {questions.problem !== null ? (
          <>
            <p role="alert">{questions.problem === "no_tastes" ? texts.tone.notYet : texts.tone.failed}</p>
            {questions.problem !== "no_tastes" && (
              <button class="quiet" type="button" onClick={() => void questions.next()}>
                {texts.tryAgain}
              </button>
            )}
          </>
        ) : questions.done ? (
          <p role="status">{texts.tone.done}</p>
        ) : now?.question ? (
          <Question answer={answer} />
        ) : (
          <p role="status">{texts.tone.waiting}</p>
        )}
      </div>
    </Dialog>
  );
}

function Question({ answer }: { answer: (preference: Preference) => void }): JSX.Element | null {
  const { session, language } = useShared();
  const { texts } = language;
  const { now, busy } = session.questions;
  if (!now?.question) return null;
  const { prompt, replies, completion_id } = now.question;
  const keys = (event: KeyboardEvent): void => {
    const chosen = ["a", "b"].indexOf(event.key.toLowerCase());
    if (chosen >= 0 && !event.ctrlKey && !event.metaKey && !event.altKey) answer(chosen as 0 | 1);
  };
  return (
    <div class="question" tabIndex={-1} key={completion_id} onKeyDown={keys} aria-busy={busy}>
      <p class="aside" role="status">
        {texts.tone.progress(now.answered + 1, now.of)}
      </p>
      <progress max={now.of} value={now.answered} aria-label={texts.tone.title} />
      <p class="prompt" dir="auto">
        <bdi>{prompt}</bdi>
      </p>
      <div class="pair" data-count={replies.length}>
        {replies.map((reply, index) => (
          <article key={index} class="card" part="reply" aria-label={texts.replyNamed(LETTERS[index]!)}>
            <span class="letter" aria-hidden="true">
              {LETTERS[index]}
            </span>
            <Markdown text={reply} whole />
          </article>
        ))}
      </div>
      <div class="choice" role="group" aria-label={texts.whichBetter}>
        <p aria-hidden="true">{texts.whichBetter}</p>
        <div class="picks">
          {([0, 1] as const).map((index) => (
            <button
              key={index}
              class="pick"
              type="button"
              disabled={busy}
              aria-label={texts.better(LETTERS[index]!)}
              onClick={() => answer(index)}
            >
              {LETTERS[index]}
            </button>
          ))}
          <button class="pick" type="button" disabled={busy} onClick={() => answer("tie")}>
            {texts.tie}
          </button>
          <button class="pick" type="button" disabled={busy} onClick={() => answer("none")}>
            {texts.none}
          </button>
        </div>
        <button
          class="link"
          type="button"
          disabled={busy}
          onClick={() => void session.questions.next(completion_id)}
        >
          {texts.tone.skip}
        </button>
      </div>
    </div>
  );
}
