// Canvases that nobody sees: for changing pictures and making files of them.

/** An empty canvas. */
export function makeCanvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

/** The pixels of a picture, at a size: red, green, blue and opacity, 0 to 255. */
export function pixels(picture, width, height) {
  const context = makeCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** A canvas as a PNG file. */
export function toFile(canvas) {
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
