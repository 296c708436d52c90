/** The thumbs of `<hearken-vote>`, with reasons, and an edit where the reply's text is given. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { Texts } from "../language/language.ts";
import { Icon } from "./icons.tsx";
import { options } from "./options.ts";
import { TextEditor } from "./TextEditor.tsx";
import type { Cast, Retract } from "./vote_controls.tsx";

interface Props {
  element: HTMLElement;
  texts: Texts;
  cast: Cast;
  retract: Retract;
}

interface Thumb {
  id: string;
  value: "up" | "down";
  reasons: string[];
}

export function VoteThumbs({ element, texts, cast, retract }: Props): JSX.Element {
  const [thumb, setThumb] = useState<Thumb | null>(null);
  const [editing, setEditing] = useState(false);
  const choice = Number(element.getAttribute("choice") ?? 0);
  const text = element.getAttribute("text");
  const named = options((name) => element.getAttribute(name), {}, texts).reasons;

  const vote = async (value: "up" | "down", reasons: string[] = []): Promise<void> => {
    const id = await cast({ type: "thumb", choice, value, reasons });
    if (id) setThumb({ id, value, reasons });
  };
  const press = async (value: "up" | "down"): Promise<void> => {
    if (thumb?.value !== value) await vote(value);
    else if (await retract(thumb.id)) setThumb(null);
  };
  const toggle = ({ value, reasons }: Thumb, slug: string): Promise<void> =>
    vote(value, reasons.includes(slug) ? reasons.filter((each) => each !== slug) : [...reasons, slug]);
  const edit = async (written: string | null): Promise<void> => {
    if (written === null || written === text || (await cast({ type: "edit", choice, text: written }))) {
      setEditing(false);
    }
  };

  return (
    <>
      <div class="tools" role="group" aria-label={texts.aboutReply}>
        {(["up", "down"] as const).map((value) => (
          <button
            key={value}
            class="icon"
            type="button"
            aria-label={value === "up" ? texts.good : texts.bad}
            aria-pressed={thumb?.value === value}
            onClick={() => void press(value)}
          >
            <Icon name={value} />
          </button>
        ))}
        {text !== null && (
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
          aria-label={thumb.value === "up" ? texts.whatWasGood : texts.whatWasWrong}
        >
          {named[thumb.value].map(([slug, label]) => (
            <button
              key={slug}
              class="chip"
              type="button"
              aria-pressed={thumb.reasons.includes(slug)}
              onClick={() => void toggle(thumb, slug)}
            >
              <bdi>{label}</bdi>
            </button>
          ))}
        </div>
      )}
      {editing && (
        <TextEditor
          text={text ?? ""}
          label={texts.editorLabel}
          hint={texts.editorHint}
          save={texts.save}
          cancel={texts.cancel}
          close={(written) => void edit(written)}
        />
      )}
    </>
  );
}
