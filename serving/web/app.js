/** The page connects the conversation, the websocket, the vote history and the composer. */

import { Chat } from "./chat.js";
import { randomId } from "./dom.js";
import { LiveClient } from "./live.js";
import { Status } from "./status.js";
import { VoteHistory } from "./vote_history.js";

const byId = (id) => document.getElementById(id);
const MAX_REQUESTS = 20; // for the status of pending votes, after a reconnect
const input = byId("input");
const send = byId("send");
const examples = document.querySelectorAll(".example");

const voteHistory = new VoteHistory();
const live = new LiveClient();
const status = new Status(live, voteHistory);
const chat = new Chat({
  live,
  voteHistory,
  list: byId("turns"),
  user: user(),
  onChange: redraw,
  onPolicy: (policy) => (status.policy = policy),
  onError: (text) => status.showMessage(text),
});

function user() {
  const known = localStorage.getItem("hearken.user") ?? randomId("user");
  localStorage.setItem("hearken.user", known);
  return known;
}

function redraw() {
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
  redraw();
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

// The page scrolls with the conversation while the reader is at its end.

let following = true;
addEventListener("scroll", () => {
  following = innerHeight + scrollY >= document.documentElement.scrollHeight - 120;
}, { passive: true });
new ResizeObserver(() => following && scrollTo(0, document.documentElement.scrollHeight)).observe(byId("turns"));

// Notifications of the service.

async function fetchStatus(vote) {
  const response = await live.request("GET", vote);
  if (response?.status === 404) voteHistory.remove(vote.id);
  const { learned } = response?.ok ? await response.json() : {};
  return learned?.live_at ? voteHistory.markLive(vote.id, learned.policy, learned.live_at) : null;
}

async function fetchPending() {
  const found = await Promise.all(voteHistory.pending.slice(-MAX_REQUESTS).map(fetchStatus));
  for (const vote of found) showLearned(vote);
}

let learnedVotes = [];

/** Collects the votes of one round, which come one by one, into one message. */
function showLearned(vote) {
  if (!vote) return;
  if (learnedVotes.length === 0) {
    setTimeout(() => {
      status.showLearned(learnedVotes);
      learnedVotes = [];
      chat.redraw();
      redraw();
    }, 250);
  }
  learnedVotes.push(vote);
}

live.addEventListener("state", ({ detail }) => {
  if (detail.state === "ready") {
    status.policy = detail.frame.policy;
    fetchPending();
  }
  redraw();
});
live.addEventListener("policy", ({ detail }) => {
  status.policy = detail.policy;
  redraw();
  fetchPending();
});
live.addEventListener("learned", ({ detail }) => {
  showLearned(voteHistory.markLive(detail.feedback_id, detail.policy, detail.live_at));
});

fit();
