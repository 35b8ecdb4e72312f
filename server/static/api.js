// What the page asks the server for. Whatever goes wrong is an ApiError, whose message is a sentence.

import { readEvents } from "./events.js";
import { formFields, multipart } from "./multipart.js";

const KEY = "star.api-key";
const POLL_MS = 1000;
const PHASES = {
  starting: "The server is starting.",
  loading: "The model is loading.",
  capturing: "The model is loaded; its CUDA graphs are being captured.",
  warming: "The model is loaded and paints a first picture to warm up.",
};

/** Previews that are asked for of each picture; none once the server has said that it sends none. */
export let previews = 3;

/**
 * @property {string} code of the server's error envelope; "unreachable" and "interrupted" are the page's own
 * @property {string|null} param the field of the request that caused it
 * @property {boolean} retryable whether the same request may succeed later
 * @property {number} retryAfter seconds to wait before that
 * @property {string[]} suggestions prompts to try instead
 */
export class ApiError extends Error {
  constructor(message, { code, param = null, retryable = true, retryAfter = 0, suggestions = [] }) {
    super(message);
    Object.assign(this, { code, param, retryable, retryAfter, suggestions });
  }
}

/** The API key, kept for as long as the tab is open. */
export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY)),
};

/** The cards of the loaded models, of GET /v1/models; the first paints what names none. */
export async function loadModels() {
  const { data } = await (await send("v1/models")).json();
  return data.filter((card) => !card.alias_of);
}

/** What the model knows, of a model that knows few things. */
export async function loadVocabulary(model) {
  return (await send(`v1/models/${model}/vocabulary`)).json();
}

/** Small pictures that the model painted ahead. */
export async function loadGallery(model) {
  return (await (await send(`v1/models/${model}/gallery`)).json()).data;
}

/** How a model would read a prompt, without painting it. */
export async function readPrompt(prompt, model, signal) {
  return (await send("read", { method: "POST", ...json({ prompt, model }), signal })).json();
}

/**
 * Asks for pictures.
 *
 * @param {object} parameters the body of the request
 * @param {Object<string, File>|null} files of the picture to edit, if it is an edit
 * @param {AbortSignal} signal leaves the request; the server stops painting
 * @returns {Promise<AsyncGenerator<object>>} once they are accepted: the events of the stream as they arrive
 */
export async function paint(parameters, files, signal) {
  const answer = await open(parameters, files, signal);
  return events(answer.body, parameters.n ?? 1, signal);
}

async function* events(body, unfinished, signal) {
  try {
    for await (const { data } of readEvents(body)) {
      const event = JSON.parse(data);
      if (event.error) throw fromEnvelope(event.error, true);
      if (event.type.endsWith(".completed")) unfinished -= 1;
      yield event;
    }
  } catch (error) {
    if (error instanceof ApiError || signal.aborted) throw error;
    throw interrupted();
  }
  if (unfinished > 0) throw interrupted();
}

/**
 * Waits for the server's first load of its model.
 *
 * @param {AbortSignal} signal
 * @param {(sentence: string, seconds: number) => void} tell is told what happens, and for how long it has
 * @throws {ApiError} the model cannot be loaded
 */
export async function loaded(signal, tell) {
  for (;;) {
    const state = await (await send("startupz", { signal, allow: [503] })).json();
    if (state.error) throw new ApiError(state.error, { code: "load_failed" });
    if (state.started) return;
    tell(PHASES[state.phase] ?? `The server is ${state.phase}.`, Math.round(state.phase_seconds));
    await sleep(POLL_MS, signal);
  }
}

/** The stream's response; without previews where the server sends none. */
async function open(parameters, files, signal) {
  const body = { ...parameters, stream: true, partial_images: previews };
  try {
    return files
      ? await send("v1/images/edits", { method: "POST", ...multipart(formFields(body), files), signal })
      : await send("generate", { method: "POST", ...json(body), signal });
  } catch (error) {
    if (error.param !== "partial_images" || previews === 0) throw error;
    previews = 0;
    return open(parameters, files, signal);
  }
}

function json(body) {
  return { headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}

async function send(path, { allow = [], headers = {}, ...options } = {}) {
  const key = apiKey.get();
  if (key) headers = { ...headers, authorization: `Bearer ${key}` };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError("The server cannot be reached. Check that it runs and that you are connected.", {
      code: "unreachable",
    });
  }
  if (answer.ok || allow.includes(answer.status)) return answer;
  throw await refusal(answer);
}

async function refusal(answer) {
  const retryable = answer.headers.get("x-should-retry") !== "false";
  const retryAfter = Number(answer.headers.get("retry-after")) || 0;
  const body = await answer.json().catch(() => null);
  if (body?.error) return fromEnvelope(body.error, retryable, retryAfter);
  const message = `Something between this page and the server answered ${answer.status} ${answer.statusText}.`;
  return new ApiError(message, { code: "not_ours", retryable, retryAfter });
}

function fromEnvelope({ message, code, param, suggestions }, retryable, retryAfter = 0) {
  return new ApiError(message, { code, param, retryable, retryAfter, suggestions });
}

function interrupted() {
  return new ApiError("The connection was lost before the picture was finished.", { code: "interrupted" });
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
