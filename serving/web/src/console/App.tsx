import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { key, keepKey } from "./api";
import { onRefusedKey, useData } from "./data";
import { startListening, stopListening, useLive } from "./live";
import { go, href, usePlace } from "./place";
import { type Me, type Role, SignedIn } from "./roles";
import { onSaid } from "./said";
import { Shortcuts, SHORTCUTS } from "./Shortcuts";
import { SignIn } from "./SignIn";
import type { Status } from "./types";
import { AuditPage } from "./pages/AuditPage";
import { FeedbackPage } from "./pages/FeedbackPage";
import { ConversationPage } from "./pages/ConversationPage";
import { KeysPage } from "./pages/KeysPage";
import { ErasurePage } from "./pages/ErasurePage";
import { OverviewPage } from "./pages/OverviewPage";
import { PeoplePage } from "./pages/PeoplePage";
import { PoliciesPage } from "./pages/PoliciesPage";
import { PolicyPage } from "./pages/PolicyPage";
import { ProjectPage } from "./pages/ProjectPage";
import { QueuesPage } from "./pages/QueuesPage";
import { QueuePage } from "./pages/QueuePage";
import { RaterPage } from "./pages/RaterPage";
import { RatersPage } from "./pages/RatersPage";
import { RolloutsPage } from "./pages/RolloutsPage";
import { RoundPage } from "./pages/RoundPage";
import { RoundsPage } from "./pages/RoundsPage";
import { SettingsPage } from "./pages/SettingsPage";
import { UsagePage } from "./pages/UsagePage";
import { VotePage } from "./pages/VotePage";

/** The views: a later one is one more entry here and one more file in pages/. `role` is what it takes beside `read`. */
const VIEWS: { path: string; name: string; role?: Role; ofInstallation?: boolean }[] = [
  { path: "", name: "Overview" },
  { path: "feedback", name: "Feedback" },
  { path: "queues", name: "Queues" },
  { path: "raters", name: "Raters" },
  { path: "people", name: "People" },
  { path: "rounds", name: "Rounds" },
  { path: "policies", name: "Policies" },
  { path: "rollouts", name: "Rollouts" },
  { path: "usage", name: "Usage" },
  { path: "project", name: "Project" },
  { path: "keys", name: "Keys", role: "admin" },
  { path: "audit", name: "Audit", role: "admin" },
  { path: "settings", name: "Settings", role: "admin", ofInstallation: true },
];

/** Places that belong to a view of another path. */
const PARTS: Record<string, string> = { conversations: "feedback", erasures: "people" };

export function App() {
  const [signedIn, setSignedIn] = useState(key() !== null);
  useEffect(() => {
    onRefusedKey(() => {
      stopListening();
      keepKey(null);
      setSignedIn(false);
    });
  }, []);
  useEffect(() => {
    if (!signedIn) return undefined;
    startListening();
    return stopListening;
  }, [signedIn]);
  if (!signedIn) return <SignIn onSignedIn={() => setSignedIn(true)} />;
  return (
    <Frame
      signOut={() => {
        keepKey(null);
        setSignedIn(false);
      }}
    />
  );
}

