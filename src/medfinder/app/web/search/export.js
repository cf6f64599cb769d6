// The hits on the page as a file: CSV for a table, JSON for everything. Made here; nothing is sent anywhere.

const COLUMNS = ["rank", "case_id", "study_id", "score", "age_years", "sex", "region", "source", "split", "is_synthetic", "findings", "matched", "negated", "missing", "caution"];

// A cell that begins like a formula would be one in a spreadsheet.
const cell = (value) => {
  const text = Array.isArray(value) ? value.join("; ") : String(value ?? "");
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
};

export const asCsv = (hits) => [COLUMNS.join(","), ...hits.map((hit) => COLUMNS.map((name) => cell(hit[name])).join(","))].join("\r\n") + "\r\n";

export function asJson(answer) {
  return JSON.stringify({ not_for_diagnosis: true, query_id: answer.query_id, total: answer.total, notes: answer.notes, hits: answer.hits }, null, 2);
}

export function save(name, text, kind) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
