// One volume in one canvas, by NiiVue: preview first, planes, windows, measuring, boxes. Everything in mm, RAS+.

import { make } from "../common.js";
import { ask, caseLink } from "./server.js";

export const WINDOWS = { lung: [-600, 1500], mediastinum: [40, 400], bone: [400, 1800], liver: [60, 160] };
export const VIEWS = { all: 3, axial: 0, coronal: 1, sagittal: 2, "3-D": 4 };
// All planes: the axial one large, as readers hang it; beside it the others, or below it where the pane is narrow.
const LARGE = 0.62;
const SMALL = 1 - LARGE;
const WIDE = [[0, [0, 0, LARGE, 1]], [1, [LARGE, 0, SMALL, 0.5]], [2, [LARGE, 0.5, SMALL, 0.5]]];
const NARROW = [[0, [0, 0, 1, LARGE]], [1, [0, LARGE, 0.5, SMALL]], [2, [0.5, LARGE, 0.5, SMALL]]];
const DRAG = { look: 8, measure: 2, box: 5 };
const AXES = [2, 1, 0];
// Of NiiVue's colours for drawings: red and green.
const [EVIDENCE, DRAWN] = [1, 2];

let fetched;

// 2 MB that only a case needs: fetched once, when the first one is opened.
function fetchNiivue() {
  fetched ||= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "/web/vendor/niivue/niivue.umd.js";
    script.onload = () => resolve(window.niivue.Niivue);
    script.onerror = () => { fetched = null; reject(new Error("the viewer did not load; open the case again")); };
    document.head.append(script);
  });
  return fetched;
}

export class Viewer {
  // told: onPlace(text), onBox(box or null), onTrouble(error).
  constructor(place, told) {
    [this.place, this.told, this.window, this.view, this.grid, this.boxes, this.heat] = [place, told, "lung", "all", null, {}, null];
    this.canvas = make("canvas");
    place.tabIndex = 0;
    place.setAttribute("role", "group");
    place.setAttribute("aria-label", "CT volume: arrow keys scroll, 1 to 4 change the window");
    // NiiVue gives keys of its own to a canvas that has the focus; here the page's keys count everywhere.
    this.canvas.addEventListener("focus", () => place.focus({ preventScroll: true }));
    this.state = make("p", "", "viewer-state");
    this.state.setAttribute("role", "status");
    place.append(this.canvas, this.state);
  }

  async load(id, grid, { full = false } = {}) {
    [this.id, this.grid] = [id, grid];
    this.state.textContent = full ? "loading full resolution …" : "loading the volume …";
    try {
      if (!this.nv) await this.start();
      if (this.isGone) return;
      // A refused volume would come as an odd file; the server's own words are better.
      const volume = full ? { url: caseLink(id, "/volume"), name: "volume.nii" } : { url: caseLink(id, "/volume?preview=1"), name: "preview.nii.gz" };
      await this.nv.loadVolumes([volume]);
      if (this.isGone) return;
      this.isFull = full;
      this.setWindow(this.window);
      this.setView(this.view);
      await this.setHeat(this.heat);
      this.paint();
      this.state.textContent = "";
      this.place.dataset.ready = full ? "full" : "preview";
    } catch (error) {
      const said = await ask(caseLink(id)).then(() => error.message, (refusal) => refusal.message);
      this.state.textContent = `The volume cannot be shown: ${said}`;
      this.told.onTrouble?.(error);
    }
  }

  async start() {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser has no WebGL 2");
    const Niivue = await fetchNiivue();
    const nv = new Niivue({
      isRadiologicalConvention: true, sagittalNoseLeft: true, dragAndDropEnabled: false, logLevel: "error", loadingText: "",
      crosshairColor: [0.35, 0.7, 1, 0.7], crosshairWidth: 2, crosshairWidthUnit: "mm", crosshairGap: 12, backColor: [0, 0, 0, 1], fontColor: [0.75, 0.82, 0.88, 1], show3Dcrosshair: true,
      measureLineColor: [1, 0.82, 0.48, 1], measureTextColor: [1, 0.82, 0.48, 1], rulerColor: [1, 0.82, 0.48, 0.9], rulerWidth: 2,
      selectionBoxColor: [0.55, 0.77, 1, 0.35], multiplanarShowRender: 0, viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
    });
    nv.onLocationChange = (data) => this.locate(data);
    nv.onDragRelease = (drag) => this.drag(drag);
    await nv.attachToCanvas(this.canvas, false);
    this.canvas.tabIndex = -1;
    this.nv = nv;
    nv.setDrawOpacity(0.55);
  }

  locate({ mm, vox, values }) {
    const hu = values?.[0]?.value;
    this.told.onPlace?.(`R ${mm[0].toFixed(0)}  A ${mm[1].toFixed(0)}  S ${mm[2].toFixed(0)} mm · slice ${vox[2]}${Number.isFinite(hu) ? ` · ${Math.round(hu)} HU` : ""}`);
  }

