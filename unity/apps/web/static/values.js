// The numbers behind a modality's video, read at a pixel.

const KINDS = { float32: Float32Array, uint8: Uint8Array };

/** The values of a job's modality, or null where there are none. */
export async function loadValues(job, modality) {
  const answer = await fetch(`/api/jobs/${job}/values/${modality}`);
  if (!answer.ok) return null;
  const about = JSON.parse(answer.headers.get("values"));
  return { ...about, data: new KINDS[about.dtype](await answer.arrayBuffer()) };
}

/** Words for the pixel (x, y) of a frame; empty where there is nothing to say. */
export function wordsAt(values, frame, x, y) {
  return READ[values.kind](values, frame, x, y);
}

function at({ shape, data }, frame, x, y) {
  const [t, height, width, channels] = shape;
  if (frame >= t || x < 0 || y < 0 || x >= width || y >= height) return null;
  const start = ((frame * height + y) * width + x) * channels;
  return data.subarray(start, start + channels);
}

const READ = {
  ratio(values, frame, x, y) {
    const found = at(values, frame, x, y);
    if (!found) return "";
    return Number.isFinite(found[0]) ? `depth ${found[0].toFixed(2)} ${values.unit}` : "nothing is seen (sky)";
  },
  vector(values, frame, x, y) {
    const found = at(values, frame, x, y);
    if (!found) return "";
    const [right, down] = found;
    return `motion ${Math.hypot(right, down).toFixed(2)} ${values.unit} (right ${right.toFixed(2)}, down ${down.toFixed(2)})`;
  },
  label(values, frame, x, y) {
    const found = at(values, frame, x, y);
    if (!found) return "";
    const name = values.labels[found[0]];
    return name ?? (found[0] ? `${values.unit} ${found[0]}` : "background");
  },
  joints({ shape, data, labels }, frame, x, y) {
    const [, people, joints] = shape;
    let best = null;
    for (let person = 0; person < people; person++) {
      for (let joint = 0; joint < joints; joint++) {
        const place = ((frame * people + person) * joints + joint) * 3;
        const distance = Math.hypot(data[place] - x, data[place + 1] - y);
        if (data[place + 2] > 0.5 && distance < 5 && (!best || distance < best.distance)) {
          best = { distance, words: `person ${person + 1}, ${labels[joint].replaceAll("_", " ")}` };
        }
      }
    }
    return best?.words ?? "";
  },
};
