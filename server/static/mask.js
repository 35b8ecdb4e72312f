// What of a picture is to be painted: drawn on a canvas, whose opaque pixels it is.

import { makeCanvas, toFile } from "./canvas.js";

const HALF = 128; // of 255: what is more opaque, or whiter, is marked
const STRIPES = 40; // across the canvas

export class Mask {
  #operations = []; // what has been done, each as a function of the context; undoing does all but the last again
  #stripes = null;

  /**
   * @param {HTMLCanvasElement} canvas over the picture
   * @param {() => void} changed is called after each change
   */
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.revision = 0;
  }

  get canUndo() {
    return this.#operations.length > 0;
  }

  /**
   * Begins with a clean mask of a picture.
   *
   * @param {number} width in pixels
   * @param {number} height in pixels
   * @param {ImageData|null} given a mask of this size, marked where it is white
   */
  begin(width, height, given = null) {
    Object.assign(this.canvas, { width, height });
    this.#stripes = stripes(this.context, width / STRIPES);
    this.#operations = [];
    if (given) this.#operations.push((context) => this.#mark(context, given));
    this.#redraw();
  }

  /**
   * Begins a stroke.
   *
   * @param {number} size of the brush, in pixels
   * @param {boolean} erases
   * @returns {(x: number, y: number) => void} draws on to there
   */
  stroke(size, erases) {
    const points = [];
    const draw = (context, index) => {
      const [x, y] = points[index];
      context.globalCompositeOperation = erases ? "destination-out" : "source-over";
      Object.assign(context, { lineWidth: size, lineCap: "round", strokeStyle: this.#stripes });
      context.beginPath();
      context.moveTo(...points[Math.max(0, index - 1)]);
      context.lineTo(x + 0.01, y); // a line of no length would not be drawn
      context.stroke();
    };
    this.#operations.push((context) => points.forEach((_, index) => draw(context, index)));
    return (x, y) => {
      points.push([x, y]);
      draw(this.context, points.length - 1);
      this.#note();
    };
  }

  /** Marks a box, in pixels, or takes its mark off. */
  box(left, top, right, bottom, erases) {
    this.#do((context) => {
      context.globalCompositeOperation = erases ? "destination-out" : "source-over";
      context.fillStyle = this.#stripes;
      context.fillRect(left, top, right - left, bottom - top);
    });
  }

  invert() {
    this.#do((context) => {
      context.globalCompositeOperation = "source-out";
      context.fillStyle = this.#stripes;
      context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    });
  }

  clear() {
    this.#do((context) => context.clearRect(0, 0, this.canvas.width, this.canvas.height));
  }

  undo() {
    this.#operations.pop();
    this.#redraw();
  }

  /** The mask as a PNG file: white where it is marked, black elsewhere. */
  async file() {
    const { width, height } = this.canvas;
    const image = this.context.getImageData(0, 0, width, height);
    for (let at = 0; at < image.data.length; at += 4) {
      image.data.fill(image.data[at + 3] >= HALF ? 255 : 0, at, at + 3);
      image.data[at + 3] = 255;
    }
    const canvas = makeCanvas(width, height);
    canvas.getContext("2d").putImageData(image, 0, 0);
    return toFile(canvas);
  }

  #do(operation) {
    this.#operations.push(operation);
    operation(this.context);
    this.#note();
  }

  #redraw() {
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (const operation of this.#operations) operation(this.context);
    this.#note();
  }

  #note() {
    this.revision += 1;
    this.changed();
  }

  #mark(context, { data, width, height }) {
    const shape = context.createImageData(width, height);
    for (let at = 0; at < data.length; at += 4) shape.data[at + 3] = data[at] >= HALF ? 255 : 0;
    context.putImageData(shape, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = this.#stripes;
    context.fillRect(0, 0, width, height);
  }
}

/** A mask, white where these pixels are transparent; null if none are. The server would take it for the same. */
export function transparent(image) {
  let found = false;
  for (let at = 0; at < image.data.length; at += 4) {
    const isClear = image.data[at + 3] < HALF;
    image.data[at] = isClear ? 255 : 0;
    found ||= isClear;
  }
  return found ? image : null;
}

/** Slanting stripes in two colours: one of them stands out from any picture. */
function stripes(context, width) {
  const tile = makeCanvas(8, 8);
  const paint = tile.getContext("2d");
  paint.fillStyle = "#e8590c";
  paint.fillRect(0, 0, 8, 8);
  paint.fillStyle = "#ffd8bf";
  paint.fillRect(0, 0, 2, 8);
  const pattern = context.createPattern(tile, "repeat");
  pattern.setTransform(new DOMMatrix().rotate(45).scale(width / 8));
  return pattern;
}
