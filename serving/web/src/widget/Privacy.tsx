/** The dialog in which a visitor reads what is kept, and opts out. */

import type { JSX } from "preact";
import { useShared } from "./context.ts";
import { Dialog } from "./Dialog.tsx";

export function Privacy({ close }: { close: () => void }): JSX.Element {
  const { session, language } = useShared();
  const { texts } = language;
  return (
    <Dialog title={texts.privacy} close={close}>
      <p>{texts.privacyText}</p>
      {!session.keep.lasting && <p>{texts.inMemory}</p>}
      <label class="switch">
        <input
          type="checkbox"
          role="switch"
          checked={session.kept}
          onChange={(event) => (session.consent = event.currentTarget.checked ? "yes" : "no")}
        />
        <span>{texts.learnFromMe}</span>
      </label>
      {!session.kept && <p class="aside">{texts.notKept}</p>}
    </Dialog>
  );
}
