// One frame as a plotly figure: the bullet gauge above, the history below. No state of its own.
import Plotly from "plotly.js/lib/core";
import indicator from "plotly.js/lib/indicator";

Plotly.register([indicator]); // scatter is part of core

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const CONFIG = { displayModeBar: false, staticPlot: false, responsive: false };

// plotly reads a little HTML in its texts (bold, links); ours are words only.
const plain = (words) => words.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`);

// The kernel sends float32 bytes: n times, then n readings in MiB.
function history(frame, scale) {
  const view = frame.history;
  if (!view?.byteLength) return { x: [], y: [] };
  const all = new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
  const n = all.length / 2;
  return { x: Array.from(all.subarray(0, n)), y: Array.from(all.subarray(n), (v) => v * scale) };
}

function bullet(frame, colours, unit, limit, top) {
  const level = { calm: colours.calm, warn: colours.warn }[frame.level] ?? colours.over;
  const zones = [[0, 0.8], [0.8, 0.9], [0.9, 1]];
  return {
    type: "indicator",
    mode: "gauge+number",
    value: Math.max(0, frame.used / unit.bytes),
    // Without a format of its own the number is rounded to the axis' steps (10, 20 ...).
    number: { valueformat: unit.format, suffix: ` ${unit.name}`, font: { size: 22, color: colours.ink } },
    domain: { x: [0, 1], y: [0.82, 0.98] },
    gauge: {
      shape: "bullet",
      axis: { range: [0, top], visible: false },
      bar: { color: level, thickness: 0.45 },
      bgcolor: "rgba(0,0,0,0)",
      borderwidth: 0,
      steps: limit
        ? zones.map(([a, b], i) => ({ range: [a * limit, b * limit], color: colours.zones[i] }))
        : [],
      threshold: { line: { color: colours.ink, width: 3 }, thickness: 0.95, value: limit || top },
    },
  };
}

function marks(frame, colours, unit, right) {
  const colour = { info: colours.used, warn: colours.warn, bad: colours.over };
  const side = (event) => (event.t > 0.7 * right ? "left" : "right");
  return {
    type: "scatter",
    mode: "markers+text",
    x: frame.events.map((e) => e.t),
    y: frame.events.map((e) => e.used / unit.bytes),
    text: frame.events.map((e) => plain(e.text)),
    textposition: frame.events.map((e, i) => `${i % 2 ? "bottom" : "top"} ${side(e)}`),
    textfont: { size: 11, color: colours.ink },
    marker: {
      symbol: "triangle-down",
      size: 11,
      color: frame.events.map((e) => colour[e.kind]),
      line: { width: 1, color: colours.ink },
    },
    hoverinfo: "text+x",
    cliponaxis: false,
  };
}

function layout(frame, colours, unit, limit, bottom, top, right) {
  const band = (from, to, color) => ({
    type: "rect", xref: "paper", x0: 0, x1: 1, yref: "y", y0: from * limit, y1: to * limit,
    fillcolor: color, line: { width: 0 }, layer: "below",
  });
  const budget = {
    type: "line", xref: "paper", x0: 0, x1: 1, yref: "y", y0: limit, y1: limit,
    line: { color: colours.ink, width: 1.5, dash: "dash" },
  };
  const text = (x, anchor, words) => ({
    xref: "paper", x, xanchor: anchor, yref: "y", y: limit || top, yanchor: limit ? "bottom" : "top",
    text: plain(words), showarrow: false, font: { size: 11, color: colours.ink },
  });
  return {
    height: 224,
    autosize: true,
    margin: { l: 66, r: 12, t: 2, b: 26 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: colours.font, size: 12, color: colours.ink },
    showlegend: false,
    xaxis: { ticksuffix: " s", gridcolor: colours.grid, zeroline: false, fixedrange: true,
      range: [0, right], color: colours.ink },
    yaxis: { domain: [0, 0.72], ticksuffix: ` ${unit.name}`, gridcolor: colours.grid,
      zeroline: bottom < 0, zerolinecolor: colours.grid, fixedrange: true, range: [bottom, top],
      nticks: 5, color: colours.ink },
    shapes: limit
      ? [band(0.8, 0.9, colours.zones[1]), band(0.9, 1, colours.zones[2]), budget]
      : [],
    annotations: [text(0.005, "left", frame.limit_words), text(0.995, "right", frame.trend)]
      .filter((a) => a.text),
  };
}

export function draw(node, frame, colours) {
  const unit = Math.max(frame.limit, frame.peak) >= 2 * GIB
    ? { name: "GiB", bytes: GIB, format: ",.2f" }
    : { name: "MiB", bytes: MIB, format: ",.0f" };
  const limit = Math.max(0, frame.limit) / unit.bytes;
  const top = Math.max(limit, frame.peak / unit.bytes, 1 / 16) * 1.18;
  const right = Math.max(10, Math.ceil((frame.t * 1.08) / 5) * 5); // steps: no crawling axis
  const { x, y } = history(frame, MIB / unit.bytes);
  const bottom = Math.min(0, ...y);
  const used = {
    type: "scatter", mode: "lines", x, y, line: { width: 2, color: colours.used }, fill: "tozeroy",
    fillcolor: colours.fill, hovertemplate: `%{x:.1f} s  %{y:,.1f} ${unit.name}<extra></extra>`,
  };
  return Plotly.react(
    node,
    [bullet(frame, colours, unit, limit, top), used, marks(frame, colours, unit, right)],
    layout(frame, colours, unit, limit, bottom, top, right),
    CONFIG,
  );
}

export function resize(node) {
  return Plotly.Plots.resize(node);
}

export function purge(node) {
  Plotly.purge(node);
}
