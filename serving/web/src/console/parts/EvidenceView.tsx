import type { Evidence } from "../types";
import { percent } from "../words";
import { Interval, PolicyLink } from "./basics";
import { Progress } from "./Progress";

/** What people say of a canary, as it moves. */
export function EvidenceView({ evidence }: { evidence: Evidence }) {
  const arms = Object.entries(evidence.arms).sort(
    ([one], [other]) => Number(other === evidence.policy) - Number(one === evidence.policy),
  );
  return (
    <div class="evidence">
      <p>{evidence.words}</p>
      {arms.length === 0 && <p class="quiet">No votes on it yet.</p>}
      <ul class="arms">
        {arms.map(([policy, arm]) => (
          <li key={policy}>
            <PolicyLink id={policy} />
            <Interval value={arm.approval} low={arm.low} high={arm.high} />
            <span>
              <b>{percent(arm.approval)}</b> <span class="quiet">of {arm.people} people like it</span>
            </span>
          </li>
        ))}
      </ul>
      {evidence.automatic && evidence.next_look !== null && (
        <>
          <Progress
            label="Conversations with votes until the next look"
            done={evidence.voted}
            of={evidence.next_look}
          />
          <p class="quiet">
            It is promoted when it is shown to lose at most {percent(evidence.margin)} of approval, and taken
            back when it is shown to be worse; each arm needs {evidence.least_people} people. The last look is
            at {evidence.last_look} conversations.
          </p>
        </>
      )}
    </div>
  );
}
