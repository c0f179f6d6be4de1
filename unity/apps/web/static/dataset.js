// A dataset to look through: what is drawn over what, clip by clip; what looks wrong is flagged with one key.

import { api, h, head, message } from "/static/common.js";
import { newClock, openPlayer } from "/static/player.js";

const main = document.getElementById("main");
const MOST = 48;
const state = { number: 0, source: "", modality: "", start: 0, clips: [], count: 0, chosen: -1, clock: null };

const options = await head();
const datasets = await api("datasets").catch(() => []);
if (!datasets.length) message(main, "Start the program with --data and the folder of a dataset to look through it here.");
else build();

function build() {
  const choose = (words, values, tell) => h("label", { class: "row" }, words, h("select", { onchange: (event) => { tell(event.target.value); state.start = 0; load(); } },
    values.map(([value, text]) => h("option", { value }, text))));
  const sources = Object.entries(datasets[0].sources).map(([name, { clips }]) => [name, `${name.replaceAll("_", " ")} (${clips})`]);
  state.thumbs = h("div", { class: "thumbs" });
  state.told = h("span", { class: "soft", role: "status" });
  state.detail = h("section", { class: "card" }, h("p", { class: "soft" }, "Choose a clip."));
  const turn = (words, by) => h("button", { onclick: () => { state.start = Math.max(0, state.start + by); if (state.start < state.count) load(); else state.start -= by; } }, words);
  main.replaceChildren(
    h("div", { class: "title" }, h("h1", {}, "Dataset"),
      datasets.length > 1 ? choose("", datasets.map(({ number, name }) => [number, name]), (value) => { state.number = +value; }) : h("span", {}, datasets[0].name),
      h("span", { class: "soft" }, `${datasets[0].frames} frames of ${datasets[0].size[1]}×${datasets[0].size[0]}`)),
    h("div", { class: "columns" },
      h("section", { class: "card" },
        h("div", { class: "row" }, choose("source", [["", "all"], ...sources], (value) => { state.source = value; }),
          choose("over it", [["", "nothing"], ...Object.keys(options.modalities).map((name) => [name, name])], (value) => { state.modality = value; })),
        h("p", { class: "row" }, turn("Earlier", -MOST), turn("Later", MOST), state.told), state.thumbs,
        h("p", {}, h("small", {}, h("kbd", {}, "J"), " next, ", h("kbd", {}, "K"), " last, ", h("kbd", {}, "F"), " flag")),
        h("p", {}, h("button", { onclick: saveFlags }, "Save the flagged as CSV"))),
      h("div", {}, state.detail, h("section", { class: "card", id: "refused", hidden: true }))));
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey) return;
    const done = { j: () => open(state.chosen + 1), k: () => open(state.chosen - 1), f: () => flag() }[event.key.toLowerCase()];
    done?.();
  });
  load();
  refused();
}

const key = (clip) => `${datasets[state.number].name}/${clip.source}/${clip.index}`;
const flags = () => JSON.parse(localStorage.getItem("flagged") ?? "{}");
const address = (clip) => `datasets/${state.number}/${clip.source}/${clip.index}`;

async function load() {
  const query = new URLSearchParams({ start: state.start, most: MOST });
  if (state.source) query.set("source", state.source);
  if (state.modality) query.set("modality", state.modality);
  const { count, clips } = await api(`datasets/${state.number}/clips?${query}`);
  Object.assign(state, { count, clips, chosen: -1 });
  state.told.textContent = count ? `${state.start + 1} to ${state.start + clips.length} of ${count}` : "no clip has that";
  show();
  if (clips.length) open(0);
}

function show() {
  const flagged = flags();
  state.thumbs.replaceChildren(...state.clips.map((clip, place) => h("button", {
    class: key(clip) in flagged ? "flagged" : "", "aria-pressed": String(place === state.chosen), "aria-label": `${clip.source} ${clip.index}`, onclick: () => open(place),
  }, h("img", { src: `/api/${address(clip)}/${state.modality || "rgb"}.png`, alt: "", loading: "lazy" }))));
}

async function open(place) {
  const clip = state.clips[place];
  if (!clip) return;
  state.chosen = place;
  [...state.thumbs.children].forEach((button, index) => button.setAttribute("aria-pressed", String(index === place)));
  try {
    const about = await api(address(clip));
    const player = h("div");
    const rows = { caption: about.caption || "–", source: clip.source, index: clip.index, ...Object.fromEntries(Object.entries(about.constants).map(([name, values]) => [`${name}, constants`, JSON.stringify(values)])), ...about.meta };
    state.detail.replaceChildren(h("div", { class: "title" }, h("h2", {}, about.name), h("span", { class: "grow" }), h("button", { onclick: flag }, "Flag")), player,
      h("p"), h("table", {}, h("tbody", {}, Object.entries(rows).map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, String(value)))))));
    const clips = ["rgb", ...about.has].map((name) => ({ name, url: `/api/${address(clip)}/${name}.mp4`, count: about.frames, fps: about.fps }));
    await openPlayer(player, clips, newClock());
  } catch (error) {
    message(state.detail, error.message, true);
  }
}

/** Flags stay in this browser until they are saved. */
function flag() {
  const clip = state.clips[state.chosen];
  if (!clip) return;
  const all = flags();
  if (key(clip) in all) delete all[key(clip)];
  else all[key(clip)] = clip;
  localStorage.setItem("flagged", JSON.stringify(all));
  state.thumbs.children[state.chosen].classList.toggle("flagged", key(clip) in all);
}

function saveFlags() {
  const lines = Object.entries(flags()).map(([name, { source, index }]) => [name.slice(0, -`/${source}/${index}`.length), source, index].map((cell) => `"${String(cell).replaceAll('"', '""')}"`).join(","));
  const link = h("a", { href: URL.createObjectURL(new Blob([["dataset,source,index", ...lines].join("\n") + "\n"], { type: "text/csv" })), download: "flagged.csv" });
  link.click();
}

async function refused() {
  const rows = await api(`datasets/${state.number}/refused`);
  const place = document.getElementById("refused");
  place.hidden = !rows.length;
  place.replaceChildren(h("h2", {}, `${rows.length} rows were left out`), h("table", {}, h("tbody", {}, rows.slice(0, 200).map((row) =>
    h("tr", {}, h("th", { scope: "row" }, `${row.csv}, line ${row.line}`), h("td", {}, row.reason))))));
}
