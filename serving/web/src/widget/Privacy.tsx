/** The dialog in which a visitor reads what is kept, opts out, gets a copy of it, and has it erased. Where a page keeps no chat, earlier ones may have been kept. */

import type { JSX } from "preact";
import { useRef, useState } from "preact/hooks";
import { selectText } from "../text/copy.ts";
import { useShared } from "./context.ts";
import { Dialog } from "./Dialog.tsx";
import { ErasureProgress } from "./ErasureProgress.tsx";
import { save } from "./save.ts";

type Step = "offered" | "asked" | "busy" | "failed" | "forgotten";

export function Privacy({ close }: { close: () => void }): JSX.Element {
  const { session, language } = useShared();
  const { texts } = language;
  const [step, setStep] = useState<Step>("offered");
  const byHand = useRef<HTMLDivElement>(null);
  const keeps = session.options.consent !== "off";

  const attempt = async (work: () => Promise<Step>): Promise<void> => {
    setStep("busy");
    setStep(await work().catch(() => "failed" as const));
  };
  const download = async (): Promise<Step> => {
    const held = await session.service.held();
    save("held-data.json", held);
    // A sandboxed frame may not save files, and is not told that none was saved.
    if (window !== window.top && byHand.current)
      selectText(JSON.stringify(held, null, 2), byHand.current, texts.saveByHand);
    return "offered";
  };
  const forget = async (): Promise<Step> => {
    await session.forget();
    return "forgotten";
  };

  return (
    <Dialog title={texts.privacy} close={close}>
      {keeps && <p>{texts.privacyText}</p>}
      {!session.keep.lasting && <p>{texts.inMemory}</p>}
      {keeps && (
        <label class="switch">
          <input
            type="checkbox"
            role="switch"
            checked={session.kept}
            onChange={(event) => (session.consent = event.currentTarget.checked ? "yes" : "no")}
          />
          <span>{texts.learnFromMe}</span>
        </label>
      )}
      {!session.kept && <p class="aside">{texts.notKept}</p>}
      {session.options.card && (
        <p>
          <a
            class="link"
            href={session.service.url + session.options.card}
            target="_blank"
            rel="noopener noreferrer"
          >
            {texts.card}
          </a>
        </p>
      )}
      <p class="aside" role="status">
        {step === "asked" && texts.forgetQuestion}
        {step === "failed" && texts.forgetFailed}
        {step === "forgotten" && texts.forgotten}
      </p>
      {step !== "forgotten" && (
        <div class="vote-actions">
          {step === "asked" ? (
            <>
              <button class="link" type="button" onClick={() => void attempt(forget)}>
                {texts.forgetYes}
              </button>
              <button class="link" type="button" onClick={() => setStep("offered")}>
                {texts.cancel}
              </button>
            </>
          ) : (
            <>
              <button
                class="link"
                type="button"
                disabled={step === "busy"}
                onClick={() => void attempt(download)}
              >
                {texts.downloadHeld}
              </button>
              <button class="link" type="button" disabled={step === "busy"} onClick={() => setStep("asked")}>
                {texts.forgetMe}
              </button>
            </>
          )}
        </div>
      )}
      <div ref={byHand} />
      {session.service.erasureId && <ErasureProgress id={session.service.erasureId} />}
    </Dialog>
  );
}
