// The scales of the model, each as a square with its token map's side: as a picture, and as a progress bar.

import { make } from "./dom.js";

const SMALLEST = 0.25; // of the largest, so that the first scale can be seen

/** A square for each scale, as large and as finely divided as its token map. */
export function drawScales(root, scales) {
  root.replaceChildren(
    ...scales.map((side, index) => {
      const square = make("i");
      square.style.setProperty("--share", String(SMALLEST + ((1 - SMALLEST) * side) / scales.at(-1)));
      square.style.setProperty("--cells", String(side));
      square.style.setProperty("--step", String(index));
      return square;
    }),
  );
}

export class Ladder {
  #share = 0;

  /** @param {HTMLElement} root which is decoration: what it shows is also said in words */
  constructor(root) {
    this.root = root;
  }

  /** @param {number[]} scales side of each scale's token map */
  set scales(scales) {
    drawScales(this.root, scales);
    this.reach(this.#share);
  }

  /** @param {number} share of the scales that are painted, 0 to 1 */
  reach(share) {
    this.#share = share;
    const painted = Math.round(share * this.root.children.length);
    [...this.root.children].forEach((square, index) => square.classList.toggle("painted", index < painted));
  }
}
