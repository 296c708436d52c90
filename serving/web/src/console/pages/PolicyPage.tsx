import { useState } from "preact/hooks";
import { ask } from "../api";
import { noteError, useData } from "../data";
import { PolicyLink, State, Waiting } from "../parts/basics";
import { type Action, ChangeDialog } from "../parts/ChangeDialog";
import { Checks } from "../parts/Checks";
import { PolicyCard } from "../parts/PolicyCard";
import { Samples } from "../parts/Samples";
import { StyleTable } from "../parts/StyleTable";
import { href, replaceQuery, usePlace } from "../place";
import { say } from "../said";
import type { List, Policy, Styles, WholePolicy } from "../types";
import { policyName, time } from "../words";

/** One policy: its verdict, what may be done with it, and how it writes. */
export function PolicyPage({ id }: { id: string }) {
  const policy = useData<WholePolicy>(`console/policies/${encodeURIComponent(id)}`, ["policies"]);
  return (
    <>
      <p class="way">
        <a href={href(["policies"])}>← Policies</a>
      </p>
      <Waiting on={policy}>{(shown) => <Shown policy={shown} reload={policy.reload} />}</Waiting>
    </>
  );
}

function Shown({ policy, reload }: { policy: WholePolicy; reload: () => void }) {
  return (
    <article class="report">
      <h1>
        {policyName(policy.id)} <State of={policy.state} />
      </h1>
      <p class="lead">{policy.headline}</p>
      {policy.doubts.length > 0 && (
        <ul class="doubts">
          {policy.doubts.map((doubt) => (
            <li key={doubt}>{doubt}</li>
          ))}
        </ul>
      )}
      {policy.reason && !policy.doubts.some((doubt) => policy.reason?.includes(doubt)) && (
        <p>{policy.reason}</p>
      )}
      <Actions policy={policy} reload={reload} />
      <dl class="facts">
        <dt>Made</dt>
        <dd>
          {time(policy.created_at)}
          {policy.round !== null && (
            <>
              {" in "}
              <a href={href(["rounds", String(policy.round)])}>its round</a>
            </>
          )}
        </dd>
        {policy.live_at && (
          <>
            <dt>First live</dt>
            <dd>{time(policy.live_at)}</dd>
          </>
        )}
        {policy.ancestors.length > 0 && (
          <>
            <dt>Trained from</dt>
            <dd class="chain">
              {policy.ancestors.slice(0, 8).map((each) => (
                <PolicyLink key={each} id={each} />
              ))}
              {policy.ancestors.length > 8 && <span>and {policy.ancestors.length - 8} more</span>}
            </dd>
          </>
        )}
        {policy.children.length > 0 && (
          <>
            <dt>Trained from it</dt>
            <dd class="chain">
              {policy.children.map((each) => (
                <PolicyLink key={each} id={each} />
              ))}
            </dd>
          </>
        )}
        <dt>Votes</dt>
        <dd>
          <a href={href(["feedback"], { policy: policy.id })}>on its replies</a>
        </dd>
      </dl>
      {policy.parent !== null && (
        <section aria-labelledby="gate">
          <h2 id="gate">What the gate found</h2>
          <Checks checks={policy.checks} />
        </section>
      )}
      <PolicyCard id={policy.id} />
      <Samples samples={policy.samples} />
      <Compare policy={policy} />
    </article>
  );
}

function Actions({ policy, reload }: { policy: WholePolicy; reload: () => void }) {
  const [action, setAction] = useState<Action | null>(null);
  const waits = policy.state === "published" || policy.state === "retired";
  const broughtBack =
    policy.state === "rolled_back" || (policy.state === "rejected" && policy.verdict === "refused");
  const isBase = policy.parent === null;
  async function reinstate() {
    try {
      await ask(`policies/${encodeURIComponent(policy.id)}/reinstate`, "POST");
      say(`${policy.id} may be tried and promoted again.`);
      reload();
    } catch (refused) {
      say(noteError(refused));
    }
  }
  return (
    <div class="buttons operate">
      {(waits || broughtBack || policy.state === "canary") && !policy.pruned_at && (
        <button type="button" class="primary" onClick={() => setAction("promote")}>
          {broughtBack ? "Bring it back…" : "Make it live…"}
        </button>
      )}
      {waits && !isBase && !policy.pruned_at && (
        <button type="button" onClick={() => setAction("start")}>
          Let people try it…
        </button>
      )}
      {((policy.is_live && !isBase) || policy.is_canary) && (
        <button type="button" onClick={() => setAction("rollback")}>
          Take it back…
        </button>
      )}
      {(policy.state === "rolled_back" || policy.state === "rejected") && !policy.pruned_at && (
        <button type="button" onClick={reinstate}>
          Reinstate it
        </button>
      )}
      {action && (
        <ChangeDialog action={action} policy={policy.id} onClose={() => setAction(null)} onDone={reload} />
      )}
    </div>
  );
}

function Compare({ policy }: { policy: WholePolicy }) {
  const place = usePlace();
  const against = place.query.get("against") ?? policy.parent ?? "";
  const policies = useData<List<Policy>>("console/policies");
  const styles = useData<Styles>(
    against && against !== policy.id
      ? `console/policies/${encodeURIComponent(policy.id)}/style?against=${encodeURIComponent(against)}`
      : null,
  );
  const others = (policies.data?.data ?? []).filter((each) => each.id !== policy.id);
  if (others.length === 0) return null;
  return (
    <section aria-labelledby="compare">
      <h2 id="compare">How it writes</h2>
      <label class="by">
        Compared with{" "}
        <select
          value={against}
          onChange={(event) => replaceQuery(place, { against: event.currentTarget.value })}
        >
          {!against && <option value="">Choose…</option>}
          {others.map((each) => (
            <option key={each.id} value={each.id}>
              {policyName(each.id)}
            </option>
          ))}
        </select>
      </label>
      {against && (
        <Waiting on={styles}>
          {(shown) =>
            shown.one.replies && shown.other.replies ? (
              <>
                <p class="quiet">
                  By the newest {shown.other.replies} and {shown.one.replies} replies to people.
                </p>
                <StyleTable head={[against, policy.id]} one={shown.other} other={shown.one} />
                {shown.samples.map((sample) => (
                  <div key={sample.prompt} class="sample">
                    <p class="asked">
                      <bdi>{sample.prompt}</bdi>
                    </p>
                    <div class="before-after">
                      <p>
                        <span class="quiet">{against}</span> <bdi>{sample.other}</bdi>
                      </p>
                      <p>
                        <span class="quiet">{policy.id}</span> <bdi>{sample.one}</bdi>
                      </p>
                    </div>
                  </div>
                ))}
              </>
            ) : (
              <p class="quiet">One of the two has not answered anybody yet.</p>
            )
          }
        </Waiting>
      )}
    </section>
  );
}
