/** What every component of one chat shares. */

import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { Language } from "../language/language.ts";
import type { Session } from "./session.ts";

export interface Shared {
  session: Session;
  language: Language;
}

export const SharedContext = createContext<Shared | null>(null);

export function useShared(): Shared {
  const shared = useContext(SharedContext);
  if (!shared) throw new Error("This component belongs into a chat.");
  return shared;
}
