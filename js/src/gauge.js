// The gauge's front end: an anywidget module. It draws what the kernel sends (numbers and words),
// and sends back two words, "raise" and "stop". It decides nothing and reads nothing else.
import { loadFigure } from "./engine.js";
import { follow, theme } from "./theme.js";

const STALE_MS = 2500; // ten missed updates: the kernel is inside one call that keeps the GIL
const ANSWER_MS = 3000; // a click unanswered for this long is given back to the user

function element(tag, className, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

function button(className, glyph, text, title) {
  const node = element("button", `h2q-button ${className}`);
  node.type = "button";
  node.title = title;
  node.setAttribute("data-lm-suppress-shortcuts", "true"); // Enter must press, not edit the cell
  const mark = element("span", "h2q-glyph", glyph);
  mark.setAttribute("aria-hidden", "true");
  node.append(mark, element("span", "h2q-text", text));
  return node;
}

function build(model) {
  const root = element("div", "h2q-gauge");
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", `memory gauge: ${model.get("label")}`);
  const head = element("div", "h2q-head");
  const line = element("div", "h2q-line");
  const badge = element("span", "h2q-badge");
  const words = element("span", "h2q-words");
  line.append(badge, element("strong", "h2q-label", model.get("label")), words);
  const buttons = element("div", "h2q-buttons");
  const raise = button("h2q-raise", "+", model.get("raise_text"), "Give this cell more memory");
  const stop = button("h2q-stop", "■", "Stop cell", "End the running cell now");
  if (model.get("can_raise")) buttons.append(raise);
  if (model.get("can_stop")) buttons.append(stop);
  head.append(line, buttons);
  const plot = element("div", "h2q-plot");
  plot.setAttribute("role", "img");
  const note = element("div", "h2q-note", model.get("hint"));
  // Spoken only when the level, the limit or the state changes: four times a second is noise.
  const spoken = element("div", "h2q-spoken");
  spoken.setAttribute("role", "status");
  spoken.setAttribute("aria-live", "polite");
  root.append(head, plot, note, spoken);
  return { root, line, badge, words, raise, stop, plot, note, spoken };
}

function wire(model, node, answered) {
  let timer = 0;
  const press = (what, pressed) => {
    pressed.disabled = true;
    model.send({ kind: what });
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (answered(what)) return;
      pressed.disabled = false;
      node.note.textContent =
        "The kernel has not answered yet; Interrupt (■ in the toolbar) also ends the cell.";
    }, ANSWER_MS);
  };
  node.raise.addEventListener("click", () => press("raise", node.raise));
  node.stop.addEventListener("click", () => press("stop", node.stop));
  return () => clearTimeout(timer);
}

function render({ model, el }) {
  const node = build(model);
  el.append(node.root);
  let frame = null;
  let came = performance.now();
  let pending = 0;
  let figure = null; // plotly and what draws with it, once this page has it
  let drawn = false;
  let gone = false;
  let told = "";
  let raised = 0; // the limit at the moment Raise was pressed
  const hint = model.get("hint");

  const answered = (what) =>
    what === "stop" ? frame?.state !== "running" : frame?.limit !== raised;
  const unwire = wire(model, node, answered);
  node.raise.addEventListener("click", () => (raised = frame?.limit ?? 0));

  const words = () => {
    node.badge.textContent = `${frame.glyph} ${frame.word}`;
    node.badge.dataset.level = frame.level;
    node.words.textContent = frame.words;
    node.plot.setAttribute("aria-label", frame.spoken);
    node.spoken.setAttribute("aria-label", frame.spoken);
    const key = `${frame.level}/${frame.state}/${frame.limit}`;
    if (key !== told) {
      told = key;
      node.spoken.textContent = frame.spoken;
    }
    if (node.raise.disabled && answered("raise")) node.raise.disabled = false;
    if (frame.state !== "running") node.raise.disabled = node.stop.disabled = true;
    node.stop.querySelector(".h2q-text").textContent =
      frame.state === "stopping" ? "Stopping…" : "Stop cell";
  };
  const paint = () => {
    pending = 0;
    if (!frame || !figure || !node.plot.clientWidth) return;
    figure.draw(node.plot, frame, theme(node.root));
    drawn = true;
  };
  const later = () => {
    if (!pending) pending = requestAnimationFrame(paint);
  };
  const take = () => {
    const got = model.get("frame");
    if (!got || got.limit === undefined) return; // not yet, or emptied because the cell has ended
    frame = got;
    came = performance.now();
    node.note.textContent = hint;
    words();
    later();
  };

  model.on("change:frame", take);
  const sized = new ResizeObserver(() => (drawn ? figure.resize(node.plot) : later()));
  sized.observe(node.plot);
  const unfollow = follow(node.root, later);
  const stale = setInterval(() => {
    const silent = performance.now() - came;
    if (frame?.state !== "running" || silent < STALE_MS) return;
    const seconds = Math.round(silent / 1000);
    node.note.textContent =
      `No reading for ${seconds} s: the kernel is inside one long call. The guard still watches.`;
  }, 500);
  take();
  const unload = loadFigure(model, (loaded) => {
    if (gone) return;
    figure = loaded;
    later();
  });
  return () => {
    gone = true;
    unload();
    model.off("change:frame", take);
    unwire();
    unfollow();
    clearInterval(stale);
    cancelAnimationFrame(pending);
    sized.disconnect();
    if (drawn) figure.purge(node.plot);
  };
}

export default { render };
