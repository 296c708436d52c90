/**
 * Keeps values in localStorage, in step with other tabs; where the browser denies storage (a sandboxed frame, blocked
 * site data) they last as long as the page.
 */
export class Keep {
  readonly lasting: boolean;
  #memory = new Map<string, string>();
  #prefix: string;

  /** `scope` separates the values of several chats of one origin, and of the people whom a server names. */
  constructor(scope: string) {
    this.#prefix = `hearken.${scope}.`;
    this.lasting = works();
  }

  get<T>(name: string): T | null {
    const key = this.#prefix + name;
    try {
      const found = this.#memory.get(key) ?? (this.lasting ? localStorage.getItem(key) : null);
      return found === null ? null : (JSON.parse(found) as T);
    } catch {
      return null;
    }
  }

  /** Keeps a value; returns false where there was no room, and the value lasts as long as the page. */
  set(name: string, value: unknown): boolean {
    const key = this.#prefix + name;
    const text = JSON.stringify(value);
    try {
      if (this.lasting) {
        localStorage.setItem(key, text);
        this.#memory.delete(key);
        return true;
      }
    } catch {
      // full: below
    }
    this.#memory.set(key, text);
    return !this.lasting;
  }

  remove(name: string): void {
    this.#memory.delete(this.#prefix + name);
    if (this.lasting) localStorage.removeItem(this.#prefix + name);
  }

  /** Calls `changed(name)` when another tab changed a value; returns a function that ends this. */
  watch(changed: (name: string) => void): () => void {
    const listener = (event: StorageEvent): void => {
      if (event.key?.startsWith(this.#prefix)) changed(event.key.slice(this.#prefix.length));
    };
    addEventListener("storage", listener);
    return () => removeEventListener("storage", listener);
  }
}

function works(): boolean {
  try {
    localStorage.setItem("hearken.probe", "1");
    localStorage.removeItem("hearken.probe");
    return true;
  } catch {
    return false;
  }
}
