/**
 * `<hearken-vote completion="…" token="…">` puts thumbs, reasons and an edit under a reply of any chat. Its code is
 * loaded with the first one.
 */

import { SERVICE } from "./service_url.ts";
import type { VoteControls } from "./vote_controls.tsx";

export class HearkenVote extends HTMLElement {
  static observedAttributes = ["completion", "token"];
  #root = this.attachShadow({ mode: "open" });
  #controls: VoteControls | null = null;

  connectedCallback(): void {
    void this.#draw();
  }

  attributeChangedCallback(): void {
    if (this.isConnected) void this.#draw();
  }

  disconnectedCallback(): void {
    this.#controls?.remove();
  }

  async #draw(): Promise<void> {
    const completion = this.getAttribute("completion");
    const token = this.getAttribute("token");
    if (!completion || !token) return;
    const { VoteControls } = await import("./vote_controls.tsx");
    this.#controls ??= new VoteControls(this, this.#root, SERVICE);
    await this.#controls.draw(completion, token);
  }
}
