// Curves over steps as SVG, with the values below the pointer.

import { h } from "/static/common.js";

// apart for colour-blind eyes too (Okabe & Ito, 2008)
export const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [520, 250, 56, 24, 10];
const SPACE = "http://www.w3.org/2000/svg";

function svg(name, attributes, ...children) {
  const element = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Mean over the last `window` points, fewer at the start. */
export function smooth(line, window) {
  let sum = 0;
  return line.map(([step, value], index) => {
    sum += value - (index >= window ? line[index - window][1] : 0);
    return [step, sum / Math.min(index + 1, window)];
  });
}

/** A panel: `lines` is name → [[step, value], …]. */
export function chart(title, lines, logarithmic = false) {
  const names = Object.keys(lines).filter((name) => lines[name].length);
  const points = names.flatMap((name) => lines[name]);
  if (!points.length) return h("section", { class: "card chart" }, h("h2", {}, title), h("p", { class: "soft" }, "no steps yet"));
  const shape = logarithmic ? (y) => Math.log10(Math.max(y, 1e-12)) : (y) => y;
  const steps = extent(points.map(([step]) => step));
  const values = extent(points.map(([, value]) => shape(value)));
  const x = (step) => LEFT + ((step - steps[0]) / (steps[1] - steps[0])) * (WIDTH - LEFT - 8);
  const y = (value) => HEIGHT - BOTTOM - ((shape(value) - values[0]) / (values[1] - values[0])) * (HEIGHT - BOTTOM - TOP);
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title} over steps` });
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    const level = values[0] + share * (values[1] - values[0]);
    const high = HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP);
    picture.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - 8, y1: high, y2: high }),
      svg("text", { x: LEFT - 6, y: high + 4, "text-anchor": "end" }, number(logarithmic ? 10 ** level : level)));
    picture.append(svg("text", { x: x(steps[0] + share * (steps[1] - steps[0])), y: HEIGHT - 6, "text-anchor": share === 1 ? "end" : "middle" },
      Math.round(steps[0] + share * (steps[1] - steps[0])).toLocaleString()));
  }
  names.forEach((name, index) => {
    const path = thin(lines[name]).map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    picture.append(svg("polyline", { points: path, fill: "none", stroke: COLOURS[index % COLOURS.length], "stroke-width": 1.8 }));
  });
  const keys = names.map((name, index) => {
    const colour = h("i");
    colour.style.background = COLOURS[index % COLOURS.length];
    return h("span", {}, colour, h("span", {}, `${name} ${number(lines[name].at(-1)[1])}`));
  });
  const told = h("small", {}, `step ${points.at(-1)[0].toLocaleString()}`);
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const step = steps[0] + (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - 8) * (steps[1] - steps[0]);
    names.forEach((name, index) => {
      const near = lines[name].reduce((best, one) => (Math.abs(one[0] - step) < Math.abs(best[0] - step) ? one : best));
      keys[index].lastChild.textContent = `${name} ${number(near[1])}`;
      told.textContent = `step ${near[0].toLocaleString()}`;
    });
  });
  return h("section", { class: "card chart" }, h("h2", {}, title), picture, h("div", { class: "keys" }, keys, told));
}

function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  return low === high ? [low - 0.5, high + 0.5] : [low, high];
}

/** Every so many points, as many as can be seen. */
function thin(line) {
  const each = Math.ceil(line.length / 1000);
  return line.filter((_, index) => index % each === 0 || index === line.length - 1);
}

export function number(value) {
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString();
  return size !== 0 && size < 0.001 ? value.toExponential(1) : String(+value.toPrecision(3));
}
