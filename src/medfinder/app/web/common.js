// What the pages share: asking the server, saying who reads, keys and their list.

export const element = (id) => document.getElementById(id);

export const make = (tag, text, kind) => {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};

export async function ask(path, said) {
  const options = said ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(said) } : {};
  const answer = await fetch(path, options).catch(() => { throw new Error("the server does not answer; is medfinder review still running?"); });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(typeof body.detail === "string" ? body.detail : `the server answered ${answer.status}`);
  return body;
}

let fading;

// Says what became of something; trouble stays, the rest goes after a while.
export function tell(text, isTrouble) {
  clearTimeout(fading);
  if (text && !isTrouble) fading = setTimeout(() => tell(""), 4000);
  element("message").textContent = text;
  element("message").className = isTrouble ? "trouble" : "";
}

// Two windows are two readers: each keeps its own name, a new one begins with the last.
export function bindReader(onChange) {
  const field = element("reader");
  field.value = sessionStorage.getItem("reader") || localStorage.getItem("reader") || "";
  field.addEventListener("change", () => {
    field.value = reader();
    sessionStorage.setItem("reader", reader());
    localStorage.setItem("reader", reader());
    onChange();
  });
  field.addEventListener("keydown", (event) => { if (event.key === "Enter") field.blur(); });
}

export const reader = () => element("reader").value.trim().replace(/\s+/g, " ");

// Names the reader, or asks for the name and says so.
export function named() {
  if (reader()) return reader();
  tell("Say who you are first: the field Reader.", true);
  element("reader").focus();
  return "";
}

export const isField = (target) => target.matches("input:not([type=checkbox]), textarea, select");

// A decision under way is not taken twice by a hasty second press.
export const oneAtATime = (act) => {
  let running = false;
  return async (...given) => {
    if (running) return;
    running = true;
    try { await act(...given); } finally { running = false; }
  };
};

// A key held down may scroll and step, but must not finish case after case.
const REPEATED = ["ArrowUp", "ArrowDown", "j", "k"];

// Keys of the page: what a single key does outside of fields; "?" lists them.
export function bindKeys(keys) {
  const help = element("help");
  element("ask-help").addEventListener("click", () => help.showModal());
  element("close-help").addEventListener("click", () => help.close());
  document.addEventListener("keydown", (event) => {
    if (help.open || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.key === "Escape") { event.target.blur(); return; }
    if (isField(event.target)) return;
    // A button takes Enter and the space bar for itself.
    if (event.target.matches("button, a, summary") && ["Enter", " "].includes(event.key)) return;
    if (event.repeat && !REPEATED.includes(event.key)) { event.preventDefault(); return; }
    const act = event.key === "?" ? () => help.showModal() : keys[event.key];
    if (act) { event.preventDefault(); act(event); }
  });
}

// A list of buttons on the left, of which one is current; long lists are cut around it.
const MOST_LINES = 200;

export function fillList(list, things, current, describe, choose) {
  const place = Math.max(0, things.findIndex((thing) => thing === current));
  const from = Math.max(0, Math.min(place - MOST_LINES / 2, things.length - MOST_LINES));
  const lines = things.slice(from, from + MOST_LINES).map((thing) => {
    const button = make("button");
    button.append(...describe(thing));
    button.setAttribute("aria-current", String(thing === current));
    button.addEventListener("click", () => choose(thing));
    const line = make("li");
    line.append(button);
    return line;
  });
  const more = (count, where) => (count > 0 ? [make("li", `${count} more ${where}`, "more")] : []);
  list.replaceChildren(...more(from, "above"), ...lines, ...more(things.length - from - MOST_LINES, "below"));
  list.querySelector("[aria-current=true]")?.scrollIntoView({ block: "nearest" });
}

export const plural = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;

export const when = (at) => at.replace("T", " ").replace(/(:\d\d):\d\d.*$/, "$1").slice(0, 16);
