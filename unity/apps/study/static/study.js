// The page of a study: a few videos in step, questions about them, and on to the next.

import { api, h, message } from "/static/common.js";

const main = document.getElementById("main");
const LETTERS = "ABCDEFGH";
const KEPT = "unity-study";
const told = h("div", { "aria-live": "polite" });
let [study, code] = [null, null];

try {
  study = await api("study");
  const [given, kept] = [location.hash.slice(1), localStorage.getItem(KEPT)];
  await (given || kept ? enter(given || kept, !given) : welcome());
} catch (error) {
  message(main, error.message, true);
}

/** What it is about, before anything is asked. */
function welcome(words) {
  const field = h("input", { name: "code", "aria-label": "your code", placeholder: "your code", pattern: "[0-9a-f]{12}", required: true });
  main.replaceChildren(h("section", { class: "card welcome" },
    h("h1", {}, "Which video is better?"),
    h("p", {}, `You will see ${["", "", "two", "three", "four"][study.videos]} short videos at a time, and be asked of them:`),
    h("ul", {}, study.questions.map(({ words, more }) => h("li", {}, h("b", {}, words), " ", more))),
    h("p", {}, "Look at all of them to the end. Where none is better, say so. Some videos are there to see whether you look. "
      + "You can stop at any time and go on later; nothing is kept but your answers and when you gave them."),
    study.open ? h("button", { type: "button", class: "main", onclick: begin }, "Begin") : null,
    h("form", { class: "row", onsubmit: (event) => { event.preventDefault(); enter(field.value); } },
      h("span", { class: "soft" }, study.open ? "You began elsewhere?" : "You need the code that you were sent:"), field, h("button", {}, "Go on")),
    told));
  message(told, words ?? "", true);
}

async function begin() {
  try {
    const rater = await api("raters", { method: "POST" });
    await enter(rater.code);
  } catch (error) {
    message(told, error.message, true);
  }
}

/** Go on as the rater of a code, which the address keeps, and this browser; one that is `kept` may be of another study. */
async function enter(wanted, kept = false) {
  let standing;
  try {
    standing = await api(`raters/${encodeURIComponent(wanted)}`);
  } catch (error) {
    return welcome(kept ? "" : `The code ${wanted} does not work: ${error.message}.`);
  }
  code = wanted;
  history.replaceState(null, "", `#${code}`);
  localStorage.setItem(KEPT, code);
  show(standing);
}

function show({ done, total, next }) {
  const progress = h("div", { class: "row" }, h("progress", { class: "grow", max: total, value: done, "aria-label": "done" }), h("small", {}, `${done} of ${total}`));
  if (next) ask(next, progress);
  else main.replaceChildren(h("section", { class: "card welcome" }, h("h1", {}, "Thank you"), progress, h("p", {}, "That was all; your answers are kept. You can close this page.")));
}

/** A comparison. Voting begins when all videos were seen to the end. */
function ask(comparison, progress) {
  const state = { seen: false, sending: false };
  const videos = comparison.videos.map((name, index) => h("video", { src: `/api/videos/${name}`, preload: "auto", playsinline: true, "aria-label": `video ${LETTERS[index]}` }));
  videos.forEach((video) => { video.muted = true; });
  const next = h("button", { class: "main", disabled: true }, "Next");
  const form = h("form", { onsubmit: (event) => { event.preventDefault(); vote(comparison, form, state); }, onchange: () => refresh() },
    h("div", { class: "questions" }, study.questions.map((question) => choice(question, comparison.videos.length))), next);
  const again = h("button", { type: "button", onclick: () => replay(videos) }, "Play from the start");
  const refresh = () => {
    const open = study.questions.filter(({ name }) => !form.elements[name].value);
    next.disabled = !state.seen || open.length > 0 || state.sending;
    next.textContent = !state.seen ? "Look at the videos first" : open.length ? "Answer all questions" : "Next";
  };
  state.refresh = refresh;
  main.replaceChildren(progress,
    comparison.prompt ? h("section", { class: "card prompt" }, h("small", {}, "What it should show"), h("p", {}, comparison.prompt)) : "",
    h("div", { class: "watched" }, videos.map((video, index) => h("figure", { class: "card" }, video, h("figcaption", {}, LETTERS[index])))),
    h("div", { class: "row again" }, again), h("section", { class: "card" }, form, told));
  message(told, "");
  refresh();
  play(videos, () => { state.seen = true; refresh(); });
}

function choice({ name, words, more }, count) {
  const radio = (value, label) => h("label", {}, h("input", { type: "radio", name, value }), label);
  const labels = [...LETTERS.slice(0, count)].map((letter, index) => radio(index, letter));
  return h("fieldset", {}, h("legend", {}, words), h("small", {}, more),
    h("div", { class: "choices" }, labels, radio("tie", "None is better")));
}

/** All from the start together, again and again; `seen` when all have come to their end once. */
function play(videos, seen) {
  const ended = new Set();
  videos.forEach((video) => {
    video.onerror = () => message(told, "A video cannot be played here; try another browser, and your answers will be there.", true);
    video.onended = () => {
      ended.add(video);
      if (!video.isConnected || ended.size < videos.length) return;
      ended.clear();
      seen();
      replay(videos);
    };
  });
  Promise.all(videos.map((video) => new Promise((ready) => { video.readyState > 3 ? ready() : video.oncanplaythrough = ready; }))).then(() => replay(videos));
}

function replay(videos) {
  videos.forEach((video) => { video.currentTime = 0; });
  // a browser may want to be asked; a video that is gone by now is none of its business
  videos.forEach((video) => video.play().catch(({ name }) => { if (name === "NotAllowedError") message(told, "Press “Play from the start”."); }));
}

async function vote({ place }, form, state) {
  const choices = Object.fromEntries(study.questions.map(({ name }) => {
    const { value } = form.elements[name];
    return [name, value === "tie" ? null : +value];
  }));
  state.sending = true;
  state.refresh();
  try {
    show(await api(`raters/${code}/votes`, { json: { place, choices } }));
    scrollTo(0, 0);
  } catch (error) {
    state.sending = false;
    state.refresh();
    message(told, error.message, true);
    told.append(h("button", { type: "button", onclick: () => enter(code, true) }, "Go on from where you are"));
  }
}
