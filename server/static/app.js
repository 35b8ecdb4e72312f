// The page: reads the form and the editor, paints, and shows what comes.

import { ApiError, apiKey, loaded, loadGallery, loadModels, loadVocabulary, paint } from "./api.js";
import { Chips, compose } from "./chips.js";
import { suffix } from "./code.js";
import { CodeCard } from "./codecard.js";
import { find, make } from "./dom.js";
import { Editor } from "./editor.js";
import { Form, fromQuery, toQuery } from "./form.js";
import { Gallery } from "./gallery.js";
import { drawScales, Ladder } from "./ladder.js";
import { foldOnPhones, goToPromptBySlash } from "./layout.js";
import { takeFiles } from "./opener.js";
import { Reader } from "./reader.js";
import { Run } from "./run.js";
import { Showcase } from "./showcase.js";
import { Stage } from "./stage.js";
import { Status } from "./status.js";
import { openStore } from "./store.js";
import { Trouble } from "./trouble.js";

const SEEDS = 2 ** 32;
const PLACEHOLDER = find("prompt").placeholder;

const form = new Form(find("form"));
const ladder = new Ladder(find("ladder"));
const status = new Status();
const say = (sentence) => status.say(sentence);
const stage = new Stage(find("tiles"), { useSeed, edit: startEditing });
const trouble = new Trouble();
const gallery = new Gallery(openStore(), choose);
const editor = new Editor(showRequest, say);
const reader = new Reader(() => form.field("prompt").value, setPrompt);
const chips = new Chips(usePart);
const showcase = new Showcase(({ prompt, seed }) => {
  setPrompt(prompt);
  submit({ seed });
});
const code = new CodeCard(wanted, () => editor.edit(), say);

let model = null;
let running = null; // the run under way: {controller, over}
let shown = { asked: "", seed: 0 }; // the picture on the stage: how it was asked for, and its first seed

// Painting.

async function run(body, extra, signal) {
  const run = new Run(body.n ?? 1, { stage, ladder, say });
  const asked = request(body);
  body = { ...body, ...extra };
  const [edit, before] = editor.isOpen ? [await editor.edit(), await editor.before()] : [null, null];
  const events = await paint({ ...body, ...edit?.fields }, edit?.files, signal);
  if (edit) editor.hide();
  reader.hide(); // what it said is said again with the picture
  stage.begin(run.n, body.prompt, body.size ?? model.size, before);
  find("picture").scrollIntoView({ block: "nearest" });
  try {
    await run.follow(events, (index, blob, event) => finish({ index, blob, event, body, edit, asked }));
  } catch (error) {
    editor.show(); // with all that was drawn on it
    throw error;
  }
}

/** Shows a finished picture, and keeps it. */
function finish({ index, blob, event, body, edit, asked }) {
  const { n: _, on_unknown: __, ...parameters } = { ...body, seed: event.seed };
  stage.finish(index, blob, event.seed, fileName(event.model, parameters));
  settle(asked, (event.seed - index + SEEDS) % SEEDS);
  showWarnings(event.warnings);
  const { model: painter, size, warnings } = event;
  const picture = { blob, parameters, edit, model: painter, size, warnings, created: Date.now() };
  gallery.add(picture).catch(() => say("The picture was not saved to the gallery: this browser's storage is full."));
}

/** Says what the server changed of a request, or could not do. */
function showWarnings(warnings) {
  find("warnings-list").replaceChildren(...warnings.map((text) => make("li", { textContent: text })));
  find("warnings").hidden = warnings.length === 0;
}

/** Notes which picture is on the stage; its address and its commands have its seed. */
function settle(asked, seed) {
  shown = { asked, seed };
  if (!editor.isOpen) history.replaceState(null, "", toQuery({ ...readForm(), seed })); // a link cannot hold an edit
  code.show();
}

/** Paints what the form says, with these fields beside it. */
async function submit(extra = {}) {
  if (running) return;
  const controller = new AbortController();
  const over = attempt(readForm(), extra, controller.signal);
  running = { controller, over };
  await over;
}

async function attempt(body, extra, signal) {
  clear();
  apiKey.set(find("key").value);
  busy(true);
  try {
    if (!model) await patiently(meet, signal);
    await patiently(() => run(body, extra, signal), signal);
  } catch (error) {
    stage.end();
    if (signal.aborted) say("Cancelled.");
    else complain(error, () => submit(extra));
  } finally {
    running = null;
    busy(false);
  }
}

