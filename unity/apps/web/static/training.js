// A run of training as it goes: curves by task and modality, and the pictures of its samples.

import { chart, smooth } from "/static/chart.js";
import { api, h, head, message } from "/static/common.js";

const main = document.getElementById("main");
// seconds between two looks
const PAUSE = 3;
const query = new URLSearchParams(location.search);

const options = await head();
const runs = await api("runs").catch(() => []);
if (!runs.length) message(main, "Start the program with --run and the folder of a run to watch it here.");
else watch(runs[+query.get("run")] ?? runs[0]);

async function watch(run) {
  const state = { rows: new Map(), next: 0, pictures: [], window: 20, shown: null };
  const charts = h("div", { class: "charts" });
  const told = h("span", { class: "soft", role: "status" }, "Loading the metrics …");
  const window = h("input", { type: "range", min: 1, max: 200, value: state.window, oninput: () => { state.window = +window.value; draw(); } });
  const seek = h("input", { type: "range", min: 0, max: 0, "aria-label": "the step of the pictures", oninput: () => { state.shown = +seek.value; picture(); } });
  const sheet = h("img", { class: "sheet", alt: "samples of the averaged weights beside the truth, one row a modality" });
  const step = h("output");
  const pictures = h("section", { class: "card", hidden: true }, h("h2", {}, "Pictures"), h("div", { class: "controls" }, seek, step), sheet);
  const choose = h("select", { "aria-label": "run", onchange: () => { location.search = `?run=${choose.value}`; } },
    runs.map((one) => h("option", { value: one.number, selected: one === run }, one.name)));
  main.replaceChildren(h("div", { class: "title" }, h("h1", {}, "Training"), runs.length > 1 ? choose : h("span", {}, run.name), told, h("span", { class: "grow" }),
    h("label", { class: "row" }, "smooth over", window)), charts, h("p"), pictures);

  function draw() {
    const rows = [...state.rows.values()];
    const line = (name) => smooth(rows.filter((row) => Number.isFinite(row[name])).map((row) => [row.step, row[name]]), state.window);
    const lines = (names) => Object.fromEntries(names.map((name) => [name.replace("loss/", ""), line(name)]));
    const named = (known) => lines(Object.keys(known).map((name) => `loss/${name}`));
    charts.replaceChildren(
      chart("Loss by task", named(options.tasks)), chart("Loss by modality", named(options.modalities)),
      chart("Loss", lines(["loss"])), chart("Gradient norm", { norm: line("grad_norm") }, true),
      chart("Learning rate", { rate: rows.filter((row) => row.lr).map((row) => [row.step, row.lr]) }), chart("Tokens a second", { tokens: line("tokens_per_second") }));
    const last = rows.at(-1);
    told.textContent = last ? `step ${(last.step + 1).toLocaleString()}${run.steps ? ` of ${run.steps.toLocaleString()}` : ""}` : "no step yet";
  }

  function picture() {
    const place = state.shown ?? state.pictures.length - 1;
    pictures.hidden = !state.pictures.length;
    [seek.max, seek.value] = [state.pictures.length - 1, place];
    const name = state.pictures[place];
    if (!name) return;
    step.textContent = `step ${(+name.match(/\d+/)[0]).toLocaleString()}`;
    const source = `/api/runs/${run.number}/pictures/${name}`;
    if (!sheet.src.endsWith(source)) sheet.src = source;
  }

  async function look() {
    try {
      const { rows, next } = await api(`runs/${run.number}/metrics?start=${state.next}`);
      if (next < state.next) state.rows.clear();
      for (const row of rows) state.rows.set(row.step, row);
      const news = rows.length > 0 || state.next === 0;
      state.next = next;
      state.pictures = await api(`runs/${run.number}/pictures`);
      if (news) draw();
      picture();
      // a long run comes in parts
      setTimeout(look, rows.length > 2000 ? 0 : 1000 * PAUSE);
    } catch (error) {
      told.textContent = error.message;
      setTimeout(look, 1000 * PAUSE);
    }
  }
  look();
}
