// Filters with counts: one press narrows the answer, the next takes that back; and a line for what has no button.

import { element, make } from "../common.js";
import { ask } from "./server.js";

const TITLES = { findings: "Findings", negated: "Denied by the report", sex: "Sex", age_years: "Age", region: "Region", source: "Source", split: "Split", is_synthetic: "Synthetic" };
const VALUES = { sex: { F: "female", M: "male", O: "other" }, is_synthetic: { true: "yes", false: "no" } };
const SHORT = 8;
const CLOSED = ["negated", "source", "split", "is_synthetic"];

export function sayValue(field, value) {
  if (field === "age_years") return sayBand(value);
  return VALUES[field]?.[value] ?? value;
}

// "age >= 18 and age < 40" -> "18–39"
function sayBand(band) {
  const from = band.match(/>=\s*(\d+)/)?.[1];
  const below = band.match(/<\s*(\d+)/)?.[1];
  if (from && below) return `${from}–${below - 1}`;
  return from ? `${from} and older` : below ? `under ${below}` : band;
}

export class Filters {
  constructor(onChange) {
    [this.onChange, this.open, this.fields] = [onChange, new Set(), []];
    ask("/v1/fields").then((fields) => { this.fields = fields; }).catch(() => {});
  }

  // Shows the counts of an answer; what is chosen stays in sight even when nothing is left of it.
  show(facets, question) {
    this.question = question;
    const named = Object.keys(TITLES).filter((field) => facets[field] || question.filters[field]);
    const groups = named.map((field) => this.group(field, facets[field] || {})).filter(Boolean);
    element("filters").replaceChildren(...groups, this.line());
  }

  group(field, counts) {
    const chosen = this.question.filters[field] || [];
    const values = [...new Set([...chosen, ...Object.keys(counts)])];
    if (values.length < 2 && !chosen.length) return null;
    if (field !== "age_years") values.sort((a, b) => chosen.includes(b) - chosen.includes(a) || (counts[b] || 0) - (counts[a] || 0));
    const group = make("details", "", "facet");
    group.open = this.open.has(field) || (!CLOSED.includes(field) && !this.open.has(`no ${field}`)) || chosen.length > 0;
    group.addEventListener("toggle", () => { this.open.delete(group.open ? `no ${field}` : field); this.open.add(group.open ? field : `no ${field}`); });
    const list = make("ul");
    const isLong = values.length > SHORT + 2 && !this.open.has(`all ${field}`);
    list.append(...(isLong ? values.slice(0, SHORT) : values).map((value) => this.value(field, value, counts[value] || 0, chosen.includes(value))));
    group.append(make("summary", TITLES[field]), list);
    if (isLong) {
      const more = make("button", `${values.length - SHORT} more`, "link");
      more.addEventListener("click", () => { this.open.add(`all ${field}`); group.replaceWith(this.group(field, counts)); });
      group.append(more);
    }
    return group;
  }

  value(field, value, count, isChosen) {
    const button = make("button", "", "value");
    button.setAttribute("aria-pressed", String(isChosen));
    button.append(make("span", sayValue(field, value)), make("span", String(count), "count"));
    button.addEventListener("click", () => {
      const { filters } = this.question;
      const rest = (filters[field] || []).filter((one) => one !== value);
      this.onChange({ filters: { ...filters, [field]: isChosen ? rest : [...rest, value] }, page: 1 });
    });
    const line = make("li");
    line.append(button);
    return line;
  }

  line() {
    const form = make("form", "", "where");
    const label = make("label", "Further condition");
    const field = make("input");
    [field.value, field.placeholder, field.spellcheck, field.maxLength] = [this.question.where, "age >= 60 and not source = dicom", false, 2000];
    field.id = "where";
    label.append(field);
    const known = make("p", this.fields.length ? `Known: ${this.fields.map((one) => one.name).join(", ")}` : "", "soft small");
    form.append(label, known);
    form.addEventListener("submit", (event) => { event.preventDefault(); this.onChange({ where: field.value.trim(), page: 1 }); });
    return form;
  }
}
