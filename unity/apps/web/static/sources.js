// Where a job's video comes from: a file, the camera, the bundled film, the simulated world, an earlier input.

import { api, h, message } from "/static/common.js";

/** Fills the page's places for the source; `id()` is the chosen input, `take(id)` chooses one; `model()` is the chosen model. */
export function chooseInput(options, { place, changed, model }) {
  let [chosen, turn] = [null, 0];
  const file = h("input", { type: "file", accept: "video/*,image/*", hidden: true, onchange: () => send(file.files[0], file.files[0]?.name) });
  const earlier = h("select", { "aria-label": "an earlier video", hidden: true, onchange: () => earlier.value && take(earlier.value) });
  const source = h("select", { "aria-label": "what the simulated scene shows" }, options.sources.map((name) => h("option", { value: name }, name.replaceAll("_", " "))));
  const button = (words, onclick, rest = {}) => h("button", { type: "button", onclick, ...rest }, words);
  const camera = button("Record", record);
  place("sources").append(
    button("Choose a file", () => file.click()), camera, button("Bundled film", () => take("people")),
    button("Simulated", simulate, { disabled: options.simulates !== null, title: options.simulates ?? "a clip of the simulated world, with its exact views" }),
    source, earlier, file);
  if (options.simulates !== null) source.hidden = true;

  const drop = place("drop");
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const [dropped] = event.dataTransfer.files;
    send(dropped, dropped?.name);
  });

  const say = (words, bad) => message(place("source-message"), words, bad);

  async function list() {
    const known = (await api("inputs")).filter(({ id }) => id !== "people");
    earlier.hidden = !known.length;
    earlier.replaceChildren(h("option", { value: "" }, "Earlier videos"), ...known.map(({ id, name }) => h("option", { value: id }, name)));
  }

  async function take(id) {
    const mine = (turn += 1);
    try {
      const about = await api(`inputs/${id}`);
      // an answer that was overtaken chooses nothing
      if (mine !== turn) return;
      show(about);
      say("");
    } catch {
      say("that video is not there any more; choose another", true);
    }
  }

  function show(about) {
    [chosen, turn] = [about, turn + 1];
    const video = h("video", { src: `/api/inputs/${about.id}/video`, controls: true, loop: true, playsinline: true, preload: "metadata", "aria-label": "the chosen video" });
    video.muted = true;
    const facts = about.frames ? `, ${about.frames} frames of ${about.size[1]}×${about.size[0]}` : "";
    place("chosen").replaceChildren(video, h("div", {}, h("small", {}, `${about.name}${facts}`)), ...(about.notes ?? []).map((note) => h("div", {}, h("small", {}, note))));
    place("drop-words").hidden = true;
    changed();
  }

  async function send(blob, name) {
    if (!blob) return;
    if (blob.size > options.most.megabytes * 1e6) {
      say(`the video has ${Math.round(blob.size / 1e6)} MB, more than ${options.most.megabytes}; cut it shorter`, true);
      return;
    }
    say(`Sending ${name} …`);
    try {
      show(await upload(blob, name, (share) => say(share < 1 ? `Sending ${name}, ${Math.round(100 * share)} % …` : `Reading ${name} …`)));
      say("");
      await list();
    } catch (error) {
      if (chosen) show(chosen);
      say(error.message, true);
    }
    file.value = "";
  }

  async function simulate() {
    say("Filming the simulated world, some seconds …");
    try {
      const seed = Math.floor(Math.random() * 1e6);
      // as the model sees it, so that its exact views lie beside the estimates
      const { frames, size } = model();
      const scene = { frames: Math.max(2, Math.min(129, frames.default)), size: Math.min(512, size.default[0]) };
      show(await api("inputs/simulated", { json: { source: source.value, seed, ...scene } }));
      say("");
      await list();
    } catch (error) {
      say(error.message, true);
    }
  }

  /** Record from the camera until the button is pressed again, ten seconds at most. */
  async function record() {
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
    } catch {
      say("the camera cannot be used; allow it for this page, or choose a file", true);
      return;
    }
    const view = h("video", { autoplay: true, playsinline: true, "aria-label": "the camera" });
    view.muted = true;
    view.srcObject = stream;
    place("chosen").replaceChildren(view);
    const recorder = new MediaRecorder(stream);
    const parts = [];
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.onstop = () => {
      stream.getTracks().forEach((track) => track.stop());
      camera.textContent = "Record";
      send(new Blob(parts, { type: recorder.mimeType }), "camera recording");
    };
    recorder.start();
    const stop = () => recorder.state === "recording" && recorder.stop();
    say("Recording, ten seconds at most; press Stop to end.");
    camera.textContent = "Stop";
    camera.addEventListener("click", (event) => { event.stopImmediatePropagation(); stop(); }, { capture: true, once: true });
    setTimeout(stop, 10000);
  }

  take("people");
  list();
  return { id: () => chosen?.id ?? null, take };
}

/** POST with progress, which fetch does not tell. */
function upload(blob, name, progress) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/api/inputs?name=${encodeURIComponent(name)}`);
    request.setRequestHeader("content-type", "application/octet-stream");
    request.upload.onprogress = (event) => progress(event.loaded / event.total);
    request.onload = () => {
      let told = {};
      try { told = JSON.parse(request.responseText); } catch { /* what is no JSON says nothing */ }
      if (request.status === 201) done(told);
      else failed(new Error(told.detail ?? `the program answered ${request.status}`));
    };
    request.onerror = () => failed(new Error("the video was not taken; look whether the program still runs, then send it again"));
    request.send(blob);
  });
}
