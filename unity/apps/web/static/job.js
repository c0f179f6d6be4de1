// One job at its own address: how far it is, then its results, and the command lines that make them again.

import { ago, api, bytes, duration, follow, h, hasEnded, head, message, standing, titled } from "/static/common.js";
import { clipsOf, openPlayer } from "/static/player.js";

const id = location.pathname.split("/")[2];
const main = document.getElementById("main");
let shown = 0;

head();
try {
  const job = await api(`jobs/${id}`);
  document.title = `#${job.number} ${titled(job)} – unity-video`;
  if (hasEnded(job)) await ended(job);
  else {
    waiting(job);
    follow(async (state) => (hasEnded(state) ? ended(await api(`jobs/${id}`)) : waiting(state)), id);
  }
} catch (error) {
  message(main, error.message, true);
}

function title(job, ...buttons) {
  return h("div", { class: "title" }, h("h1", {}, titled(job)), h("span", { class: `state ${job.state}` }, job.state),
    h("span", { class: "soft" }, `#${job.number}, ${ago(job.created)}`), h("span", { class: "grow" }), h("div", { class: "row" }, buttons));
}

function waiting(job) {
  if (!main.querySelector("#progress")) {
    main.replaceChildren(
      title(job, h("button", { onclick: () => api(`jobs/${id}/cancel`, { method: "POST" }) }, "Cancel")),
      h("div", { class: "card live", id: "progress" }, h("progress", { max: 1, value: 0, "aria-label": "progress" }), h("p", { role: "status" }),
        h("canvas", { hidden: true, "aria-label": "what it would end in now" })),
      h("div", { class: "card" }, settings(job)));
  }
  main.querySelector(".state").textContent = job.state;
  main.querySelector(".state").className = `state ${job.state}`;
  const bar = main.querySelector("progress");
  bar.max = job.progress?.steps || 1;
  bar.value = job.progress?.step ?? 0;
  main.querySelector("#progress p").textContent = standing(job);
  if (job.progress && job.progress.previews > shown) {
    shown = job.progress.previews;
    preview(shown);
  }
}

/** The picture of what the job would end in now, as it came. */
async function preview(number) {
  const answer = await fetch(`/api/jobs/${id}/preview?n=${number}`);
  if (!answer.ok) return;
  const picture = await createImageBitmap(await answer.blob());
  const canvas = main.querySelector("#progress canvas");
  if (!canvas) return;
  [canvas.width, canvas.height, canvas.hidden] = [picture.width, picture.height, false];
  canvas.style.maxWidth = "100%";
  canvas.getContext("2d").drawImage(picture, 0, 0);
}

async function ended(job) {
  const again = h("a", { class: "button", href: `/?from=${id}` }, "Change and run again");
  const remove = h("button", { onclick: () => forget() }, "Delete");
  const notice = h("div");
  if (job.state !== "done") {
    message(notice, job.state === "failed" ? job.error : "The job was cancelled; nothing of it was kept.", job.state === "failed");
    main.replaceChildren(title(job, again, remove), notice, h("div", { class: "card" }, settings(job)));
    return;
  }
  const place = h("div", { class: "card" });
  main.replaceChildren(title(job, again, h("a", { class: "button", href: `/compare?a=${id}` }, "Compare"), h("a", { class: "button", href: `/api/jobs/${id}/all.zip` }, "Download all"), remove),
    notice, place, h("div", { class: "pair" }, h("section", { class: "card" }, h("h2", {}, "Settings"), settings(job)), h("section", { class: "card" }, files(job))),
    h("section", { class: "card" }, h("h2", {}, "The same again"), Object.values(job.results).map(({ command }) => h("pre", {}, command ?? "its model or its video is not there any more"))));
  try {
    await openPlayer(place, clipsOf(job, await truthOf(job)));
  } catch (error) {
    message(place, error.message, true);
  }
}

/** The exact views of a simulated clip, beside their estimates. */
async function truthOf(job) {
  if (job.ask.task !== "estimate" || !job.ask.input) return [];
  const about = await api(`inputs/${job.ask.input}`).catch(() => ({}));
  const [record] = Object.values(job.results);
  // the same frames of the same crop, else they would not lie beside each other
  if (!about.truth || about.frames !== record.frames || String(about.size) !== String(record.size)) return [];
  return job.ask.modalities.filter((name) => about.truth.includes(name)).map((name) => ({
    name: `${name}, exact`, below: name, url: `/api/inputs/${about.id}/video?view=${name}`, count: about.frames, fps: about.fps }));
}

function settings(job) {
  const { ask } = job;
  const rows = { model: ask.model, prompt: ask.prompt || "–", steps: ask.steps, sampler: ask.sampler, guidance: ask.guidance, shift: ask.shift, seed: ask.seed };
  const [record] = Object.values(job.results ?? {});
  if (record) Object.assign(rows, { frames: record.frames, size: `${record.size[1]} × ${record.size[0]}`, device: `${record.device}, ${record.precision}` });
  if (job.ended && job.started) rows.took = duration(job.ended - job.started);
  return h("table", {}, h("tbody", {}, Object.entries(rows).map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, String(value)))),
    job.notes.map((note) => h("tr", {}, h("th", { scope: "row" }, "note"), h("td", {}, note)))));
}

function files(job) {
  return Object.entries(job.results).map(([modality, record]) => [
    h("h2", {}, `Files: ${modality}`),
    h("ul", { class: "files" }, Object.entries(record.sizes).filter(([name]) => !name.includes("/")).map(([name, size]) =>
      h("li", {}, h("a", { href: `/api/jobs/${id}/files/${modality}/${name}`, download: name }, name), " ", h("small", {}, bytes(size))))),
    inside(record),
    record.task === "control" ? null : h("p", {}, h("button", { onclick: () => follows(modality) }, `Generate a video that follows this ${modality}`)),
  ]);
}

function inside(record) {
  const count = Object.keys(record.sizes).filter((name) => name.includes("/")).length;
  return count ? h("small", {}, `and ${count} files, one a frame, in the download of all`) : null;
}

async function follows(modality) {
  const taken = await api("inputs/result", { json: { job: id, modality, stream: modality } });
  location.href = `/?task=control&modality=${modality}&input=${taken.id}`;
}

async function forget() {
  if (!confirm("Delete this job and its files?")) return;
  await api(`jobs/${id}`, { method: "DELETE" });
  location.href = "/";
}
