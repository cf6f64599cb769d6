// The answer: asked for, waited for, shown page by page; verdicts on hits, which ask again.

import { element, make, plural, tell } from "../common.js";
import { makeCard } from "./cards.js";
import { asCsv, asJson, save } from "./export.js";
import { Filters } from "./filters.js";
import { asBody, conditions, isEmpty, PAGE } from "./question.js";
import { ask, send } from "./server.js";

const MANY = 1000;
const LOOKED_AT = 8;

export class Results {
  // acts: open, more, collect; change(part of the question) asks anew.
  constructor(acts) {
    [this.acts, this.answer, this.question, this.marked, this.pinned] = [acts, null, null, -1, null];
    this.running = null;
    this.filters = new Filters((changed) => acts.change(changed));
    element("before").addEventListener("click", () => acts.change({ page: this.question.page - 1 }));
    element("after").addEventListener("click", () => acts.change({ page: this.question.page + 1 }));
    element("upload-cancel").addEventListener("click", () => this.running?.abort());
  }

  get hits() { return this.answer?.hits || []; }

  async run(question) {
    const asked = JSON.stringify([asBody(question), question.ct?.name, question.ct?.size]);
    this.question = question;
    element("welcome").hidden = !isEmpty(question);
    if (isEmpty(question)) { this.clear(); return; }
    if (asked === this.asked && this.answer) { this.draw(); return; }
    this.running?.abort();
    const running = question.ct ? this.startUpload(question) : this.startSearch(question);
    this.running = running;
    [this.asked, this.answer] = [asked, null];
    this.wait();
    try {
      const answer = await running.answer;
      if (this.running !== running) return;
      this.answer = answer;
      this.marked = -1;
      this.draw();
      if (!question.ct && !question.study) this.lookCloser(question, answer);
    } catch (error) {
      if (this.running === running) this.fail(error);
    } finally {
      if (this.running === running) { this.running = null; element("upload").hidden = true; element("hits").removeAttribute("aria-busy"); }
    }
  }

  // Where in the volumes takes longer than which: the first hits are asked for again and their cards are filled up.
  async lookCloser(question, answer) {
    const body = { ...asBody(question), k: LOOKED_AT, facets: false, explain: true };
    const closer = await ask("/v1/search", { method: "POST", said: body }).catch(() => null);
    if (!closer || this.answer !== answer) return;
    const known = new Map(closer.hits.map((hit) => [hit.case_id, hit]));
    const isOpen = [...element("hits").children].some((card) => card.contains(document.activeElement) || card.querySelector("details[open]"));
    answer.hits = answer.hits.map((hit) => known.get(hit.case_id) || hit);
    if (!isOpen) this.drawHits();
  }

  startSearch(question) {
    const control = new AbortController();
    return { answer: ask(question.study ? "/v1/search/study" : "/v1/search", { method: "POST", said: asBody(question), signal: control.signal }), abort: () => control.abort() };
  }

  startUpload(question) {
    const fields = { k: PAGE, offset: (question.page - 1) * PAGE, facets: "true", file: question.ct };
    if (question.text) fields.text = question.text;
    if (conditions(question)) fields.where = conditions(question);
    for (const name of ["liked", "disliked"]) if (question[name].length) fields[name] = question[name].join(",");
    const bar = element("upload-done");
    const state = element("upload-state");
    element("upload").hidden = false;
    const { file, ...texts } = fields;
    bar.value = 0;
    state.textContent = "sending";
    return send("/v1/search/ct", { ...texts, file }, (share) => {
      if (share === null || share >= 1) { bar.removeAttribute("value"); state.textContent = "reading the CT"; return; }
      bar.value = share;
      state.textContent = `${Math.round(share * 100)} % sent`;
    });
  }

  clear() {
    [this.answer, this.asked] = [null, ""];
    for (const name of ["hits", "notes", "filters", "state"]) element(name).replaceChildren();
    element("pages").hidden = true;
  }

  wait() {
    element("state").replaceChildren(make("p", this.question.study ? "Fetching the study from the PACS …" : "Searching …"));
    element("notes").replaceChildren();
    element("pages").hidden = true;
    element("hits").setAttribute("aria-busy", "true");
    element("hits").replaceChildren(...Array.from({ length: 3 }, () => make("li", "", "card waiting")));
  }

