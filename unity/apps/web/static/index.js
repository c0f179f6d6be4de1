// The first page: what to run, what runs, what has run.

import { ago, api, follow, h, hasEnded, head, message, standing, titled } from "/static/common.js";
import { chooseInput } from "/static/sources.js";

const place = (id) => document.getElementById(id);
const WORDS = { estimate: "a view of a video", control: "a video that follows a view", joint: "a video and a view of it, from words" };
const GO = { estimate: "Estimate", control: "Generate", joint: "Generate" };
const jobs = new Map();
const compared = new Set();
const tiles = new Map();
const value = (name) => place("form").elements[name].value;
const checked = () => [...place("modalities").querySelectorAll(":checked")].map((box) => box.value);

const options = await head();
const model = () => options.models.find(({ name }) => name === value("model"));
const input = chooseInput(options, { place, changed: refresh, model });
build();
await again();
refresh();
// what ended while nobody listened is in the list
follow((job) => { jobs.set(job.id, job); show(); }, null, () => loadGallery());

function build() {
  const radio = (name, value, words, checked) => h("label", {}, h("input", { type: "radio", name, value, checked, onchange: () => { schedule(); refresh(); } }), words);
  place("tasks").append(...["estimate", "control", "joint"].filter((task) => options.tasks[task])
    .map((task, index) => radio("task", task, task[0].toUpperCase() + task.slice(1), index === 0)));
  place("modalities").append(...Object.entries(options.modalities).map(([name, { meaning }], index) =>
    h("label", { title: meaning }, h("input", { type: "checkbox", name: "modality", value: name, checked: index === 0, onchange: modality }), name)));
  const field = (words, control, wide) => h("label", { class: wide ? "wide" : "" }, words, control);
  const number = (name, value, rest) => h("input", { type: "number", name, value, required: true, ...rest });
  place("settings").append(
    field("Model", h("select", { name: "model", onchange: bounds }, options.models.map(({ name }) => h("option", {}, name))), true),
    field("Steps", number("steps", 20, { min: 1, max: options.steps.most })),
    field("Guidance (on words)", number("guidance", 7.5, { min: 0, max: 100, step: "any" })),
    field("Sampler", h("select", { name: "sampler" }, options.samplers.map((name) => h("option", {}, name)))),
    field("Shift", number("shift", 1, { min: 0.01, max: 1000, step: "any" })),
    field("Seed", number("seed", 0, { min: 0, max: 2 ** 53 })),
    field("Frames", h("select", { name: "frames" })),
    field("Height", h("select", { name: "height" })),
    field("Width", h("select", { name: "width" })),
  );
  place("form").addEventListener("submit", submit);
  place("form").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) place("form").requestSubmit(); });
  place("older").addEventListener("click", () => loadGallery(Math.min(...[...jobs.values()].map((job) => job.number))));
  bounds();
}

/** The chosen model bounds frames, sizes and modalities. */
function bounds() {
  if (!model()) {
    place("about").textContent = "There is no model here; train one, or give its folder as --models.";
    place("go").disabled = true;
    return;
  }
  const { name, stage, step, data, modalities, frames, size } = model();
  place("about").textContent = `The model “${name}”: stage ${stage}, step ${step.toLocaleString()}, `
    + `trained on ${frames.default} frames of ${size.default[1]}×${size.default[0]}.`;
  place("about").title = data;
  const range = (from, to, by) => Array.from({ length: Math.floor((to - from) / by) + 1 }, (_, k) => from + k * by);
  const fill = (field, values, auto) => place("form").elements[field].replaceChildren(h("option", { value: "" }, auto), ...values.map((n) => h("option", {}, n)));
  fill("frames", range(1, frames.most, frames.step), `${frames.default}, or as many as there are`);
  fill("height", range(size.unit[0], size.most[0], size.unit[0]), "the video’s aspect");
  fill("width", range(size.unit[1], size.most[1], size.unit[1]), "the video’s aspect");
  for (const box of place("modalities").querySelectorAll("input")) {
    box.disabled = !modalities.includes(box.value);
    box.checked &&= !box.disabled;
  }
  schedule();
}

/** Steps, shift, guidance and sampler as the model's card has them for the task. */
function schedule() {
  const usual = { steps: 20, shift: 1, guidance: 7.5, sampler: options.samplers[0] };
  const { steps, shift, guidance, sampler } = model()?.schedules[value("task")] ?? usual;
  place("form").elements.steps.value = Math.min(steps, options.steps.most);
  place("form").elements.shift.value = shift;
  place("form").elements.guidance.value = guidance;
  place("form").elements.sampler.value = sampler;
}

/** A video that is to be followed shows one modality. */
function modality(event) {
  if (value("task") === "control" && event.target.checked) {
    for (const box of place("modalities").querySelectorAll("input")) box.checked = box === event.target;
  }
  refresh();
}

function refresh() {
  const task = value("task");
  place("task-words").textContent = WORDS[task];
  place("source").hidden = task === "joint";
  place("words").hidden = task === "estimate";
  place("drop-words").textContent = task === "control" ? "Drop a modality video here, as the model draws it" : "Drop a video here";
  if (task === "control") checked().slice(1).forEach((name) => { place("modalities").querySelector(`[value=${name}]`).checked = false; });
  place("meaning").textContent = checked().map((name) => `${name}: ${options.modalities[name].meaning}`).join(". ");
  place("go").textContent = GO[task];
}

