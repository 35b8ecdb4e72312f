// Draws on a mask: with a mouse, a finger, a pen or the keyboard.

const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const STEP = 1 / 32; // of the picture that an arrow key goes
const SMALL_STEP = 1 / 256; // the same with Shift
const PEN_ERASER = 32; // of PointerEvent.buttons

export class Brush {
  #draw = null; // draws the stroke on; null while the brush is lifted
  #at = [0.5, 0.5]; // where it is, in widths and heights of the picture

  /**
   * @param {HTMLElement} area over the picture, which has the focus when keys draw
   * @param {HTMLElement} ring that shows where the brush is, and how large
   * @param {import("./mask.js").Mask} mask
   * @param {HTMLInputElement} size of the brush, in percent of the picture's width
   * @param {() => boolean} erases
   * @param {(sentence: string) => void} say
   */
  constructor(area, ring, mask, size, erases, say) {
    Object.assign(this, { area, ring, mask, size, erases, say });
    area.addEventListener("pointerdown", (event) => this.#onDown(event));
    area.addEventListener("pointermove", (event) => this.#onMove(event));
    for (const type of ["pointerup", "pointercancel"]) area.addEventListener(type, () => (this.#draw = null));
    area.addEventListener("pointerleave", () => (ring.hidden = document.activeElement !== area));
    area.addEventListener("keydown", (event) => this.#onKey(event));
    area.addEventListener("focus", () => this.#showRing(area.matches(":focus-visible")));
    area.addEventListener("blur", () => this.#lift());
    size.addEventListener("input", () => this.#showRing(!ring.hidden));
  }

  #onDown(event) {
    if (!event.isPrimary || (event.pointerType === "mouse" && event.button !== 0)) return;
    this.area.setPointerCapture(event.pointerId);
    this.#goTo(event);
    this.#put((event.buttons & PEN_ERASER) !== 0 || this.erases());
  }

  #onMove(event) {
    if (!event.isPrimary) return;
    const isDrawing = this.#draw && this.area.hasPointerCapture(event.pointerId);
    const events = isDrawing ? event.getCoalescedEvents?.() ?? [] : [];
    for (const one of events.length ? events : [event]) {
      this.#goTo(one);
      if (isDrawing) this.#drawOn();
    }
    this.#showRing(event.pointerType !== "touch");
  }

  #onKey(event) {
    const direction = KEYS[event.key];
    if (direction) this.#step(direction, event.shiftKey ? SMALL_STEP : STEP);
    else if (event.key === " ") this.#draw ? this.#lift() : this.#putByKey();
    else if (event.key === "[") this.#grow(-1);
    else if (event.key === "]") this.#grow(1);
    else if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.mask.canUndo && this.mask.undo();
    else return;
    event.preventDefault();
  }

  #step([x, y], length) {
    this.#at = [this.#at[0] + x * length, this.#at[1] + y * length].map((value) => Math.min(1, Math.max(0, value)));
    if (this.#draw) this.#drawOn();
    this.#showRing(true);
  }

  #putByKey() {
    this.#put(this.erases());
    this.#showRing(true);
    this.say(`The ${this.erases() ? "eraser" : "brush"} is down: arrows draw, Space lifts it.`);
  }

  #lift() {
    if (this.#draw) this.say("");
    this.#draw = null;
    this.#showRing(document.activeElement === this.area);
  }

  #grow(steps) {
    steps > 0 ? this.size.stepUp(steps) : this.size.stepDown(-steps);
    this.size.dispatchEvent(new Event("input"));
  }

  #put(erases) {
    this.#draw = this.mask.stroke((this.size.value / 100) * this.mask.canvas.width, erases);
    this.#drawOn();
  }

  #drawOn() {
    const { width, height } = this.mask.canvas;
    this.#draw(this.#at[0] * width, this.#at[1] * height);
  }

  #goTo({ clientX, clientY }) {
    const { left, top, width, height } = this.area.getBoundingClientRect();
    this.#at = [(clientX - left) / width, (clientY - top) / height];
  }

  #showRing(isShown) {
    this.ring.hidden = !isShown;
    this.ring.classList.toggle("down", this.#draw !== null);
    Object.assign(this.ring.style, {
      left: `${this.#at[0] * 100}%`,
      top: `${this.#at[1] * 100}%`,
      width: `${this.size.value}%`,
    });
  }
}
