/** Where the console is: the path and the query behind `#`, so that every view and filter has an address. */

import { useSyncExternalStore } from "preact/compat";

export interface Place {
  path: string[];
  query: URLSearchParams;
}

type Query = Record<string, string | null | undefined>;

function hash(): string {
  return location.hash.replace(/^#\/?/, "");
}

/** Returns the place that an address names; parts of its path that nothing can be read from are left out. */
export function placeOf(text: string): Place {
  const [path = "", query = ""] = text.split("?", 2);
  return { path: path.split("/").filter(Boolean).flatMap(decoded), query: new URLSearchParams(query) };
}

function decoded(part: string): string[] {
  try {
    return [decodeURIComponent(part)];
  } catch {
    return []; // a `%` that is no escape
  }
}

export function usePlace(): Place {
  const text = useSyncExternalStore((changed) => {
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, hash);
  return placeOf(text);
}

/** Returns the address of a view; empty values are left out of its query. */
export function href(path: string[], query: Query | URLSearchParams = {}): string {
  const entries = query instanceof URLSearchParams ? [...query] : Object.entries(query);
  const given = entries.filter((entry): entry is [string, string] => Boolean(entry[1]));
  const text = new URLSearchParams(given).toString();
  return `#/${path.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

export function go(path: string[], query: Query | URLSearchParams = {}): void {
  location.hash = href(path, query);
}

/** Changes the query of this view in place: one step back leaves the view, not each letter of a search. */
export function replaceQuery(place: Place, changes: Query): void {
  const query = new URLSearchParams(place.query);
  for (const [name, value] of Object.entries(changes)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  history.replaceState(null, "", href(place.path, query));
  dispatchEvent(new HashChangeEvent("hashchange"));
}