function ask() {
  const { elements } = place("form");
  const [height, width] = [+value("height"), +value("width")];
  if (!height !== !width) throw new Error("give both height and width, or neither");
  return {
    task: value("task"), modalities: checked(), model: value("model"),
    input: value("task") === "joint" ? null : input.id(), prompt: value("task") === "estimate" ? "" : elements.prompt.value,
    steps: +value("steps"), guidance: +value("guidance"), sampler: value("sampler"), shift: +value("shift"), seed: +value("seed"),
    frames: value("frames") ? +value("frames") : null, size: height ? [height, width] : null,
  };
}

async function submit(event) {
  event.preventDefault();
  place("go").disabled = true;
  try {
    const asked = ask();
    if (!asked.modalities.length) throw new Error("choose a modality");
    const job = await api("jobs", { json: asked });
    message(place("message"), `Job ${job.number} is in the queue.`);
    if (!jobs.has(job.id)) jobs.set(job.id, job);
    show();
  } catch (error) {
    message(place("message"), error.message, true);
  }
  place("go").disabled = false;
}

/** Fill the form with an earlier job's settings (?from=id), or with a video (?input=id). */
async function again() {
  const query = new URLSearchParams(location.search);
  if (query.get("from")) {
    const { ask: asked } = await api(`jobs/${query.get("from")}`);
    const { elements } = place("form");
    for (const radio of elements.task) radio.checked = radio.value === asked.task;
    if (options.models.some(({ name }) => name === asked.model)) elements.model.value = asked.model;
    bounds();
    for (const name of ["steps", "guidance", "sampler", "shift", "seed", "prompt"]) elements[name].value = asked[name];
    elements.frames.value = asked.frames ?? "";
    [elements.height.value, elements.width.value] = asked.size ?? ["", ""];
    for (const box of place("modalities").querySelectorAll("input")) box.checked = asked.modalities.includes(box.value);
    place("more").open = true;
    if (asked.input) await input.take(asked.input);
  }
  if (query.get("task")) for (const radio of place("form").elements.task) radio.checked = radio.value === query.get("task");
  if (query.get("modality")) for (const box of place("modalities").querySelectorAll("input")) box.checked = box.value === query.get("modality");
  if (query.get("input")) await input.take(query.get("input"));
}

async function loadGallery(before) {
  const found = await api(`jobs?most=24${before ? `&before=${before}` : ""}`);
  for (const job of found) if (!jobs.has(job.id) || !hasEnded(jobs.get(job.id))) jobs.set(job.id, job);
  if (before || jobs.size === found.length) place("older").hidden = found.length < 24;
  show();
}

function show() {
  const all = [...jobs.values()].sort((a, b) => b.number - a.number);
  showNow(all.filter((job) => !hasEnded(job)).reverse());
  const ended = all.filter(hasEnded);
  if (jobs.size && ended.length === tiles.size) return;
  if (!ended.length) {
    place("gallery").replaceChildren(h("p", { class: "soft" }, "What you make stands here. Press the button on the left: the bundled film takes half a minute or so."));
    return;
  }
  for (const job of ended) if (!tiles.has(job.id)) tiles.set(job.id, tile(job));
  place("gallery").replaceChildren(...ended.map((job) => tiles.get(job.id)));
}

function tile(job) {
  const pictures = h("div", { class: "pictures" });
  if (job.state === "done") {
    const [modality] = job.ask.modalities;
    for (const name of ["rgb", modality]) {
      const video = h("video", { src: `/api/jobs/${job.id}/files/${modality}/${name}.mp4`, preload: "metadata", loop: true, playsinline: true, "aria-hidden": true });
      video.muted = true;
      pictures.append(video);
    }
  } else pictures.append(h("span", {}, job.state === "failed" ? "failed" : "cancelled"));
  const box = h("input", { type: "checkbox", "aria-label": `compare job ${job.number}`, title: "choose two to compare", onchange: () => {
    compared[box.checked ? "add" : "delete"](job.id);
    place("compare").hidden = compared.size !== 2;
    const [a, b] = compared;
    place("compare").href = `/compare?a=${a}&b=${b}`;
  } });
  const play = (on) => pictures.querySelectorAll("video").forEach((video) => on ? video.play().catch(() => {}) : video.pause());
  return h("article", { class: `tile ${job.state}`, onpointerenter: () => play(true), onpointerleave: () => play(false), onfocusin: () => play(true), onfocusout: () => play(false) },
    pictures, job.state === "done" ? box : null,
    h("div", { class: "words" }, h("a", { href: `/jobs/${job.id}` }, titled(job)),
      job.state === "failed" ? h("p", {}, job.error) : null,
      h("div", { class: "soft" }, `#${job.number} · ${job.ask.steps} steps · ${ago(job.created)}`)));
}

function showNow(active) {
  place("now").hidden = !active.length;
  place("now").replaceChildren(h("h2", {}, "Now"), ...active.map((job) => h("div", { class: "live" },
    h("div", { class: "row" }, h("a", { href: `/jobs/${job.id}` }, `#${job.number} ${titled(job)}`), h("span", { class: `state ${job.state}` }, job.state), h("span", { class: "grow" }),
      h("button", { onclick: () => api(`jobs/${job.id}/cancel`, { method: "POST" }) }, "Cancel")),
    job.state === "running" ? h("progress", { max: job.progress?.steps || 1, value: job.progress?.step ?? 0, "aria-label": "progress" }) : null,
    h("small", { role: "status" }, standing(job)))));
}

