import { askedBy, STEPS } from "../erasures";
import { href } from "../place";
import type { Erasure } from "../types";
import { ago, time } from "../words";
import { Badge, Table } from "./basics";

/** What was asked to be erased, newest first. It names nobody. */
export function ErasuresTable({ of: erasures }: { of: Erasure[] }) {
  return (
    <Table label="Erasures" head={["Asked for", "By", "State", "Erasure"]}>
      {erasures.map((each) => (
        <tr key={each.id}>
          <td>
            <time dateTime={each.asked_at} title={time(each.asked_at)}>
              {ago(each.asked_at)}
            </time>
          </td>
          <td>{askedBy(each.asked_by)}</td>
          <td class="words">
            <Badge tone={each.state === "done" ? "good" : "near"}>{each.state}</Badge>{" "}
            {each.waits_for && `next: ${(STEPS[each.waits_for] ?? each.waits_for).toLowerCase()}`}
          </td>
          <th scope="row">
            <a data-row class="id" href={href(["erasures", each.id])}>
              {each.id.slice(0, 16)}…
            </a>
          </th>
        </tr>
      ))}
    </Table>
  );
}
