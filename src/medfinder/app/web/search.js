// The search page: which part is shown is told by the address; this module joins the parts.

import { bindKeys, element, make, plural, tell } from "./common.js";
import { CasePage } from "./search/case.js";
import { sayValue } from "./search/filters.js";
import { emptyQuestion, fromHash, toHash } from "./search/question.js";
import { Results } from "./search/results.js";
import { ask, whenKeyNeeded } from "./search/server.js";
import { collect, showCollection, showCollections, showHistory } from "./search/shelf.js";
import { bindSuggestions } from "./search/suggest.js";

const EXAMPLES = ["left pleural effusion without cardiomegaly", "nódulo pulmonar espiculado", "GGO AND NOT consolidation", "severe emphysema with bullae", "derrame pericárdico", "tree-in-bud opacities"];
// What no address may hold, and the address that it belongs to.
let kept = {};
const state = { question: emptyQuestion(), place: "" };

const acts = {
  open: (hit) => openCase(hit.case_id),
  more: (id) => go({ ...emptyQuestion(), caseId: id, filters: state.question.filters, where: state.question.where }),
  region: ({ caseId, box }) => go({ ...emptyQuestion(), caseId, box }),
  change: (part) => go({ ...state.question, ...part }),
  collect,
  others: () => results.hits,
  hitOf: (id) => results.hits.find((hit) => hit.case_id === id),
  go: (id, beside) => { location.hash = `#/case/${encodeURIComponent(id)}${beside ? `?with=${encodeURIComponent(beside)}` : ""}`; },
  back: () => { location.hash = toHash(state.question); },
};
const results = new Results(acts);
const casePage = new CasePage(acts);
const suggestions = bindSuggestions(element("words"), () => element("words").focus());

function openCase(id) {
  const beside = results.pinned && results.pinned !== id ? results.pinned : "";
  acts.go(id, beside);
}

// The question is in the address; the same one again is asked again.
function go(question) {
  const hash = toHash(question);
  kept = { hash, report: question.report, ct: question.ct, study: question.study };
  if (hash === (location.hash || "#/")) showSearch(); else location.hash = hash;
}

// ---- places ---------------------------------------------------------------------------------------------------------

function route() {
  const [path] = location.hash.slice(1).split("?");
  const [, place = "", id = ""] = path.split("/").map(decodeURIComponent);
  const shown = place === "case" ? "case" : ["collections", "history"].includes(place) ? "shelf" : "search";
  for (const name of ["search", "case", "shelf", "login"]) element(name).hidden = name !== shown;
  for (const name of ["search", "collections", "history"]) {
    const isHere = name === place || (name === "search" && shown !== "shelf");
    if (isHere) element(`place-${name}`).setAttribute("aria-current", "page"); else element(`place-${name}`).removeAttribute("aria-current");
  }
  if (shown !== "case") casePage.close();
  [state.place, state.caseId] = [shown, id];
  element("place-search").href = toHash(state.question);
  if (shown === "search") showSearch();
  else if (shown === "case") casePage.show(id, new URLSearchParams(location.hash.split("?")[1]).get("with") || "");
  else if (place === "history") showHistory();
  else if (id) showCollection(id);
  else showCollections();
}

function showSearch() {
  const question = fromHash(location.hash, kept.hash === (location.hash || "#/") ? kept : {});
  state.question = question;
  element("place-search").href = toHash(question);
  showAsked(question);
  results.run(question);
}

// ---- asking ---------------------------------------------------------------------------------------------------------

const HINTS = { study: "StudyInstanceUID of a study in the PACS", text: element("words").placeholder, keyword: element("words").placeholder };

function showKind(kind) {
  element("words").placeholder = HINTS[kind] || "";
  element("kind").value = kind;
  element("words").hidden = kind === "report";
  element("report").hidden = kind !== "report";
}

function showAsked(question) {
  showKind(["report", "study", "keyword"].find((kind) => question[kind]) || "text");
  element("words").value = question.study || question.keyword || question.text;
  element("report").value = question.report;
  const chips = [];
  const chip = (text, part) => {
    const line = make("li");
    const button = make("button", text, "chip");
    button.type = "button"; // it stands in the form, which it must not send
    button.append(make("span", " ×"));
    button.setAttribute("aria-label", `${text}: take back`);
    button.addEventListener("click", () => acts.change({ ...part, page: 1 }));
    line.append(button);
    chips.push(line);
  };
  if (question.ct) chip(`CT: ${question.ct.name}`, { ct: null });
  if (question.box) chip("region of a case", { box: null, caseId: "" });
  else if (question.caseId) chip(`like case ${question.caseId.slice(0, 8)}`, { caseId: "" });
  if (question.liked.length) chip(`${question.liked.length} good`, { liked: [] });
  if (question.disliked.length) chip(`${question.disliked.length} bad`, { disliked: [] });
  for (const [field, values] of Object.entries(question.filters)) {
    for (const value of values) chip(sayValue(field, value), { filters: { ...question.filters, [field]: values.filter((one) => one !== value) } });
  }
  if (question.where) chip(question.where, { where: "" });
  element("asked").replaceChildren(...chips);
}

