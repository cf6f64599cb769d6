// The question as it stands: kept in the address, so that back, reload and bookmarks work. A pasted report, a CT and the
// UID of a study are kept in memory alone: addresses end up in histories.

export const PAGE = 20;
const KINDS = ["text", "keyword"];

export const emptyQuestion = () => ({ text: "", keyword: "", report: "", ct: null, study: "", caseId: "", box: null, liked: [], disliked: [], filters: {}, where: "", page: 1 });

export const isEmpty = (one) => !one.text && !one.keyword && !one.report && !one.ct && !one.study && !one.caseId && !one.liked.length;

export function toHash(one) {
  const words = new URLSearchParams();
  for (const kind of KINDS) if (one[kind]) words.set(kind, one[kind]);
  if (one.caseId) words.set("like", one.caseId);
  if (one.box) words.set("box", [...one.box.lo_mm, ...one.box.hi_mm].map((mm) => mm.toFixed(1)).join(","));
  for (const id of one.liked) words.append("good", id);
  for (const id of one.disliked) words.append("bad", id);
  for (const [field, values] of Object.entries(one.filters)) for (const value of values) words.append(`f.${field}`, value);
  if (one.where) words.set("where", one.where);
  if (one.page > 1) words.set("page", one.page);
  return `#/${words.size ? `?${words}` : ""}`;
}

export function fromHash(hash, kept) {
  const words = new URLSearchParams(hash.split("?")[1] || "");
  const one = { ...emptyQuestion(), report: kept.report || "", ct: kept.ct || null, study: kept.study || "" };
  for (const kind of KINDS) one[kind] = words.get(kind) || "";
  one.caseId = words.get("like") || "";
  const box = (words.get("box") || "").split(",").map(Number);
  if (box.length === 6 && box.every(Number.isFinite)) one.box = { lo_mm: box.slice(0, 3), hi_mm: box.slice(3) };
  [one.liked, one.disliked, one.where] = [words.getAll("good"), words.getAll("bad"), words.get("where") || ""];
  for (const [name, value] of words) if (name.startsWith("f.")) (one.filters[name.slice(2)] ||= []).push(value);
  one.page = Math.max(1, Math.min(500, Number.parseInt(words.get("page"), 10) || 1));
  return one;
}

const quote = (value) => `"${String(value).replaceAll('"', "")}"`;

// Findings must all be there; of other fields one value is enough. Bands of ages are conditions already.
const ALL = ["findings", "negated"];
const BANDS = ["age_years"];

export function conditions({ filters, where }) {
  const parts = Object.entries(filters).filter(([, values]) => values.length).map(([field, values]) => {
    if (BANDS.includes(field)) return `(${values.join(" or ")})`;
    const each = values.map((value) => `${field} = ${quote(value)}`);
    return ALL.includes(field) ? each.join(" and ") : `(${each.join(" or ")})`;
  });
  if (where) parts.push(`(${where})`);
  return parts.join(" and ");
}

// The body of POST /v1/search, and of /v1/search/study.
export function asBody(one) {
  const body = { k: PAGE, offset: (one.page - 1) * PAGE, facets: true };
  for (const kind of [...KINDS, "report"]) if (one[kind]) body[kind] = one[kind];
  if (one.caseId) body.case_id = one.caseId;
  if (one.box) body.box = one.box;
  if (one.study) body.study_instance_uid = one.study;
  if (one.liked.length) body.liked = one.liked;
  if (one.disliked.length) body.disliked = one.disliked;
  const where = conditions(one);
  if (where) body.where = where;
  return body;
}
