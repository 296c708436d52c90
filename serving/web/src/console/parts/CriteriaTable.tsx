import type { Criterion } from "../types";
import { number, percent, words } from "../words";
import { Table } from "./basics";

/** The criteria of a round: how often votes mention each, and how many replies meet it, before and after. */
export function CriteriaTable({ criteria }: { criteria: Record<string, Criterion> }) {
  return (
    <Table label="Criteria" head={["Replies are", "Praised", "Blamed", "People", "Before", "After", "Change"]}>
      {Object.entries(criteria).map(([name, each]) => (
        <tr key={name}>
          <th scope="row">{words(name)}</th>
          <td>{number(each.praises)}</td>
          <td>{number(each.blames)}</td>
          <td>{number(each.people)}</td>
          <td>{percent(each.live)}</td>
          <td>{percent(each.candidate)}</td>
          <td>
            {each.change > 0 ? "+" : ""}
            {percent(each.change, 1)} ± {percent(each.error, 1)}
          </td>
        </tr>
      ))}
    </Table>
  );
}
