/** The dialog in which a visitor reads what is kept, opts out, gets a copy of it, and has it erased. Where a page keeps no chat, earlier ones may have been kept. */

import type { JSX } from "preact";
import { useRef, useState } from "preact/hooks";
import { selectText } from "../text/copy.ts";
import { useShared } from "./context.ts";
import { Dialog } from "./Dialog.tsx";

type Step = "offered" | "asked" | "busy" | "failed" | { erasure: string };

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
    const held = JSON.stringify(await session.service.held(), null, 2);
    save(held);
    // A sandboxed frame may not save files, and is not told that none was saved.
    if (window !== window.top && byHand.current) selectText(held, byHand.current, texts.saveByHand);
    return "offered";
  };
  const forget = async (): Promise<Step> => ({ erasure: await session.forget() });

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
      <p class="aside" role="status">
        {step === "asked" && texts.forgetQuestion}
        {step === "failed" && texts.forgetFailed}
        {typeof step === "object" && texts.forgotten(step.erasure)}
      </p>
      {typeof step !== "object" && (
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
    </Dialog>
  );
}

/** Offers a text to the visitor as a file. */
function save(text: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "held-data.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
