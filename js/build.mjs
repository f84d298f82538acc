// Builds ../h2q_notebook/views/static/gauge.js: one minified ES module that needs no network.
// `npm install && npm run build`; the result is committed, so that pip users need no node.
import { readFileSync, statSync } from "node:fs";
import { build } from "esbuild";

const outfile = "../h2q_notebook/views/static/gauge.js";
const plotly = JSON.parse(readFileSync("node_modules/plotly.js/package.json", "utf8"));
const licence = readFileSync("node_modules/plotly.js/LICENSE", "utf8").trim();
const banner = `/*!
h2q live gauge. Built from js/ (npm install && npm run build); do not edit.
Contains plotly.js ${plotly.version} (core, scatter and indicator only) under this licence:

${licence}
*/`;

await build({
  entryPoints: ["src/gauge.js"],
  outfile,
  bundle: true,
  format: "esm",
  minify: true,
  charset: "utf8",
  target: "es2020",
  loader: { ".css": "empty" }, // plotly.js' only style sheet is the one for maps, which are left out
  legalComments: "inline", // keeps the notices of what plotly.js itself bundles
  banner: { js: banner },
  define: { global: "globalThis", "define.amd": "false", "process.env.NODE_DEBUG": "false" },
  logLevel: "warning",
});
console.log(`${outfile}: ${statSync(outfile).size} bytes`);
