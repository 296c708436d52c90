/** The visitor's conversations: opened, renamed, deleted. */

import type { JSX } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Entry } from "../chat/conversations.ts";
import { useShared } from "./context.ts";
import { Icon } from "./icons.tsx";

interface Props {
  open: (id: string) => void;
  close: () => void;
}

export function ConversationList({ open, close }: Props): JSX.Element {
  const { session, language } = useShared();
  const { texts } = language;
  const { list } = session.conversations;
  const create = (): void => {
    session.create();
    close();
  };
  return (
    <nav
      class="conversations"
      part="conversations"
      aria-label={texts.conversations}
      onKeyDown={(event) => {
        if (event.key !== "Escape") return;
        event.stopPropagation();
        close();
      }}
    >
      <button class="new" type="button" onClick={create}>
        <Icon name="plus" />
        <span>{texts.newChat}</span>
      </button>
      {list.length === 0 ? (
        <p class="aside">{session.keep.lasting ? texts.noConversations : texts.inMemory}</p>
      ) : (
        <ul>
          {list.map((entry) => (
            <Row key={entry.id} entry={entry} open={open} />
          ))}
        </ul>
      )}
    </nav>
  );
}

function Row({ entry, open }: { entry: Entry; open: (id: string) => void }): JSX.Element {
  const { session, language } = useShared();
  const { texts } = language;
  const [renaming, setRenaming] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  const renameButton = useRef<HTMLButtonElement>(null);
  useLayoutEffect(() => {
    if (renaming) input.current?.select();
  }, [renaming]);
  if (renaming) {
    const end = (save: boolean): void => {
      const title = input.current?.value.trim();
      setRenaming(false);
      if (save && title) session.rename(entry.id, title);
    };
    const endByKey = (save: boolean): void => {
      end(save);
      setTimeout(() => renameButton.current?.focus());
    };
    return (
      <li>
        <input
          ref={input}
          class="rename"
          dir="auto"
          maxLength={120}
          aria-label={texts.renameLabel}
          defaultValue={entry.title}
          onBlur={() => end(true)}
          onKeyDown={(event) => {
            if (event.isComposing) return;
            if (event.key === "Enter") endByKey(true);
            if (event.key === "Escape") {
              event.stopPropagation();
              endByKey(false);
            }
          }}
        />
      </li>
    );
  }
  const current = entry.id === session.chat.conversation.id;
  return (
    <li class="conversation" data-current={current}>
      <button
        class="title"
        type="button"
        dir="auto"
        aria-current={current || undefined}
        onClick={() => open(entry.id)}
      >
        {entry.title}
      </button>
      <button
        ref={renameButton}
        class="icon"
        type="button"
        aria-label={`${texts.rename}: ${entry.title}`}
        onClick={() => setRenaming(true)}
      >
        <Icon name="edit" />
      </button>
      <button
        class="icon"
        type="button"
        aria-label={`${texts.remove}: ${entry.title}`}
        onClick={(event) => {
          event.currentTarget.closest(".conversations")?.querySelector<HTMLElement>(".new")?.focus();
          session.remove(entry.id);
        }}
      >
        <Icon name="bin" />
      </button>
    </li>
  );
}
