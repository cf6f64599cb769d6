// Readers diagnose: one case after the other, each word stored as soon as it is said; nobody sees another's words here.

import { ask, bindKeys, bindReader, element, fillList, make, named, oneAtATime, reader, tell, when } from "./common.js";
import { makePicker } from "./picker.js";
import { Planes, planeKeys } from "./planes.js";
import { Report } from "./report.js";

const STATUSES = ["present", "absent", "uncertain"];
const state = { cases: [], shown: [], id: null, info: null, marked: null };
const planes = new Planes(element("planes"), element("windows"));
const report = new Report(suggest);
const FILTERS = {
  open: (one) => one.state !== "finished",
  all: () => true,
  held: (one) => one.is_held,
  differs: (one) => one.differs,
};

async function refresh() {
  const found = await ask(`cases?reader=${encodeURIComponent(reader())}`);
  element("dataset").textContent = found.dataset;
  element("synthetic").hidden = !found.is_synthetic;
  [state.cases, report.rule] = [found.cases, found.report_rule];
  if (!planes.windows) planes.setWindows(found.windows);
}

async function begin() {
  try {
    await refresh();
    choose();
  } catch (error) {
    leave("Something is wrong", error.message);
  }
}

// Shows the list as the filter has it, and the first case of it unless the current one is there.
function choose() {
  state.shown = state.cases.filter(FILTERS[element("filter").value]);
  if (!reader()) {
    leave("Who reads?", "Write your initials into the field above, then press Enter. Your words are stored under them, and nobody else sees them here.");
    element("reader").focus();
  } else if (!state.shown.length) {
    finishAll();
  } else {
    show(state.shown.some((one) => one.case_id === state.id) ? state.id : state.shown[0].case_id);
  }
  list();
}

const stateMark = (word) => {
  const mark = make("span", { finished: "✓", started: "…" }[word], word);
  if (word) { mark.setAttribute("role", "img"); mark.setAttribute("aria-label", word); mark.title = word; }
  return mark;
};

function list() {
  const finished = state.cases.filter((one) => one.state === "finished").length;
  element("count").textContent = reader() ? `${finished} of ${state.cases.length} finished` : "";
  fillList(element("items"), reader() ? state.shown : [], state.shown.find((one) => one.case_id === state.id), (one) => [
    make("span", one.case_id, "id"),
    stateMark(one.state),
  ], (one) => show(one.case_id));
}

function finishAll() {
  const all = element("filter").value === "open";
  const text = `${reader()} has finished all ${state.cases.length} cases. Where readers differ is under Settle; “all” on the left goes through them again, u takes the last word back.`;
  leave(all ? "Every case is finished" : "No such case", all ? text : "No case is of this kind; choose another on the left.");
}

function leave(title, text) {
  state.id = state.info = null;
  element("item").hidden = true;
  element("empty").hidden = false;
  element("empty-title").textContent = title;
  element("empty-text").textContent = text;
}

async function show(id) {
  const isNew = state.id !== id;
  state.id = id;
  // Until the case is there, nothing is said of it.
  if (isNew) state.info = null;
  const info = await ask(`cases/${id}?reader=${encodeURIComponent(reader())}`).catch((error) => { leave("Something is wrong", error.message); return null; });
  if (!info || state.id !== id) return;
  state.info = info;
  element("empty").hidden = true;
  element("item").hidden = false;
  element("title").textContent = `Case ${info.case_id}`;
  element("facts").textContent = info.facts;
  const words = info.words.map((word) => word.finding);
  if (isNew || !words.includes(state.marked)) state.marked = words.at(-1) ?? null;
  showWords();
  if (isNew) {
    list();
    tell("");
    report.hide(info);
    planes.load(info.case_id, element("no-volume"));
    if (report.rule === "always" || info.was_shown) await report.look();
  }
}

function showWords() {
  const { words, is_finished: isFinished, history } = state.info;
  element("no-words").hidden = words.length > 0;
  element("no-words").textContent = isFinished ? "Finished: nothing is there." : "Nothing named yet.";
  element("words").replaceChildren(...words.map((word) => {
    const line = make("li", "", word.finding === state.marked ? "marked" : "");
    const choices = make("span", "", "choices");
    choices.setAttribute("role", "group");
    choices.setAttribute("aria-label", word.finding);
    choices.append(...STATUSES.map((status) => {
      const button = make("button", status, status);
      button.setAttribute("aria-pressed", String(status === word.after));
      button.addEventListener("click", () => say(word.finding, status));
      return button;
    }));
    const out = make("button", "×", "out");
    out.setAttribute("aria-label", `take ${word.finding} out`);
    out.addEventListener("click", () => say(word.finding, ""));
    line.append(make("span", word.finding, "name"), out, choices);
    return line;
  }));
  element("finish").classList.toggle("done", isFinished);
  element("finish").lastChild.textContent = isFinished ? " finished; next case" : " finish: nothing else";
  element("history").replaceChildren(...history.map((one) => {
    const what = one.act === "say" ? `${one.finding}: ${one.before || "nothing"} → ${one.after || "nothing"}` : one.act === "look" ? "report shown" : one.after ? "finished" : "opened again";
    return make("li", `${when(one.at)} · ${what}${one.undoes ? " (taken back)" : ""}`);
  }));
  suggest();
}

