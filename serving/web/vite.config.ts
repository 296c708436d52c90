import { readdirSync } from "node:fs";
import { defineConfig } from "vite";

/** Every *.html beside this file is a page of its own. */
const pages = readdirSync(import.meta.dirname).filter((name) => name.endsWith(".html"));

/**
 * Two builds share dist/: the pages, and with `--mode widget` the widget, whose first file keeps its name. All other
 * files have their content's hash in theirs, so that browsers may keep them for good.
 */
export default defineConfig(({ mode }) => ({
  base: mode === "widget" ? "./" : "/",
  publicDir: mode === "widget" ? false : "public",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: "dist",
    emptyOutDir: false, // deploy/build_web.py does
    target: "es2022",
    assetsInlineLimit: 0, // the pages' Content-Security-Policy allows no data: scripts or fonts
    modulePreload: false,
    rolldownOptions:
      mode === "widget"
        ? {
            input: { widget: "src/widget/main.ts" },
            output: { entryFileNames: "[name].js", chunkFileNames: "widget/[name]-[hash].js" },
          }
        : { input: pages },
  },
}));