element("kind").addEventListener("change", () => { showKind(element("kind").value); (element("kind").value === "report" ? element("report") : element("words")).focus(); });
element("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  suggestions.close();
  const kind = element("kind").value;
  const said = kind === "report" ? element("report").value.trim() : element("words").value.trim();
  // Words of a new kind are a new question; filters stay.
  const keepsCt = kind === "text" ? state.question.ct : null;
  go({ ...emptyQuestion(), filters: state.question.filters, where: state.question.where, ct: keepsCt, [kind]: said });
});

function takeCt(file) {
  if (!file) return;
  if (!/\.(nii|nii\.gz|zip)$/i.test(file.name)) { tell("That is no .nii, .nii.gz or .zip of DICOM files.", true); return; }
  const most = state.limits?.upload_mb;
  if (most && file.size > most * 2 ** 20) { tell(`That file has ${Math.round(file.size / 2 ** 20)} MB; at most ${most} MB are taken.`, true); return; }
  results.asked = "";
  go({ ...emptyQuestion(), ct: file });
}

element("ct").addEventListener("change", () => { takeCt(element("ct").files[0]); element("ct").value = ""; });
const hasFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
document.addEventListener("dragover", (event) => { if (hasFiles(event)) { event.preventDefault(); element("drop").hidden = false; } });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) element("drop").hidden = true; });
document.addEventListener("drop", (event) => { if (!hasFiles(event)) return; event.preventDefault(); element("drop").hidden = true; takeCt(event.dataTransfer.files[0]); });

element("examples").append(...EXAMPLES.map((text) => {
  const line = make("li");
  const link = make("a", text);
  link.href = toHash({ ...emptyQuestion(), text });
  line.append(link);
  return line;
}));

// ---- keys -----------------------------------------------------------------------------------------------------------

const onHit = (act) => () => { const hit = results.current(); if (hit && state.place === "search") act(hit); };
const onCase = (onCasePage, onSearch) => (event) => (state.place === "case" ? onCasePage(event) : state.place === "search" && onSearch(event));
const viewer = (event) => state.place === "case" && casePage.key(event);

function stepHit(by) {
  if (state.place === "search") { results.mark(results.marked + by); return; }
  const at = results.hits.findIndex((hit) => hit.case_id === state.caseId);
  const next = results.hits[at + by];
  if (state.place === "case" && at >= 0 && next) { results.marked = at + by; acts.go(next.case_id, ""); }
}

const viewerKeys = Object.fromEntries([..."1234aosxdrev", "ArrowUp", "ArrowDown"].map((key) => [key, viewer]));
bindKeys({
  ...viewerKeys,
  "/": () => { if (state.place !== "search") acts.back(); setTimeout(() => element("words").focus()); },
  j: () => stepHit(1),
  k: () => stepHit(-1),
  Enter: onHit((hit) => openCase(hit.case_id)),
  m: onCase(() => acts.more(state.caseId), onHit((hit) => acts.more(hit.case_id))),
  c: onCase(() => collect(state.caseId), onHit((hit) => collect(hit.case_id))),
  g: onHit((hit) => results.judge(hit, "good")),
  b: onHit((hit) => results.judge(hit, "bad")),
});
document.addEventListener("keydown", (event) => {
  const isFree = event.target === document.body || event.target.matches(".screen, main");
  if (event.key === "Escape" && state.place === "case" && isFree && !document.querySelector("dialog[open]") && !casePage.leaveTool()) acts.back();
});

element("theme").addEventListener("click", () => {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* private mode */ }
});

// ---- who ------------------------------------------------------------------------------------------------------------

function showLogin() {
  for (const name of ["search", "case", "shelf"]) element(name).hidden = true;
  element("login").hidden = false;
  element("leave").hidden = true;
  element("key").focus();
}

whenKeyNeeded(showLogin);
element("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  element("login-trouble").textContent = "";
  try {
    await ask("/v1/session", { method: "POST", said: { key: element("key").value.trim() } });
    element("key").value = "";
    sessionStorage.setItem("signed-in", "yes");
    results.asked = "";
    await begin();
  } catch (error) { element("login-trouble").textContent = error.message; }
});
element("leave").addEventListener("click", async () => {
  await ask("/v1/session", { method: "DELETE" }).catch((error) => tell(error.message, true));
  sessionStorage.removeItem("signed-in");
  location.hash = "#/";
  location.reload();
});

async function begin() {
  try {
    const info = await ask("/v1/info");
    element("about").textContent = `${plural(info.cases, "case")} · ${info.model.name}`;
    element("synthetic").hidden = !info.is_synthetic;
    element("synthetic-model").hidden = !info.is_model_synthetic || info.is_synthetic;
    element("leave").hidden = !sessionStorage.getItem("signed-in");
    for (const name of ["hidden", "disabled"]) document.querySelector("#kind option[value=study]")[name] = !info.has_pacs;
    state.limits = info.limits;
    route();
  } catch (error) {
    if (error.status === 401) showLogin(); else { route(); tell(error.message, true); }
  }
}

addEventListener("hashchange", route);
begin();
