import type { Hyperparameter } from "../types";
import { number, words } from "../words";
import { Table } from "./basics";

function shown(value: number): string {
  return Number.isInteger(value) ? number(value) : String(Number(value.toPrecision(3)));
}

/** The hyperparameters of a round that no setting names, each with where its value comes from. */
export function HyperparameterTable({ found }: { found: Record<string, Hyperparameter> }) {
  return (
    <Table label="Hyperparameters" head={["Derived", "Value"]}>
      {Object.entries(found).map(([name, each]) => (
        <tr key={name}>
          <th scope="row">
            {words(name)}
            <div class="quiet">{each.reason}</div>
          </th>
          <td>{shown(each.value)}</td>
        </tr>
      ))}
    </Table>
  );
}
