// What a reader keeps: collections of cases, and the searches made so far.

import { element, make, oneAtATime, tell, when } from "../common.js";
import { ask, caseLink } from "./server.js";
import { emptyQuestion, toHash } from "./question.js";

const PATH = "/v1/collections";
const one = (id, rest = "") => `${PATH}/${encodeURIComponent(id)}${rest}`;
const caseIn = (id, caseId) => one(id, `/cases/${encodeURIComponent(caseId)}`);

const listCollections = () => ask(PATH);

const page = (title, ...things) => {
  const box = make("div", "", "narrow");
  box.append(make("h1", title), ...things);
  element("shelf").replaceChildren(box);
};

const trouble = (title) => (error) => page(title, make("p", error.message, "trouble"));

const act = (text, does, kind = "plain") => {
  const button = make("button", text, kind);
  button.addEventListener("click", oneAtATime(async () => { try { await does(); } catch (error) { tell(error.message, true); } }));
  return button;
};

export async function showCollections() {
  try {
    const found = await listCollections();
    const list = make("ul", "", "lines");
    list.append(...found.map((kept) => {
      const line = make("li", "", "line");
      const link = make("a", kept.name);
      link.href = `#/collections/${encodeURIComponent(kept.id)}`;
      line.append(link, make("span", countOf(kept), "soft"));
      return line;
    }));
    page("Collections", found.length ? list : make("p", "None yet. “Collect” on a hit or a case begins one.", "soft"));
  } catch (error) { trouble("Collections")(error); }
}

const countOf = (kept) => `${kept.cases} ${kept.cases === 1 ? "case" : "cases"}${kept.is_shared ? " · shared" : ""}${kept.is_own ? "" : ` by ${kept.holder}`}`;

export async function showCollection(id) {
  try {
    const kept = await ask(one(id));
    const list = make("ul", "", "lines kept");
    list.append(...kept.case_ids.map((caseId) => keptCase(kept, caseId)));
    const acts = make("p", "", "card-acts");
    acts.append(exported(id, "csv"), exported(id, "json"), act("More like these", () => { location.hash = toHash({ ...emptyQuestion(), liked: kept.case_ids.slice(0, 20) }); }));
    if (kept.is_own) acts.append(...ownActs(kept));
    page(kept.name, acts, kept.case_ids.length ? list : make("p", "No case is in it yet.", "soft"), ...(kept.is_own ? [rename(kept)] : []));
  } catch (error) { trouble("Collection")(error); }
}

const change = async (kept, part) => { await ask(one(kept.id), { method: "PATCH", said: part }); await showCollection(kept.id); };

const ownActs = (kept) => [
  act(kept.is_shared ? "Stop sharing" : "Share", () => change(kept, { is_shared: !kept.is_shared })),
  act("Delete", async () => {
    if (!confirm(`Delete this collection of ${kept.case_ids.length}? The cases themselves stay.`)) return;
    await ask(one(kept.id), { method: "DELETE" });
    location.hash = "#/collections";
  }),
];

function exported(id, kind) {
  const link = make("a", kind.toUpperCase(), "button plain");
  [link.href, link.download] = [`/v1/export?collection=${encodeURIComponent(id)}&format=${kind}`, ""];
  return link;
}

function rename(kept) {
  const form = make("form", "", "line");
  const name = make("input");
  [name.value, name.maxLength, name.required] = [kept.name, 200, true];
  name.setAttribute("aria-label", "Name");
  form.append(name, make("button", "Rename"));
  form.addEventListener("submit", (event) => { event.preventDefault(); change(kept, { name: name.value.trim() }).then(() => tell("Renamed."), (error) => tell(error.message, true)); });
  return form;
}

function keptCase(kept, caseId) {
  const line = make("li", "", "line");
  const link = make("a", caseId);
  link.href = `#/case/${encodeURIComponent(caseId)}`;
  const picture = make("img");
  [picture.src, picture.loading, picture.width, picture.height, picture.alt] = [caseLink(caseId, "/thumbnail/0.jpg"), "lazy", 64, 64, ""];
  picture.addEventListener("error", () => picture.classList.add("gone"));
  line.append(picture, link);
  if (kept.is_own) line.append(act("Take out", async () => { await ask(caseIn(kept.id, caseId), { method: "DELETE" }); await showCollection(kept.id); }));
  return line;
}

// The dialog that puts a case into one of the collections, or into a new one.
export async function collect(caseId) {
  const dialog = element("collect");
  const list = element("collect-list");
  const put = async (id, name) => {
    await ask(caseIn(id, caseId), { method: "PUT" });
    dialog.close();
    tell(`Put into “${name}”.`);
  };
  try {
    const found = await listCollections();
    list.replaceChildren(...found.filter((kept) => kept.is_own).map((kept) => { const line = make("li"); line.append(act(`${kept.name} · ${countOf(kept)}`, () => put(kept.id, kept.name), "wide")); return line; }));
  } catch (error) { tell(error.message, true); return; }
  const field = element("collect-name");
  field.value = "";
  element("collect-close").onclick = () => dialog.close();
  element("collect-new").onsubmit = async (event) => {
    event.preventDefault();
    try {
      const made = await ask(PATH, { method: "POST", said: { name: field.value.trim() } });
      await put(made.id, made.name);
    } catch (error) { tell(error.message, true); }
  };
  dialog.showModal();
}

export async function showHistory() {
  try {
    // Pages of one answer, and the second look at its hits, are one search to a reader.
    const seen = new Set();
    const found = (await ask("/v1/history")).filter(({ query }) => { const told = describe(query); return !seen.has(told) && seen.add(told); });
    const list = make("ul", "", "lines");
    list.append(...found.map((search) => {
      const line = make("li", "", "line");
      const again = toHash(asQuestion(search.query));
      const told = make(again === "#/" ? "span" : "a", describe(search.query));
      if (again !== "#/") told.href = again;
      line.append(told, make("span", when(search.at), "soft"));
      return line;
    }));
    const forget = act("Forget all", async () => { if (confirm("Forget all your searches?")) { await ask("/v1/history", { method: "DELETE" }); await showHistory(); } });
    page("History", ...(found.length ? [list, forget] : [make("p", "No search yet.", "soft")]));
  } catch (error) { trouble("History")(error); }
}

const asQuestion = (query) => ({ ...emptyQuestion(), text: query.text || "", keyword: query.keyword || "", caseId: query.case_id || "", box: query.box || null, liked: query.liked || [], disliked: query.disliked || [], where: query.where || "" });

function describe(query) {
  const parts = [query.text, query.keyword && `finding: ${query.keyword}`, query.report && "a report", query.ct && "a CT", query.case_id && (query.box ? "like a region of a case" : "like a case"), query.liked?.length && `${query.liked.length} good`, query.disliked?.length && `${query.disliked.length} bad`, query.where && `where ${query.where}`];
  return parts.filter(Boolean).join(" · ") || "a search";
}
