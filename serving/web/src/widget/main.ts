/**
 * The widget's first file: it defines the elements, and puts a chat with a launcher into the page whose script tag
 * has a `data-key`. Other files are loaded when they are needed.
 */

import { HearkenChat } from "./HearkenChat.tsx";
import { HearkenVote } from "./HearkenVote.ts";

if (!customElements.get("hearken-chat")) {
  customElements.define("hearken-chat", HearkenChat);
  customElements.define("hearken-vote", HearkenVote);
}

const script = [...document.scripts].find((each) => each.src === import.meta.url && each.dataset["key"]);
if (script) {
  const chat = document.createElement("hearken-chat");
  chat.setAttribute("launcher", "");
  for (const [name, value] of Object.entries(script.dataset)) chat.dataset[name] = value;
  document.body.append(chat);
}
