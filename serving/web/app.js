/** The page: puts the conversation, the socket, the votes and the composer together. */

import { Chat } from "./chat.js";
import { randomId } from "./dom.js";
import { Ledger } from "./ledger.js";
import { Live } from "./live.js";
import { Status } from "./status.js";

const byId = (id) => document.getElementById(id);
const MOST_QUESTIONS = 20;
const input = byId("input");
const send = byId("send");
const examples = document.querySelectorAll(".example");

const ledger = new Ledger();
const live = new Live();
const status = new Status(live, ledger);
const chat = new Chat({
  live,
  ledger,
  list: byId("turns"),
  user: user(),
  changed,
  answered: (policy) => (status.policy = policy),
  complain: (text) => status.say(text),
});

function user() {
  const known = localStorage.getItem("hearken.user") ?? randomId("user");
  localStorage.setItem("hearken.user", known);
  return known;
}

function changed() {
  const empty = chat.turns.length === 0;
  byId("welcome").hidden = !empty;
  byId("new").hidden = empty;
  for (const example of examples) example.disabled = live.state !== "ready";
  send.disabled = !chat.busy && (live.state !== "ready" || !input.value.trim());
  send.classList.toggle("stopping", chat.busy);
  send.setAttribute("aria-label", chat.busy ? "Stop" : "Send");
  send.title = chat.busy ? "Stop (Escape)" : "Send (Enter)";
  send.querySelector("use").setAttribute("href", chat.busy ? "#i-stop" : "#i-send");
  status.draw();
}

// The composer.

function submit(text) {
  if (chat.busy || live.state !== "ready" || !text.trim()) return;
  following = true;
  chat.send(text.trim());
}

function fit() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
  changed();
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (chat.busy) {
    chat.stop();
    return;
  }
  submit(input.value);
  input.value = "";
  fit();
  input.focus();
});
input.addEventListener("input", fit);
input.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!send.disabled && !chat.busy) byId("composer").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chat.busy && !event.target.closest(".editor, dialog")) chat.stop();
});
byId("compare").addEventListener("click", () => {
  chat.compare = !chat.compare;
  byId("compare").setAttribute("aria-pressed", String(chat.compare));
});
byId("new").addEventListener("click", () => {
  chat.clear();
  input.focus();
});
for (const example of examples) {
  example.addEventListener("click", () => {
    submit(example.textContent);
    input.focus();
  });
}

// The end of the conversation stays in view while the reader is there.

let following = true;
addEventListener("scroll", () => {
  following = innerHeight + scrollY >= document.documentElement.scrollHeight - 120;
}, { passive: true });
new ResizeObserver(() => following && scrollTo(0, document.documentElement.scrollHeight)).observe(byId("turns"));

// What the service tells by itself.

async function ask(vote) {
  const response = await live.call("GET", vote);
  if (response?.status === 404) ledger.remove(vote.id);
  const { learned } = response?.ok ? await response.json() : {};
  return learned?.live_at ? ledger.learned(vote.id, learned.policy, learned.live_at) : null;
}

async function catchUp() {
  const found = await Promise.all(ledger.waiting.slice(-MOST_QUESTIONS).map(ask));
  for (const vote of found) tell(vote);
}

let news = [];

/** Votes of one round come in one by one and are told together. */
function tell(vote) {
  if (!vote) return;
  if (news.length === 0) {
    setTimeout(() => {
      status.tell(news);
      news = [];
      chat.redraw();
      changed();
    }, 250);
  }
  news.push(vote);
}

live.addEventListener("state", ({ detail }) => {
  if (detail.state === "ready") {
    status.policy = detail.frame.policy;
    catchUp();
  }
  changed();
});
live.addEventListener("policy", ({ detail }) => {
  status.policy = detail.policy;
  changed();
  catchUp();
});
live.addEventListener("learned", ({ detail }) => {
  tell(ledger.learned(detail.feedback_id, detail.policy, detail.live_at));
});

fit();
