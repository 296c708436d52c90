import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { useData } from "../data";
import { FIELDS, isFiltered, WITHIN } from "../filter";
import { type Place, replaceQuery } from "../place";
import type { Facets } from "../types";
import { words } from "../words";
import { SavedViews } from "./SavedViews";

const TYPES: [string, string][] = [
  ["thumb", "Thumbs"],
  ["ranking", "Rankings"],
  ["edit", "Edits"],
  ["signal", "Signals"],
];
const VALUES: [string, string][] = [
  ["up", "Good"],
  ["down", "Bad"],
  ["none", "None is good"],
  ["regenerated", "Regenerated"],
  ["copied", "Copied"],
  ["shared", "Shared"],
  ["abandoned", "Abandoned"],
];
const SETTLED = 300; // milliseconds without a letter after which a search begins

/** The fields of the desk's filter; each is in the address. */
export function Filters({ place }: { place: Place }) {
  const facets = useData<Facets>("console/facets");
  const known = (names: { name: string; votes: number }[] | undefined): [string, string][] =>
    (names ?? []).map(({ name }) => [name, words(name)]);
  const set = (name: string) => (value: string) => replaceQuery(place, { [name]: value });
  const value = (name: string) => place.query.get(name) ?? "";
  return (
    <form class="filters" role="search" aria-label="Filter" onSubmit={(event) => event.preventDefault()}>
      <Settling
        label="Search"
        wide
        value={value("text")}
        onValue={set("text")}
        placeholder="Words in messages, replies, comments"
      />
      <Select label="Vote" value={value("value")} options={VALUES} onValue={set("value")} />
      <Select
        label="Reason"
        value={value("reason")}
        options={known(facets.data?.reason)}
        onValue={set("reason")}
      />
      <Select
        label="Policy"
        value={value("policy")}
        options={(facets.data?.policy ?? []).map(({ name }) => [name, name])}
        onValue={set("policy")}
      />
      <Select
        label="Tag"
        value={value("tag")}
        options={(facets.data?.tag ?? []).map(({ name }) => [name, name])}
        onValue={set("tag")}
      />
      <Select
        label="Time"
        value={value("within")}
        options={Object.entries(WITHIN).map(([name, [text]]) => [name, text])}
        onValue={(within) => replaceQuery(place, { within, since: null, until: null })}
        any="Any time"
      />
      <details
        open={Boolean(value("type") || value("user") || value("since") || value("until") || value("all"))}
      >
        <summary>More</summary>
        <div class="more-filters">
          <Select label="Type" value={value("type")} options={TYPES} onValue={set("type")} />
          <Settling label="Person" value={value("user")} onValue={set("user")} placeholder="A user, or u_…" />
          <label>
            From
            <input
              type="date"
              value={value("since")}
              onChange={(event) => replaceQuery(place, { since: event.currentTarget.value, within: null })}
            />
          </label>
          <label>
            Before
            <input
              type="date"
              value={value("until")}
              onChange={(event) => replaceQuery(place, { until: event.currentTarget.value, within: null })}
            />
          </label>
          <label class="check">
            <input
              type="checkbox"
              checked={value("all") !== ""}
              onChange={(event) => replaceQuery(place, { all: event.currentTarget.checked ? "1" : null })}
            />
            Also what was replaced or retracted
          </label>
        </div>
      </details>
      <div class="buttons">
        <SavedViews place={place} />
        {isFiltered(place.query) && (
          <button
            type="button"
            class="link"
            onClick={() => replaceQuery(place, Object.fromEntries(FIELDS.map((field) => [field, null])))}
          >
            Clear
          </button>
        )}
      </div>
    </form>
  );
}

function Select(props: {
  label: string;
  value: string;
  options: [string, string][];
  onValue: (value: string) => void;
  any?: string;
}) {
  const { label, value, options, onValue, any = "Any" } = props;
  const unknown = value && !options.some(([name]) => name === value);
  return (
    <label>
      {label}
      <select value={value} onChange={(event) => onValue(event.currentTarget.value)}>
        <option value="">{any}</option>
        {unknown && <option value={value}>{value}</option>}
        {options.map(([name, text]) => (
          <option key={name} value={name}>
            {text}
          </option>
        ))}
      </select>
    </label>
  );
}

/** A field whose value counts when nobody types any more. */
function Settling(props: {
  label: string;
  wide?: boolean;
  value: string;
  placeholder: string;
  onValue: (value: string) => void;
}) {
  const { label, wide, value, placeholder, onValue } = props;
  const [typed, setTyped] = useState(value);
  const settled = useRef(value);
  const report = useRef(onValue);
  report.current = onValue;
  useLayoutEffect(() => {
    if (value === settled.current) return;
    settled.current = value;
    setTyped(value);
  }, [value]);
  useEffect(() => {
    if (typed === settled.current) return undefined;
    const timer = setTimeout(() => {
      settled.current = typed;
      report.current(typed);
    }, SETTLED);
    return () => clearTimeout(timer);
  }, [typed]);
  return (
    <label class={wide ? "search" : undefined}>
      {label}
      <input
        type="search"
        maxLength={256}
        value={typed}
        placeholder={placeholder}
        onInput={(event) => setTyped(event.currentTarget.value)}
      />
    </label>
  );
}
