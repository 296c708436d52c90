/** The whole chat: its head, the conversations beside it, the turns, and the composer. */

import type { JSX } from "preact";
import { useEffect, useReducer, useRef, useState } from "preact/hooks";
import type { Language } from "../language/language.ts";
import { Composer } from "./Composer.tsx";
import { SharedContext } from "./context.ts";
import { ConversationList } from "./ConversationList.tsx";
import { Icon, Mark } from "./icons.tsx";
import { Notices } from "./Notices.tsx";
import { Privacy } from "./Privacy.tsx";
import type { Session } from "./session.ts";
import { TonePanel } from "./TonePanel.tsx";
import { TurnView } from "./TurnView.tsx";
import { VotesPanel } from "./VotesPanel.tsx";
import { Welcome } from "./Welcome.tsx";

interface Props {
  session: Session;
  language: Language;
  fills: boolean; // the chat is the page
  close: (() => void) | null;
}

const AT_END = 80; // pixels from the end at which the reader still follows

export function Root({ session, language, fills, close }: Props): JSX.Element {
  const [, redraw] = useReducer((count: number) => count + 1, 0);
  useEffect(() => session.subscribe(() => redraw(undefined as never)), [session]);
  const [panel, setPanel] = useState<"votes" | "privacy" | "tone" | null>(null);
  const [listed, setListed] = useState(false);
  const { texts } = language;
  const { chat, votes } = session;
  const Name = fills ? "h1" : "h2";
  const Heading = fills ? "h2" : "h3";
  const pending = votes.pending.length;
  const learning = session.socket.state === "ready" && pending > 0;
  const scroller = useRef<HTMLDivElement>(null);
  const end = useEnd(scroller, chat.conversation.id, chat.turns.length);

  const show = (id: string): void => {
    session.open(id);
    setListed(false);
  };
  const showTurn = (completion: string, conversation: string): void => {
    setPanel(null);
    if (conversation !== chat.conversation.id && session.conversations.has(conversation))
      session.open(conversation);
    if (!chat.turns.some((turn) => turn.completion === completion)) {
      session.tell({ kind: "reply-gone" });
      return;
    }
    setTimeout(() => {
      const turn = scroller.current?.querySelector<HTMLElement>(
        `[data-completion="${CSS.escape(completion)}"]`,
      );
      turn?.scrollIntoView({ block: "start" });
      turn?.focus({ preventScroll: true });
    }, 50);
  };

  return (
    <SharedContext.Provider value={{ session, language }}>
      <div class="chat" part="chat" lang={language.code} dir={language.direction}>
        <div class="frame" data-listed={listed}>
          <header class="head" part="head">
            <button
              class="icon list-button"
              type="button"
              aria-label={texts.conversations}
              aria-expanded={listed}
              onClick={() => setListed(!listed)}
            >
              <Icon name="list" />
            </button>
            <Name class="name" part="name">
              {session.options.logo ? (
                <img class="logo" src={session.options.logo} alt="" part="logo" />
              ) : (
                <Mark />
              )}
              <bdi>{session.options.name}</bdi>
            </Name>
            <button
              class="status"
              type="button"
              part="status"
              aria-haspopup="dialog"
              data-learning={learning}
              onClick={() => setPanel("votes")}
            >
              <span class="dot" aria-hidden="true" />
              <span>
                {texts.voteCount(votes.all.length)}
                {learning && <span class="pending"> · {texts.beingLearned(pending)}</span>}
              </span>
            </button>
            {close && (
              <button class="icon" type="button" aria-label={texts.close} onClick={close}>
                <Icon name="close" />
              </button>
            )}
          </header>
          <ConversationList open={show} close={() => setListed(false)} />
          <div class="scroller" ref={scroller} tabIndex={-1} onScroll={end.scrolled}>
            {chat.turns.length === 0 ? (
              <Welcome heading={Heading} tone={() => setPanel("tone")} />
            ) : (
              <div>
                <Heading class="unseen">{texts.conversation}</Heading>
                <ol class="turns">
                  {chat.turns.map((turn, index) => (
                    <TurnView key={turn.id} turn={turn} last={index === chat.turns.length - 1} />
                  ))}
                </ol>
              </div>
            )}
          </div>
          <footer class="foot" part="foot">
            {!end.following && chat.turns.length > 0 && (
              <button class="icon latest" type="button" aria-label={texts.latest} onClick={end.follow}>
                <Icon name="arrow" />
              </button>
            )}
            <Notices />
            <Composer
              sent={end.follow}
              privacy={() => setPanel("privacy")}
              tone={() => setPanel("tone")}
            />
          </footer>
        </div>
        {panel === "votes" && <VotesPanel close={() => setPanel(null)} show={showTurn} />}
        {panel === "tone" && <TonePanel close={() => setPanel(null)} />}
        {panel === "privacy" && <Privacy close={() => setPanel(null)} />}
        <div class="unseen" aria-live="polite">
          {session.announced}
        </div>
      </div>
    </SharedContext.Provider>
  );
}

/** Scrolls with the conversation while the reader is at its end. */
function useEnd(
  scroller: { current: HTMLDivElement | null },
  conversation: string,
  turns: number,
): { following: boolean; follow: () => void; scrolled: () => void } {
  const [following, setFollowing] = useState(true);
  const wanted = useRef(true);
  const toEnd = (): void => {
    const box = scroller.current;
    if (box && wanted.current) box.scrollTop = box.scrollHeight;
  };
  const set = (value: boolean): void => {
    wanted.current = value;
    setFollowing(value);
  };
  useEffect(() => {
    set(true);
    toEnd();
    const content = scroller.current?.firstElementChild;
    if (!content || turns === 0) return;
    const observer = new ResizeObserver(toEnd);
    observer.observe(content);
    return () => observer.disconnect();
  }, [conversation, turns === 0]);
  return {
    following,
    follow: () => {
      set(true);
      toEnd();
    },
    scrolled: () => {
      const box = scroller.current;
      if (box) set(box.scrollHeight - box.scrollTop - box.clientHeight < AT_END);
    },
  };
}
