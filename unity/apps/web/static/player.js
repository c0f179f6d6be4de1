// Clips in step: all side by side, two behind a divider, or one over the other; stepping, values, a point cloud.

import { h } from "/static/common.js";
import { openCloud } from "/static/cloud.js";
import { loadValues, wordsAt } from "/static/values.js";

const GAP = 1;

/** All frames of a video, in order; it is sought frame by frame, so that what is shown is exact. */
export async function loadFrames(url, count, fps) {
  const video = h("video", { preload: "auto", playsinline: true });
  video.muted = true;
  await new Promise((done, failed) => {
    video.onloadeddata = done;
    video.onerror = () => failed(new Error("this browser cannot play the video; download its file"));
    video.src = url;
  });
  const frames = [];
  for (let index = 0; index < count; index++) {
    await seek(video, index, fps);
    frames.push(await createImageBitmap(video));
  }
  video.removeAttribute("src");
  return frames;
}

/** Resolves when frame `index` is what the video shows: on a busy machine `seeked` alone can come before its picture. */
async function seek(video, index, fps) {
  let over = false;
  const shown = new Promise((done) => {
    const look = (_, { mediaTime }) => (over || Math.abs(mediaTime * fps - index) < 0.5 ? done() : video.requestVideoFrameCallback(look));
    video.requestVideoFrameCallback?.(look);
  });
  await new Promise((done) => {
    video.onseeked = done;
    // the middle of the frame's time
    video.currentTime = Math.min((index + 0.5) / fps, video.duration - 0.001);
  });
  // nothing is said of a frame that was there before, nor by a browser without the callback
  await Promise.race([shown, new Promise((done) => setTimeout(done, 200))]);
  over = true;
}

/** Clips of a job's results, each { name, url, count, fps, modality, valued }, without repeats. */
export function clipsOf(job, truth = []) {
  const clips = [];
  const several = Object.keys(job.results).length > 1;
  for (const modality of job.ask.modalities) {
    const record = job.results[modality];
    const about = { count: record.frames, fps: record.fps, job: job.id };
    const file = (name) => `/api/jobs/${job.id}/files/${modality}/${name}.mp4`;
    // estimates of one video share it
    const shared = record.task === "estimate" && clips.some((clip) => clip.name === "rgb");
    if (!shared) {
      const name = several && record.task !== "estimate" ? `rgb with ${modality}` : "rgb";
      clips.push({ ...about, name, url: file("rgb") });
    }
    clips.push({ ...about, name: modality, url: file(modality), modality, valued: record.valued });
  }
  return [...clips, ...truth];
}

/** A player in `place`; `clock` makes several move together. Resolves when all frames are there. */
export async function openPlayer(place, clips, clock = newClock()) {
  const status = h("p", { role: "status" }, "Loading the videos …");
  place.replaceChildren(status);
  for (const [index, clip] of clips.entries()) {
    status.textContent = `Loading the videos, ${index + 1} of ${clips.length} …`;
    clip.frames ??= await loadFrames(clip.url, clip.count, clip.fps);
  }
  return new Player(place, clips, clock);
}

/** What moves players: a frame number, and who wants to know of it. */
export function newClock() {
  return { frame: 0, playing: true, listeners: [], set(frame) { this.frame = frame; this.listeners.forEach((tell) => tell()); } };
}

class Player {
  constructor(place, clips, clock) {
    Object.assign(this, { place, clips, clock });
    this.count = Math.min(...clips.map((clip) => clip.frames.length));
    this.mode = "all";
    [this.left, this.right] = [clips[0], clips[1] ?? clips[0]];
    [this.divider, this.opacity, this.pointer] = [0.5, 0.6, null];
    this.build();
    clock.listeners.push(() => this.draw());
    this.draw();
    if (clock.listeners.length === 1) this.run();
  }

