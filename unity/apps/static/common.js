// What all pages share: elements, the API, times, and the line at the top.

/** An element; properties that begin with "on" listen, the others are attributes, false ones are left out. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null));
  return element;
}

/** JSON of the API; throws an Error whose message is the API's sentence. */
export async function api(path, options = {}) {
  if (options.json !== undefined) {
    options.method = "POST";
    options.headers = { "content-type": "application/json" };
    options.body = JSON.stringify(options.json);
  }
  let answer;
  try {
    answer = await fetch(`/api/${path}`, options);
  } catch {
    throw new Error("the program does not answer; look whether it still runs, then try again");
  }
  if (answer.status === 204) return null;
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.detail ?? `the program answered ${answer.status}`);
  return told;
}

/** Call `tell` with the state of each job that changes, of one job until it has ended; `opened` at every start. */
export function follow(tell, job, opened) {
  let [source, over] = [null, false];
  const open = () => {
    source = new EventSource(job ? `/api/events?job=${job}` : "/api/events");
    source.onopen = opened;
    source.onmessage = (event) => {
      const status = JSON.parse(event.data);
      over = Boolean(job) && hasEnded(status);
      if (over) source.close();
      tell(status);
    };
  };
  // browsers give a host six connections, and a page that nobody sees needs none
  document.addEventListener("visibilitychange", () => {
    source.close();
    if (!document.hidden && !over) open();
  });
  open();
}

export const hasEnded = (job) => ["done", "failed", "cancelled"].includes(job.state);

export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

export function ago(seconds) {
  const past = Date.now() / 1000 - seconds;
  return past < 10 ? "just now" : past < 86400 ? `${duration(past)} ago` : new Date(seconds * 1000).toLocaleDateString();
}

export function bytes(count) {
  return count < 1e6 ? `${Math.max(1, Math.round(count / 1e3))} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

/** What a job is, in a few words. */
export function titled(job) {
  const { task, modalities, prompt } = job.ask;
  const words = { estimate: "Estimate", control: "Control by", joint: "Video and" }[task] ?? task;
  return `${words} ${modalities.join(", ")}${prompt && task !== "estimate" ? ` – “${prompt.slice(0, 60)}”` : ""}`;
}

/** Where a job stands, in words. */
export function standing(job) {
  if (job.state === "queued") return job.waiting ? `waits for ${job.waiting} other${job.waiting > 1 ? "s" : ""}` : "is next";
  if (job.state === "running" && job.progress) {
    const left = job.progress.left != null ? `, about ${duration(job.progress.left)} left` : "";
    return job.progress.words + left;
  }
  if (job.state === "failed") return job.error;
  return job.state;
}

export function message(place, words, bad = false) {
  place.replaceChildren(words ? h("p", { class: bad ? "message bad" : "message", role: bad ? "alert" : "status" }, words) : "");
}

const PAGES = [["/", "Try it"], ["/compare", "Compare"], ["/training", "Training", "run"], ["/dataset", "Dataset", "data"], ["/api", "API"]];

/** The line at the top; pages that this program was not asked to show are left out. */
export async function head() {
  const nav = h("nav", { "aria-label": "pages" });
  document.body.prepend(
    h("a", { class: "skip", href: "#main" }, "skip to the content"),
    h("header", { class: "site" }, h("b", {}, h("a", { href: "/" }, "unity-video")), nav),
  );
  const show = (pages) => nav.replaceChildren(
    ...PAGES.filter(([, , needs]) => !needs || pages[needs]).map(([href, words]) =>
      h("a", { href, "aria-current": location.pathname === href ? "page" : null }, words)),
  );
  show({});
  const options = await api("options");
  show(options.pages);
  return options;
}
