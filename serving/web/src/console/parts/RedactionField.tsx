import type { PersonalData } from "../types";

const KINDS: Record<PersonalData, string> = {
  email: "e-mail addresses",
  phone: "phone numbers",
  iban: "bank accounts (IBAN)",
  card: "card numbers",
  ip: "IP addresses",
  national_id: "national identity numbers",
};
const EVERY = Object.keys(KINDS) as PersonalData[];

/** What is replaced before anything is stored; null is what the settings say. */
export function RedactionField(props: {
  kinds: PersonalData[] | null;
  disabled: boolean;
  onChange: (kinds: PersonalData[] | null) => void;
}) {
  const { kinds, disabled, onChange } = props;
  const chosen = kinds === null ? "settings" : kinds.length ? "own" : "none";
  const first: Record<string, PersonalData[] | null> = { settings: null, own: EVERY, none: [] };
  return (
    <>
      <label>
        Personal data in what is stored
        <select
          value={chosen}
          disabled={disabled}
          onChange={(event) => onChange(first[event.currentTarget.value] ?? null)}
        >
          <option value="settings">As the settings say</option>
          <option value="own">These kinds are replaced, as by [email]</option>
          <option value="none">Nothing is replaced</option>
        </select>
      </label>
      {kinds !== null && kinds.length > 0 && (
        <fieldset>
          <legend>What is replaced</legend>
          {EVERY.map((kind) => (
            <label class="check" key={kind}>
              <input
                type="checkbox"
                checked={kinds.includes(kind)}
                disabled={disabled}
                onChange={(event) =>
                  onChange(
                    EVERY.filter((each) => (each === kind ? event.currentTarget.checked : kinds.includes(each))),
                  )
                }
              />
              {KINDS[kind]}
            </label>
          ))}
        </fieldset>
      )}
      <p class="quiet">
        It counts from the next message on. <b>What is stored already is not changed</b>, nor what policies
        learned from it: erase those people on the page People, or let it expire after the days above. Names of people and postal addresses are not found. What the model is asked and answers is never
        changed, only what is kept of it.
      </p>
    </>
  );
}