  setWindow(name) {
    this.window = name;
    const volume = this.nv?.volumes[0];
    if (!volume) return;
    const [centre, width] = WINDOWS[name];
    [volume.cal_min, volume.cal_max] = [centre - width / 2, centre + width / 2];
    this.nv.updateGLVolume();
  }

  setView(name) {
    this.view = name;
    if (!this.nv) return;
    const layout = this.canvas.clientWidth > 1.1 * this.canvas.clientHeight ? WIDE : NARROW;
    this.nv.customLayout = name === "all" ? layout.map(([sliceType, position]) => ({ sliceType, position })) : null;
    this.nv.setSliceType(VIEWS[name]);
  }

  setTool(name) {
    if (!this.nv) return;
    this.nv.opts.dragModePrimary = DRAG[name];
    this.canvas.classList.toggle("drawing", name !== "look");
  }

  clearMeasures() { this.nv?.clearAllMeasurements(); this.nv?.drawScene(); }

  // Moves through the slices of the view; all planes: axial.
  step(slices) {
    if (!this.nv?.volumes.length) return;
    const axis = { coronal: 1, sagittal: 0 }[this.view] ?? 2;
    this.nv.moveCrosshairInVox(...[0, 1, 2].map((one) => (one === axis ? slices : 0)));
  }

  goTo(mm) {
    if (!this.nv?.volumes.length) return;
    this.nv.scene.crosshairPos = this.nv.mm2frac(mm);
    this.nv.drawScene();
  }

  centreOf(box) { return box.lo_mm.map((low, axis) => (low + box.hi_mm[axis]) / 2); }

  // A box dragged in a plane; as deep as it is wide on average, around the slice.
  drag({ mmStart, mmEnd, axCorSag }) {
    if (this.nv.opts.dragModePrimary !== DRAG.box || axCorSag < 0 || axCorSag > 2) return;
    const lo = [0, 1, 2].map((axis) => Math.min(mmStart[axis], mmEnd[axis]));
    const hi = [0, 1, 2].map((axis) => Math.max(mmStart[axis], mmEnd[axis]));
    const depth = AXES[axCorSag];
    const sides = [0, 1, 2].filter((axis) => axis !== depth).map((axis) => hi[axis] - lo[axis]);
    if (Math.min(...sides) < 3) return;
    const half = (sides[0] + sides[1]) / 4;
    [lo[depth], hi[depth]] = [lo[depth] - half, hi[depth] + half];
    this.setBox("drawn", { lo_mm: lo, hi_mm: hi });
    this.told.onBox?.(this.boxes.drawn);
  }

  // name: "drawn" or "evidence"; null takes it away.
  setBox(name, box) {
    this.boxes = { ...this.boxes, [name]: box };
    this.paint();
  }

  // Lays a heat map over the volume, from half of its height on; null takes it away.
  async setHeat(url) {
    this.heat = url;
    if (!this.nv?.volumes.length) return;
    for (const old of this.nv.volumes.slice(1)) this.nv.removeVolume(old);
    if (url) await this.nv.addVolumesFromUrl([{ url, name: "heat.nii.gz", colormap: "warm", opacity: 0.45, cal_min: 128, cal_max: 255 }]);
    // Another one may have been asked for meanwhile.
    if (this.heat !== url && !this.isGone) await this.setHeat(this.heat);
  }

  // Boxes are drawn as shells of voxels, so that they are there in every plane and in 3-D.
  paint() {
    if (!this.nv?.volumes.length) return;
    const shown = Object.entries(this.boxes).filter(([, box]) => box);
    if (!shown.length && !this.nv.drawBitmap) return;
    this.nv.createEmptyDrawing();
    for (const [name, box] of shown) this.shell(box, name === "drawn" ? DRAWN : EVIDENCE);
    this.nv.refreshDrawing(true);
  }

  shell(box, colour) {
    const [, nx, ny, nz] = this.nv.back.dims;
    const size = [nx, ny, nz];
    const voxel = (mm) => [...this.nv.mm2frac(mm)].map((share, axis) => Math.max(0, Math.min(size[axis] - 1, Math.floor(share * size[axis]))));
    const [from, to] = [voxel(box.lo_mm), voxel(box.hi_mm)];
    const bitmap = this.nv.drawBitmap;
    for (let z = from[2]; z <= to[2]; z++) for (let y = from[1]; y <= to[1]; y++) for (let x = from[0]; x <= to[0]; x++) {
      const edges = [[x, 0], [y, 1], [z, 2]].filter(([at, axis]) => at === from[axis] || at === to[axis]).length;
      if (edges) bitmap[x + nx * (y + ny * z)] = colour;
    }
  }

  link(others) { this.nv?.broadcastTo(others.map((one) => one.nv).filter(Boolean), { "2d": true, "3d": true }); }

  close() {
    this.isGone = true;
    this.nv?.gl?.getExtension("WEBGL_lose_context")?.loseContext();
    this.place.replaceChildren();
  }
}
