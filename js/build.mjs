// Builds ../h2q_notebook/views/static/{gauge,figure}.js: two minified ES modules that need no
// network. `npm install && npm run build`; the results are committed, so that pip users need no node.
//
// Two, because gauge.js (5 kB) goes to the page with every gauge and figure.js (1.2 MB, nearly all
// of it plotly.js) once per page: sending and evaluating it is most of the time to first paint.
import { readFileSync, statSync } from "node:fs";
import { build } from "esbuild";

const plotly = JSON.parse(readFileSync("node_modules/plotly.js/package.json", "utf8"));
const licence = readFileSync("node_modules/plotly.js/LICENSE", "utf8").trim();
const built = "h2q live gauge. Built from js/ (npm install && npm run build); do not edit.";
const banners = {
  gauge: `/*! ${built} */`,
  figure: `/*!
${built}
Contains plotly.js ${plotly.version} (core, scatter and indicator only) under this licence:

${licence}
*/`,
};

for (const [name, banner] of Object.entries(banners)) {
  const outfile = `../h2q_notebook/views/static/${name}.js`;
  await build({
    entryPoints: [`src/${name}.js`],
    outfile,
    bundle: true,
    format: "esm",
    minify: true,
    charset: "utf8",
    target: "es2020",
    loader: { ".css": "empty" }, // plotly.js' only style sheet is the one for maps, left out here
    legalComments: "inline", // keeps the notices of what plotly.js itself bundles
    banner: { js: banner },
    define: { global: "globalThis", "define.amd": "false", "process.env.NODE_DEBUG": "false" },
    logLevel: "warning",
  });
  console.log(`${outfile}: ${statSync(outfile).size} bytes`);
}
