/** Who has signed in, and what their key may do. */

import { createContext } from "preact";
import { useContext } from "preact/hooks";

export type Role = "chat" | "vote" | "read" | "operate" | "admin";

export interface Me {
  key: string;
  project: string;
  roles: Role[];
  makes_projects: boolean;
}

const Signed = createContext<Me | null>(null);

export const SignedIn = Signed.Provider;

export function useMe(): Me | null {
  return useContext(Signed);
}

export function useMay(role: Role): boolean {
  return useContext(Signed)?.roles.includes(role) ?? false;
}
