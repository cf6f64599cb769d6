// Findings offered while one types: for the word at the end of the field, chosen by a click, or by arrows and Enter.

import { element, make } from "../common.js";
import { ask } from "./server.js";

const PAUSE_MS = 120;
// What stands before the last of these is done; what stands behind is still being typed.
const BREAK = /^(.*(?:\b(?:and|or|not|without|with|sin|con|y|o|no)\s+|[(,"]\s*))?(.*)$/is;

export function bindSuggestions(field, onChosen) {
  const list = element("suggestions");
  let waiting = 0;
  let asked = 0;
  let marked = -1;

  const close = () => {
    asked += 1;
    clearTimeout(waiting);
    list.hidden = true;
    marked = -1;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  };

  const choose = (name) => {
    const [, before = ""] = field.value.match(BREAK);
    field.value = before + name;
    close();
    field.focus();
    onChosen();
  };

  const mark = (place) => {
    const all = [...list.children];
    marked = (place + all.length) % all.length;
    all.forEach((one, at) => one.setAttribute("aria-selected", String(at === marked)));
    field.setAttribute("aria-activedescendant", all[marked].id);
    all[marked].scrollIntoView({ block: "nearest" });
  };

  const show = (found) => {
    list.replaceChildren(...found.map((one, at) => {
      const option = make("li", one.name);
      option.id = `suggestion-${at}`;
      option.setAttribute("role", "option");
      option.setAttribute("aria-selected", "false");
      if (one.synonym !== one.name) option.append(make("span", one.synonym, "soft"));
      // Before the field loses its focus.
      option.addEventListener("pointerdown", (event) => { event.preventDefault(); choose(one.name); });
      return option;
    }));
    marked = -1;
    list.hidden = !found.length;
    field.setAttribute("aria-expanded", String(found.length > 0));
  };

  field.addEventListener("input", () => {
    clearTimeout(waiting);
    const [, , typed] = field.value.match(BREAK);
    if (typed.trim().length < 2) { close(); return; }
    const turn = ++asked;
    waiting = setTimeout(async () => {
      const found = await ask(`/v1/keywords?q=${encodeURIComponent(typed.trim().slice(0, 100))}`).catch(() => []);
      if (turn === asked && document.activeElement === field) show(found.filter((one) => one.name !== typed.trim()).slice(0, 8));
    }, PAUSE_MS);
  });
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    if (list.hidden) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      mark(event.key === "ArrowDown" ? marked + 1 : Math.max(marked, 0) - 1);
    } else if (event.key === "Enter" && marked >= 0) {
      event.preventDefault();
      choose(list.children[marked].firstChild.textContent);
    } else if (event.key === "Escape") {
      event.preventDefault();
      close();
    }
  });
  return { close };
}
