import { useData } from "../data";
import { href } from "../place";
import type { Card } from "../types";
import { number } from "../words";
import { Waiting } from "./basics";

/** What a policy learned from, in aggregate, as its card has it; and where everybody reads the card. */
export function PolicyCard({ id }: { id: string }) {
  const card = useData<Card>(`policies/${encodeURIComponent(id)}/card`, ["policies"]);
  return (
    <section aria-labelledby="card">
      <h2 id="card">What it learned from</h2>
      <Waiting on={card}>
        {({ learned_from: learned, ...shown }) => (
          <>
            <p>
              {learned.votes === null || learned.people === null
                ? "New votes of fewer than five people, or none."
                : `${number(learned.votes)} new votes of ${number(learned.people)} people.`}
            </p>
            <ul>
              {learned.kinds.map((kind) => (
                <li key={`${kind.type} ${kind.value}`}>
                  {number(kind.votes)} of type {kind.type}
                  {kind.value && ` (${kind.value})`}
                </li>
              ))}
            </ul>
            <p class="quiet">
              {shown.public ? (
                <a href={`/cards/${shown.project}/${encodeURIComponent(id)}`}>
                  The card that everybody may read
                </a>
              ) : (
                <>
                  Only this project reads the cards of its policies. <a href={href(["project"])}>Project</a>{" "}
                  shows them to everybody.
                </>
              )}
            </p>
          </>
        )}
      </Waiting>
    </section>
  );
}
