// The picture that is edited, as it is sent: the file itself wherever that is possible.

import { makeCanvas, toFile } from "./canvas.js";
import { suffix } from "./code.js";

const SQUARE = 1.01; // ratio of the sides up to which the server takes a picture for a square
const SENT = ["image/png", "image/jpeg", "image/webp"];
const LARGEST = 2; // in sides of the model's pictures: more cannot be seen in what is painted

/**
 * @typedef {object} Sent
 * @property {ImageBitmap|HTMLCanvasElement} picture to be shown
 * @property {number} width in pixels
 * @property {number} height in pixels
 * @property {string} name of the file
 * @property {() => Promise<Blob>} file
 */

export class Source {
  /**
   * @param {Blob} blob
   * @param {ImageBitmap} bitmap of it, upright
   * @param {number} side of the model's pictures, in pixels
   */
  constructor(blob, bitmap, side) {
    Object.assign(this, { blob, bitmap, side });
    const { width, height } = bitmap;
    this.isSquare = Math.max(width, height) <= SQUARE * Math.min(width, height);
  }

  /** @throws {DOMException} if it is nothing that this browser can show */
  static async read(blob, side) {
    return new Source(blob, await createImageBitmap(blob), side);
  }

  /** @returns {Sent} the whole picture */
  whole() {
    const { width, height } = this.bitmap;
    return this.#sent(0, 0, width, height);
  }

  /**
   * @param {number} at where the square lies in what is not one: 0 is the left or the top, 1 the other end
   * @returns {Sent} a square of the picture
   */
  square(at) {
    if (this.isSquare) return this.whole();
    const { width, height } = this.bitmap;
    const edge = Math.min(width, height);
    return this.#sent((width - edge) * at, (height - edge) * at, edge, edge);
  }

  close() {
    this.bitmap.close();
  }

  #sent(x, y, width, height) {
    const { bitmap, blob } = this;
    const isWhole = width === bitmap.width && height === bitmap.height;
    const isFit = Math.max(width, height) <= LARGEST * this.side;
    if (isWhole && isFit && SENT.includes(blob.type)) {
      return { picture: bitmap, width, height, name: `picture.${suffix(blob.type.slice(6))}`, file: async () => blob };
    }
    const factor = isFit ? 1 : this.side / Math.max(width, height);
    const canvas = makeCanvas(Math.max(1, Math.round(width * factor)), Math.max(1, Math.round(height * factor)));
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, Math.round(x), Math.round(y), width, height, 0, 0, canvas.width, canvas.height);
    return { picture: canvas, width: canvas.width, height: canvas.height, name: "picture.png", file: () => toFile(canvas) };
  }
}
