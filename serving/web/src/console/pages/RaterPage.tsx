import { useState } from "preact/hooks";
import { ask } from "../api";
import { useData } from "../data";
import { Badge, Empty, Waiting } from "../parts/basics";
import { TextField } from "../parts/fields";
import { FormDialog } from "../parts/FormDialog";
import { VoteRow } from "../parts/VoteRow";
import { href } from "../place";
import { evidenceWords, reasonWords } from "../reasons";
import { say } from "../said";
import type { WholeHeldRater } from "../types";
import { kindOfRater, person, plural, time, words } from "../words";

type Decision = "accept" | "reject";

const STATES = { held: "waits for you", accepted: "accepted", rejected: "rejected" };
const TONES = { held: "near", accepted: "good", rejected: "bad" } as const;

/** One rater whose votes look hostile: the evidence, some votes, and the decision. */
export function RaterPage({ id }: { id: string }) {
  const rater = useData<WholeHeldRater>(`quarantine/${encodeURIComponent(id)}`);
  return (
    <>
      <p class="way">
        <a href={href(["raters"])}>← Raters</a>
      </p>
      <Waiting on={rater}>{(shown) => <Shown rater={shown} reload={rater.reload} />}</Waiting>
    </>
  );
}

function Shown({ rater, reload }: { rater: WholeHeldRater; reload: () => void }) {
  const [decision, setDecision] = useState<Decision | null>(null);
  const name = person(rater.rater);
  return (
    <article class="report">
      <h1>
        {name} <Badge tone={TONES[rater.state]}>{STATES[rater.state]}</Badge>
      </h1>
      <p class="lead">
        {kindOfRater(rater.rater)}, {plural(rater.votes, "vote")}.{" "}
        {rater.state === "accepted"
          ? "Rounds learn from them again."
          : "They are kept; nothing learns from them, and no rollout counts them."}
      </p>
      <div class="buttons operate">
        {rater.state !== "accepted" && (
          <button type="button" class="primary" onClick={() => setDecision("accept")}>
            Accept…
          </button>
        )}
        {rater.state !== "rejected" && (
          <button type="button" class="danger" onClick={() => setDecision("reject")}>
            Reject…
          </button>
        )}
      </div>
      <div class="two">
        <section class="card" aria-labelledby="found">
          <h2 id="found">What was found</h2>
          {Object.entries(rater.evidence).map(([reason, figures]) => (
            <Finding key={reason} reason={reason} figures={figures} />
          ))}
          <Decided rater={rater} />
        </section>
        <section aria-labelledby="votes">
          <h2 id="votes">The newest votes</h2>
          {rater.samples.length === 0 && <Empty>Their votes are gone.</Empty>}
          <ul class="votes">
            {rater.samples.map((vote) => (
              <VoteRow key={vote.id} vote={vote} />
            ))}
          </ul>
          <p>
            <a href={href(["feedback"], { user: rater.rater })}>All votes of this rater</a>,{" "}
            <a href={href(["people", rater.rater])}>all that is held</a>
          </p>
        </section>
      </div>
      {decision && (
        <DecisionDialog rater={rater} decision={decision} onClose={() => setDecision(null)} onDone={reload} />
      )}
    </article>
  );
}

function Finding({ reason, figures }: { reason: string; figures: Record<string, unknown> }) {
  const sentence = evidenceWords(reason, figures);
  return (
    <>
      <h3>{reasonWords(reason)}</h3>
      {sentence && <p>{sentence}</p>}
      <dl class="facts">
        {Object.entries(figures).map(([name, value]) => (
          <>
            <dt key={name}>{words(name)}</dt>
            <dd>{figure(value)}</dd>
          </>
        ))}
      </dl>
    </>
  );
}

function Decided({ rater }: { rater: WholeHeldRater }) {
  return (
    <dl class="facts">
      <dt>Held since</dt>
      <dd>{time(rater.created_at)}</dd>
      {rater.decided_at && (
        <>
          <dt>Decided</dt>
          <dd>
            {time(rater.decided_at)} by {rater.decided_by}
          </dd>
          <dt>Why</dt>
          <dd>
            <bdi>{rater.decision_reason}</bdi>
          </dd>
        </>
      )}
      <dt>Rater</dt>
      <dd class="id">{rater.rater}</dd>
    </dl>
  );
}

function DecisionDialog(props: {
  rater: WholeHeldRater;
  decision: Decision;
  onClose: () => void;
  onDone: () => void;
}) {
  const { rater, decision, onClose, onDone } = props;
  const [reason, setReason] = useState("");
  const name = person(rater.rater);

  async function decide() {
    await ask(`quarantine/${encodeURIComponent(rater.rater)}`, "POST", { decision, reason });
    say(decision === "accept" ? `${name} is accepted.` : `${name} is rejected.`);
    onDone();
    onClose();
  }

  return (
    <FormDialog
      title={decision === "accept" ? `Accept ${name}?` : `Reject ${name}?`}
      verb={decision === "accept" ? "Accept" : "Reject"}
      danger={decision === "reject"}
      submit={decide}
      onClose={onClose}
    >
      <p>
        {decision === "accept"
          ? `${plural(rater.votes, "vote")} teach from the next round on. For a month they are not held again for what was found here.`
          : `${plural(rater.votes, "vote")}, and those to come, are kept and teach nothing.`}{" "}
        You can decide again at any time.
      </p>
      <TextField
        label="Why (kept in the audit log)"
        required
        maxLength={500}
        value={reason}
        set={setReason}
      />
    </FormDialog>
  );
}

/** Returns a figure of the evidence as people read it; of a list, how long it is. */
function figure(value: unknown): string {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return String(Number(value.toPrecision(3)));
  if (Array.isArray(value)) return String(value.length);
  return typeof value === "string" ? value : JSON.stringify(value);
}
