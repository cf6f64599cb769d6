// One hit as a card: three slices, why it is here, what can be done with it.

import { make } from "../common.js";
import { findingMarks, markSentences } from "./marked.js";

const PLANES = ["axial", "coronal", "sagittal"];
const MOST_SENTENCES = 3;
const PARTS = { image: "image", report: "report, by meaning", affirmed: "words of the report", denied: "words it denies", agreement: "findings agree", findings: "findings known", region: "region" };

export const factsOf = (one) => [one.age_years == null ? "age unknown" : `${one.age_years} y`, { F: "female", M: "male", O: "other" }[one.sex] || "sex unknown", one.region, one.source].filter(Boolean).join(" · ");

// The same study in the PACS's own viewer, in a window of its own; nothing where the server knows of none.
export function viewerLink(links, label) {
  if (!links.viewer) return [];
  const link = make("a", "PACS viewer", "button plain");
  [link.href, link.target, link.rel, link.title] = [links.viewer, "_blank", "noopener noreferrer", label];
  link.setAttribute("aria-label", label);
  return [link];
}

// acts: open, more, judge, collect, pin.
export function makeCard(hit, { acts, verdict, isPinned }) {
  const card = make("li", "", "card");
  card.dataset.case = hit.case_id;
  card.tabIndex = -1;
  card.append(pictures(hit), told(hit), actions(hit, acts, verdict, isPinned));
  card.addEventListener("dblclick", () => acts.open(hit));
  return card;
}

function pictures(hit) {
  const link = make("a", "", "slices");
  link.href = `#/case/${encodeURIComponent(hit.case_id)}`;
  link.setAttribute("aria-label", `Open case ${hit.rank}`);
  link.append(...hit.links.slices.map((url, place) => {
    const picture = make("img");
    [picture.src, picture.loading, picture.decoding] = [url, "lazy", "async"];
    [picture.width, picture.height] = [120, 120];
    picture.alt = hit.evidence ? `${PLANES[place]} slice through the evidence` : `${PLANES[place]} slice`;
    picture.addEventListener("error", () => picture.classList.add("gone"));
    return picture;
  }));
  if (!hit.links.slices.length) link.append(make("span", "no volume", "soft"));
  return link;
}

function told(hit) {
  const body = make("div", "", "told");
  const title = make("h2", "", "hit-title");
  const link = make("a", factsOf(hit));
  link.href = `#/case/${encodeURIComponent(hit.case_id)}`;
  title.append(make("span", String(hit.rank), "rank"), link, make("span", hit.score.toFixed(2), "score"));
  if (hit.is_synthetic) title.append(make("span", "synthetic", "tag"));
  const findings = make("p", "", "findings");
  findings.append(...findingMarks(hit));
  body.append(title, findings, ...words(hit));
  if (hit.caution) body.append(make("p", hit.caution, "caution"));
  body.append(why(hit));
  return body;
}

function words(hit) {
  const best = hit.sentences.slice(0, MOST_SENTENCES);
  if (!hit.report) return [make("p", "no report", "soft")];
  if (!best.length) return [make("p", hit.report, "snippet")];
  const snippet = make("p", "", "snippet");
  best.forEach((one, at) => snippet.append(...(at ? [" … "] : []), make("mark", one.text)));
  return [snippet];
}

function why(hit) {
  const details = make("details", "", "why");
  details.append(make("summary", "Why this one"));
  details.addEventListener("toggle", () => {
    if (!details.open || details.children.length > 1) return;
    const table = make("table");
    const most = Math.max(0.01, ...Object.values(hit.shares));
    const names = [...new Set([...Object.keys(hit.shares), ...Object.keys(hit.parts)])];
    table.append(...names.map((name) => {
      const row = make("tr");
      const bar = make("meter");
      [bar.max, bar.value] = [most, hit.shares[name] || 0];
      bar.setAttribute("aria-label", `share of ${PARTS[name] || name}`);
      const place = make("td");
      if (name in hit.shares) place.append(bar);
      const heading = make("th", PARTS[name] || name);
      heading.scope = "row";
      row.append(heading, make("td", name in hit.parts ? hit.parts[name].toFixed(3) : "–"), place, make("td", name in hit.shares ? `+${hit.shares[name].toFixed(3)}` : ""));
      return row;
    }));
    const report = make("p", "", "whole");
    report.append(...markSentences(hit.report, hit.sentences));
    const where = hit.evidence ? [make("p", `Seen at axial ${hit.evidence.slices.axial}, coronal ${hit.evidence.slices.coronal}, sagittal ${hit.evidence.slices.sagittal} for “${hit.evidence.asked}”.`, "soft")] : [];
    details.append(table, ...where, report);
  });
  return details;
}

const SVG = "http://www.w3.org/2000/svg";
const THUMB = "M2 9h3v8H2zM7 17V9l4-7c1.5 0 2.4 1 2.1 2.6L12.5 8H17c.9 0 1.5.8 1.3 1.7l-1.5 6c-.2.8-.9 1.3-1.7 1.3z";

// Drawn, because not every reading room's computer has the sign in its fonts.
function thumb(isUp) {
  const picture = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  picture.setAttribute("viewBox", "0 0 20 19");
  picture.setAttribute("class", isUp ? "thumb" : "thumb down");
  picture.setAttribute("aria-hidden", "true");
  path.setAttribute("d", THUMB);
  picture.append(path);
  return picture;
}

function actions(hit, acts, verdict, isPinned) {
  const line = make("p", "", "card-acts");
  const button = (text, label, act, pressed) => {
    const made = make("button", "", "plain");
    made.append(text);
    made.setAttribute("aria-label", label);
    made.title = label;
    if (pressed !== undefined) made.setAttribute("aria-pressed", String(pressed));
    made.addEventListener("click", act);
    return made;
  };
  line.append(
    button("More like this", `More like hit ${hit.rank}`, () => acts.more(hit.case_id)),
    button(thumb(true), `Hit ${hit.rank} is good`, () => acts.judge(hit, "good"), verdict === "good"),
    button(thumb(false), `Hit ${hit.rank} is bad`, () => acts.judge(hit, "bad"), verdict === "bad"),
    button("Collect", `Put hit ${hit.rank} into a collection`, () => acts.collect(hit.case_id)),
    button("Compare", `Lay hit ${hit.rank} beside the next case that is opened`, () => acts.pin(hit.case_id), isPinned),
    ...viewerLink(hit.links, `Open hit ${hit.rank} in the PACS viewer`),
  );
  return line;
}
