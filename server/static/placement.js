// Where on a larger canvas the picture goes: dragged, sized by its corners, or both with the keyboard.

const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const STEP = 1 / 32; // of the canvas that an arrow key goes
const NEARLY_SQUARE = 1.1; // ratio of the sides
const SMALLEST = 1 / 8; // length of the picture's longer side on the canvas

export class Placement {
  #box = { left: 0, top: 0, width: 1, height: 1 }; // in pixels of the canvas
  #drag = null; // goes on with what the pointer does

  /**
   * @param {HTMLElement} board the canvas
   * @param {HTMLElement} picture on it, with a child for each corner, whose data-corner is such as "0 1"
   * @param {HTMLInputElement} size of the picture, in percent of the canvas
   * @param {() => void} changed
   */
  constructor(board, picture, size, changed) {
    Object.assign(this, { board, picture, size, changed, side: 1, ratio: 1 });
    picture.addEventListener("pointerdown", (event) => this.#onDown(event));
    picture.addEventListener("pointermove", (event) => this.#drag?.(this.#position(event)));
    for (const type of ["pointerup", "pointercancel"]) picture.addEventListener(type, () => (this.#drag = null));
    picture.addEventListener("keydown", (event) => this.#onKey(event));
    size.addEventListener("input", () => this.#resize(size.value / 100));
  }

  /**
   * @param {number} ratio of the picture, width by height
   * @param {number} side of the canvas, in pixels
   * @param {string|null} place where it goes; in the middle when left out
   */
  begin(ratio, side, place = null) {
    Object.assign(this, { ratio, side });
    if (place) {
      const [left, top, right, bottom] = place.split(",").map((edge) => edge * side);
      this.#put({ left, top, width: right - left, height: bottom - top });
    } else {
      // What is no square leaves something to paint as it is.
      const size = this.#sized(Math.max(ratio, 1 / ratio) < NEARLY_SQUARE ? side / 2 : side);
      this.#put({ left: (side - size.width) / 2, top: (side - size.height) / 2, ...size });
    }
  }

  /** The left, top, right and bottom edge of the picture, as fractions of the canvas. */
  get place() {
    const { left, top, width, height } = this.#box;
    return [left, top, left + width, top + height].map((edge) => Number((edge / this.side).toFixed(6))).join(",");
  }

  /** What it is in words. */
  get words() {
    const { left, top, width, height } = this.#box;
    const share = (pixels) => `${Math.round((pixels / this.side) * 100)} %`;
    return `${share(Math.max(width, height))} of the canvas, ${share(left)} from the left, ${share(top)} from the top.`;
  }

  centre() {
    const { width, height } = this.#box;
    this.#put({ left: (this.side - width) / 2, top: (this.side - height) / 2, width, height });
  }

  /** The picture on the canvas, with nothing around it. */
  draw(context, picture) {
    const { left, top, width, height } = this.#box;
    context.drawImage(picture, left, top, width, height);
  }

  #onDown(event) {
    if (!event.isPrimary || event.button !== 0) return;
    this.picture.setPointerCapture(event.pointerId);
    const [x, y] = this.#position(event);
    const { left, top, width, height } = this.#box;
    const { corner } = event.target.dataset;
    if (corner) {
      const [atRight, atBottom] = corner.split(" ").map(Number);
      this.#drag = (position) => this.#pull(position, atRight, atBottom, [left + width * (1 - atRight), top + height * (1 - atBottom)]);
    } else {
      this.#drag = (position) => this.#put({ left: left + position[0] - x, top: top + position[1] - y, width, height });
    }
  }

  #onKey(event) {
    const direction = KEYS[event.key];
    const step = event.shiftKey ? 1 : this.side * STEP;
    const { left, top, width, height } = this.#box;
    if (direction) this.#put({ left: left + direction[0] * step, top: top + direction[1] * step, width, height });
    else if (event.key === "+" || event.key === "=") this.#resize((Math.max(width, height) + step) / this.side);
    else if (event.key === "-" || event.key === "_") this.#resize((Math.max(width, height) - step) / this.side);
    else return;
    event.preventDefault();
  }

  /** Gives the longer side this share of the canvas; the middle stays where it is. */
  #resize(share) {
    const { left, top, width, height } = this.#box;
    const size = this.#sized(share * this.side);
    this.#put({ left: left + (width - size.width) / 2, top: top + (height - size.height) / 2, ...size });
  }

  /** Pulls a corner to a position, while the one across stays at `fixed`. */
  #pull([x, y], atRight, atBottom, [fixedX, fixedY]) {
    const across = atRight ? this.side - fixedX : fixedX; // room for the picture
    const down = atBottom ? this.side - fixedY : fixedY;
    const longest = Math.min(across * Math.max(1, 1 / this.ratio), down * Math.max(1, this.ratio));
    const pulled = Math.max(atRight ? x - fixedX : fixedX - x, atBottom ? y - fixedY : fixedY - y);
    const size = this.#sized(Math.min(pulled, longest));
    this.#put({ left: atRight ? fixedX : fixedX - size.width, top: atBottom ? fixedY : fixedY - size.height, ...size });
  }

  #sized(longest) {
    const length = Math.min(this.side, Math.max(this.side * SMALLEST, longest));
    return { width: length * Math.min(1, this.ratio), height: length * Math.min(1, 1 / this.ratio) };
  }

  /** In whole pixels of the canvas, so that the picture is where it seems to be. */
  #put({ left, top, width, height }) {
    const fit = (start, length) => Math.round(Math.min(Math.max(0, start), this.side - length));
    [width, height] = [Math.max(1, Math.round(width)), Math.max(1, Math.round(height))];
    this.#box = { left: fit(left, width), top: fit(top, height), width, height };
    this.size.value = Math.round((Math.max(width, height) / this.side) * 100);
    for (const [name, pixels] of Object.entries(this.#box)) this.picture.style[name] = `${(pixels / this.side) * 100}%`;
    this.changed();
  }

  #position({ clientX, clientY }) {
    const { left, top, width } = this.board.getBoundingClientRect();
    return [((clientX - left) / width) * this.side, ((clientY - top) / width) * this.side];
  }
}
