// Where pictures form: a tile for each, in which every preview fades into the next.

import { make } from "./dom.js";

export class Stage {
  #tiles = [];

  /**
   * @param {HTMLElement} root
   * @param {object} actions
   * @param {(seed: number) => void} actions.useSeed is called when a seed is to be kept
   * @param {(blob: Blob) => void} actions.edit is called when a picture is to be edited
   */
  constructor(root, actions) {
    this.root = root;
    this.actions = actions;
  }

  /**
   * Makes room for `n` pictures.
   *
   * @param {number} n
   * @param {string} prompt
   * @param {string} size such as "512x512"
   * @param {Blob|null} before what is there to begin with
   */
  begin(n, prompt, size, before = null) {
    this.#tiles.forEach((tile) => tile.discard());
    const [width, height] = size.split("x");
    this.#tiles = Array.from({ length: n }, () => new Tile(prompt, width / height, this.actions));
    if (before) this.#tiles.forEach((tile) => tile.begin(before));
    this.root.dataset.count = String(n);
    this.root.replaceChildren(...this.#tiles.map((tile) => tile.element));
  }

  /** Shows an unfinished picture; `number` counts the previews of it from 1. */
  preview(index, blob, number) {
    this.#tiles[index].preview(blob, number);
  }

  /** Shows a finished picture; its file is downloaded under `name`. */
  finish(index, blob, seed, name) {
    this.#tiles[index].finish(blob, seed, name);
  }

  /** Nothing more comes: unfinished pictures stay as they are. */
  end() {
    this.#tiles.forEach((tile) => tile.end());
  }
}

class Tile {
  #shown = Promise.resolve();
  #url = "";

  constructor(prompt, ratio, actions) {
    this.prompt = prompt;
    this.actions = actions;
    this.frame = make("div", { className: "frame forming" });
    this.frame.style.aspectRatio = String(ratio);
    this.caption = make("figcaption");
    this.element = make("figure", { className: "tile" }, this.frame, this.caption);
  }

  begin(blob) {
    this.#show(blob, `${this.prompt} (before)`);
  }

  preview(blob, number) {
    this.#show(blob, `${this.prompt} (preview ${number})`);
  }

  finish(blob, seed, name) {
    this.end();
    const url = this.#show(blob, this.prompt);
    const wide = make("span", { className: "wide", textContent: " seed" }); // where there is room for it
    const keep = make("button", { type: "button", className: "quiet" }, "Keep", wide);
    keep.setAttribute("aria-label", `Keep seed ${seed}`);
    keep.addEventListener("click", () => this.actions.useSeed(seed));
    const edit = make("button", { type: "button", className: "quiet edits", textContent: "Edit" });
    edit.setAttribute("aria-label", `Edit the picture of seed ${seed}`);
    edit.addEventListener("click", () => this.actions.edit(blob));
    const save = make("a", { href: url, download: name, className: "quiet", textContent: "Save" });
    save.setAttribute("aria-label", `Save ${name}`);
    const label = make("span", { className: "seed" }, "seed ", make("b", { textContent: String(seed) }));
    this.caption.replaceChildren(label, edit, keep, save);
  }

  end() {
    this.frame.classList.remove("forming");
  }

  discard() {
    URL.revokeObjectURL(this.#url);
  }

  /** Lays a picture over the one before, which leaves when the new one has faded in. */
  #show(blob, alt) {
    const url = URL.createObjectURL(blob);
    const before = this.#url;
    this.#url = url;
    const image = make("img", { src: url, alt });
    this.#shown = this.#shown.then(async () => {
      await image.decode().catch(() => {}); // discarded meanwhile
      const older = [...this.frame.children];
      older.forEach((one) => one.setAttribute("aria-hidden", "true"));
      this.frame.append(image);
      await Promise.allSettled(image.getAnimations().map((fade) => fade.finished));
      older.forEach((one) => one.remove());
      URL.revokeObjectURL(before);
    });
    return url;
  }
}
