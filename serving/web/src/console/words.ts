/** Numbers, times and names in words. */

const NUMBER = new Intl.NumberFormat("en");
const TIME = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });
const AGO = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

const UNITS: [Intl.RelativeTimeFormatUnit, number][] = [
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
];

export function number(value: number): string {
  return NUMBER.format(value);
}

export function percent(value: number, digits = 0): string {
  return `${(100 * value).toFixed(digits)}%`;
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${number(count)} ${count === 1 ? one : many}`;
}

export function time(moment: string): string {
  return TIME.format(new Date(moment));
}

export function ago(moment: string): string {
  const seconds = (new Date(moment).getTime() - Date.now()) / 1_000;
  if (Math.abs(seconds) > 7 * 86_400) return time(moment);
  for (const [unit, size] of UNITS) {
    if (Math.abs(seconds) >= size) return AGO.format(Math.round(seconds / size), unit);
  }
  return "just now";
}

export function duration(seconds: number): string {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5_400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3_600).toFixed(1)} h`;
}

/** Returns a pseudonym short enough to read, and long enough to tell people apart. */
export function person(user: string): string {
  return /^[auv]_/.test(user) ? user.slice(0, 8) : user;
}

/** Says what is known of a rater, by the kind of their pseudonym. */
export function kindOfRater(user: string): string {
  if (user.startsWith("a_")) return "All without a session in one network";
  if (user.startsWith("v_")) return "A visitor of a page";
  return "A user of your server";
}

/** Returns a policy as people call it: the base has a name of its own. */
export function policyName(id: string): string {
  return id === "p0" ? "p0, the base" : id;
}

export function words(name: string): string {
  return name.replaceAll(/[_-]/g, " ");
}
