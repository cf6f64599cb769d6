// The review queue: a list of items on the left, one item on the right, every decision stored as soon as it is made.
import { ask, bindKeys, bindReader, element, fillList, make, named, oneAtATime, tell, when } from "./common.js";

const state = { items: [], shown: [], key: null, item: null };

async function refresh() {
  const found = await ask("items");
  state.items = found.items;
  element("dataset").textContent = found.dataset;
  element("synthetic").hidden = !found.is_synthetic;
  const stages = [...new Set(state.items.map((item) => item.stage))].sort();
  const chosen = element("stage").value;
  element("stage").replaceChildren(make("option", "all"), ...stages.map((stage) => make("option", stage)));
  element("stage").firstChild.value = "";
  element("stage").value = stages.includes(chosen) ? chosen : "";
  list();
}

function list() {
  const stage = element("stage").value;
  const open = element("undecided").checked;
  state.shown = state.items.filter((item) => (!stage || item.stage === stage) && (!open || !item.decision || item.key === state.key));
  const waiting = state.items.filter((item) => !item.decision);
  const holding = waiting.filter((item) => item.holds).length;
  element("count").textContent = `${waiting.length} of ${state.items.length} undecided, ${holding} ${holding === 1 ? "holds" : "hold"} a case back`;
  fillList(element("items"), state.shown, state.shown.find((item) => item.key === state.key), (item) => {
    const word = item.decision ? item.decision.verdict : item.holds ? "holds" : "open";
    return [make("span", item.stage), make("span", word, word), make("span", item.doubts.map((doubt) => doubt.reason).join(", "), "why"), make("span", item.key.split("/")[1], "why id")];
  }, (item) => show(item.key));
  if (!state.shown.some((item) => item.key === state.key)) {
    if (state.shown.length) show(state.shown[0].key);
    else leave();
  }
}

function leave() {
  state.key = state.item = null;
  element("item").hidden = true;
  element("empty").hidden = false;
}

const FINDINGS = { report: "Findings read from the report", label: "Findings by label or expert", truth: "Findings that the phantom was made with" };

const marked = (pieces) => pieces.map(([text, kind]) => (kind ? make("span", text, kind) : document.createTextNode(text)));

async function show(key) {
  // Until the item is there, nothing is said of it.
  [state.key, state.item] = [key, null];
  const item = await ask(`items/${key}`).catch((error) => { tell(error.message, true); return null; });
  if (!item || state.key !== key) return;
  state.item = item;
  element("empty").hidden = true;
  element("item").hidden = false;
  element("title").textContent = `${item.stage} · study ${item.study_id}`;
  element("doubts").replaceChildren(...item.doubts.map((doubt) => {
    const line = make("li");
    line.append(make("strong", doubt.reason), `: ${doubt.detail}`);
    return line;
  }));
  element("texts").hidden = !item.report && !item.report_es_marked.length;
  element("spanish").replaceChildren(...marked(item.report_es_marked));
  element("english").replaceChildren(...marked(item.report_marked));
  const isTranslated = item.report_es_marked.map(([text]) => text).join("") !== item.report;
  element("texts").classList.toggle("single", !isTranslated || !item.report_es_marked.length);
  element("language").textContent = isTranslated ? "English, as searched" : "Report, as written and searched";
  element("findings").textContent = item.findings.length ? `${FINDINGS[item.findings_from] ?? "Findings"}: ${item.findings.join(", ")}` : "No finding is known.";
  element("pictures").replaceChildren(...item.facts.flatMap((facts) => {
    const picture = make("img");
    picture.src = `slices/${facts.case}.png`;
    picture.alt = `Slices of case ${facts.case}: axial from head to feet and coronal, lung window above soft-tissue window`;
    picture.addEventListener("error", () => picture.replaceWith(make("p", "The volume has gone; no picture.")));
    return [make("p", `${facts.case} · ${facts.source} · ${facts.shape} voxels of ${facts.spacing_mm} mm · ${facts.region} · quality ${facts.quality}`), picture];
  }));
  element("history").replaceChildren(...item.history.map((one) => make("li", `${when(one.at)} · ${one.reader} · ${one.verdict}${one.note ? ` · ${one.note}` : ""}`)));
  element("note").value = "";
  element("correct").hidden = item.stage === "quality";
  element("correct").lastChild.textContent = isTranslated ? " edit the English" : " edit the report";
  edit(false);
  tell("");
  list();
}

function beginToEdit() {
  if (state.item && !element("correct").hidden) edit(true);
}

function edit(isOn) {
  element("edit").hidden = !isOn;
  element("english").hidden = isOn;
  element("save").hidden = !isOn;
  if (isOn) { element("edit").value = state.item.report; element("edit").focus(); element("edit").setSelectionRange(0, 0); }
}

const say = oneAtATime(async (verdict) => {
  if (!state.key) return;
  if (!state.item) { tell("Not stored: the item is not shown yet.", true); return; }
  const reader = named();
  if (!reader) return;
  const after = verdict === "correct" ? element("edit").value : "";
  const key = state.key;
  const next = state.shown[state.shown.findIndex((one) => one.key === key) + 1];
  try {
    await ask("decisions", { item: key, verdict, reader, before: state.item.report, after, note: element("note").value });
  } catch (error) {
    tell(`Not stored: ${error.message}`, true);
    return;
  }
  state.key = next && verdict !== "reopen" ? next.key : key;
  await refresh();
  if (state.key) await show(state.key);
  tell(`Stored: ${verdict}.`);
});

function step(by) {
  const place = state.shown.findIndex((one) => one.key === state.key);
  const next = state.shown[place + by];
  if (next) show(next.key);
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") edit(false);
  if (event.key === "Enter" && event.ctrlKey && !element("edit").hidden) { event.preventDefault(); say("correct"); }
});
bindKeys({
  j: () => step(1),
  k: () => step(-1),
  a: () => say("accept"),
  r: () => say("reject"),
  u: () => say("reopen"),
  e: beginToEdit,
});
for (const verdict of ["accept", "reject", "reopen"]) element(verdict).addEventListener("click", () => say(verdict));
element("correct").addEventListener("click", beginToEdit);
element("save").addEventListener("click", () => say("correct"));
element("stage").addEventListener("change", list);
element("undecided").addEventListener("change", list);
bindReader(() => {});
refresh().catch((error) => { element("empty-title").textContent = "Something is wrong"; element("empty-text").textContent = error.message; });
