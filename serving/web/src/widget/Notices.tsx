/** The banner about the connection, and news: votes that went live, what failed, what can be undone. */

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { quote, when } from "../language/language.ts";
import { SESSION_ENDED } from "../live/socket.ts";
import { useShared } from "./context.ts";
import { why } from "./errors.ts";
import { Icon } from "./icons.tsx";

export function Notices(): JSX.Element {
  return (
    <>
      <Banner />
      <NewsLine />
      <Consent />
    </>
  );
}

function Banner(): JSX.Element | null {
  const { session, language } = useShared();
  const { texts } = language;
  const seconds = useCountdown(session.chat.resend?.at ?? null);
  const { state, refusal } = session.socket;
  let text: string | null = null;
  if (state === "refused") text = refusal === SESSION_ENDED ? texts.errors.session : texts.errors.key;
  else if (state === "lost") text = navigator.onLine ? texts.reconnecting : texts.offline;
  else if (session.chat.resend) {
    text =
      session.chat.resend.code === "rate_limit_exceeded" ? texts.waiting(seconds) : texts.notReady(seconds);
  }
  return (
    <div role="status" class="banner-place">
      {text && <p class="banner">{text}</p>}
    </div>
  );
}

/** Returns the seconds until a time, each second anew. */
function useCountdown(until: number | null): number {
  const left = (): number => (until === null ? 0 : Math.max(0, Math.ceil((until - Date.now()) / 1000)));
  const [seconds, setSeconds] = useState(left);
  useEffect(() => {
    setSeconds(left());
    if (until === null) return;
    const timer = setInterval(() => setSeconds(left()), 250);
    return () => clearInterval(timer);
  }, [until]);
  return seconds;
}

function NewsLine(): JSX.Element {
  const { session, language } = useShared();
  const { texts, code } = language;
  const { news } = session;
  let text = "";
  if (news?.kind === "live") {
    const first = news.votes[0]!;
    const since = when(first.life.live_at ?? "", code);
    text =
      news.votes.length === 1
        ? texts.learnedOne(quote(first.prompt), since)
        : texts.learnedMany(news.votes.length, since);
  } else if (news?.kind === "removed") text = texts.removed(news.entry.title);
  else if (news?.kind === "vote-failed") text = texts.voteFailed(news.error ? why(news.error, texts) : "");
  else if (news?.kind === "reply-gone") text = texts.replyGone;
  else if (news) text = texts.retractFailed;
  return (
    <div role="status" class="news-place">
      {news && (
        <div class="news" data-kind={news.kind}>
          {news.kind === "live" && <Icon name="check" />}
          <p dir="auto">{text}</p>
          {news.kind === "removed" && (
            <button class="link" type="button" onClick={news.undo}>
              {texts.undo}
            </button>
          )}
          <button class="icon" type="button" aria-label={texts.dismiss} onClick={() => session.tell(null)}>
            <Icon name="close" />
          </button>
        </div>
      )}
    </div>
  );
}

function Consent(): JSX.Element | null {
  const { session, language } = useShared();
  const { texts } = language;
  if (session.options.consent !== "ask" || session.consent !== null) return null;
  return (
    <div class="news consent" role="group" aria-label={texts.privacy}>
      <p>{texts.consentQuestion}</p>
      <button class="solid" type="button" onClick={() => (session.consent = "yes")}>
        {texts.yes}
      </button>
      <button class="quiet" type="button" onClick={() => (session.consent = "no")}>
        {texts.no}
      </button>
    </div>
  );
}
