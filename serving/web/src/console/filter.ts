/** The filter of the desk: its fields in the address, and the query that the API gets. */

export const FIELDS = [
  "text",
  "type",
  "value",
  "reason",
  "policy",
  "tag",
  "user",
  "within",
  "since",
  "until",
  "all",
] as const;

export const WITHIN: Record<string, [string, number]> = {
  day: ["Last 24 hours", 1],
  week: ["Last 7 days", 7],
  month: ["Last 30 days", 30],
};

const OF_CONVERSATIONS = new Set(["policy", "tag", "user", "within", "since", "until"]);

/** Returns whether the address names a filter. */
export function isFiltered(query: URLSearchParams): boolean {
  return FIELDS.some((field) => query.has(field));
}

/** Returns the fields of the filter only, as they are saved with a view. */
export function filterOf(query: URLSearchParams): URLSearchParams {
  return new URLSearchParams([...query].filter(([name]) => (FIELDS as readonly string[]).includes(name)));
}

/** Returns the API's query. Conversations are not selected by what votes say; a day that is none is left out. */
export function filterQuery(query: URLSearchParams, ofConversations: boolean): URLSearchParams {
  const found = new URLSearchParams();
  for (const [name, value] of filterOf(query)) {
    if (ofConversations && !OF_CONVERSATIONS.has(name)) continue;
    const days = name === "within" ? WITHIN[value]?.[1] : undefined;
    if (days !== undefined) {
      const from = new Date(Date.now() - days * 86_400_000);
      from.setSeconds(0, 0); // the same within a minute, so that a view is not read anew at each look
      found.set("since", from.toISOString());
    } else if (name === "since" || name === "until") {
      const day = new Date(`${value}T00:00:00`);
      if (!Number.isNaN(day.getTime())) found.set(name, day.toISOString());
    } else if (name === "all") found.set("all", "true");
    else if (name !== "within") found.append(name, value);
  }
  return found;
}
