/** Errors in sentences for the visitor, by the codes of the service, and those of the connection. */

import type { Texts } from "../language/language.ts";
import type { ServiceError } from "../live/types.ts";

type Sentence = keyof Texts["errors"];

const CODES: Record<Sentence, string[]> = {
  context: ["context_length_exceeded"],
  size: ["body_too_large", "header_too_large"],
  characters: ["invalid_text"],
  gone: ["completion_not_found", "not_stored"],
  forgotten: ["erased"],
  unchanged: ["unchanged_edit"],
  empty: ["empty_edit"],
  many: ["rate_limit_exceeded"],
  lost: ["lost"],
  offline: ["offline"],
  session: ["invalid_session", "missing_session"],
  key: ["invalid_api_key", "forbidden", "origin_not_allowed"],
  page: [
    "id_in_use",
    "invalid_choice",
    "invalid_feedback_token",
    "invalid_json",
    "invalid_order",
    "invalid_ranking",
    "invalid_value",
    "method_not_allowed",
    "missing_required_parameter",
    "model_not_found",
    "not_found",
    "parameter_not_allowed",
    "unknown_parameter",
    "unsupported_parameter",
    "user_not_allowed",
    "wrong_host",
  ],
  trouble: [
    "database_unavailable",
    "disk_failed",
    "engine_failed",
    "internal_error",
    "no_engine",
    "not_recorded_yet",
    "request_timeout",
  ],
};

/** Errors that the same request meets again. */
const FINAL = new Set<Sentence>(["context", "size", "characters", "page"]);

const SENTENCES = new Map(
  Object.entries(CODES).flatMap(([name, codes]) => codes.map((code) => [code, name as Sentence] as const)),
);

/** Returns an error in a sentence; the service's own where its code is unknown. */
export function why({ code, message, retryAfter }: ServiceError, { errors, refused }: Texts): string {
  const known = SENTENCES.get(code) ?? (retryAfter || !message ? "trouble" : null);
  return known ? errors[known] : refused(message);
}

/** Returns whether it is of no use to try again. */
export function isFinal({ code }: ServiceError): boolean {
  return FINAL.has(SENTENCES.get(code) ?? "trouble");
}
