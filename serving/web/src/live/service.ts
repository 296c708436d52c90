/** Requests to the service over HTTP, and the visitor's session. */

import type { Keep } from "./keep.ts";
import type { Appearance, Choice, Erasure, Life, NextQuestion, ServiceError } from "./types.ts";

interface Session {
  token: string;
  expires_at: string;
}

interface Config {
  publishable_key: string;
  real_model_command: string | null;
}

/** The name under which the session is kept. */
export const SESSION = "session";

const ERASURE = "erasure"; // the name under which the id of the visitor's newest erasure is kept

const RENEW = 7 * 24 * 3600 * 1000; // milliseconds before its end at which a session is renewed

/** Thrown for an answer that is an error, and with the code `offline` where none came. */
export class Refused extends Error implements ServiceError {
  constructor(
    readonly code: string,
    message: string,
    readonly status = 0,
    readonly retryAfter?: number,
  ) {
    super(message);
  }
}

/** Returns the pseudonym of the person whose session a token is. */
export function personOf(token: string): string {
  const said = token.replace(/^hs_/, "").split(".", 1)[0] ?? "";
  try {
    const [, person] = JSON.parse(atob(said.replaceAll("-", "+").replaceAll("_", "/"))) as unknown[];
    return String(person);
  } catch {
    return "nobody"; // the service will refuse it
  }
}

export class Service {
  /** What brings a real model, where a toy answers: told with the key of the service's own page. */
  realModelCommand: string | null = null;
  #key: string | null;
  #given: string | null;
  #session: Promise<string> | null = null;

  /** `key` null asks the service for its page's key; `session` is a token that the site's own server got. */
  constructor(
    readonly url: string,
    key: string | null,
    session: string | null,
    private keep: Keep,
  ) {
    this.#key = key;
    this.#given = session || null;
  }

  get socketUrl(): string {
    return `${this.url.replace(/^http/, "ws")}/v1/live`;
  }

  async key(): Promise<string> {
    if (this.#key === null) {
      const found = (await this.#fetch("GET", "/config.json", {})) as Config;
      this.#key = found.publishable_key;
      this.realModelCommand = found.real_model_command;
    }
    return this.#key;
  }

  /** Returns the visitor's session token: the site's own, the kept one, or a new one. */
  session(): Promise<string> {
    this.#session ??= this.#findSession().catch((error: unknown) => {
      this.#session = null;
      throw error;
    });
    return this.#session;
  }

  /** Takes another session of the same person from the site's own server. Returns false for one of somebody else. */
  takeSession(token: string | null): boolean {
    if (this.#given === null || !token || personOf(token) !== personOf(this.#given)) return false;
    this.#given = token;
    this.#session = null;
    return true;
  }

  /** Forgets a session that the service no longer accepts: the next one is new. Returns false for a session of the
   * site's own server: only that can say again who the visitor is. */
  renewSession(): boolean {
    if (this.#given !== null) return false;
    this.#session = null;
    this.keep.remove(SESSION);
    return true;
  }

  /** Another tab has another session now. */
  readSessionAgain(): void {
    this.#session = null;
  }

  async appearance(): Promise<Appearance> {
    return (await this.#authorized("GET", "/v1/widget")) as Appearance;
  }

  async life(id: string, token: string): Promise<Life> {
    const found = (await this.#vote("GET", id, token)) as { life: Life };
    return found.life;
  }

  async retract(id: string, token: string): Promise<void> {
    await this.#vote("DELETE", id, token);
  }

  /** Returns all that is held about the visitor. */
  async held(): Promise<unknown> {
    return this.#authorized("GET", "/v1/users/me", { "Hearken-Session": await this.session() });
  }

  /**
   * Asks that the visitor be erased. Who comes back is somebody new, unless the site said who it is, so the id of the
   * erasure is kept: by it `erasure` says how far it has come.
   */
  async forget(): Promise<void> {
    const session = { "Hearken-Session": await this.session() };
    const asked = (await this.#authorized("DELETE", "/v1/users/me", session)) as { id: string };
    this.keep.set(ERASURE, asked.id);
    this.renewSession();
  }

  /** The id of the visitor's newest erasure. */
  get erasureId(): string | null {
    return this.keep.get<string>(ERASURE);
  }

  /** Returns how far an erasure has come; one that the service does not know is no longer kept. */
  async erasure(id: string): Promise<Erasure> {
    try {
      return (await this.#authorized("GET", `/v1/erasures/${encodeURIComponent(id)}`)) as Erasure;
    } catch (error) {
      if (error instanceof Refused && error.code === "erasure_not_found") this.keep.remove(ERASURE);
      throw error;
    }
  }

  /** Returns what the visitor chose, in any browser. */
  async choice(): Promise<Choice> {
    const session = { "Hearken-Session": await this.session() };
    return (await this.#authorized("GET", "/v1/users/me/consent", session)) as Choice;
  }

  /** Returns the next pair that the visitor is asked about; `skip` is a question that is left out. */
  async question(skip: string | null): Promise<NextQuestion> {
    const headers = { "Hearken-Session": await this.session() };
    const body = JSON.stringify(skip ? { skip } : {});
    return (await this.#authorized("POST", "/v1/tastes/questions", headers, body)) as NextQuestion;
  }

  async #findSession(): Promise<string> {
    if (this.#given) return this.#given;
    const kept = this.keep.get<Session>(SESSION);
    const left = kept ? Date.parse(kept.expires_at) - Date.now() : 0;
    if (kept && left > RENEW) return kept.token;
    const made = await this.#newSession(left > 0 ? kept : null);
    this.keep.set(SESSION, made);
    return made.token;
  }

  /** Returns a session of the same person as `before`, or of somebody new where that has ended. */
  async #newSession(before: Session | null): Promise<Session> {
    const headers: Record<string, string> = before ? { "Hearken-Session": before.token } : {};
    try {
      return (await this.#authorized("POST", "/v1/sessions", headers, "{}")) as Session;
    } catch (error) {
      if (before && error instanceof Refused && error.code === "invalid_session")
        return this.#newSession(null);
      throw error;
    }
  }

  #vote(method: string, id: string, token: string): Promise<unknown> {
    return this.#authorized(method, `/v1/feedback/${encodeURIComponent(id)}`, { "X-Feedback-Token": token });
  }

  async #authorized(
    method: string,
    path: string,
    headers: Record<string, string> = {},
    body?: string,
  ): Promise<unknown> {
    return this.#fetch(method, path, { ...headers, Authorization: `Bearer ${await this.key()}` }, body);
  }

  async #fetch(
    method: string,
    path: string,
    headers: Record<string, string>,
    body?: string,
  ): Promise<unknown> {
    const options: RequestInit = { method, headers, credentials: "omit", cache: "no-store" };
    if (body !== undefined) {
      options.body = body;
      options.headers = { ...headers, "Content-Type": "application/json" };
    }
    let response: Response;
    let answer: unknown;
    try {
      response = await fetch(this.url + path, options);
      answer = await response.json();
    } catch {
      throw new Refused("offline", "");
    }
    if (response.ok) return answer;
    const { error } = answer as { error?: { code: string; message: string } };
    const retry = Number(response.headers.get("Retry-After"));
    throw new Refused(
      error?.code ?? "internal_error",
      error?.message ?? "",
      response.status,
      retry || undefined,
    );
  }
}