  build() {
    this.canvas = h("canvas", { tabindex: 0, "aria-label": "the videos; space plays, arrow keys step" });
    this.value = h("div", { class: "value", hidden: true });
    this.stage = h("div", { class: "stage" }, this.canvas, this.value);
    this.cloudPlace = h("div", { hidden: true });
    this.seek = h("input", { type: "range", min: 0, max: this.count - 1, value: 0, "aria-label": "frame",
      oninput: () => { this.pause(); this.clock.set(+this.seek.value); } });
    this.told = h("output");
    this.play = h("button", { type: "button", onclick: () => this.toggle() });
    const step = (by, words, sign) => h("button", { type: "button", "aria-label": words, title: words, onclick: () => this.step(by) }, sign);
    const choose = (which, words) => h("label", {}, words, h("select", { onchange: (event) => {
      this[which] = this.clips[event.target.value]; this.draw();
    } }, this.clips.map((clip, index) => h("option", { value: index, selected: clip === this[which] }, clip.name))));
    const modes = [["all", "Side by side"], ["divider", "Divider"], ["overlay", "Overlay"]];
    if (this.clips.some((clip) => clip.modality === "depth" && clip.valued)) modes.push(["cloud", "3-D"]);
    this.modes = h("div", { class: "row", role: "group", "aria-label": "how the videos are shown" }, modes.map(([mode, words]) =>
      h("button", { type: "button", "data-mode": mode, onclick: () => this.show(mode) }, words)));
    this.slider = h("input", { type: "range", min: 0, max: 100, "aria-label": "divider or opacity", oninput: () => {
      this[this.mode === "divider" ? "divider" : "opacity"] = this.slider.value / 100; this.draw();
    } });
    this.two = h("div", { class: "controls" }, choose("left", "left"), choose("right", "right"), this.slider);
    this.place.replaceChildren(h("div", { class: "player", onkeydown: (event) => this.key(event) },
      this.modes, this.two, this.stage, this.cloudPlace,
      h("div", { class: "controls" }, this.play, step(-1, "one frame back", "◀"), step(1, "one frame on", "▶"), this.seek, this.told)));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerdown", (event) => { this.canvas.setPointerCapture(event.pointerId); this.move(event, true); });
    this.canvas.addEventListener("pointerleave", () => { this.pointer = null; this.draw(); });
    this.show(this.mode);
  }

  async show(mode) {
    this.mode = mode;
    for (const button of this.modes.children) button.setAttribute("aria-pressed", button.dataset.mode === mode);
    this.two.hidden = mode !== "divider" && mode !== "overlay";
    this.two.children[0].firstChild.textContent = mode === "overlay" ? "below" : "left";
    this.two.children[1].firstChild.textContent = mode === "overlay" ? "above" : "right";
    this.slider.value = 100 * (mode === "divider" ? this.divider : this.opacity);
    this.stage.hidden = mode === "cloud";
    this.cloudPlace.hidden = mode !== "cloud";
    if (mode === "cloud" && !this.cloud) await this.openCloud();
    this.draw();
  }

  async openCloud() {
    const clip = this.clips.find((one) => one.modality === "depth" && one.valued);
    clip.values ??= await loadValues(clip.job, "depth");
    this.cloud = openCloud(this.cloudPlace, this.clips[0].frames, clip.values);
  }

  key(event) {
    if (event.target.matches("select, input:not([type=range])")) return;
    const done = { " ": () => this.toggle(), ArrowLeft: () => this.step(-1), ArrowRight: () => this.step(1),
      Home: () => this.jump(0), End: () => this.jump(this.count - 1) }[event.key];
    if (!done || (event.target !== this.canvas && event.key !== " ") || (event.key === " " && event.target.matches("button"))) return;
    event.preventDefault();
    done();
  }

  toggle() { this.clock.playing = !this.clock.playing; this.clock.set(this.clock.frame); }
  pause() { this.clock.playing = false; }
  jump(frame) { this.pause(); this.clock.set(frame); }
  step(by) { this.jump((this.clock.frame + by + this.count) % this.count); }