/** Does something again when the server has finished loading its model. */
async function patiently(work, signal) {
  try {
    await work();
  } catch (error) {
    if (error.code !== "model_loading") throw error;
    await loaded(signal, (sentence, seconds) => status.loading(sentence, seconds));
    await work();
  }
}

function complain(error, retry) {
  if (!(error instanceof ApiError)) {
    console.error(error);
    error = new ApiError(`The page failed: ${error.message}`, { code: "page" });
  }
  say("");
  find("key-field").hidden = error.code !== "invalid_api_key";
  const choices = insteadOf(error);
  if (error.suggestions.length) error.message = error.message.replace(/ Try .*/s, " Try instead:"); // buttons say the rest
  trouble.show(error, retry, choices);
  if (error.code === "invalid_api_key") askForKey();
  else if (!editor.blame(error.param)) form.blame(error.param);
}

/** What can be painted in place of what the model does not know. */
function insteadOf({ message, suggestions }) {
  if (!suggestions.length) return {};
  reader.hide(); // the error says the same
  const others = suggestions.map((prompt) => [prompt, () => (setPrompt(prompt), submit())]);
  const nearest = { "Paint the nearest anyway": () => submit({ on_unknown: "nearest" }) };
  return { ...Object.fromEntries(others), ...(message.includes("on_unknown") ? nearest : {}) }; // nothing stands for people
}

function askForKey() {
  find("key").focus();
}

function cancel() {
  running?.controller.abort();
}

async function stop() {
  cancel();
  await running?.over;
  clear();
}

/** Takes back what was said of the request before. */
function clear() {
  trouble.hide();
  form.forgive();
  find("warnings").hidden = true;
}

function busy(isBusy) {
  const hadFocus = document.activeElement === find("cancel");
  find("cancel").hidden = !isBusy;
  find("picture").setAttribute("aria-busy", String(isBusy));
  nameButtons();
  if (hadFocus && !isBusy) find("paint").focus({ preventScroll: true });
  isBusy ? status.count() : status.stop();
}

function nameButtons() {
  const isBusy = !find("cancel").hidden;
  for (const button of [find("paint"), find("paint-edit")]) {
    button.ariaDisabled = String(isBusy);
    button.textContent = isBusy ? "Painting" : editor.isOpen ? editor.verb : "Paint";
  }
}

// Editing.

async function startEditing(blob) {
  await stop();
  if (!model) return say("Editing is available once the model is loaded.");
  try {
    await editor.open(blob);
  } catch (error) {
    return complain(error instanceof DOMException ? await whyNot(blob) : error, () => startEditing(blob));
  }
  say("");
  find("picture").scrollIntoView({ block: "nearest" });
  find("editor").querySelector("[name=way]:checked").focus({ preventScroll: true });
}

/** Why a file that this browser cannot show is no picture: the server has a sentence for it. */
async function whyNot(blob) {
  const controller = new AbortController();
  try {
    await paint({ prompt: "?" }, { image: new File([blob], "picture") }, controller.signal);
    controller.abort();
    return new ApiError("This browser cannot show this picture; convert it to a PNG.", { code: "page", retryable: false });
  } catch (error) {
    return error;
  }
}

function stopEditing() {
  editor.close();
  find("prompt").focus();
}

// What is around it.

function useSeed(seed) {
  form.field("seed").value = seed;
  say(`The next picture has seed ${seed} too.`);
  code.show();
}

function setPrompt(prompt) {
  form.field("prompt").value = prompt;
  reader.changed();
  code.show();
}

/** Puts a thing, a style or a background into the prompt, in place of the one that is there. */
function usePart(part) {
  const { things = [], style, background } = reader.reading ?? {};
  const isMissing = form.field("prompt").value.trim() === "";
  reader.reading = isMissing ? part : { things, style, background, ...part };
  const { thing = reader.reading.things?.[0] } = reader.reading;
  setPrompt(compose({ ...reader.reading, thing }));
  reader.reading = { ...reader.reading, things: thing ? [thing] : [] };
  say(`The prompt is now “${form.field("prompt").value}”.`);
}

/** Brings a picture of the gallery back, with how it was asked for. */
async function choose(picture) {
  await stop();
  const { blob, parameters, size, edit } = picture;
  form.fill(parameters);
  if (![model?.id, ""].includes(form.field("model").value)) await greet();
  reader.hide();
  if (edit && model) {
    await editor.open(edit.files.image, edit);
    editor.hide();
  } else editor.close();
  stage.begin(1, parameters.prompt, size);
  stage.finish(0, blob, parameters.seed, fileName(picture.model, parameters));
  ladder.reach(1);
  showWarnings(picture.warnings ?? []); // earlier releases kept none
  settle(request(readForm()), parameters.seed);
  say(`${edit ? "Edited" : "Painted"} by ${picture.model} on ${new Date(picture.created).toLocaleString()}.`);
  find("picture").scrollIntoView({ block: "nearest" });
}

