import { useData } from "../data";
import { Badge, PolicyLink, Waiting } from "../parts/basics";
import { Turns } from "../parts/Turns";
import { fateOf, VoteSummary } from "../parts/VoteSummary";
import { href, usePlace } from "../place";
import type { Turn, Vote } from "../types";
import { person, time } from "../words";

/** One vote: what was said of what, in its conversation, and what became of it. */
export function VotePage({ id }: { id: string }) {
  const { query } = usePlace();
  const shown = useData<{ vote: Vote; conversation: Turn[] }>(`console/votes/${encodeURIComponent(id)}`, [
    "rounds",
    "policies",
  ]);
  return (
    <>
      <p class="way">
        <a href={href(["feedback"], query)}>← Feedback</a>
      </p>
      <h1>A vote</h1>
      <Waiting on={shown}>
        {({ vote, conversation }) => <Shown vote={vote} conversation={conversation} />}
      </Waiting>
    </>
  );
}

function Shown({ vote, conversation }: { vote: Vote; conversation: Turn[] }) {
  const fate = fateOf(vote);
  const [best] = vote.value.ranking ?? [];
  return (
    <div class="two">
      <section class="card" aria-labelledby="said">
        <h2 id="said">
          <VoteSummary vote={vote} />
        </h2>
        {vote.comment && (
          <blockquote>
            <bdi>{vote.comment}</bdi>
          </blockquote>
        )}
        {vote.edit && (
          <>
            <h3>It should have said</h3>
            <p class="text">
              <bdi>{vote.edit}</bdi>
            </p>
          </>
        )}
        {best && <p>Best: {best.map((choice) => `reply ${choice + 1}`).join(" and ")}.</p>}
        <dl class="facts">
          <dt>What became of it</dt>
          <dd>
            <Badge tone={fate.tone}>{fate.words}</Badge>
          </dd>
          {vote.learned_by && (
            <>
              <dt>Learned by</dt>
              <dd>
                <PolicyLink id={vote.learned_by} />
                {vote.live_at && `, live since ${time(vote.live_at)}`}
              </dd>
            </>
          )}
          <dt>Given</dt>
          <dd>{time(vote.created_at)}</dd>
          <dt>By</dt>
          <dd>
            <a href={href(["feedback"], { user: vote.user })}>{person(vote.user)}</a>
            {!vote.user.startsWith("judge:") && (
              <>
                {" "}
                (<a href={href(["people", vote.user])}>what is held of them</a>)
              </>
            )}
          </dd>
          {vote.policy && (
            <>
              <dt>On a reply of</dt>
              <dd>
                <PolicyLink id={vote.policy} />
              </dd>
            </>
          )}
          {Object.entries(vote.metadata).map(([name, value]) => (
            <>
              <dt key={name}>
                <bdi>{name}</bdi>
              </dt>
              <dd>
                <a href={href(["feedback"], { tag: `${name}=${value}` })}>
                  <bdi>{value}</bdi>
                </a>
              </dd>
            </>
          ))}
          <dt>Id</dt>
          <dd class="id">{vote.id}</dd>
        </dl>
      </section>
      <section aria-labelledby="conversation">
        <h2 id="conversation">The conversation</h2>
        <Turns turns={conversation} marked={vote.completion_id} />
      </section>
    </div>
  );
}