  /** Play at the clips' own rate, as long as they are on the page. */
  run() {
    let last = performance.now();
    const tick = (now) => {
      if (!this.canvas.isConnected) return;
      const due = 1000 / this.clips[0].fps;
      if (this.clock.playing && now - last >= due) {
        last = now - last > 4 * due ? now : last + due;
        this.clock.set((this.clock.frame + 1) % this.count);
      }
      if (!this.clock.playing) last = now;
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  /** Where the clips lie on the canvas, in their own pixels. */
  places() {
    const { width, height } = this.clips[0].frames[0];
    if (this.mode !== "all") return [{ clip: this.left, x: 0, y: 0, width, height }];
    const top = this.clips.filter((clip) => !clip.below);
    const fits = width > height ? 3 : 4;
    const columns = top.length <= fits || top.length < this.clips.length ? top.length : Math.ceil(top.length / 2);
    const lines = Math.ceil(top.length / columns);
    const at = (column, line) => ({ width, height, x: column * (width + GAP), y: line * (height + GAP) });
    return this.clips.map((clip) => {
      const place = top.findIndex((one) => one === clip || one.name === clip.below);
      return { clip, ...at(place % columns, clip.below ? lines : Math.floor(place / columns)) };
    });
  }

  draw() {
    const frame = Math.min(this.clock.frame, this.count - 1);
    this.play.textContent = this.clock.playing ? "Pause" : "Play";
    this.seek.value = frame;
    this.told.textContent = `frame ${frame + 1} of ${this.count}`;
    if (this.mode === "cloud") { this.cloud?.draw(frame); return; }
    const places = this.places();
    const wide = Math.max(...places.map((place) => place.x + place.width));
    const high = Math.max(...places.map((place) => place.y + place.height));
    // whole multiples keep every pixel as it is, and labels readable
    const zoom = this.zoom = Math.max(1, Math.ceil(1000 / wide));
    if (this.canvas.width !== wide * zoom || this.canvas.height !== high * zoom) {
      [this.canvas.width, this.canvas.height] = [wide * zoom, high * zoom];
      this.canvas.style.maxHeight = "70vh";
      this.canvas.style.objectFit = "contain";
    }
    const pen = this.canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const paint = (clip, x, y, width, height) => pen.drawImage(clip.frames[frame], x * zoom, y * zoom, width * zoom, height * zoom);
    for (const { clip, x, y, width, height } of places) {
      paint(clip, x, y, width, height);
      if (this.mode === "all") this.label(pen, clip.name, x * zoom, y * zoom, width * zoom);
    }
    const [{ width, height }] = places;
    if (this.mode === "overlay") {
      pen.globalAlpha = this.opacity;
      paint(this.right, 0, 0, width, height);
      pen.globalAlpha = 1;
    }
    if (this.mode === "divider") this.drawDivider(pen, paint, width, height);
    this.readValue(frame);
  }

  drawDivider(pen, paint, width, height) {
    const x = this.divider * width * this.zoom;
    pen.save();
    pen.beginPath();
    pen.rect(x, 0, this.canvas.width - x, this.canvas.height);
    pen.clip();
    paint(this.right, 0, 0, width, height);
    pen.restore();
    pen.fillStyle = "#fff";
    pen.fillRect(x - 1.5, 0, 3, this.canvas.height);
    pen.beginPath();
    pen.arc(x, this.canvas.height / 2, 11, 0, 7);
    pen.fill();
    this.label(pen, this.left.name, 0, 0, this.canvas.width / 2);
    this.label(pen, this.right.name, this.canvas.width, 0, this.canvas.width / 2, true);
  }

  /** A name at a corner, as large on the screen as other words, and no wider than its clip. */
  label(pen, words, x, y, room, right = false) {
    const unit = this.canvas.width / (this.canvas.clientWidth || this.canvas.width);
    pen.font = `600 ${13 * unit}px system-ui, "Segoe UI", "DejaVu Sans", sans-serif`;
    const most = room - 18 * unit;
    const wide = Math.min(most, pen.measureText(words).width);
    const left = right ? x - wide - 13 * unit : x + 5 * unit;
    pen.fillStyle = "#000a";
    pen.fillRect(left, y + 5 * unit, wide + 8 * unit, 20 * unit);
    pen.fillStyle = "#fff";
    pen.fillText(words, left + 4 * unit, y + 19.5 * unit, most);
  }

  move(event, pressed = event.buttons === 1) {
    const box = this.canvas.getBoundingClientRect();
    // the picture is centred in the box where its height is bounded
    const scale = Math.min(box.width / this.canvas.width, box.height / this.canvas.height);
    const [left, top] = [(box.width - this.canvas.width * scale) / 2, (box.height - this.canvas.height * scale) / 2];
    const [x, y] = [(event.clientX - box.left - left) / scale / this.zoom, (event.clientY - box.top - top) / scale / this.zoom];
    this.pointer = { x, y };
    if (this.mode === "divider" && pressed) {
      this.divider = Math.max(0, Math.min(1, (x * this.zoom) / this.canvas.width));
      this.slider.value = 100 * this.divider;
    }
    this.draw();
  }

  /** Words for the pixel below the pointer, of the clip that lies there. */
  readValue(frame) {
    this.value.hidden = true;
    if (!this.pointer) return;
    const { x, y } = this.pointer;
    const under = this.places().find((place) => x >= place.x && y >= place.y && x < place.x + place.width && y < place.y + place.height);
    if (!under) return;
    let clip = under.clip;
    if (this.mode === "overlay" || (this.mode === "divider" && x > this.divider * under.width)) clip = this.right;
    if (!clip.valued) return;
    if (clip.values === undefined) {
      clip.values = null;
      loadValues(clip.job, clip.modality).then((values) => { clip.values = values; this.draw(); });
    }
    if (!clip.values) return;
    const [column, line] = [Math.floor(x - under.x), Math.floor(y - under.y)];
    const words = wordsAt(clip.values, frame, column, line);
    this.value.textContent = `${clip.name} (${column}, ${line})${words ? `: ${words}` : ""}`;
    this.value.hidden = false;
  }
}
