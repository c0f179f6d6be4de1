// Depth as a cloud of points: every pixel at its distance, in plain WebGL 2.

import { h } from "/static/common.js";

// tangent of half the width that the camera is taken to see: 55 degrees
const HALF = 0.52;
// the onlooker's distance from what is turned about, where the camera's is 1
const BACK = 1.7;

const VERTEX = `#version 300 es
precision highp float;
uniform highp sampler2D depth;
uniform sampler2D colour;
uniform ivec2 size;
uniform vec4 turn;       // cosine and sine of the two angles
uniform vec3 view;       // distance that is turned about, zoom, aspect of the canvas
out vec3 shade;
void main() {
  ivec2 pixel = ivec2(gl_VertexID % size.x, gl_VertexID / size.x);
  float z = texelFetch(depth, pixel, 0).r;
  shade = texelFetch(colour, pixel, 0).rgb;
  vec2 ray = (vec2(pixel) + 0.5 - vec2(size) / 2.0) / float(size.x) * 2.0 * ${HALF};
  vec3 at = vec3(ray * z, z - view.x) / view.x;
  at = vec3(turn.x * at.x + turn.y * at.z, at.y, turn.x * at.z - turn.y * at.x);
  at = vec3(at.x, turn.z * at.y - turn.w * at.z, turn.w * at.y + turn.z * at.z);
  float far = at.z + ${BACK.toFixed(2)};
  bool seen = z > 0.0 && z < 1e6 && far > 0.02;
  gl_Position = seen ? vec4(at.x / ${HALF} * view.y, -at.y / ${HALF} * view.y * view.z, far * 0.1 - 0.1, far) : vec4(2.0, 2.0, 2.0, 1.0);
  gl_PointSize = clamp(view.y * 1100.0 / float(size.x) / far, 1.5, 40.0);
}`;
const FRAGMENT = `#version 300 es
precision mediump float;
in vec3 shade;
out vec4 paint;
void main() { paint = vec4(shade, 1.0); }`;

/** A cloud in `place`, coloured by the frames; \`draw(frame)\` shows one. */
export function openCloud(place, frames, values) {
  const canvas = h("canvas", { width: 960, height: 600, tabindex: 0, "aria-label": "point cloud; drag or use the arrow keys to turn it, plus and minus to zoom" });
  place.replaceChildren(h("div", { class: "stage" }, canvas),
    h("small", {}, "Drag or use the arrow keys to turn, the wheel or + and − to come nearer. Depth is relative: the camera’s angle is taken as 55°."));
  const gl = canvas.getContext("webgl2", { preserveDrawingBuffer: true });
  if (!gl) {
    place.replaceChildren(h("p", { class: "message bad" }, "This browser shows no WebGL 2, which the point cloud needs."));
    return { draw() {} };
  }
  const [, height, width] = values.shape;
  const program = link(gl);
  const where = (name) => gl.getUniformLocation(program, name);
  const textures = [0, 1].map((unit) => texture(gl, unit));
  const middle = median(values.data.subarray(0, width * height));
  const look = { across: 0.3, down: 0.12, zoom: 1.3, frame: 0 };

  function draw(frame = look.frame) {
    look.frame = frame;
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0.043, 0.051, 0.063, 1);
    gl.enable(gl.DEPTH_TEST);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, textures[0]);
    const slice = values.data.subarray(frame * width * height, (frame + 1) * width * height);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.R32F, width, height, 0, gl.RED, gl.FLOAT, slice);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, textures[1]);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, frames[frame]);
    gl.uniform1i(where("depth"), 0);
    gl.uniform1i(where("colour"), 1);
    gl.uniform2i(where("size"), width, height);
    gl.uniform4f(where("turn"), Math.cos(look.across), Math.sin(look.across), Math.cos(look.down), Math.sin(look.down));
    gl.uniform3f(where("view"), middle, look.zoom, canvas.width / canvas.height);
    gl.drawArrays(gl.POINTS, 0, width * height);
  }

  function turn(across, down, closer = 1) {
    look.across += across;
    look.down = Math.max(-1.5, Math.min(1.5, look.down + down));
    look.zoom = Math.max(0.2, Math.min(6, look.zoom * closer));
    draw();
  }
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => event.buttons && turn(event.movementX / 150, event.movementY / 150));
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); turn(0, 0, Math.exp(-event.deltaY / 600)); }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1], "+": [0, 0, 1.1], "-": [0, 0, 0.9] }[event.key];
    if (by) { event.preventDefault(); turn(...by); }
  });
  return { draw, canvas };
}

function link(gl) {
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  gl.useProgram(program);
  return program;
}

function texture(gl, unit) {
  const made = gl.createTexture();
  gl.activeTexture(gl.TEXTURE0 + unit);
  gl.bindTexture(gl.TEXTURE_2D, made);
  // what is no power of two, and floats, have neither mipmaps nor mixing
  for (const [key, value] of [[gl.TEXTURE_MIN_FILTER, gl.NEAREST], [gl.TEXTURE_MAG_FILTER, gl.NEAREST], [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE], [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE]]) {
    gl.texParameteri(gl.TEXTURE_2D, key, value);
  }
  return made;
}

function median(depths) {
  const seen = Array.from(depths).filter((z) => Number.isFinite(z)).sort((a, b) => a - b);
  return seen.length ? seen[seen.length >> 1] : 1;
}
