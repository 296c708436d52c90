/** Replies side by side: the better one is chosen, or none; the order on the screen is random. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { letter, type Turn } from "../chat/turn.ts";
import { useShared } from "./context.ts";
import { Markdown } from "./Markdown.tsx";

export function Pair({ turn }: { turn: Turn }): JSX.Element {
  const { session, language } = useShared();
  const { texts } = language;
  const writing = turn.state === "streaming" || turn.state === "waiting";
  const votable = turn.state === "done" && turn.token !== null;
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
              <Pick key={choice} label={letter(turn, choice)} name={texts.better(letter(turn, choice))} run={() => session.chat.choose(turn, choice)} />
            ))}
            <Pick label={texts.tie} run={() => session.chat.choose(turn, "tie")} />
            <Pick label={texts.none} run={() => session.chat.choose(turn, "none")} />
          </div>
        </div>
      )}
    </>
  );
}

function Pick({ label, name, run }: { label: string; name?: string; run: () => void }): JSX.Element {
  return (
    <button class="pick" type="button" aria-label={name ?? label} onClick={run}>
      {label}
    </button>
  );
}

/** Says what was chosen, and shows the replies that were not. */
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
        : texts.foundNone;
  const others = turn.shown.filter((choice) => choice !== turn.picked);
  return (
    <>
      <p class="aside">
        {said}{" "}
        <button
          class="link"
          type="button"
          ref={focusOnce}
          onClick={() => session.chat.reconsider(turn)}
        >
          {texts.change}
        </button>
      </p>
      <details class="other" open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
        <summary>{others.map((choice) => texts.otherReply(letter(turn, choice))).join(" · ")}</summary>
        {open && others.map((choice) => <Markdown key={choice} text={turn.replies[choice]!.text} whole />)}
      </details>
    </>
  );
}

/** The button that was pressed has gone: the focus moves to where it can be changed. */
function focusOnce(button: HTMLButtonElement | null): void {
  const root = button?.getRootNode();
  if (root instanceof ShadowRoot && root.activeElement === null && document.activeElement === root.host) button?.focus();
}
