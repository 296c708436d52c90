import type { Estimate } from "../types";
import { percent, plural } from "../words";

/** What recorded votes let expect of a policy, before anybody saw a reply of it. */
export function EstimateView({ estimate }: { estimate: Estimate | null }) {
  if (!estimate) return <p>Before anybody saw it: recorded votes did not tell what to expect.</p>;
  const points = (share: number) => (100 * share).toFixed(1);
  return (
    <p>
      Before anybody saw it, recorded votes let expect <b>{percent(estimate.approval)}</b> thumbs up (
      {percent(estimate.approval_lower)} to {percent(estimate.approval_upper)}),{" "}
      {estimate.approval_change > 0 && "+"}
      {points(estimate.approval_change)} ± {points(estimate.approval_change_error)} points to the policy that
      was live. It rests on {plural(estimate.approval_votes, "vote")} of{" "}
      {plural(estimate.approval_people, "person", "people")};{" "}
      {percent(estimate.approval_coverage)} of what it says is like what they voted on.
    </p>
  );
}
