// One case: its images, both reports, findings, what is known of the examination, remarks; another case beside it.

import { element, make, tell, when } from "../common.js";
import { factsOf, viewerLink } from "./cards.js";
import { findingMark, markSentences } from "./marked.js";
import { Reading } from "./reading.js";
import { ask, caseLink } from "./server.js";

const FACTS = { case_id: "Case", study_id: "Study", source: "Source", split: "Split", region: "Region", age_years: "Age", sex: "Sex", spacing_mm: "Spacing, mm", shape: "Size, voxels", findings_from: "Findings from", date_offset_days: "Days after the first" };
const FROM = { truth: "known truth", report: "the report", radiologist: "a radiologist" };

export class CasePage {
  // acts: more, region, collect, others() for cases to compare with, hitOf(id), go(id, beside).
  constructor(acts) { [this.acts, this.reading, this.id] = [acts, null, null]; }

  async show(id, besideId) {
    if (this.id === `${id} ${besideId}`) return;
    this.close();
    const mine = (this.id = `${id} ${besideId}`);
    const place = element("case");
    place.replaceChildren(make("p", "Opening the case …", "state"));
    try {
      const [info, beside] = await Promise.all([ask(caseLink(id)), besideId ? ask(caseLink(besideId)) : null]);
      if (this.id !== mine) return;
      this.draw(info, beside);
    } catch (error) {
      if (this.id !== mine) return;
      const box = make("div", "", "empty trouble");
      const back = make("a", "Back to the hits", "button");
      back.href = "#/";
      box.append(make("h1", error.status === 404 ? "No such case" : "Something is wrong"), make("p", error.message), back);
      place.replaceChildren(box);
    }
  }

  draw(info, beside) {
    this.info = info;
    const hit = this.acts.hitOf(info.case_id);
    const images = make("div", "", "images");
    const side = make("aside", "", "facts");
    side.setAttribute("aria-label", "About the case");
    side.append(this.head(info), this.findings(info, hit), this.compare(info, beside), this.notes(info), this.known(info));
    const reports = make("div", "", "reports");
    reports.append(...this.reports(info, hit), ...(beside ? this.reports(beside, null, "Beside: ") : []));
    element("case").replaceChildren(images, side, reports);
    this.reading = new Reading(images, { region: this.acts.region });
    this.reading.show(info, beside, hit?.evidence);
  }

  head(info) {
    const head = make("div");
    const acts = make("p", "", "card-acts");
    const button = (text, act) => { const made = make("button", text); made.addEventListener("click", act); acts.append(made); };
    button("More like this", () => this.acts.more(info.case_id));
    button("Collect", () => this.acts.collect(info.case_id));
    acts.append(...viewerLink(info.links, "Open this case in the PACS viewer"));
    const back = make("a", "← Hits", "button plain");
    back.href = "#/";
    back.addEventListener("click", (event) => { event.preventDefault(); this.acts.back(); });
    acts.prepend(back);
    const title = make("h1", factsOf(info));
    if (info.is_synthetic) title.append(" ", make("span", "synthetic", "tag"));
    head.append(acts, title);
    return head;
  }

  section(title, ...things) {
    const section = make("section");
    section.append(make("h2", title), ...things);
    return section;
  }

  findings(info, hit) {
    const present = info.findings.filter((one) => one.status !== "absent");
    const list = make("ul", "", "lines");
    list.append(...present.map((one) => {
      const line = make("li");
      const kind = hit?.matched.includes(one.name) ? "matched" : "present";
      const more = [one.status === "uncertain" ? "uncertain" : "", one.laterality, one.location, one.grade, one.size_mm && `${one.size_mm} mm`].filter(Boolean).join(", ");
      line.append(findingMark(one.name, kind), make("span", more ? ` ${more}` : "", "soft"));
      if (info.links.volume) line.append(" ", this.whereButton(one.name));
      return line;
    }));
    const denied = make("p", "", "findings");
    denied.append(...(info.negated || []).map((name) => findingMark(name, "negated")));
    return this.section("Findings", present.length ? list : make("p", "None known.", "soft"), denied);
  }

  whereButton(name) {
    const button = make("button", "Where?", "plain small");
    button.title = "Mark where the model sees it";
    button.addEventListener("click", () => this.reading?.look(name));
    return button;
  }

  known(info) {
    const list = make("dl", "", "known");
    for (const [name, title] of Object.entries(FACTS)) {
      const value = info[name];
      if (value == null || value === "") continue;
      const text = Array.isArray(value) ? value.map((one) => Number(one.toFixed(2))).join(" × ") : FROM[value] || String(value);
      list.append(make("dt", title), make("dd", text));
    }
    return this.section("Examination", list);
  }

  reports(info, hit, before = "") {
    const panel = (title, text, language) => {
      const section = make("section", "", "report");
      const body = make("p", text ? "" : "None.", text ? "" : "soft");
      body.lang = language;
      if (text) body.append(...markSentences(text, hit?.sentences || []));
      section.append(make("h2", before + title), body);
      return section;
    };
    return [panel("English", info.report, "en"), panel("Spanish, as written", info.report_es, "es")];
  }

  compare(info, beside) {
    const choice = make("select");
    choice.id = "compare";
    choice.append(new Option("no other case", ""));
    for (const one of this.acts.others()) if (one.case_id !== info.case_id) choice.append(new Option(`${one.rank}  ${factsOf(one)}`, one.case_id));
    if (beside && ![...choice.options].some((one) => one.value === beside.case_id)) choice.append(new Option(factsOf(beside), beside.case_id));
    choice.value = beside?.case_id || "";
    choice.addEventListener("change", () => this.acts.go(info.case_id, choice.value));
    const label = make("label", "", "stacked");
    label.append(make("span", "Side by side with", "soft"), choice);
    return label;
  }

  notes(info) {
    const list = make("ul", "", "lines notes-of-case");
    const form = make("form", "", "line");
    const field = make("textarea");
    [field.rows, field.maxLength, field.required, field.placeholder] = [2, 20_000, true, "A remark, for all who see this case"];
    field.setAttribute("aria-label", "Remark");
    const button = make("button", "Add");
    form.append(field, button);
    const path = caseLink(info.case_id, "/notes");
    const fill = async () => {
      const found = await ask(path);
      list.replaceChildren(...found.map((note) => {
        const line = make("li", note.text);
        line.append(make("span", `${note.holder} · ${when(note.at)}`, "soft small"));
        return line;
      }));
    };
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        await ask(path, { method: "POST", said: { text: field.value.trim() } });
        field.value = "";
        await fill();
      } catch (error) { tell(error.message, true); }
    });
    fill().catch((error) => list.replaceChildren(make("li", error.message, "soft")));
    return this.section("Notes", list, form);
  }

  key(event) { return this.reading?.key(event) ?? false; }

  // Esc ends measuring or drawing first; true where there was something to end.
  leaveTool() { return this.reading?.leaveTool() ?? false; }

  close() {
    this.id = null;
    this.reading?.close();
    this.reading = null;
  }
}
