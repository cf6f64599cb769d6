// Three planes of one volume, cut in the browser: radiological convention, so the patient's right is on the left.

import { make } from "./common.js";

// Voxels are ordered x, y, z in RAS+, x fastest. Each plane stands across one axis and shows two others, both reversed:
// the patient's right on the left, front or head at the top; in the sagittal plane the front on the left.
const PLANES = [
  { name: "Axial", axis: 2, across: 0, down: 1, marks: ["R", "L"] },
  { name: "Coronal", axis: 1, across: 0, down: 2, marks: ["R", "L"] },
  { name: "Sagittal", axis: 0, across: 1, down: 2, marks: ["A", "P"] },
];
const MARK = "#8ec5ff";
// What lies around a volume that is no cube looks like the air in it.
const AIR_HU = -1000;

export class Planes {
  constructor(root, windowsAt) {
    this.voxels = null;
    this.active = 0;
    this.windowsAt = windowsAt;
    this.views = PLANES.map((plane, place) => this.#view(root, plane, place));
    new ResizeObserver(() => this.draw()).observe(root);
  }

  setWindows(windows) {
    this.windows = windows;
    this.windowsAt.replaceChildren(...Object.keys(windows).map((name, place) => {
      const button = make("button");
      button.append(make("kbd", String(place + 1)), ` ${name}`);
      button.addEventListener("click", () => this.setWindow(name));
      return button;
    }));
    this.setWindow(this.window in windows ? this.window : Object.keys(windows)[0]);
  }

  setWindow(name) {
    this.window = name;
    const [centre, width] = this.windows[name];
    this.grey = Uint8ClampedArray.from({ length: 65536 }, (_, hu) => ((hu - 32768 - centre) / width + 0.5) * 255);
    Object.keys(this.windows).forEach((known, place) => this.windowsAt.children[place].setAttribute("aria-pressed", String(known === name)));
    this.draw();
  }

  chooseWindow(place) {
    const name = Object.keys(this.windows)[place];
    if (name) this.setWindow(name);
  }

  // Shows a case; where there is no volume, `remark` says so.
  async load(caseId, remark) {
    this.voxels = null;
    this.caseId = caseId;
    this.draw();
    const answer = await fetch(`cases/${caseId}/voxels`).catch(() => ({ ok: false }));
    const voxels = answer.ok ? new Int16Array(await answer.arrayBuffer()) : null;
    if (this.caseId !== caseId) return;
    remark.hidden = answer.ok;
    remark.textContent = answer.ok ? "" : "The volume has gone or is damaged; no picture.";
    if (!voxels) return;
    const { shape, spacing_mm: spacing, start: at } = JSON.parse(answer.headers.get("X-Volume"));
    Object.assign(this, { voxels, shape, spacing, at });
    this.draw();
  }

  scroll(by) {
    this.#move(PLANES[this.active].axis, by);
  }

  turn(by) {
    this.activate((this.active + by + PLANES.length) % PLANES.length);
    this.views[this.active].canvas.focus();
  }

  activate(place) {
    this.active = place;
    this.views.forEach((view, other) => view.figure.classList.toggle("active", other === place));
  }

  draw() {
    this.views.forEach((view, place) => this.#draw(view, PLANES[place]));
  }

  #move(axis, by) {
    if (!this.voxels) return;
    this.at[axis] = Math.max(0, Math.min(this.shape[axis] - 1, this.at[axis] + by));
    this.draw();
  }

  #view(root, plane, place) {
    const figure = make("figure", "", plane.name.toLowerCase());
    const caption = make("figcaption");
    const canvas = make("canvas");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "slider");
    canvas.setAttribute("aria-label", `${plane.name} plane`);
    canvas.addEventListener("focus", () => this.activate(place));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.activate(place);
      this.#move(plane.axis, event.deltaY > 0 ? -1 : 1);
    }, { passive: false });
    const point = (event) => { if (event.buttons & 1) this.#point(plane, canvas, event); };
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); point(event); });
    canvas.addEventListener("pointermove", point);
    figure.append(canvas, caption);
    figure.classList.toggle("active", place === this.active);
    root.append(figure);
    return { figure, caption, canvas, cut: document.createElement("canvas") };
  }

  // Where a plane lies in its square: true proportions, in the middle.
  #frame(plane, side) {
    const width = this.shape[plane.across] * this.spacing[plane.across];
    const height = this.shape[plane.down] * this.spacing[plane.down];
    const scale = side / Math.max(width, height);
    return { left: (side - width * scale) / 2, top: (side - height * scale) / 2, width: width * scale, height: height * scale };
  }

  #point(plane, canvas, event) {
    if (!this.voxels) return;
    const frame = this.#frame(plane, canvas.clientWidth);
    const place = (share, axis) => Math.max(0, Math.min(this.shape[axis] - 1, Math.floor((1 - share) * this.shape[axis])));
    this.at[plane.across] = place((event.offsetX - frame.left) / frame.width, plane.across);
    this.at[plane.down] = place((event.offsetY - frame.top) / frame.height, plane.down);
    this.draw();
  }

  #draw({ canvas, caption, cut }, plane) {
    const side = Math.round(canvas.clientWidth * (window.devicePixelRatio || 1));
    if (!side) return;
    if (canvas.width !== side) canvas.width = canvas.height = side;
    const board = canvas.getContext("2d");
    const air = this.voxels && this.grey ? this.grey[AIR_HU + 32768] : 0;
    board.fillStyle = `rgb(${air}, ${air}, ${air})`;
    board.fillRect(0, 0, side, side);
    caption.textContent = plane.name;
    if (!this.voxels || !this.grey) return;
    this.#cut(cut, plane);
    const frame = this.#frame(plane, side);
    board.imageSmoothingQuality = "high";
    board.drawImage(cut, frame.left, frame.top, frame.width, frame.height);
    this.#mark(board, plane, frame, side);
    const [slice, slices] = [this.at[plane.axis] + 1, this.shape[plane.axis]];
    caption.textContent = `${plane.name} · ${slice} of ${slices}`;
    for (const [name, value] of [["min", 1], ["max", slices], ["now", slice], ["text", `slice ${slice} of ${slices}`]]) canvas.setAttribute(`aria-value${name}`, value);
  }

  #cut(cut, { axis, across, down }) {
    const strides = [1, this.shape[0], this.shape[0] * this.shape[1]];
    const [columns, rows] = [this.shape[across], this.shape[down]];
    [cut.width, cut.height] = [columns, rows];
    const picture = new ImageData(columns, rows);
    const pixels = new Uint32Array(picture.data.buffer);
    let place = 0;
    for (let row = rows - 1; row >= 0; row--) {
      let voxel = this.at[axis] * strides[axis] + row * strides[down] + (columns - 1) * strides[across];
      for (let column = 0; column < columns; column++, voxel -= strides[across]) {
        pixels[place++] = 0xff000000 | (this.grey[this.voxels[voxel] + 32768] * 0x010101);
      }
    }
    cut.getContext("2d").putImageData(picture, 0, 0);
  }

  // Sides by letters; small ticks at the edges tell where the two other planes cut.
  #mark(board, plane, frame, side) {
    const size = Math.max(12, side / 24);
    board.font = `600 ${size}px system-ui, sans-serif`;
    board.textBaseline = "middle";
    board.lineWidth = size / 5;
    board.strokeStyle = "#000";
    board.fillStyle = MARK;
    for (const [text, x, align] of [[plane.marks[0], size / 2, "left"], [plane.marks[1], side - size / 2, "right"]]) {
      board.textAlign = align;
      board.strokeText(text, x, side / 2);
      board.fillText(text, x, side / 2);
    }
    const x = frame.left + (1 - (this.at[plane.across] + 0.5) / this.shape[plane.across]) * frame.width;
    const y = frame.top + (1 - (this.at[plane.down] + 0.5) / this.shape[plane.down]) * frame.height;
    const [long, thick] = [side / 40, Math.max(1, side / 300)];
    board.fillRect(x - thick / 2, 0, thick, long);
    board.fillRect(x - thick / 2, side - long, thick, long);
    board.fillRect(0, y - thick / 2, long, thick);
    board.fillRect(side - long, y - thick / 2, long, thick);
  }
}

export const planeKeys = (planes) => ({
  1: () => planes.chooseWindow(0),
  2: () => planes.chooseWindow(1),
  3: () => planes.chooseWindow(2),
  ArrowUp: (event) => planes.scroll(event.shiftKey ? 5 : 1),
  ArrowDown: (event) => planes.scroll(event.shiftKey ? -5 : -1),
  ArrowLeft: () => planes.turn(-1),
  ArrowRight: () => planes.turn(1),
});
