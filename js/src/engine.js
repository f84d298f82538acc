// Gets figure.js (plotly.js) into the page, once: the kernel's first gauge carries it, later ones
// find it here, and a page that came later (reloaded, or a second one) asks for it.

async function evaluate(source) {
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  try {
    return await import(url);
  } finally {
    URL.revokeObjectURL(url);
  }
}

// Calls *ready* with the module, at once if the page has it; returns what ends the waiting.
export function loadFigure(model, ready) {
  const key = `h2q_figure_${model.get("engine_id")}`;
  const came = async () => {
    const source = model.get("engine");
    if (!source) return;
    model.off("change:engine", came);
    globalThis[key] ??= evaluate(source);
    ready(await globalThis[key]);
  };
  if (globalThis[key]) {
    globalThis[key].then(ready);
    return () => {};
  }
  model.on("change:engine", came);
  if (model.get("engine")) came();
  else model.send({ kind: "engine" });
  return () => model.off("change:engine", came);
}
