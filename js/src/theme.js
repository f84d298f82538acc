// The page's colours: JupyterLab's theme variables where there are any, neutral ones elsewhere.
// plotly.js takes no CSS variables, so they are resolved here and again when the theme changes.

const LIGHT = {
  used: "#1f6feb", fill: "rgba(31,111,235,.13)", calm: "#2e7d32", warn: "#b26a00", over: "#c62828",
  zones: ["rgba(46,125,50,.13)", "rgba(245,166,35,.30)", "rgba(211,47,47,.26)"], ink: "#24292f",
};
const DARK = {
  used: "#58a6ff", fill: "rgba(88,166,255,.18)", calm: "#3fb950", warn: "#d29922", over: "#f85149",
  zones: ["rgba(63,185,80,.20)", "rgba(210,153,34,.32)", "rgba(248,81,73,.38)"], ink: "#e6e6e6",
};

function luminance(colour) {
  const parts = colour.match(/[\d.]+/g)?.map(Number);
  if (!parts || parts.length < 3 || parts[3] === 0) return null; // none, or transparent
  return (0.299 * parts[0] + 0.587 * parts[1] + 0.114 * parts[2]) / 255;
}

function isDark(node) {
  for (let at = node; at; at = at.parentElement) {
    const found = luminance(getComputedStyle(at).backgroundColor);
    if (found !== null) return found < 0.5;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

export function theme(node) {
  const dark = isDark(node);
  node.dataset.theme = dark ? "dark" : "light";
  const style = getComputedStyle(node);
  const base = dark ? DARK : LIGHT;
  return {
    ...base,
    ink: luminance(style.color) === null ? base.ink : style.color,
    grid: "rgba(128,128,128,.24)",
    font: style.fontFamily || "system-ui, sans-serif",
  };
}

// Calls *again* after a change of theme; returns what ends the watch.
export function follow(node, again) {
  let timer = 0;
  const changed = () => {
    again();
    clearTimeout(timer);
    timer = setTimeout(again, 400); // a theme's style sheet may arrive after its attribute
  };
  const seen = new MutationObserver(changed);
  const attributes = { attributes: true, attributeFilter: ["class", "style", "data-jp-theme-name",
    "data-jp-theme-light", "data-vscode-theme-kind"] };
  seen.observe(document.body, attributes);
  seen.observe(document.documentElement, attributes);
  const media = matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", changed);
  return () => {
    seen.disconnect();
    media.removeEventListener("change", changed);
    clearTimeout(timer);
  };
}
