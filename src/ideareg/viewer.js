"use strict";
// Draws a registration over time. The page gives DATA; nothing is loaded from anywhere.
const DATA = JSON.parse(document.getElementById("data").textContent);
const get = (id) => document.getElementById(id);
const canvas = get("view"), slider = get("time"), play = get("play"), shown = get("shown");
const pen = canvas.getContext("2d");
const solid = DATA.dimension === 3;
const DURATION = 3000; // milliseconds from 0 to 1
const HOME = { turn: solid ? 0.5 : 0, tilt: solid ? 0.35 : 0, zoom: 1, across: 0, up: 0 };
let look = { ...HOME }, t = 0, clock = null, last = 0;

// The points at time t in 0..1, between the two nearest frames.
function at(frames, t) {
  const place = t * (frames.length - 1);
  const k = Math.min(Math.floor(place), frames.length - 2), share = place - k;
  const a = frames[k], b = frames[k + 1];
  return a.map((x, i) => x + share * (b[i] - x));
}

// Flat coordinates to [x, y, depth] on the canvas.
function project(flat) {
  const d = DATA.dimension, [cx, cy, cz] = DATA.centre, points = [];
  const ct = Math.cos(look.turn), st = Math.sin(look.turn);
  const cu = Math.cos(look.tilt), su = Math.sin(look.tilt);
  const scale = pixels(), w = canvas.clientWidth / 2, h = canvas.clientHeight / 2;
  for (let i = 0; i < flat.length; i += d) {
    let x = flat[i] - cx, y = flat[i + 1] - cy, z = 0;
    if (solid) {
      z = flat[i + 2] - cz;
      [x, z] = [ct * x + st * z, ct * z - st * x];
      [y, z] = [cu * y - su * z, cu * z + su * y];
    }
    points.push([w + scale * (x + look.across), h - scale * (y + look.up), z]);
  }
  return points;
}

function pixels() {
  const least = Math.min(canvas.clientWidth / DATA.extent[0], canvas.clientHeight / DATA.extent[1]);
  return 0.9 * look.zoom * least;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

function polyline(points, cell, close) {
  pen.beginPath();
  cell.forEach((k, i) => (i ? pen.lineTo(points[k][0], points[k][1])
    : pen.moveTo(points[k][0], points[k][1])));
  if (close) pen.closePath();
}

// Each shape gives pieces with a depth; the farthest are painted first.
function pieces(shape, found) {
  const points = project(shape.points), ink = colour(shape.ink);
  if (!shape.cells) {
    for (const p of points) {
      found.push([p[2], () => {
        pen.fillStyle = ink;
        pen.beginPath();
        pen.arc(p[0], p[1], shape.size, 0, 7);
        pen.fill();
      }]);
    }
    return;
  }
  for (const cell of shape.cells) {
    const corners = cell.map((k) => points[k]);
    const depth = corners.reduce((sum, p) => sum + p[2], 0) / corners.length;
    found.push([depth, () => {
      polyline(points, cell, cell.length === 3);
      if (cell.length === 3) {
        const [a, b, c] = corners;
        const area = Math.abs((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1]));
        const sides = Math.hypot(b[0] - a[0], b[1] - a[1], pixels() * (b[2] - a[2])) *
          Math.hypot(c[0] - a[0], c[1] - a[1], pixels() * (c[2] - a[2]));
        pen.globalAlpha = shape.alpha * (0.35 + 0.65 * (sides ? area / sides : 0));
        pen.fillStyle = ink;
        pen.fill();
      } else {
        pen.lineWidth = shape.size / 2;
        pen.strokeStyle = ink;
        pen.stroke();
      }
      pen.globalAlpha = 1;
    }]);
  }
}

function grid(flat) {
  const points = project(flat);
  pen.strokeStyle = colour("line");
  pen.lineWidth = 1;
  for (const line of DATA.grid.lines) {
    polyline(points, line, false);
    pen.stroke();
  }
}

// A bar of a round length, 1, 2 or 5 times a power of ten.
function ruler() {
  const wanted = canvas.clientWidth / 5 / pixels(), ten = 10 ** Math.floor(Math.log10(wanted));
  const length = ten * [5, 2, 1].find((k) => k * ten <= wanted);
  const y = canvas.clientHeight - 14;
  pen.strokeStyle = pen.fillStyle = colour("ink");
  pen.lineWidth = 2;
  pen.beginPath();
  pen.moveTo(14, y);
  pen.lineTo(14 + length * pixels(), y);
  pen.stroke();
  pen.font = "13px system-ui, sans-serif";
  pen.fillText(Number(length.toPrecision(1)) + (DATA.units ? " " + DATA.units : ""), 14, y - 8);
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(canvas.clientWidth * ratio);
  canvas.height = Math.round(canvas.clientHeight * ratio);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  const on = (name) => get(name) && get(name).checked, found = [];
  if (on("grid")) grid(at(DATA.grid.frames, t));
  const cells = DATA.cells;
  if (on("source")) pieces({ points: DATA.frames[0], cells, ink: "soft", size: 3, alpha: 0.35 }, found);
  if (on("target")) pieces({ ...DATA.target, ink: "orange", size: 4, alpha: 0.5 }, found);
  if (on("moving")) pieces({ points: at(DATA.frames, t), cells, ink: "blue", size: 4, alpha: 1 }, found);
  if (solid) found.sort((a, b) => a[0] - b[0]);
  for (const [, paint] of found) paint();
  ruler();
  shown.textContent = "t = " + t.toFixed(2);
  slider.setAttribute("aria-valuetext", shown.textContent);
}

function tick(now) {
  if (clock === null) return;
  t = Math.min(1, t + (now - last) / DURATION);
  last = now;
  slider.value = t;
  draw();
  if (t === 1) stop();
  else clock = requestAnimationFrame(tick);
}

function stop() {
  if (clock !== null) cancelAnimationFrame(clock);
  clock = null;
  play.textContent = "Play";
}

function start() {
  if (t === 1) t = 0;
  last = performance.now();
  play.textContent = "Pause";
  clock = requestAnimationFrame(tick);
}

// Turn a solid, move a plane.
function drag(dx, dy) {
  if (solid) {
    look.turn += dx / 150;
    look.tilt = Math.max(-1.57, Math.min(1.57, look.tilt + dy / 150));
  } else {
    look.across += dx / pixels();
    look.up -= dy / pixels();
  }
  draw();
}

function zoom(by) {
  look.zoom = Math.max(0.2, Math.min(50, look.zoom * by));
  draw();
}

const KEYS = {
  ArrowLeft: () => drag(-15, 0), ArrowRight: () => drag(15, 0),
  ArrowUp: () => drag(0, -15), ArrowDown: () => drag(0, 15),
  "+": () => zoom(1.15), "=": () => zoom(1.15), "-": () => zoom(1 / 1.15),
  Home: () => { look = { ...HOME }; draw(); },
  " ": () => play.click(),
};
canvas.addEventListener("keydown", (event) => {
  if (!KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  KEYS[event.key]();
});
canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
canvas.addEventListener("pointermove", (event) => {
  if (event.buttons & 1) drag(event.movementX, event.movementY);
});
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 500));
}, { passive: false });
slider.addEventListener("input", () => { stop(); t = Number(slider.value); draw(); });
play.addEventListener("click", () => (clock === null ? start() : stop()));
for (const box of document.querySelectorAll("input[type=checkbox]")) {
  box.addEventListener("change", draw);
}
window.addEventListener("resize", draw);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
