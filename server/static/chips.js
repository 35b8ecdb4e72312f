// What the model knows, as chips: things, styles and backgrounds to put into the prompt.

import { find, make } from "./dom.js";

const SAME_COLOURS = new Set(["grey", "teal", "sky blue", "dark blue", "navy blue", "violet", "cream"]); // of gray, turquoise ...
const MOST = 60; // chips at a time; searching brings up the others

export class Chips {
  #chips = []; // {text, words, part}: what it says, what it is found by, and what it sets in a prompt

  /** @param {(part: object) => void} choose is called with the thing, style or background of a chip */
  constructor(choose) {
    this.choose = choose;
    this.search = find("known-search");
    this.search.addEventListener("input", () => this.#list());
    this.search.addEventListener("keydown", (event) => event.key === "Enter" && event.preventDefault()); // it paints nothing
  }

  /** @param {object} vocabulary of GET /v1/models/{model}/vocabulary */
  show({ model, things, styles, colours, backdrops }) {
    const plain = colours.filter((colour) => !SAME_COLOURS.has(colour));
    const backgrounds = [...backdrops.map(({ phrase }) => phrase), ...plain.map((colour) => `on ${article(colour)} background`)];
    this.#chips = [
      ...things.map(({ name, also, kind }) => chip(name, [name, ...also, kind ?? ""], { thing: name })),
      ...styles.map((style) => chip(`${style} style`, [style, "style"], { style })),
      ...backgrounds.map((background) => chip(background, [background], { background })),
    ];
    const counts = [count(things, "thing"), count(styles, "style"), count(backgrounds, "background")];
    find("known-title").textContent = `What ${model} draws`;
    find("known-counts").textContent = counts.filter(Boolean).join(", ");
    find("known").hidden = false;
    this.#list();
  }

  hide() {
    find("known").hidden = true;
  }

  #list() {
    const sought = this.search.value.trim().toLowerCase();
    const found = this.#chips.filter(({ words }) => words.includes(sought));
    find("known-list").replaceChildren(...found.slice(0, MOST).map((one) => this.#item(one)));
    const more = found.length - MOST;
    const none = found.length === 0 ? `Nothing by that name. The nearest thing that it knows may be offered above.` : "";
    find("known-more").textContent = more > 0 ? `and ${more} more: type to find them` : none;
  }

  #item({ text, part }) {
    const button = make("button", { type: "button", className: `chip ${Object.keys(part)[0]}`, textContent: text });
    button.addEventListener("click", () => this.choose(part));
    return make("li", {}, button);
  }
}

/** The prompt that has these parts. */
export function compose({ thing, style, background }) {
  const subject = [thing, style && `${style} style`].filter(Boolean).join(", ");
  return [subject, background].filter(Boolean).join(style ? ", " : " ");
}

function chip(text, words, part) {
  return { text, words: words.join(" ").toLowerCase(), part };
}

function count(items, name) {
  return items.length && `${items.length} ${name}${items.length === 1 ? "" : "s"}`;
}

function article(noun) {
  return `${/^[aeiou]/.test(noun) ? "an" : "a"} ${noun}`;
}
