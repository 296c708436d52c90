/** How far the visitor's erasure has come, and its receipt once it is done. */

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { when } from "../language/language.ts";
import type { Erasure } from "../live/types.ts";
import { useShared } from "./context.ts";
import { save } from "./save.ts";

const READ_AGAIN = 3_000; // milliseconds

export function ErasureProgress({ id }: { id: string }): JSX.Element {
  const { session, language } = useShared();
  const { texts, code } = language;
  const [found, setFound] = useState<Erasure | null>(null);
  useEffect(() => {
    let timer = 0;
    let closed = false;
    const read = async (): Promise<void> => {
      const erasure = await session.service.erasure(id).catch(() => null);
      if (closed) return;
      if (erasure) setFound(erasure);
      if (!erasure?.done_at) timer = setTimeout(() => void read(), READ_AGAIN);
    };
    void read();
    return () => {
      closed = true;
      clearTimeout(timer);
    };
  }, [id]);
  const waits = found?.waits_for ? texts.erasure.waits[found.waits_for] : null;
  return (
    <section class="erasure" aria-label={texts.erasure.title}>
      <p>
        {texts.erasure.title} <bdi>{id}</bdi>
      </p>
      <p class="aside" role="status">
        {found?.done_at ? texts.erasure.done(when(found.done_at, code)) : waits}
      </p>
      {found?.receipt && (
        <div class="vote-actions">
          <button class="link" type="button" onClick={() => save(`receipt-${id}.json`, found.receipt)}>
            {texts.erasure.receipt}
          </button>
        </div>
      )}
    </section>
  );
}
