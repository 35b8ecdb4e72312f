// The picture that is edited: what of it is to be painted, and how much of it stays.

import { Brush } from "./brush.js";
import { makeCanvas, pixels, toFile } from "./canvas.js";
import { find } from "./dom.js";
import { drawScales } from "./ladder.js";
import { Mask, transparent } from "./mask.js";
import { Placement } from "./placement.js";
import { Source } from "./source.js";

const WAYS = {
  part: { verb: "Paint this part", ends: ["something new", "what is there now"] },
  around: { verb: "Paint around it", ends: ["", ""] },
  all: { verb: "Paint a variation", ends: ["a new picture", "the same picture"] },
};

/**
 * @typedef {object} Edit what the request of an edit has beside the form
 * @property {"part"|"around"|"all"} way
 * @property {object} fields keep_scales, place, focus, feather
 * @property {Object<string, File>} files image and, of a part, mask
 */

export class Editor {
  #source = null;
  #sent = null; // the picture as it is sent; it depends on the way
  #way = "part";
  #keep = { part: 0, all: 0 };
  #scales = [];
  #side = 1;
  #revision = 0;

  /**
   * @param {() => void} changed is called when the request is another one
   * @param {(sentence: string) => void} say
   */
  constructor(changed, say) {
    this.changed = changed;
    this.root = find("editor");
    this.strip = find("edited");
    this.mask = new Mask(find("board-mask"), () => this.#note());
    const ring = find("ring");
    this.brush = new Brush(find("mask-area"), ring, this.mask, find("brush-size"), () => this.#isErasing, say);
    this.placement = new Placement(find("board"), find("placed"), find("placed-size"), () => this.#note());
    for (const radio of this.root.querySelectorAll("[name=way]")) {
      radio.addEventListener("change", () => this.#go(radio.value));
    }
    find("keep_scales").addEventListener("input", (event) => this.#keepScales(event.target.valueAsNumber));
    find("crop").addEventListener("input", () => this.#lay());
    for (const id of ["focus", "feather"]) find(id).addEventListener("change", () => this.#note());
    find("undo").addEventListener("click", () => this.mask.canUndo && this.mask.undo());
    find("wipe").addEventListener("click", () => this.mask.clear());
    find("invert").addEventListener("click", () => this.mask.invert());
    find("mark-box").addEventListener("click", () => this.#markBox());
    find("centre").addEventListener("click", () => this.placement.centre());
  }

  /** The model that paints: its scales, and the side of its pictures. */
  set model({ scales, size }) {
    this.#scales = scales;
    this.#side = Number(size.split("x")[0]);
    this.#keep = { part: 0, all: Math.floor(scales.length / 2) };
    find("keep_scales").max = scales.length;
    drawScales(find("kept"), scales);
  }

  get isOpen() {
    return this.#sent !== null;
  }

  /** What the button that paints says. */
  get verb() {
    return WAYS[this.#way].verb;
  }

  /** What the prompt is to be. */
  get placeholder() {
    const isPart = this.#way === "part" && find("focus").checked;
    return isPart ? "Describe what should be there" : "Describe the whole picture";
  }

  /** Changes whenever another request is made of it. */
  get revision() {
    return this.#revision;
  }

  /** The fields of the request that are about the edit. */
  get fields() {
    const kept = this.#keep[this.#way];
    return {
      ...(this.#way === "around" && { place: this.placement.place }),
      ...((this.#way === "all" || kept > 0) && { keep_scales: kept }),
      ...(this.#way === "part" && !find("focus").checked && { focus: false }),
      ...(this.#way !== "all" && !find("feather").checked && { feather: false }),
    };
  }

  /** The names of the files of the request, by field. */
  get names() {
    return { image: this.#sent.name, ...(this.#way === "part" && { mask: "mask.png" }) };
  }

  /** @returns {Promise<Edit>} as it is now */
  async edit() {
    const { image, mask } = this.names;
    const files = { image: named(await this.#sent.file(), image) };
    if (mask) files.mask = named(await this.mask.file(), mask);
    return { way: this.#way, fields: this.fields, files };
  }

  /**
   * Opens a picture.
   *
   * @param {Blob} blob
   * @param {Edit|null} edit of it to begin with
   * @throws {DOMException} it cannot be shown; what was open stays open
   */
  async open(blob, edit = null) {
    const source = await Source.read(blob, this.#side);
    const mask = edit?.files.mask ? await createImageBitmap(edit.files.mask) : null;
    this.close();
    this.#source = source;
    find("crop").value = "50";
    for (const id of ["focus", "feather"]) find(id).checked = edit?.fields[id] !== false;
    this.#keep = { part: 0, all: Math.floor(this.#scales.length / 2) };
    this.placement.begin(source.bitmap.width / source.bitmap.height, this.#side, edit?.fields.place);
    const way = edit?.way ?? (source.isSquare ? "part" : "around");
    if (edit?.fields.keep_scales !== undefined) this.#keep[way] = edit.fields.keep_scales;
    this.#begin(source.square(0.5), mask);
    this.root.querySelector(`[value=${way}]`).checked = true;
    this.#go(way);
    this.show();
  }

  /** Shows the board, in place of what has been painted. */
  show() {
    this.root.hidden = !this.isOpen;
    this.strip.hidden = true;
  }

  /** Leaves the place to what is painted; what is open stays open. */
  hide() {
    this.#copyTo(find("edited-picture"));
    if (this.root.contains(document.activeElement)) find("cancel").focus({ preventScroll: true });
    this.root.hidden = true;
    this.strip.hidden = false;
  }

  close() {
    this.#source?.close();
    this.#source = this.#sent = null;
    this.root.hidden = true;
    this.strip.hidden = true;
    this.#note();
  }

  /** The picture before it is painted on, as a file; what is still to come is left blank. */
  async before() {
    const canvas = makeCanvas(this.#side, this.#side);
    const context = canvas.getContext("2d");
    if (this.#way === "around") this.placement.draw(context, this.#sent.picture);
    else context.drawImage(this.#sent.picture, 0, 0, this.#side, this.#side);
    return toFile(canvas);
  }

  /** Goes to what an error is about; false if that is not here. */
  blame(field) {
    const ids = { image: "board", mask: "mask-area", place: "placed", keep_scales: "keep_scales" };
    if (!this.isOpen || !(field in ids)) return false;
    this.show();
    const element = find(ids[field]);
    element.focus({ preventScroll: true });
    return true;
  }

  get #isErasing() {
    return find("erase").checked;
  }

  #go(way) {
    this.#way = way;
    this.root.dataset.way = way;
    find("keep-field").hidden = way === "around";
    find("crop-field").hidden = way === "around" || this.#source.isSquare;
    find("focus-field").hidden = way !== "part";
    find("feather-field").hidden = way === "all";
    const [least, most] = WAYS[way].ends;
    find("keep-least").textContent = `0: ${least}`;
    find("keep-most").textContent = `${this.#scales.length}: ${most}`;
    if (way !== "around") this.#keepScales(this.#keep[way]);
    this.#lay();
  }

  /** Lays the picture on the board, as it is sent. */
  #lay() {
    const isPlaced = this.#way === "around";
    this.#sent = isPlaced ? this.#source.whole() : this.#source.square(find("crop").value / 100);
    this.#copyTo(find(isPlaced ? "placed-picture" : "board-picture"));
    this.#note();
  }

  #copyTo(canvas) {
    const { picture, width, height } = this.#sent;
    Object.assign(canvas, { width, height });
    canvas.getContext("2d").drawImage(picture, 0, 0, width, height);
  }

  #begin({ picture, width, height }, mask) {
    this.mask.begin(width, height, mask ? pixels(mask, width, height) : transparent(pixels(picture, width, height)));
    mask?.close();
  }

  #keepScales(count) {
    this.#keep[this.#way] = count;
    const field = find("keep_scales");
    field.value = count;
    const all = this.#scales.length;
    const words = this.#way === "part" ? keptInside(count, all) : kept(count, all);
    find("keep-text").textContent = words;
    field.setAttribute("aria-valuetext", words);
    [...find("kept").children].forEach((square, index) => square.classList.toggle("painted", index < count));
    this.#note();
  }

  #markBox() {
    const { width, height } = this.mask.canvas;
    const [left, top, right, bottom] = ["left", "top", "right", "bottom"].map((edge) => find(`box-${edge}`).value / 100);
    this.mask.box(left * width, top * height, right * width, bottom * height, this.#isErasing);
  }

  #note() {
    this.#revision += 1;
    find("undo").ariaDisabled = String(!this.mask?.canUndo);
    if (this.placement) find("place-text").textContent = this.placement.words;
    this.changed();
  }
}

function named(blob, name) {
  return new File([blob], name, { type: blob.type });
}

function kept(count, all) {
  if (count === 0) return "Nothing is kept: the picture will be new.";
  if (count === all) return "Everything is kept: nothing will change.";
  return `${count === 1 ? "The coarsest" : `The ${count} coarsest`} of ${all} scales ${count === 1 ? "is" : "are"} kept; the finer ones are repainted.`;
}

function keptInside(count, all) {
  return count === 0 ? "The content under the mask is discarded." : `Under the mask: ${kept(count, all).replace(/^./, (letter) => letter.toLowerCase())}`;
}
