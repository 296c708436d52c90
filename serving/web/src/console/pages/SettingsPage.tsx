import { useState } from "preact/hooks";
import { useData } from "../data";
import { Badge, Table, Waiting } from "../parts/basics";
import type { List, Setting } from "../types";

function shown(value: unknown): string {
  if (value === null) return "none";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** The settings in effect, each with where it came from. Secrets are never shown. */
export function SettingsPage() {
  const settings = useData<List<Setting>>("console/settings");
  const [wanted, setWanted] = useState("");
  const [changed, setChanged] = useState(false);
  return (
    <>
      <h1>Settings</h1>
      <form class="filters" role="search" aria-label="Settings" onSubmit={(event) => event.preventDefault()}>
        <label class="search">
          Search
          <input type="search" value={wanted} onInput={(event) => setWanted(event.currentTarget.value)} />
        </label>
        <label class="check">
          <input
            type="checkbox"
            checked={changed}
            onChange={(event) => setChanged(event.currentTarget.checked)}
          />
          Only what is not the default
        </label>
      </form>
      <Waiting on={settings}>
        {(list) => (
          <Table label="Settings" head={["Setting", "Value", "Source", "Meaning"]}>
            {list.data
              .filter((each) => !changed || each.source !== "default")
              .filter((each) =>
                `${each.name} ${each.description}`.toLowerCase().includes(wanted.toLowerCase()),
              )
              .map((each) => (
                <tr key={each.name}>
                  <th scope="row" class="id">
                    {each.name}
                  </th>
                  <td class="id value">{shown(each.value)}</td>
                  <td>
                    <Badge tone={each.source === "default" ? "plain" : "accent"}>{each.source}</Badge>
                  </td>
                  <td class="words">{each.description}</td>
                </tr>
              ))}
          </Table>
        )}
      </Waiting>
      <p class="quiet">
        Settings are changed in hearken.toml or by variables, and count from the next start.
      </p>
    </>
  );
}
