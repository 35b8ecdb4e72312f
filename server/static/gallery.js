// The pictures that this browser keeps, the latest first. Choosing one brings back how it was asked for.

import { find, make } from "./dom.js";

export class Gallery {
  #items = new Map(); // id -> list item

  /**
   * @param {Promise<object>} store of store.js
   * @param {(picture: object) => void} choose
   */
  constructor(store, choose) {
    this.store = store;
    this.choose = choose;
    this.root = find("gallery");
    this.list = find("gallery-list");
    const question = find("clear-question");
    find("clear").addEventListener("click", () => question.showModal());
    find("clear-no").addEventListener("click", () => question.close());
    find("clear-yes").addEventListener("click", async () => {
      question.close();
      await this.#clear();
    });
  }

  /** Shows what was kept before. */
  async open() {
    (await (await this.store).all()).forEach((picture) => this.#show(picture));
  }

  /** @param {import("./store.js").Picture} picture */
  async add(picture) {
    const { id, dropped } = await (await this.store).add(picture);
    this.#show({ ...picture, id });
    dropped.forEach((old) => this.#remove(old));
  }

  #show(picture) {
    const { id, blob, parameters } = picture;
    const image = make("img", { src: URL.createObjectURL(blob), alt: parameters.prompt, loading: "lazy" });
    const open = make("button", { type: "button", className: "open", title: parameters.prompt }, image);
    open.addEventListener("click", () => this.choose(picture));
    const remove = make("button", { type: "button", className: "remove", textContent: "×" });
    remove.setAttribute("aria-label", `Delete: ${parameters.prompt}, seed ${parameters.seed}`);
    remove.addEventListener("click", () => this.#delete(id));
    const prompt = make("span", { className: "asked", textContent: parameters.prompt });
    const seed = make("span", { className: "seed", textContent: `${picture.edit ? "edit, " : ""}seed ${parameters.seed}` });
    const item = make("li", {}, open, remove, prompt, seed);
    this.#items.set(id, item);
    this.list.prepend(item);
    this.root.hidden = false;
  }

  async #delete(id) {
    await (await this.store).delete(id);
    const item = this.#items.get(id);
    const next = item.nextElementSibling ?? item.previousElementSibling;
    this.#remove(id);
    next?.querySelector(".remove").focus(); // so that the keyboard does not start over
  }

  async #clear() {
    await (await this.store).clear();
    [...this.#items.keys()].forEach((id) => this.#remove(id));
    find("prompt").focus();
  }

  #remove(id) {
    const item = this.#items.get(id);
    if (!item) return; // another tab's
    URL.revokeObjectURL(item.querySelector("img").src);
    item.remove();
    this.#items.delete(id);
    this.root.hidden = this.#items.size === 0;
  }
}
