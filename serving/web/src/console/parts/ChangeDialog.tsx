import { useState } from "preact/hooks";
import { ask } from "../api";
import { useData } from "../data";
import { say } from "../said";
import type { Preview } from "../types";
import { Shares, State, Waiting } from "./basics";
import { EstimateView } from "./EstimateView";
import { SelectField, TextField } from "./fields";
import { FormDialog } from "./FormDialog";

export type Action = "promote" | "rollback" | "start";

const TITLES: Record<Action, (policy: string) => string> = {
  promote: (policy) => `Make ${policy} live?`,
  rollback: (policy) => `Take ${policy} back?`,
  start: (policy) => `Let people try ${policy}?`,
};
const BUTTONS = { promote: "Make it live", rollback: "Take it back", start: "Start" };

/** Says who would answer after a change and how to come back, then makes the change. */
export function ChangeDialog(props: {
  action: Action;
  policy: string;
  onClose: () => void;
  onDone: () => void;
}) {
  const { action, policy, onClose, onDone } = props;
  const [mode, setMode] = useState("canary");
  const [share, setShare] = useState("");
  const [reason, setReason] = useState("");
  const preview = useData<Preview>(
    `console/rollouts/preview?${new URLSearchParams({ action, policy, mode, share: share || "0.05" })}`,
  );

  async function change() {
    if (action === "start")
      await ask("rollouts", "POST", { policy, mode, ...(share ? { share: Number(share) } : {}) });
    else
      await ask(`policies/${encodeURIComponent(policy)}/${action}`, "POST", reason ? { reason } : undefined);
    say(preview.data?.words ?? "Done.");
    onDone();
    onClose();
  }

  return (
    <FormDialog
      title={TITLES[action](policy)}
      verb={BUTTONS[action]}
      danger={action === "rollback"}
      disabled={preview.data === null}
      submit={change}
      onClose={onClose}
    >
      {action === "start" && (
        <SelectField label="How it is tried" value={mode} set={setMode}>
          <option value="canary">It answers a share of the traffic</option>
          <option value="duel">It answers one of two replies that people compare</option>
        </SelectField>
      )}
      {action === "start" && (
        <SelectField
          label={mode === "duel" ? "Share of the pairs" : "Share of the traffic"}
          value={share}
          set={setShare}
        >
          <option value="">as votes decide</option>
          <option value="0.05">5%</option>
          <option value="0.1">10%</option>
          <option value="0.25">25%</option>
          <option value="0.5">50%</option>
        </SelectField>
      )}
      <Waiting on={preview}>
        {(shown) => (
          <>
            <p>{shown.words}</p>
            {action === "start" && <EstimateView estimate={shown.estimate} />}
            <div class="before-after">
              <section>
                <h3>Now</h3>
                <Shares shares={shown.now} />
              </section>
              <section>
                <h3>Then</h3>
                <Shares shares={shown.then} />
              </section>
            </div>
            <ul class="bare">
              {shown.changes.map((each) => (
                <li key={each.policy}>
                  <span class="id">{each.policy}</span> <State of={each.from} /> → <State of={each.to} />
                </li>
              ))}
            </ul>
            <p class="quiet">
              <b>The way back:</b> {shown.way_back}
            </p>
          </>
        )}
      </Waiting>
      {action !== "start" && (
        <TextField
          label="Why (kept with the policy)"
          maxLength={500}
          required={preview.data?.needs_reason ?? false}
          value={reason}
          set={setReason}
        />
      )}
    </FormDialog>
  );
}
