// Where readers differ: one finding of one case after the other, with everybody's word, and a last word on it.

import { ask, bindKeys, bindReader, element, fillList, make, named, oneAtATime, reader, tell, when } from "./common.js";
import { Planes, planeKeys } from "./planes.js";
import { Report } from "./report.js";

const STATUSES = ["present", "absent", "uncertain"];
const state = { all: [], shown: [], key: null, caseId: null };
const planes = new Planes(element("planes"), element("windows"));
const report = new Report();
const HOW = {
  open: (one) => `Open: ${one.readers} readers, no majority.`,
  majority: (one) => `As it stands, most of ${one.readers} readers decide: ${one.status}.`,
  adjudicator: (one) => `Settled: ${one.status}.`,
};

const current = () => state.all.find((one) => one.key === state.key);

async function refresh() {
  const found = await ask("differences");
  element("dataset").textContent = found.dataset;
  element("synthetic").hidden = !found.is_synthetic;
  state.all = found.differences;
  report.rule = found.report_rule;
  if (!planes.windows) planes.setWindows(found.windows);
}

async function begin(key) {
  try {
    await refresh();
  } catch (error) {
    leave("Something is wrong", error.message);
    return;
  }
  const all = element("filter").value === "all";
  state.shown = state.all.filter((one) => all || one.how !== "adjudicator" || one.key === key);
  const next = state.shown.find((one) => one.key === (key ?? state.key)) ?? state.shown[0];
  if (next) await show(next.key);
  else if (state.all.length) leave("Every difference is settled", `${state.all.length} findings on which readers differed have a last word. “all” on the left goes through them again, u takes your last word back.`);
  else leave("Readers do not differ", "Nobody has contradicted anybody yet. A difference appears here as soon as one reader says something else than another, or has finished a case without naming what the other saw.");
  list();
}

function list() {
  const open = state.all.filter((one) => one.how !== "adjudicator").length;
  element("count").textContent = state.all.length ? `${open} of ${state.all.length} without a last word` : "";
  fillList(element("items"), state.shown, current(), (one) => [
    make("span", one.finding),
    make("span", one.how === "adjudicator" ? "settled" : one.how, one.how === "adjudicator" ? "finished" : "started"),
    make("span", one.case_id, "why id"),
  ], (one) => show(one.key));
}

function leave(title, text) {
  state.key = state.caseId = null;
  element("item").hidden = true;
  element("empty").hidden = false;
  element("empty-title").textContent = title;
  element("empty-text").textContent = text;
}

async function show(key) {
  state.key = key;
  const one = current();
  element("empty").hidden = true;
  element("item").hidden = false;
  element("title").textContent = `Case ${one.case_id}`;
  element("finding").textContent = one.finding;
  element("how").textContent = HOW[one.how](one);
  element("words").replaceChildren(...one.words.map(row));
  const last = one.words.findLast((word) => word.settles)?.status;
  for (const status of STATUSES) element(status).setAttribute("aria-pressed", String(status === last));
  list();
  if (state.caseId === one.case_id) return;
  state.caseId = one.case_id;
  const info = await ask(`cases/${one.case_id}?reader=${encodeURIComponent(reader())}`).catch((error) => { tell(error.message, true); return null; });
  if (!info || state.caseId !== one.case_id) return;
  element("facts").textContent = info.facts;
  report.hide(info);
  planes.load(one.case_id, element("no-volume"));
  if (info.was_shown || report.rule === "always") await report.look();
}

function row(word) {
  const line = make("tr", "", word.settles ? "last-word" : "");
  const remarks = [word.settles && "settles it", !word.is_named && "finished without naming it", word.report_shown && "had seen the report"].filter(Boolean);
  const says = make("td");
  says.append(make("span", word.status, word.status), ...(remarks.length ? [make("span", remarks.join(", "), "why")] : []));
  line.append(make("th", word.reader), says, make("td", when(word.date).replace(" ", "\n") || "not told", "when"));
  return line;
}

const settle = oneAtATime(async (status) => {
  const one = current();
  const name = one && named();
  if (!name) return;
  try {
    await ask(`cases/${one.case_id}/words`, { reader: name, finding: one.finding, status, settles: true });
  } catch (error) {
    tell(`Not stored: ${error.message}`, true);
    return;
  }
  const place = state.shown.indexOf(one);
  const rest = [...state.shown.slice(place + 1), ...state.shown.slice(0, place)];
  const all = element("filter").value === "all";
  state.key = (all ? rest[0] : rest.find((other) => other.how !== "adjudicator"))?.key ?? null;
  await begin();
  tell(`Stored: ${one.finding}, ${status}.`);
});

const undo = oneAtATime(async () => {
  const name = named();
  if (!name) return;
  const undone = await ask("undo", { reader: name }).catch((error) => { tell(error.message, true); return null; });
  if (!undone) return;
  if (!undone.case_id) { tell("There is nothing left to take back."); return; }
  await begin(`${undone.case_id}/${undone.finding}`);
  tell(undone.finding ? `Taken back: your word on ${undone.finding}.` : `Taken back: ${undone.case_id} is open again.`);
});

function step(by) {
  const next = state.shown[state.shown.indexOf(current()) + by];
  if (next) show(next.key);
}

bindKeys({
  ...planeKeys(planes),
  j: () => step(1),
  k: () => step(-1),
  p: () => settle("present"),
  a: () => settle("absent"),
  d: () => settle("uncertain"),
  u: undo,
  v: () => report.look(),
});
bindReader(() => { state.caseId = null; begin(); });
for (const status of STATUSES) element(status).addEventListener("click", () => settle(status));
element("undo").addEventListener("click", undo);
element("filter").addEventListener("change", () => { element("filter").blur(); begin(); });
begin();
