/** Why raters are held, in words. */

import { duration, number, percent, words } from "./words";

type Figures = Record<string, unknown>;

const TITLES: Record<string, string> = {
  burst: "Many votes in a short time",
  near_duplicates: "Nearly the same texts, voted on alike",
  votes_alike: "Votes like others', at the same time",
  turned: "Voted as people do, then otherwise, with others",
};

/** Says for what a rater is held. */
export function reasonWords(reason: string): string {
  const said = words(reason);
  return TITLES[reason] ?? said.charAt(0).toUpperCase() + said.slice(1);
}

/** Says the figures of a reason in a sentence; null where it is not known what they mean. */
export function evidenceWords(reason: string, figures: Figures): string | null {
  const count = (name: string) => number(Number(figures[name]));
  if (reason === "burst" && has(figures, "votes", "seconds", "usual")) {
    const who = figures["network"] ? "Their whole network" : "This rater";
    const took = duration(Math.max(1, Number(figures["seconds"])));
    return `${who} cast ${count("votes")} votes in ${took}. Nearly everybody else casts at most ${count("usual")} in ten minutes.`;
  }
  if (reason === "near_duplicates" && has(figures, "alike", "votes"))
    return `${count("alike")} of ${count("votes")} votes are on texts that several raters wrote nearly the same, and voted on alike.`;
  if (reason === "votes_alike" && has(figures, "raters", "votes", "hours", "others_then")) {
    const took = duration(3_600 * Number(figures["hours"]));
    return `${count("raters")} raters agree more than chance explains. Most of their ${count("votes")} votes came within ${took}, when only ${percent(Number(figures["others_then"]))} of everybody else's did.`;
  }
  if (reason === "turned" && has(figures, "turned", "present"))
    return `The newest votes of ${count("turned")} raters agree more than chance explains, and those before did not. ${count("present")} people have voted since, these included.`;
  return null;
}

function has(figures: Figures, ...names: string[]): boolean {
  return names.every((name) => typeof figures[name] === "number");
}
