/** What an empty conversation says. */

import type { JSX } from "preact";
import { useShared } from "./context.ts";

interface Props {
  heading: "h2" | "h3";
  tone: () => void;
}

export function Welcome({ heading: Heading, tone }: Props): JSX.Element {
  const { session, language } = useShared();
  const { title, greeting, examples } = session.options;
  return (
    <section class="welcome" part="welcome">
      <Heading dir="auto">{title}</Heading>
      {greeting && <p dir="auto">{greeting}</p>}
      <ul class="examples" aria-label={language.texts.examplesLabel}>
        {examples.map((example) => (
          <li key={example}>
            <button class="example" type="button" dir="auto" onClick={() => session.chat.send(example)}>
              {example}
            </button>
          </li>
        ))}
      </ul>
      {session.service.realModelCommand && (
        <p class="aside">
          {language.texts.toy} <code dir="ltr">{session.service.realModelCommand}</code>
        </p>
      )}
      {session.asksForTone && (
        <button class="quiet" type="button" aria-haspopup="dialog" onClick={tone}>
          {language.texts.tone.open}
        </button>
      )}
    </section>
  );
}