/** Gets to know the model when the page is opened, which may be long before it is loaded. */
async function greet() {
  trouble.hide();
  try {
    await patiently(meet, new AbortController().signal);
    if (!running) status.loaded();
  } catch (error) {
    if (!running) complain(error, greet);
  }
}

/** Asks the server for its models, and says what the chosen one knows. */
async function meet() {
  const models = await loadModels();
  form.offerModels(models.map(({ id }) => id));
  model = models.find(({ id }) => id === form.field("model").value) ?? models[0];
  const size = model.size.replace("x", " × ");
  find("model-facts").textContent = `${model.id} · ${millions(model.parameters)} parameters · ${size} · ${model.device}`;
  find("about-title").textContent = `About ${model.id}`;
  find("about-text").textContent = model.description;
  find("about").hidden = model.description === "";
  find("examples-list").replaceChildren(...model.examples.map(example));
  reader.model = model;
  for (const name of ["guidance_scale", "top_k", "top_p", "smooth_scales", "unguided_scales", "draft"]) form.field(name).placeholder = model[name];
  form.offerSizes(model.sizes ?? [model.size]);
  ladder.scales = model.scales;
  if (find("scales")) drawScales(find("scales"), model.scales);
  editor.model = model;
  document.body.classList.add("can-edit");
  await meetPictures();
}

/** Shows what the model has painted and what it knows; without pictures, examples are words alone. */
async function meetPictures() {
  const knowsFew = model.num_things !== null && model.num_things !== undefined;
  const [pictures, vocabulary] = await Promise.all([loadGallery(model.id), knowsFew ? loadVocabulary(model.id) : null]);
  showcase.show(pictures);
  vocabulary ? chips.show(vocabulary) : chips.hide();
  find("examples").hidden = model.examples.length === 0 || pictures.length > 0;
}

function example(prompt) {
  const button = make("button", { type: "button", textContent: prompt });
  button.addEventListener("click", () => {
    setPrompt(prompt);
    if (!editor.isOpen) return form.element.requestSubmit();
    find("prompt").focus(); // whoever edits may have more to do
  });
  return make("li", {}, button);
}

function millions(count) {
  return count < 1e9 ? `${(count / 1e6).toPrecision(2)} M` : `${(count / 1e9).toPrecision(2)} B`;
}

/** What the form asks for; an edit has the shape of its picture, so it leaves the size out. */
function readForm() {
  const body = form.read();
  if (editor.isOpen) delete body.size;
  return body;
}

/** What the form asks for, to be compared: an edit is another request whenever the editor was touched. */
function request(body) {
  return JSON.stringify([body, editor.isOpen ? editor.revision : null]);
}

/** What is asked for; with the seed of the picture that is shown, if it is that one. */
function wanted() {
  const body = readForm();
  const seeded = request(body) === shown.asked ? { ...body, seed: shown.seed } : body;
  return editor.isOpen ? { body: { ...seeded, ...editor.fields }, names: editor.names } : { body: seeded, names: null };
}

/** Shows what would be asked for now. */
function showRequest() {
  nameButtons();
  find("prompt").placeholder = editor.isOpen ? editor.placeholder : PLACEHOLDER;
  document.body.classList.toggle("editing", editor.isOpen);
  code.show();
}

function fileName(name, { prompt, seed, format }) {
  const words = prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  return `${[name, ...words.slice(0, 6), seed].join("-")}.${suffix(format)}`;
}

// Wiring.

form.element.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
form.field("model").addEventListener("change", greet);
form.element.addEventListener("input", ({ target }) => {
  code.show();
  if (target === form.field("prompt")) reader.changed();
});
find("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.element.requestSubmit();
});
document.addEventListener("keydown", (event) => event.key === "Escape" && cancel());
find("cancel").addEventListener("click", cancel);
find("edit-more").addEventListener("click", () => editor.show());
for (const id of ["close-editor", "close-edited"]) find(id).addEventListener("click", stopEditing);
takeFiles(startEditing);

foldOnPhones();
goToPromptBySlash();
form.fill(fromQuery(location.search));
if (apiKey.get()) {
  find("key").value = apiKey.get();
}
code.show();
if (matchMedia("(hover: hover)").matches) find("prompt").focus(); // elsewhere a keyboard would cover the page
gallery.open();

greet();
