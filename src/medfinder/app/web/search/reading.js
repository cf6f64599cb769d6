// The images of a case, and of another one beside it: tools, windows, views, evidence, a box to search with.

import { element, make, tell } from "../common.js";
import { factsOf } from "./cards.js";
import { ask, caseLink } from "./server.js";
import { Viewer, VIEWS, WINDOWS } from "./viewer.js";

const MOST_PREVIEW = 256;
const TOOLS = { look: "Look", measure: "Measure", box: "Box" };
const TOOL_KEYS = { measure: "r", box: "e" };
const VIEW_KEYS = { all: "x", axial: "a", coronal: "o", sagittal: "s", "3-D": "d" };

export class Reading {
  // acts.region({caseId, box}): search for the like of a box.
  constructor(place, acts) {
    [this.acts, this.viewers, this.isLinked, this.tool] = [acts, [], true, "look"];
    this.bar = make("div", "", "bar");
    this.bar.setAttribute("role", "toolbar");
    this.bar.setAttribute("aria-label", "Viewer");
    this.stage = make("div", "", "stage");
    this.under = make("p", "", "under");
    place.append(this.bar, this.stage, this.under);
  }

  async show(info, beside, evidence) {
    [this.info, this.beside, this.evidence, this.box] = [info, beside, evidence, null];
    this.drawBar();
    const cases = [info, beside].filter(Boolean);
    this.stage.classList.toggle("pair", cases.length > 1);
    this.viewers = cases.map((one, place) => this.pane(one, place));
    // One after the other: each takes the whole machine while it loads.
    for (const [place, viewer] of this.viewers.entries()) if (viewer) await viewer.load(cases[place].case_id, cases[place].grid);
    if (this.isGone) return;
    this.link();
    if (evidence) this.setEvidence(true);
  }

  pane(info, place) {
    const pane = make("figure", "", "pane");
    pane.append(make("figcaption", `${place ? "Beside: " : ""}${factsOf(info)}`));
    this.stage.append(pane);
    if (!info.links.volume) { pane.append(make("p", "The volume of this case has gone from the server.", "viewer-state")); return null; }
    const screen = make("div", "", "screen");
    pane.append(screen);
    return new Viewer(screen, { onPlace: (text) => { this.under.textContent = text; }, onBox: place ? null : (box) => this.setBox(box) });
  }

  get first() { return this.viewers[0]; }

  each(act) { for (const viewer of this.viewers) if (viewer) act(viewer); }

  group(label, names, current, choose, keys = {}) {
    const group = make("span", "", "choices");
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", label);
    group.append(...Object.entries(names).map(([name, text]) => {
      const button = make("button", text);
      if (keys[name]) { button.title = `key ${keys[name]}`; button.setAttribute("aria-keyshortcuts", keys[name]); }
      button.setAttribute("aria-pressed", String(name === current));
      button.addEventListener("click", () => choose(name));
      return button;
    }));
    return group;
  }

  drawBar() {
    const same = (names) => Object.fromEntries(Object.keys(names).map((name) => [name, name]));
    const window = this.first?.window || "lung";
    const view = this.first?.view || "all";
    const windowKeys = Object.fromEntries(Object.keys(WINDOWS).map((name, at) => [name, String(at + 1)]));
    this.bar.replaceChildren(
      this.group("Window", same(WINDOWS), window, (name) => this.setWindow(name), windowKeys),
      this.group("Planes", same(VIEWS), view, (name) => this.setView(name), VIEW_KEYS),
      this.group("Tool", TOOLS, this.tool, (name) => this.setTool(name), TOOL_KEYS),
      ...this.extras(),
    );
  }

