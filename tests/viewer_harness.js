// A page without a browser: runs the script of a viewer on stand-ins, and prints what it painted.
"use strict";
const fs = require("fs");
const page = fs.readFileSync(process.argv[2], "utf8");
const [, data, script] = page.match(/type="application\/json">(.*?)<\/script>\s*<script>([^]*?)<\/script>/);
const listeners = {}, painted = [];
let path = [];
const pen = {
  setTransform() {}, clearRect() { painted.length = 0; }, beginPath() { path = []; },
  moveTo(...p) { path.push(p); }, lineTo(...p) { path.push(p); }, closePath() {},
  arc(x, y) { path.push([x, y]); },
  fill() { painted.push({ how: "fill", ink: pen.fillStyle, path }); },
  stroke() { painted.push({ how: "stroke", ink: pen.strokeStyle, path }); },
  fillText(text) { painted.push({ how: "text", text }); },
};
function element(id) {
  return {
    id, checked: true, value: 0, textContent: id === "data" ? data : "", clientWidth: 800,
    clientHeight: 600, getContext: () => pen, setAttribute() {}, click() { this.fire("click"); },
    addEventListener(name, act) { listeners[id + " " + name] = act; },
    fire(name, event) { listeners[id + " " + name](event); },
  };
}
const elements = {}, frames = [];
global.document = {
  getElementById: (id) => (page.includes(`id="${id}"`) ? (elements[id] ??= element(id)) : null),
  querySelectorAll: () => [], documentElement: {},
};
global.getComputedStyle = () => ({ getPropertyValue: (name) => name });
global.window = { addEventListener() {}, matchMedia: () => ({ addEventListener() {} }) };
global.requestAnimationFrame = (act) => frames.push(act);
global.cancelAnimationFrame = () => {};
(0, eval)(script);

const key = (name) => elements.view.fire("keydown", { key: name, preventDefault() {} });
const steps = [];
const record = (what) => steps.push({ what, painted: painted.slice(), shown: elements.shown.textContent });
record("start");
elements.time.value = 0.5;
elements.time.fire("input");
record("half");
elements.time.value = 1;
elements.time.fire("input");
record("end");
key("ArrowLeft");
record("turned");
key("Home");
record("home");
key("+");
record("near");
key("Home");
elements.play.click();
const begun = elements.play.textContent;
for (let k = 0; k < 100 && frames.length; k++) frames.shift()(performance.now() + 200 * (k + 1));
record("played");
console.log(JSON.stringify({ steps, begun, ended: elements.play.textContent }));
