import { useData } from "../data";
import { Waiting } from "../parts/basics";
import { Turns } from "../parts/Turns";
import { href } from "../place";
import type { List, Turn } from "../types";

/** A whole conversation. */
export function ConversationPage({ id }: { id: string }) {
  const shown = useData<List<Turn>>(`console/conversations/${encodeURIComponent(id)}`, ["votes"]);
  return (
    <>
      <p class="way">
        <a href={href(["feedback"], { show: "conversations" })}>← Conversations</a>
      </p>
      <h1>A conversation</h1>
      <Waiting on={shown}>{(turns) => <Turns turns={turns.data} />}</Waiting>
    </>
  );
}
