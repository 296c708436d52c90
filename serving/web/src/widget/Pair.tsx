/** Replies side by side: the better one is chosen, or none; the order on the screen is random. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { isOpen, letter, type Turn, type Verdict } from "../chat/turn.ts";
import { useShared } from "./context.ts";
import { Markdown } from "./Markdown.tsx";
import { ReasonChips, toggled } from "./ReasonChips.tsx";

export function Pair({ turn }: { turn: Turn }): JSX.Element {
  const { session, language } = useShared();
  const { texts } = language;
  const writing = isOpen(turn);
  const votable = turn.state === "done" && turn.token !== null && session.kept;
  const choose = (verdict: Verdict, button: HTMLElement): void =>
    leave(button, ".change", () => session.chat.choose(turn, verdict));
  return (
    <>
      <div class="pair" data-count={turn.replies.length}>
        {turn.shown.map((choice) => (
          <article key={choice} class="card" part="reply" aria-label={texts.replyNamed(letter(turn, choice))}>
            <span class="letter" aria-hidden="true">
              {letter(turn, choice)}
            </span>
            <Markdown text={turn.replies[choice]!.text} whole={!writing} writing={writing} />
          </article>
        ))}
      </div>
      {votable && (
        <div class="choice" role="group" aria-label={texts.whichBetter}>
          <p aria-hidden="true">{texts.whichBetter}</p>
          <div class="picks">
            {turn.shown.map((choice) => (
              <Pick
                key={choice}
                label={letter(turn, choice)}
                name={texts.better(letter(turn, choice))}
                run={(button) => choose(choice, button)}
              />
            ))}
            <Pick label={texts.tie} run={(button) => choose("tie", button)} />
            <Pick label={texts.none} run={(button) => choose("none", button)} />
          </div>
          {turn.asked && (
            <button
              class="link"
              type="button"
              onClick={(event) => leave(event.currentTarget, ".change", () => session.chat.notNow(turn))}
            >
              {texts.notNow}
            </button>
          )}
        </div>
      )}
    </>
  );
}

/** Does what takes a button away; the focus moves to `next`, in the same turn. */
function leave(button: HTMLElement, next: string, step: () => void): void {
  const view = button.closest(".turn");
  step();
  setTimeout(() => view?.querySelector<HTMLElement>(next)?.focus(), 50);
}

interface PickProps {
  label: string;
  name?: string;
  run: (button: HTMLElement) => void;
}

function Pick({ label, name, run }: PickProps): JSX.Element {
  return (
    <button
      class="pick"
      type="button"
      aria-label={name ?? label}
      onClick={(event) => run(event.currentTarget)}
    >
      {label}
    </button>
  );
}

/** Says what was chosen, asks why, and shows the replies that were not. */
export function Compared({ turn }: { turn: Turn }): JSX.Element {
  const { session, language } = useShared();
  const { texts } = language;
  const [open, setOpen] = useState(false);
  const { verdict } = turn;
  const said =
    typeof verdict === "number"
      ? texts.preferred(letter(turn, verdict))
      : verdict === "tie"
        ? texts.calledTie
        : verdict === "none"
          ? texts.foundNone
          : texts.notCompared;
  const others = turn.shown.filter((choice) => choice !== turn.picked);
  return (
    <>
      <p class="aside">
        {said}{" "}
        <button
          class="link change"
          type="button"
          onClick={(event) => leave(event.currentTarget, ".pick", () => session.chat.reconsider(turn))}
        >
          {texts.change}
        </button>
      </p>
      {turn.token !== null && session.kept && <Why turn={turn} />}
      <details class="other" open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
        <summary>{others.map((choice) => texts.otherReply(letter(turn, choice))).join(" · ")}</summary>
        {open && others.map((choice) => <Markdown key={choice} text={turn.replies[choice]!.text} whole />)}
      </details>
    </>
  );
}

/** Asks why the preferred reply is better, or what is wrong where none is good. */
function Why({ turn }: { turn: Turn }): JSX.Element | null {
  const { session, language } = useShared();
  const { texts } = language;
  const { verdict, reasons = [] } = turn;
  if (typeof verdict !== "number" && verdict !== "none") return null;
  const preferred = verdict !== "none";
  const question = preferred ? texts.whyBetter(letter(turn, verdict)) : texts.whatWasWrong;
  return (
    <div class="reasons" role="group" aria-label={question}>
      <span class="ask" aria-hidden="true">
        {question}
      </span>
      <ReasonChips
        named={session.options.reasons[preferred ? "up" : "down"]}
        given={reasons}
        toggle={(slug) => session.chat.choose(turn, verdict, toggled(reasons, slug))}
      />
    </div>
  );
}
