/** Thrown when the service refuses a request, or does not answer (`status` is null then). `code` is stable and for
 * programs, `param` names the field that is wrong, `retryAfter` says when to come again, in seconds. */
export class HearkenError extends Error {
  override name = "HearkenError";

  constructor(
    message: string,
    readonly status: number | null = null,
    readonly code: string | null = null,
    readonly param: string | null = null,
    readonly retryAfter: number | null = null,
  ) {
    super(message);
  }
}

/** Thrown when a webhook does not prove that Hearken sent it, lately. Answer it with 400. */
export class WebhookRefused extends Error {
  override name = "WebhookRefused";
}