function Frame({ signOut }: { signOut: () => void }) {
  const place = usePlace();
  const [view = "", id] = place.path;
  const live = useLive();
  const status = useData<Status>("console/status", ["votes", "rounds", "policies", "rollouts", "training"]);
  const me = useData<Me>("console/whoami");
  const may = (role: Role) => me.data?.roles.includes(role) ?? false;
  const views = VIEWS.filter(
    (each) => (!each.role || may(each.role)) && (!each.ofInstallation || me.data?.makes_projects),
  );
  const [help, setHelp] = useState(false);
  const [said, setSaid] = useState("");
  useEffect(() => onSaid(setSaid), []);
  useEffect(() => {
    if (!said) return undefined;
    const timer = setTimeout(() => setSaid(""), 8_000);
    return () => clearTimeout(timer);
  }, [said]);
  useShortcuts(() => setHelp(true));
  const name = VIEWS.find((each) => each.path === (PARTS[view] ?? view))?.name ?? "Nothing here";
  useEffect(() => {
    document.title = `${id ? `${id} · ` : ""}${name} · Hearken console`;
  }, [name, id]);
  useEffect(() => {
    document.querySelector("nav a[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  }, [view]);
  const path = place.path.join("/");
  const shown = useRef(path);
  useLayoutEffect(() => {
    if (shown.current === path) return;
    shown.current = path;
    scrollTo(0, 0);
    document.getElementById("main")?.focus({ preventScroll: true });
  }, [path]);
  const urgent = status.data?.alerts.filter((alert) => alert.severity !== "info").length ?? 0;

  return (
    <>
      <a class="skip" href="#main" onClick={focusMain}>
        Skip to the content
      </a>
      <header class="frame">
        <a class="logo" href={href([])}>
          <img src="/icon.svg" alt="" width="24" height="24" /> Hearken
        </a>
        <nav aria-label="Views">
          {views.map((each) => (
            <a
              key={each.path}
              href={href(each.path ? [each.path] : [])}
              aria-current={each.path === (PARTS[view] ?? view) ? "page" : undefined}
            >
              {each.name}
              {each.path === "" && urgent > 0 && (
                <span class="count" aria-label={`${urgent} need you`}>
                  {urgent}
                </span>
              )}
            </a>
          ))}
        </nav>
        <div class="foot">
          <span class={live ? "connection on" : "connection"} role="status">
            {live ? "Live" : "Reconnecting…"}
          </span>
          <button type="button" class="link" onClick={() => setHelp(true)}>
            Shortcuts <kbd>?</kbd>
          </button>
          <button type="button" class="link" onClick={signOut}>
            Sign out
          </button>
        </div>
      </header>
      <main id="main" tabIndex={-1} class={may("operate") ? undefined : "read-only"}>
        <SignedIn value={me.data}>
          <View view={view} id={id} status={status.data} statusError={status.error} reload={status.reload} />
        </SignedIn>
      </main>
      <p class="said" role="status" aria-live="polite">
        {said}
      </p>
      {help && <Shortcuts onClose={() => setHelp(false)} />}
    </>
  );
}

function View(props: {
  view: string;
  id: string | undefined;
  status: Status | null;
  statusError: string | null;
  reload: () => void;
}) {
  const { view, id, status } = props;
  switch (view) {
    case "":
      return <OverviewPage status={status} error={props.statusError} reload={props.reload} />;
    case "feedback":
      return id ? <VotePage id={id} /> : <FeedbackPage />;
    case "conversations":
      return <ConversationPage id={id ?? ""} />;
    case "queues":
      return id ? <QueuePage id={id} /> : <QueuesPage />;
    case "raters":
      return id ? <RaterPage id={id} key={id} /> : <RatersPage />;
    case "people":
      return <PeoplePage known={id} key={id} />;
    case "erasures":
      return <ErasurePage id={id ?? ""} key={id} />;
    case "rounds":
      return id ? <RoundPage id={id} /> : <RoundsPage />;
    case "policies":
      return id ? <PolicyPage id={id} key={id} /> : <PoliciesPage />;
    case "rollouts":
      return <RolloutsPage status={status} />;
    case "usage":
      return <UsagePage />;
    case "project":
      return <ProjectPage />;
    case "keys":
      return <KeysPage />;
    case "audit":
      return <AuditPage />;
    case "settings":
      return <SettingsPage />;
    default:
      return (
        <>
          <h1>There is nothing here</h1>
          <p>
            <a href={href([])}>Go to the overview</a>
          </p>
        </>
      );
  }
}

function focusMain(event: Event): void {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

/** Moves by keyboard: `g` and a letter opens a view, `j` and `k` walk through a list. */
function useShortcuts(showHelp: () => void): void {
  useLayoutEffect(() => {
    let afterG = false;
    const onKey = (event: KeyboardEvent) => {
      const typing =
        document.querySelector("dialog[open]") ||
        (event.target instanceof HTMLElement && event.target.closest("input, textarea, select"));
      if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
      const view = afterG ? SHORTCUTS.find((each) => each.key === event.key) : undefined;
      afterG = event.key === "g";
      if (view) go(view.path);
      else if (event.key === "?") showHelp();
      else if (event.key === "j" || event.key === "k") walk(event.key === "j" ? 1 : -1);
      else if (event.key === "/") document.querySelector<HTMLInputElement>("input[type=search]")?.focus();
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
}

function walk(step: number): void {
  const rows = [...document.querySelectorAll<HTMLElement>("[data-row]")];
  const at = rows.indexOf(document.activeElement as HTMLElement);
  rows[at === -1 ? 0 : Math.min(Math.max(at + step, 0), rows.length - 1)]?.focus();
}
