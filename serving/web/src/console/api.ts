/** Requests to the service with the operator's key, which is kept for this tab only and never in an address. */

const KEY = "hearken.console.key";
let kept: string | null = null;

/** An answer that the service refused, in its own words. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

export function key(): string | null {
  try {
    return sessionStorage.getItem(KEY) ?? kept;
  } catch {
    return kept; // storage is denied: the key lasts as long as the page
  }
}

export function keepKey(value: string | null): void {
  kept = value;
  try {
    if (value === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, value);
  } catch {
    // as above
  }
}

export function request(path: string, init: RequestInit = {}, withKey = key()): Promise<Response> {
  const headers = { ...init.headers, Authorization: `Bearer ${withKey ?? ""}` };
  return fetch(`/v1/${path}`, { ...init, headers, cache: "no-store" });
}

/** Returns the answer's JSON. Throws Refused, or a TypeError while the service is away. */
export async function ask<T>(path: string, method = "GET", body?: unknown): Promise<T> {
  const init: RequestInit = { method };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { "Content-Type": "application/json" };
  }
  const answer = await request(path, init);
  await check(answer);
  return (answer.status === 204 ? null : await answer.json()) as T;
}

/** Throws Refused for an answer with an error. */
export async function check(answer: Response): Promise<void> {
  if (answer.ok) return;
  const { error } = (await answer.json().catch(() => ({ error: {} }))) as {
    error: { message?: string; code?: string };
  };
  throw new Refused(
    answer.status,
    error.code ?? "",
    error.message ?? `The service answered ${answer.status}.`,
  );
}

/** Says an error in a sentence. */
export function sentence(error: unknown): string {
  if (error instanceof Refused) return error.message;
  return "The service does not answer. Is it running, and are you online?";
}
