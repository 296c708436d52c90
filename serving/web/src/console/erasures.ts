/** The steps of an erasure in words, in the order in which they are done. */

export const STEPS: Record<string, string> = {
  database: "Their rows are deleted",
  exports: "The exported files are written again without them",
  records: "The records of training rounds are cleared of them",
  policies: "What learned from them is found",
  rebuild: "What learned from them is made again without them",
  files: "The files of what learned from them are deleted",
};

/** Returns who asked, as people say it. */
export function askedBy(name: string): string {
  if (name === "visitor") return "the person themself";
  if (name === "restore") return "the service, after a backup was restored";
  return name;
}
