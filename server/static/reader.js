// How the model would read the prompt, said while it is typed: before anything is painted.

import { readPrompt } from "./api.js";
import { find, make } from "./dom.js";

const PAUSE_MS = 350; // after the last key

export class Reader {
  #timer = 0;
  #controller = new AbortController();
  #model = null;

  /** What was last read: things, style and background that will be drawn; null before that. */
  reading = null;

  /**
   * @param {() => string} prompt what the form says now
   * @param {(prompt: string) => void} take is called with a prompt that is chosen instead
   */
  constructor(prompt, take) {
    Object.assign(this, { prompt, take });
    this.root = find("reading");
  }

  /** @param {object} model its card; only one that knows few things reads a prompt as something else */
  set model(model) {
    this.#model = model.num_things === null || model.num_things === undefined ? null : model;
    if (!this.#model) this.hide();
    this.changed();
  }

  /** The prompt is another one. */
  changed() {
    clearTimeout(this.#timer);
    this.#controller.abort();
    if (!this.#model) return;
    this.#timer = setTimeout(() => this.#read(), PAUSE_MS);
  }

  hide() {
    clearTimeout(this.#timer);
    this.#controller.abort();
    this.root.hidden = true;
  }

  async #read() {
    const prompt = this.prompt().trim();
    this.#controller = new AbortController();
    if (prompt === "") {
      this.reading = null;
      return this.hide();
    }
    try {
      this.reading = await readPrompt(prompt, this.#model.id, this.#controller.signal);
      this.#show(this.reading);
    } catch {
      this.root.hidden = true; // painting will say what is wrong
    }
  }

  #show({ drawn, unknown, refused, notes, suggestions }) {
    const cannot = unknown ? `${this.#model.id} cannot draw “${unknown}”.` : `It will draw “${drawn}”.`;
    find("reading-title").textContent = cannot;
    const said = unknown && !refused ? notes.slice(1) : notes; // the first is about what is drawn instead
    find("reading-notes").replaceChildren(...said.map((note) => make("li", { textContent: note })));
    find("reading-instead").replaceChildren(...suggestions.map((text) => this.#suggestion(text)));
    find("reading-offer").hidden = suggestions.length === 0;
    this.root.classList.toggle("unknown", Boolean(unknown));
    this.root.hidden = notes.length === 0;
  }

  #suggestion(prompt) {
    const button = make("button", { type: "button", className: "chip", textContent: prompt });
    button.addEventListener("click", () => this.take(prompt));
    return make("li", {}, button);
  }
}
