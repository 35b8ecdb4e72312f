// What the page opens on: pictures that the model painted ahead. Choosing one paints it again, in full.

import { find, make } from "./dom.js";

const LARGE = [0, 5]; // in a mosaic of squares, these take four

export class Showcase {
  /** @param {(picture: {prompt: string, seed: number}) => void} choose */
  constructor(choose) {
    this.choose = choose;
    this.root = find("showcase");
  }

  /** @param {{prompt: string, seed: number, b64_json: string}[]} pictures */
  show(pictures) {
    find("showcase-list").replaceChildren(...pictures.map((picture, index) => this.#item(picture, index)));
    this.root.hidden = pictures.length === 0;
    document.body.classList.toggle("has-showcase", pictures.length > 0);
  }

  #item(picture, index) {
    const bytes = Uint8Array.from(atob(picture.b64_json), (character) => character.charCodeAt(0));
    const image = make("img", { alt: "", src: URL.createObjectURL(new Blob([bytes], { type: "image/webp" })) });
    const words = make("span", { textContent: picture.prompt });
    const button = make("button", { type: "button", title: `Paint again: ${picture.prompt}` }, image, words);
    button.addEventListener("click", () => this.choose(picture));
    return make("li", { className: LARGE.includes(index) ? "large" : "" }, button);
  }
}
