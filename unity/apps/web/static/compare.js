// Two jobs side by side in step, and what they were asked differently.

import { api, h, head, message, titled } from "/static/common.js";
import { clipsOf, newClock, openPlayer } from "/static/player.js";

const main = document.getElementById("main");
const query = new URLSearchParams(location.search);
head();

const done = (await api("jobs?most=200")).filter((job) => job.state === "done");
const [a, b] = [query.get("a") ?? done[0]?.id, query.get("b") ?? done.find((job) => job.id !== query.get("a"))?.id];
if (!a || !b) message(main, "Two jobs that are done can be compared here; run them first.");
else await compare();

async function compare() {
  try {
    const jobs = await Promise.all([a, b].map((id) => api(`jobs/${id}`)));
    const places = jobs.map(() => h("div"));
    main.replaceChildren(h("div", { class: "title" }, h("h1", {}, "Compare two jobs")),
      h("div", { class: "pair" }, jobs.map((job, index) => h("section", { class: "card" }, h("div", { class: "row" }, choose(index, job), h("a", { href: `/jobs/${job.id}` }, `#${job.number}`)), h("p"), places[index]))),
      h("section", { class: "card" }, h("h2", {}, "Settings"), table(jobs)));
    const clock = newClock();
    for (const [index, job] of jobs.entries()) await openPlayer(places[index], clipsOf(job), clock);
  } catch (error) {
    message(main, error.message, true);
  }
}

function choose(index, job) {
  return h("select", { class: "grow", "aria-label": index ? "the second job" : "the first job", onchange: (event) => {
    query.set("a", index ? a : event.target.value);
    query.set("b", index ? event.target.value : b);
    location.search = query;
  } }, done.map((one) => h("option", { value: one.id, selected: one.id === job.id }, `#${one.number} ${titled(one)}`)));
}

/** One row a setting; those that differ are marked, by colour and by a word. */
function table(jobs) {
  const settings = jobs.map(({ ask, results }) => {
    const [record] = Object.values(results ?? {});
    return { ...ask, ...(record && { frames: record.frames, size: record.size, device: record.device, "model's step": record.model.step }) };
  });
  const words = (value) => (Array.isArray(value) ? value.join(", ") : value === null || value === "" ? "–" : String(value));
  const names = [...new Set(settings.flatMap(Object.keys))];
  return h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "setting"), jobs.map((job) => h("th", {}, `#${job.number}`)), h("th", {}, ""))),
    h("tbody", {}, names.map((name) => {
      const [one, two] = settings.map((row) => words(row[name]));
      return h("tr", { class: one === two ? null : "differs" }, h("th", { scope: "row" }, name), h("td", {}, one), h("td", {}, two), h("td", {}, one === two ? "" : "differs"));
    })));
}
