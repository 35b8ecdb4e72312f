// Pictures that this browser keeps. Without IndexedDB they last as long as the page.

const KEPT = 200;

/**
 * @typedef {object} Picture
 * @property {number} [id] given by the store; later ones are larger
 * @property {Blob} blob the file as the server sent it
 * @property {object} parameters the request that paints it again, alone
 * @property {import("./editor.js").Edit|null} [edit] how it was made of another picture
 * @property {string} model
 * @property {string} size such as "512x512"
 * @property {string[]} [warnings] sentences about what the server changed of the request
 * @property {number} created Unix time in milliseconds
 */

/** The store of this browser, or one in memory where the browser has none. */
export async function openStore() {
  try {
    const request = indexedDB.open("star", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("pictures", { keyPath: "id", autoIncrement: true });
    return new BrowserStore(await result(request));
  } catch {
    return new MemoryStore();
  }
}

class BrowserStore {
  constructor(database) {
    this.database = database;
  }

  /** All pictures, the oldest first. */
  async all() {
    return result(this.#pictures("readonly").getAll());
  }

  /**
   * Keeps a picture, and lets go of the oldest when there are too many.
   *
   * @param {Picture} picture
   * @returns {Promise<{id: number, dropped: number[]}>} its id, and those that are gone
   */
  async add(picture) {
    const pictures = this.#pictures("readwrite");
    const id = await result(pictures.add(picture));
    const ids = await result(pictures.getAllKeys());
    const dropped = ids.slice(0, Math.max(0, ids.length - KEPT));
    await Promise.all(dropped.map((old) => result(pictures.delete(old))));
    return { id, dropped };
  }

  async delete(id) {
    await result(this.#pictures("readwrite").delete(id));
  }

  async clear() {
    await result(this.#pictures("readwrite").clear());
  }

  #pictures(mode) {
    return this.database.transaction("pictures", mode).objectStore("pictures");
  }
}

class MemoryStore {
  #pictures = new Map();
  #last = 0;

  async all() {
    return [...this.#pictures.values()];
  }

  async add(picture) {
    const id = ++this.#last;
    this.#pictures.set(id, { ...picture, id });
    const dropped = [...this.#pictures.keys()].slice(0, Math.max(0, this.#pictures.size - KEPT));
    dropped.forEach((old) => this.#pictures.delete(old));
    return { id, dropped };
  }

  async delete(id) {
    this.#pictures.delete(id);
  }

  async clear() {
    this.#pictures.clear();
  }
}

function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
