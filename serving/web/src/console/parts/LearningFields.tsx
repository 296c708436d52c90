import { useState } from "preact/hooks";
import type { Learning } from "../types";
import { SelectField, TextField } from "./fields";

/** What is learned from people's votes; what is empty is as the settings say. */
export function LearningFields(props: {
  learning: Learning;
  disabled: boolean;
  onChange: (learning: Learning) => void;
}) {
  const { learning, disabled, onChange } = props;
  const [weights, setWeights] = useState(
    Object.entries(learning.criteria_weights ?? {})
      .map(([name, weight]) => `${name} ${weight}`)
      .join(", "),
  );
  const [kept, setKept] = useState((learning.may_not_fall ?? []).join(", "));
  const [fall, setFall] = useState(String(learning.max_fall ?? ""));
  const change = (changed: Learning) => onChange({ ...learning, ...changed });
  return (
    <>
      <SelectField
        label="What is learned where tastes differ"
        value={learning.groups ?? ""}
        disabled={disabled}
        set={(groups) => change({ groups: (groups || undefined) as Learning["groups"] })}
      >
        <option value="">As the settings say</option>
        <option value="mean">What people like on average</option>
        <option value="least_satisfied">As much what pleases the group that it pleases least</option>
      </SelectField>
      <TextField
        label="Criteria in the reward, as in: safe 0.5, tone -1; empty: as the settings say"
        readOnly={disabled}
        value={weights}
        set={(text) => {
          setWeights(text);
          const named = items(text).map(weight);
          change({ criteria_weights: named.length ? Object.fromEntries(named) : undefined });
        }}
      />
      <TextField
        label="Criteria that may not fall, as in: safe, correct; empty: as the settings say"
        readOnly={disabled}
        value={kept}
        set={(text) => {
          setKept(text);
          change({ may_not_fall: items(text).length ? items(text) : undefined });
        }}
      />
      <TextField
        label="Largest fall of such a criterion, share of the replies; empty: as the settings say"
        type="number"
        min={0}
        max={1}
        step="any"
        readOnly={disabled}
        value={fall}
        set={(share) => {
          setFall(share);
          change({ max_fall: share ? Number(share) : undefined });
        }}
      />
      <SelectField
        label="What answers while a policy that learned from an erased person is made again"
        value={learning.tainted_policy ?? ""}
        disabled={disabled}
        set={(policy) => change({ tainted_policy: (policy || undefined) as Learning["tainted_policy"] })}
      >
        <option value="">As the settings say</option>
        <option value="keep">That policy itself</option>
        <option value="replace">The newest before it that did not learn from them</option>
      </SelectField>
      <p class="quiet">
        What is learned counts from the next round of training on. Criteria are helpful, correct, safe, tone
        and length, and the reasons that people here give.
      </p>
    </>
  );
}

function items(text: string): string[] {
  return text
    .split(",")
    .map((each) => each.trim())
    .filter(Boolean);
}

function weight(item: string): [string, number] {
  const [name = "", value, ...more] = item.split(/\s+/);
  return [name, more.length ? NaN : Number(value)]; // the service refuses what is no number
}
