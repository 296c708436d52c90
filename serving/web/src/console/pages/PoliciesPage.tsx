import { useData } from "../data";
import { Empty, State, Waiting } from "../parts/basics";
import { href } from "../place";
import type { List, Policy } from "../types";
import { ago, number, policyName, time } from "../words";

/** The lineage: policies, newest first, each with what it was trained from and the gate's verdict. */
export function PoliciesPage() {
  const policies = useData<List<Policy>>("console/policies", ["policies"]);
  return (
    <>
      <h1>Policies</h1>
      <p class="quiet">
        Filled dots are the line that leads to what answers now. Every policy was trained from the one that it
        names.
      </p>
      <Waiting on={policies}>
        {(list) =>
          list.data.length ? <Lineage policies={list.data} /> : <Empty>There is no policy yet.</Empty>
        }
      </Waiting>
    </>
  );
}

function Lineage({ policies }: { policies: Policy[] }) {
  const line = lineOf(policies);
  return (
    <ul class="rows lineage">
      {policies.map((policy) => (
        <li key={policy.id} class={line.has(policy.id) ? "on-line" : undefined}>
          <a class="row" data-row href={href(["policies", policy.id])}>
            <i class="node" aria-hidden="true" />
            <span class="what">
              <b class="id">{policyName(policy.id)}</b>{" "}
              {policy.parent && <span class="quiet">from {policy.parent}</span>}
              <span class="verdict-line">{policy.headline}</span>
              <span class="about">
                <time dateTime={policy.created_at} title={time(policy.created_at)}>
                  {ago(policy.created_at)}
                </time>
                {policy.examples !== null && policy.examples > 0 && (
                  <span>{number(policy.examples)} votes</span>
                )}
                {policy.reason && <span>{policy.reason}</span>}
                {policy.pruned_at && <span>files deleted</span>}
                {policy.pinned_at && <span>pinned</span>}
              </span>
            </span>
            <State of={policy.state} />
          </a>
        </li>
      ))}
    </ul>
  );
}

/** Returns the live policy and all that it was trained from. */
function lineOf(policies: Policy[]): Set<string> {
  const parents = new Map(policies.map((policy) => [policy.id, policy.parent]));
  const line = new Set<string>();
  let at: string | null | undefined = policies.find((policy) => policy.is_live)?.id;
  while (at && !line.has(at)) {
    line.add(at);
    at = parents.get(at);
  }
  return line;
}