  extras() {
    const button = (id, text, act, pressed) => {
      const made = make("button", text);
      made.id = id;
      if (pressed !== undefined) made.setAttribute("aria-pressed", String(pressed));
      made.addEventListener("click", act);
      return made;
    };
    const found = [];
    if (this.evidence) found.push(button("evidence", `Evidence: ${this.evidence.asked}`, () => this.setEvidence(!this.isEvidenceShown), Boolean(this.isEvidenceShown)));
    if (this.beside) found.push(button("linked", "Scroll together", () => { this.isLinked = !this.isLinked; this.link(); this.drawBar(); }, this.isLinked));
    const side = Math.max(...(this.info.grid?.shape || [0]).slice(0, 2));
    if (side > MOST_PREVIEW && !this.first?.isFull) found.push(button("full", "Full resolution", () => this.goFull()));
    if (this.box) found.push(button("region", "Find similar regions", () => this.acts.region({ caseId: this.info.case_id, box: this.box })));
    return found;
  }

  async goFull() {
    for (const [place, viewer] of this.viewers.entries()) if (viewer) { const one = place ? this.beside : this.info; await viewer.load(one.case_id, one.grid, { full: true }); }
    if (!this.isGone) this.drawBar();
  }

  setWindow(name) { this.each((one) => one.setWindow(name)); this.drawBar(); }

  setView(name) { this.each((one) => one.setView(name)); this.drawBar(); }

  setTool(name) {
    if (this.tool === name) name = "look";
    this.tool = name;
    this.each((one) => one.setTool(name));
    if (name === "look") { this.each((one) => one.clearMeasures()); this.setBox(null); }
    if (name === "measure") tell("Drag from one point to another; “Look” takes the lines away.");
    if (name === "box") tell("Drag a box in any plane.");
    this.drawBar();
  }

  leaveTool() {
    if (this.tool === "look") return false;
    this.setTool("look");
    return true;
  }

  setBox(box) {
    this.box = box;
    if (!box) this.first?.setBox("drawn", null);
    const sides = box && box.lo_mm.map((low, axis) => Math.round(box.hi_mm[axis] - low));
    if (box) this.under.textContent = `box of ${sides.join(" × ")} mm`;
    this.drawBar();
  }

  setEvidence(isShown) {
    if (!this.evidence || !this.first) return;
    this.isEvidenceShown = isShown;
    const { asked, box } = this.evidence;
    const heat = asked === "text" || asked === "region" ? null : caseLink(this.info.case_id, `/heat?asked=${encodeURIComponent(asked)}`);
    this.first.setBox("evidence", isShown ? box : null);
    this.first.setHeat(isShown ? heat : null).catch((error) => tell(error.message, true));
    if (isShown) this.first.goTo(this.first.centreOf(box));
    this.drawBar();
  }

  // Shows where this case looks most like a finding; told in words that it is no proof of it.
  async look(name) {
    try {
      this.evidence = await ask(caseLink(this.info.case_id, `/evidence?asked=${encodeURIComponent(name)}`));
      if (this.isGone) return;
      this.setEvidence(true);
      tell(`Marked: where it looks most like ${name}; the model says where, not whether.`);
    } catch (error) { tell(error.message, true); }
  }

  link() { this.each((one) => one.link(this.isLinked ? this.viewers.filter((other) => other && other !== one) : [])); }

  // What a key does here; true where it did something.
  key(event) {
    const steps = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    const window = Object.keys(WINDOWS)[Number(event.key) - 1];
    const view = Object.keys(VIEW_KEYS).find((name) => VIEW_KEYS[name] === event.key);
    const tool = Object.keys(TOOL_KEYS).find((name) => TOOL_KEYS[name] === event.key);
    if (steps) this.first?.step(event.shiftKey ? 5 * steps : steps);
    else if (window) this.setWindow(window);
    else if (view) this.setView(view);
    else if (tool) this.setTool(tool);
    else if (event.key === "v" && this.evidence) this.setEvidence(!this.isEvidenceShown);
    else return false;
    return true;
  }

  close() {
    this.isGone = true;
    this.each((one) => one.close());
    element("case").replaceChildren();
  }
}
