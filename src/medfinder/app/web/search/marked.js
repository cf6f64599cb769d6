// Texts with what matters in them marked; every piece goes in as text, never as markup.

import { make } from "../common.js";

// Marks sentences in a report; spaces and case may differ.
export function markSentences(report, sentences) {
  const spans = sentences.map(({ text }) => find(report, text)).filter(Boolean).sort((a, b) => a[0] - b[0]);
  const pieces = [];
  let done = 0;
  for (const [from, to] of spans) {
    if (from < done) continue;
    pieces.push(document.createTextNode(report.slice(done, from)), make("mark", report.slice(from, to)));
    done = to;
  }
  pieces.push(document.createTextNode(report.slice(done)));
  return pieces;
}

function find(report, sentence) {
  const pattern = sentence.trim().split(/\s+/).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("\\s+");
  const found = pattern && report.match(new RegExp(pattern, "i"));
  return found ? [found.index, found.index + found[0].length] : null;
}

const SIGNS = { matched: "✓", negated: "−", missing: "?" };
const SAID = { matched: "asked for and there", negated: "asked for, denied by the report", missing: "asked for, nothing known", present: "there" };

// One finding as a small label; its kind is told by sign and words, not by colour alone.
export function findingMark(name, kind) {
  const label = make("span", "", `finding ${kind}`);
  label.title = `${name}: ${SAID[kind] || kind}`;
  if (SIGNS[kind]) { const sign = make("span", SIGNS[kind]); sign.setAttribute("aria-hidden", "true"); label.append(sign, " "); }
  label.append(make(kind === "negated" ? "s" : "span", name));
  label.append(make("span", ` (${SAID[kind] || kind})`, "unseen"));
  return label;
}

export function findingMarks(hit) {
  const rest = hit.findings.filter((name) => !hit.matched.includes(name));
  return [
    ...hit.matched.map((name) => findingMark(name, "matched")),
    ...hit.negated.map((name) => findingMark(name, "negated")),
    ...hit.missing.map((name) => findingMark(name, "missing")),
    ...rest.map((name) => findingMark(name, "present")),
  ];
}