  fail(error) {
    this.asked = "";
    element("hits").replaceChildren();
    if (error.name === "AbortError") { this.say("Given up", "Nothing was searched."); return; }
    const titles = { 0: "No answer", 401: "A key is needed", 403: "Not allowed", 404: "Not in the PACS", 413: "Too large", 422: "Not understood", 429: "Too many requests", 502: "The PACS does not answer", 503: "Busy" };
    this.say(titles[error.status] || "Something is wrong", error.message, "trouble", () => this.run(this.question));
  }

  say(title, text, kind = "", again) {
    const box = make("div", "", `empty ${kind}`);
    box.append(make("h1", title), make("p", text));
    if (again) { const button = make("button", "Try again"); button.addEventListener("click", again); box.append(button); }
    element("state").replaceChildren(box);
  }

  draw() {
    const { hits, notes, total, took_ms: took, has_good_match: isGood, facets } = this.answer;
    this.filters.show(facets || {}, this.question);
    element("state").replaceChildren();
    if (!hits.length) {
      this.say("Nothing found", Object.values(this.question.filters).flat().length ? "No case passes these filters. Take one back, or ask for less." : "No case of this index fits. Try other words, or a finding.");
    } else {
      const line = make("div", "", "line");
      const count = make("p", `${total > hits.length || this.question.page > 1 ? plural(total, "case") : plural(hits.length, "hit")} · ${(took / 1000).toFixed(2)} s`, "soft");
      line.append(count, this.exports());
      element("state").append(...(isGood === false ? [make("p", "No good match: these are the nearest.", "caution large")] : []), line);
    }
    element("notes").replaceChildren(...notes.map((note) => make("li", note)));
    this.drawHits();
    this.drawPages(total);
  }

  exports() {
    const line = make("span", "", "exports");
    for (const [text, act] of [["CSV", () => save("hits.csv", asCsv(this.hits), "text/csv")], ["JSON", () => save("hits.json", asJson(this.answer), "application/json")]]) {
      const button = make("button", text, "plain");
      button.setAttribute("aria-label", `Save these hits as ${text}`);
      button.addEventListener("click", act);
      line.append(button);
    }
    return line;
  }

  drawHits() {
    const { liked, disliked } = this.question;
    element("hits").replaceChildren(...this.hits.map((hit) => makeCard(hit, {
      acts: { ...this.acts, judge: (one, verdict) => this.judge(one, verdict), pin: (id) => this.pin(id) },
      verdict: liked.includes(hit.case_id) ? "good" : disliked.includes(hit.case_id) ? "bad" : "",
      isPinned: hit.case_id === this.pinned,
    })));
    if (this.marked >= 0) this.mark(this.marked);
  }

  drawPages(total) {
    const { page } = this.question;
    const isFull = this.hits.length === PAGE;
    element("pages").hidden = page === 1 && !isFull;
    element("before").disabled = page === 1;
    element("after").disabled = !isFull || (total > this.hits.length && page * PAGE >= Math.min(total, MANY));
    element("page").textContent = `${(page - 1) * PAGE + 1}–${(page - 1) * PAGE + this.hits.length}`;
  }

  mark(place) {
    if (!this.hits.length) return;
    this.marked = Math.max(0, Math.min(this.hits.length - 1, place));
    const cards = [...element("hits").children];
    cards.forEach((card, at) => card.classList.toggle("marked", at === this.marked));
    cards[this.marked].focus({ preventScroll: true });
    cards[this.marked].scrollIntoView({ block: "nearest" });
  }

  // The hit that a key is about: the marked one.
  current() { return this.hits[this.marked]; }

  pin(id) {
    this.pinned = this.pinned === id ? null : id;
    tell(this.pinned ? "Open another case: this one is laid beside it." : "");
    this.drawHits();
  }

  judge(hit, verdict) {
    const id = hit.case_id;
    ask("/v1/feedback", { method: "POST", said: { query_id: this.answer.query_id, case_id: id, verdict } }).catch((error) => tell(error.message, true));
    const without = (list) => list.filter((one) => one !== id);
    const [liked, disliked] = [without(this.question.liked), without(this.question.disliked)];
    const was = this.question[verdict === "good" ? "liked" : "disliked"].includes(id);
    if (!was) (verdict === "good" ? liked : disliked).push(id);
    this.acts.change({ liked, disliked, page: 1 });
  }
}
