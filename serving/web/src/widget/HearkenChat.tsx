/**
 * `<hearken-chat>` is a chat in a shadow root. Attributes, each also as data-…: `key` (publishable; none: of the page
 * that ships), `session`, `lang`, `theme` (light, dark, auto), `position`, and those of `options`; and without data-,
 * `launcher` and `fill`.
 */

import { render } from "preact";
import { english, language, type Language } from "../language/language.ts";
import { Keep } from "../live/keep.ts";
import { personOf, Service } from "../live/service.ts";
import type { Appearance } from "../live/types.ts";
import { accent } from "./accent.ts";
import { followPage } from "./colour_scheme.ts";
import { Launcher } from "./Launcher.tsx";
import { loadMarkdown } from "./Markdown.tsx";
import { options } from "./options.ts";
import { Root } from "./Root.tsx";
import { SERVICE } from "./service_url.ts";
import { Session } from "./session.ts";
import style from "./style.css?inline";

const PATIENCE = 1500; // milliseconds to wait for the project's settings, which are kept for the next time
const APPEARANCE = "appearance";

/** Returns the key in the address of the service's own page: `/?key=pk-…` is the chat of another project. */
function keyOfPage(): string | null {
  const own = location.origin === new URL(SERVICE).origin;
  return own ? new URLSearchParams(location.search).get("key") : null;
}

export class HearkenChat extends HTMLElement {
  static observedAttributes = ["session", "data-session"];
  #root = this.attachShadow({ mode: "open" });
  #session: Session | null = null;
  #language: Language = english;
  #keep: Keep | null = null;
  #service: Service | null = null;
  #opened = false;

  connectedCallback(): void {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(style);
    if (!this.#attribute("theme")) followPage(this);
    this.#root.adoptedStyleSheets = [sheet];
    this.#start();
  }

  disconnectedCallback(): void {
    this.#end();
    this.#opened = false;
  }

  /** Another session of the same person takes the place of the one before; another person gets a chat of their own. */
  attributeChangedCallback(_name: string, before: string | null, now: string | null): void {
    if (!this.isConnected || !this.#service || before === now) return;
    if (this.#service.takeSession(this.#attribute("session"))) {
      this.#session?.socket.retry();
      return;
    }
    this.#end();
    this.#start();
  }

  #start(): void {
    const key = this.#attribute("key") ?? keyOfPage();
    const session = this.#attribute("session");
    const scope = key ? key.slice(-12) : "page";
    this.#keep = new Keep(session ? `${scope}.${personOf(session)}` : scope);
    this.#service = new Service(SERVICE, key, session, this.#keep);
    const launcher = this.hasAttribute("launcher");
    if (launcher) void this.#launch();
    if (!launcher || this.#opened) void this.#begin().then(() => this.#draw());
  }

  #end(): void {
    render(null, this.#root);
    this.#session?.close();
    this.#session = null;
  }

  /** Opens the chat of a launcher. */
  async open(): Promise<void> {
    this.#opened = true;
    this.#draw();
    await this.#begin();
    this.#draw();
    this.#root.querySelector<HTMLElement>(".composer textarea")?.focus();
  }

  /** Closes the chat of a launcher; the conversation stays. */
  close(): void {
    this.#opened = false;
    this.#draw();
    this.#root.querySelector<HTMLElement>(".launcher")?.focus();
  }

  /** Sends a message as if the visitor had written it. */
  async send(text: string): Promise<void> {
    if (this.hasAttribute("launcher")) await this.open();
    else await this.#begin();
    if (!this.#session?.chat.busy) this.#session?.chat.send(text);
  }

  async #launch(): Promise<void> {
    this.#colour(this.#attribute("accent") ?? this.#keep?.get<Appearance>(APPEARANCE)?.accent ?? null);
    this.#language = await language(this.#attribute("lang"));
    this.#draw();
  }

  async #begin(): Promise<void> {
    if (this.#session || !this.#service || !this.#keep) return;
    const appearance = await this.#appearance(this.#service, this.#keep);
    this.#language = await language(this.#attribute("lang"), appearance.language ?? null);
    if (this.#session || !this.isConnected) return;
    const chosen = options((name) => this.#attribute(name), appearance, this.#language.texts);
    this.#colour(chosen.accent);
    this.#session = new Session(this.#service, this.#keep, chosen, (name, detail) => {
      this.dispatchEvent(new CustomEvent(`hearken:${name}`, { detail, bubbles: true, composed: true }));
    });
    if (this.#session.chat.turns.length > 0) await loadMarkdown().catch(() => {});
  }

  /** Returns the project's settings: the kept ones at once, else those that come in time. */
  async #appearance(service: Service, keep: Keep): Promise<Appearance> {
    const asked = service.appearance().then(
      (found) => {
        keep.set(APPEARANCE, found);
        return found;
      },
      () => ({}),
    );
    const kept = keep.get<Appearance>(APPEARANCE);
    return (
      kept ?? Promise.race([asked, new Promise<Appearance>((resolve) => setTimeout(resolve, PATIENCE, {}))])
    );
  }

  #colour(name: string | null): void {
    const colours = name ? accent(name) : null;
    if (!colours) return;
    this.style.setProperty("--hearken-accent", colours.accent);
    this.style.setProperty("--hearken-on-accent", colours.onAccent);
  }

  #draw(): void {
    const launcher = this.hasAttribute("launcher");
    const chat = this.#session && (
      <Root
        session={this.#session}
        language={this.#language}
        fills={this.hasAttribute("fill")}
        close={launcher ? () => this.close() : null}
      />
    );
    if (!launcher) {
      render(chat, this.#root);
      return;
    }
    const { texts, direction } = this.#language;
    render(
      <Launcher
        label={texts.open}
        direction={direction}
        open={this.#opened}
        toggle={() => (this.#opened ? this.close() : void this.open())}
        name={this.#session?.options.name ?? ""}
      >
        {chat}
      </Launcher>,
      this.#root,
    );
  }

  #attribute(name: string): string | null {
    return this.getAttribute(`data-${name}`) ?? this.getAttribute(name);
  }
}
