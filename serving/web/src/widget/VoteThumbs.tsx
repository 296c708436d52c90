/** The thumbs of `<hearken-vote>`, with reasons, and an edit where the reply's text is given. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { Texts } from "../language/language.ts";
import { Icon } from "./icons.tsx";
import { options } from "./options.ts";
import { ReasonChips, toggled } from "./ReasonChips.tsx";
import { type Ballot, useSlot } from "./slot.ts";
import { TextEditor } from "./TextEditor.tsx";

interface Props {
  element: HTMLElement;
  texts: Texts;
  ballot: Ballot;
}

export function VoteThumbs({ element, texts, ballot }: Props): JSX.Element {
  const choice = Number(element.getAttribute("choice") ?? 0);
  const text = element.getAttribute("text");
  const [thumb, changeThumb] = useSlot(`thumb ${choice}`, ballot);
  const [edit, changeEdit] = useSlot(`edit ${choice}`, ballot);
  const [editing, setEditing] = useState(false);
  const named = options((name) => element.getAttribute(name), {}, texts).reasons;

  const press = (value: "up" | "down"): void =>
    void changeThumb((now) =>
      now?.value === value ? null : { type: "thumb", choice, value, reasons: [] },
    );
  const toggle = (slug: string): void =>
    void changeThumb((now) => now && { ...now, reasons: toggled(now.reasons ?? [], slug) });
  const shown = edit?.text ?? text ?? "";
  const close = async (written: string | null): Promise<void> => {
    const done =
      written === null ||
      written === shown ||
      (await changeEdit(() => (written === text ? null : { type: "edit", choice, text: written })));
    if (done) setEditing(false);
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
            onClick={() => press(value)}
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
      {edit && <p class="edited">{texts.edited}</p>}
      {thumb?.value && (
        <div
          class="reasons"
          role="group"
          aria-label={thumb.value === "up" ? texts.whatWasGood : texts.whatWasWrong}
        >
          <ReasonChips named={named[thumb.value]} given={thumb.reasons ?? []} toggle={toggle} />
        </div>
      )}
      {editing && (
        <TextEditor
          text={shown}
          label={texts.editorLabel}
          hint={texts.editorHint}
          save={texts.save}
          cancel={texts.cancel}
          close={(written) => void close(written)}
        />
      )}
    </>
  );
}
