// A field that finds a keyword by what is typed: any of its names, in English or Spanish, with or without accents.

import { make } from "./common.js";

const MOST_SHOWN = 8;
const fold = (text) => text.normalize("NFD").replace(/[\u0300-\u036f]/g, "").toLowerCase().replace(/[^a-z0-9]+/g, " ").trim();

export function makePicker(field, list, keywords, onPick) {
  const known = keywords.map((keyword) => ({ ...keyword, folded: keyword.others.map((name) => ({ name, words: fold(name) })) }));
  const state = { found: [], current: 0 };

  const search = () => {
    const typed = fold(field.value);
    state.found = typed ? rank(known, typed).slice(0, MOST_SHOWN) : [];
    state.current = 0;
    show();
  };

  const show = () => {
    const typed = fold(field.value);
    list.replaceChildren(...state.found.map((one, place) => {
      const line = make("li");
      line.id = `pick-${place}`;
      line.setAttribute("role", "option");
      line.setAttribute("aria-selected", String(place === state.current));
      line.append(make("strong", one.keyword.name), make("span", one.keyword.es, "soft"));
      if (one.by !== one.keyword.name && one.by !== one.keyword.es) line.append(make("span", `also: ${one.by}`, "soft"));
      // Before the field loses the focus, which would close the list.
      line.addEventListener("pointerdown", (event) => { event.preventDefault(); pick(place, "present"); });
      return line;
    }));
    if (typed && !state.found.length) list.append(make("li", "No keyword has such a name.", "soft"));
    list.hidden = !typed;
    field.setAttribute("aria-expanded", String(Boolean(typed)));
    if (state.found.length) field.setAttribute("aria-activedescendant", `pick-${state.current}`);
    else field.removeAttribute("aria-activedescendant");
  };

  const close = () => { field.value = ""; search(); };

  const pick = (place, status) => {
    const one = state.found[place];
    if (!one) return;
    close();
    onPick(one.keyword.name, status);
  };

  field.addEventListener("input", search);
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by && state.found.length) {
      state.current = (state.current + by + state.found.length) % state.found.length;
      show();
      event.preventDefault();
    } else if (event.key === "Enter") {
      pick(state.current, event.shiftKey ? "absent" : event.ctrlKey ? "uncertain" : "present");
      event.preventDefault();
    } else if (event.key === "Escape" && field.value) {
      close();
      event.preventDefault();
    }
  });
}

// What begins as typed stands before what has such words, the shorter name before the longer.
function rank(known, typed) {
  const parts = typed.split(" ");
  const found = [];
  for (const keyword of known) {
    let best = null;
    for (const { name, words } of keyword.folded) {
      const spelled = words.split(" ");
      const fits = parts.every((part) => spelled.some((word) => word.startsWith(part)));
      const grade = words === typed ? 0 : words.startsWith(typed) ? 1 : fits ? 2 : 3;
      if (grade < 3 && (!best || grade < best.grade || (grade === best.grade && words.length < best.length))) best = { keyword, by: name, grade, length: words.length };
    }
    if (best) found.push(best);
  }
  return found.sort((one, other) => one.grade - other.grade || one.length - other.length || one.keyword.name.localeCompare(other.keyword.name));
}