// ---- words ----------------------------------------------------------------------------------------------------------

async function store(path, said) {
  const name = named();
  if (!name) return null;
  try {
    return await ask(path, { reader: name, ...said });
  } catch (error) {
    tell(`Not stored: ${error.message}`, true);
    return null;
  }
}

function isShown() {
  if (state.id && !state.info) tell("Not stored: the case is not shown yet.", true);
  return Boolean(state.info);
}

async function say(finding, status) {
  if (!finding || !isShown()) return;
  const id = state.id;
  if (!(await store(`cases/${id}/words`, { finding, status }))) return;
  const known = state.cases.find((one) => one.case_id === id);
  known.state = known.state || "started";
  if (state.id === id) {
    if (status) state.marked = finding;
    await show(id);
  }
  list();
  tell(status ? `Stored: ${finding}, ${status}.` : `Taken out: ${finding}.`);
}

const finish = oneAtATime(async () => {
  if (!isShown()) return;
  const id = state.id;
  if (!state.info.is_finished && !(await store(`cases/${id}/finish`, {}))) return;
  const place = state.shown.findIndex((one) => one.case_id === id);
  const rest = [...state.shown.slice(place + 1), ...state.shown.slice(0, place)];
  state.cases.find((one) => one.case_id === id).state = "finished";
  const next = rest.find((one) => one.state !== "finished") ?? rest.find((one) => one.case_id !== id);
  state.shown = state.cases.filter(FILTERS[element("filter").value]);
  if (next && state.shown.includes(next)) await show(next.case_id);
  else choose();
  tell(`Stored: ${id} is finished.`);
});

const undo = oneAtATime(async () => {
  const undone = await store("undo", {});
  if (!undone) return;
  if (!undone.case_id) { tell("There is nothing left to take back."); return; }
  await refresh();
  if (undone.settles) { tell("Taken back: what you settled last."); return; }
  if (undone.finding) state.marked = undone.finding;
  state.shown = state.cases.filter((one) => FILTERS[element("filter").value](one) || one.case_id === undone.case_id);
  await show(undone.case_id);
  list();
  tell(undone.act === "finish" ? `Taken back: ${undone.case_id} is open again.` : `Taken back: ${undone.finding} is ${undone.after || "not named"}.`);
});

function markNext() {
  const names = state.info?.words.map((word) => word.finding) ?? [];
  state.marked = names[(names.indexOf(state.marked) + 1) % names.length] ?? null;
  if (names.length) showWords();
}

function suggest() {
  if (!state.info) return;
  const said = new Set(state.info.words.map((word) => word.finding));
  const left = report.found?.suggestions.filter((one) => !said.has(one.finding)) ?? [];
  element("suggestions").hidden = !left.length;
  element("suggestions").replaceChildren(make("span", "The report says:", "soft"), ...left.map((one) => {
    const button = make("button", `${one.finding}, ${one.status}`);
    button.addEventListener("click", () => say(one.finding, one.status));
    return button;
  }));
}

// ---- keys -----------------------------------------------------------------------------------------------------------

function step(by) {
  const next = state.shown[state.shown.findIndex((one) => one.case_id === state.id) + by];
  if (next) show(next.case_id);
}

bindKeys({
  ...planeKeys(planes),
  j: () => step(1),
  k: () => step(-1),
  f: () => element("pick").focus(),
  "/": () => element("pick").focus(),
  p: () => say(state.marked, "present"),
  a: () => say(state.marked, "absent"),
  d: () => say(state.marked, "uncertain"),
  x: () => say(state.marked, ""),
  w: markNext,
  u: undo,
  v: () => report.look(),
  Enter: finish,
});
bindReader(() => { state.id = null; begin(); });
element("finish").addEventListener("click", finish);
element("undo").addEventListener("click", undo);
element("filter").addEventListener("change", () => { element("filter").blur(); begin(); });
ask("keywords").then((keywords) => makePicker(element("pick"), element("picks"), keywords, say), (error) => tell(error.message, true));
begin();
