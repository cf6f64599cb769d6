// The report of a case, hidden until a reader asks for it; that it was shown is stored before it is.

import { ask, element, named, tell } from "./common.js";

export class Report {
  constructor(onShown = () => {}) {
    this.rule = "asked";
    this.found = null;
    this.onShown = onShown;
    element("look").addEventListener("click", () => this.look());
  }

  hide(info) {
    [this.info, this.found] = [info, null];
    element("texts").hidden = true;
    element("look").hidden = !info.has_report || this.rule === "never";
    element("shown").textContent = !info.has_report ? "None comes with this CT." : this.rule === "never" ? "Hidden from all readers." : "Hidden. That you saw it is stored with your words.";
    this.onShown();
  }

  async look() {
    if (!this.info || this.found || element("look").hidden) return;
    const info = this.info;
    const name = named();
    if (!name) return;
    const found = await ask(`cases/${info.case_id}/report`, { reader: name }).catch((error) => { tell(error.message, true); return null; });
    if (!found || this.info !== info) return;
    this.found = found;
    element("look").hidden = true;
    element("shown").textContent = "Shown; that is stored with your words.";
    element("texts").hidden = false;
    element("texts").classList.toggle("single", !found.report_es);
    element("spanish").textContent = found.report_es;
    element("english").textContent = found.report;
    element("language").textContent = found.report_es ? "English" : "As written";
    this.onShown();
  }
}
