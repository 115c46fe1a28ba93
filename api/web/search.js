// Searching: by words, a picture, or one that was found; what is asked stands in the address, so that back works.

import { ask, at, make, post, say } from "/assets/common.js";
import { begin } from "/assets/upload.js";

const LIMIT = 24;
let example = null; // a picture to search by, as a data URI
let cursor = null;
let asked = null;
let turn = 0;

function fields() {
  const form = new FormData(at("search"));
  const told = {};
  for (const name of ["text", "model", "collection", "tags", "threshold"]) {
    const value = String(form.get(name) ?? "").trim();
    if (value) told[name] = value;
  }
  return told;
}

function question(told) {
  const body = { limit: LIMIT };
  if (told.id) body.id = told.id;
  else if (example) body.image = example;
  else body.text = told.text;
  if (told.model) body.model = told.model;
  if (told.collection) body.collection = told.collection;
  if (told.threshold) body.score_threshold = Number(told.threshold);
  const tags = (told.tags ?? "").split(",").map((tag) => tag.trim()).filter(Boolean);
  if (tags.length) body.filter = { tags: { any: tags } };
  return body;
}

function remember(told) {
  const address = `?${new URLSearchParams(told)}`;
  if (address !== location.search) history.pushState(told, "", address);
}

async function search(told, { keep = true } = {}) {
  if (!told.text && !told.id && !example) return newest();
  if (keep && !example) remember(told);
  asked = question(told);
  at("results").replaceChildren();
  await page();
}

async function page() {
  const mine = ++turn;
  say("Searching");
  try {
    const answer = await post("/v1/search", cursor && at("results").children.length ? { ...asked, cursor } : asked);
    if (mine !== turn) return;
    cursor = answer.next_cursor;
    show(answer.results, true);
    const count = at("results").children.length;
    say(count ? `${count} ${count === 1 ? "picture" : "pictures"} by ${answer.model}` : "Nothing was found.");
  } catch (error) {
    if (mine === turn) say(error.message, true);
  }
  at("next").hidden = !cursor;
}

/** Without a question: the pictures that came last. */
async function newest() {
  const mine = ++turn;
  try {
    const collection = at("collection").value.trim();
    const asking = new URLSearchParams({ limit: String(LIMIT), ...(collection && { collection }) });
    const answer = await ask(`/v1/images?${asking}`);
    if (mine !== turn) return;
    const found = answer.data ?? answer.items ?? [];
    at("results").replaceChildren();
    cursor = null;
    at("next").hidden = true;
    show(found, false);
    say(found.length ? "The latest pictures" : "No pictures yet: drop some above.");
  } catch (error) {
    if (mine === turn) say(error.message, true);
  }
}

function show(pictures, scored) {
  at("results").append(...pictures.map((picture) => card(picture, scored)));
}

function card(picture, scored) {
  const name = picture.filename || picture.id;
  const image = make("img", { src: thumbnail(picture), alt: name, loading: "lazy", width: "256", height: "256" });
  const open = make("button", { kind: "open", type: "button", "aria-label": `Open ${name}` }, image);
  open.addEventListener("click", () => openPicture(picture.id));
  const alike = make("button", { kind: "alike", type: "button", text: "More like this", "aria-label": `More like this: ${name}` });
  alike.addEventListener("click", () => moreLike(picture.id));
  const score = make("span", { kind: "score", text: scored ? picture.score.toFixed(3) : picture.state, title: "cosine" });
  const about = make("div", { kind: "about" }, make("span", { kind: "name", text: name, title: name }));
  if (picture.tags?.length) about.append(make("div", {}, ...picture.tags.map((tag) => make("span", { kind: "tag", text: tag }))));
  about.append(make("div", { kind: "row" }, score, alike));
  return make("li", {}, open, about);
}

function thumbnail(picture) {
  return `/v1/images/${encodeURIComponent(picture.id)}/thumbnail`;
}

function moreLike(id) {
  at("shown").close();
  forget();
  at("text").value = "";
  const { text, ...others } = fields();
  search({ ...others, id });
  at("results").focus();
}

async function openPicture(id) {
  try {
    const picture = await ask(`/v1/images/${encodeURIComponent(id)}`);
    at("shownname").textContent = picture.filename || picture.id;
    at("shownpicture").src = `/v1/images/${encodeURIComponent(id)}/content`;
    at("shownpicture").alt = picture.filename || "The picture";
    at("facts").replaceChildren(...listed(facts(picture)));
    at("said").replaceChildren(...listed(picture.metadata ?? {}));
    at("alike").onclick = () => moreLike(id);
    at("remove").onclick = () => remove(id, picture.filename || id);
    at("shown").showModal();
  } catch (error) {
    say(error.message, true);
  }
}

function facts(picture) {
  return {
    State: picture.state,
    Problem: (picture.ways ?? []).map((way) => way.error?.detail).filter(Boolean).join("; "),
    Size: `${picture.width} x ${picture.height}`,
    Kind: picture.content_type,
    Collection: picture.collection,
    Tags: (picture.tags ?? []).join(", "),
    Brought: new Date(picture.created_at).toLocaleString(),
    Id: picture.id,
  };
}

/** Names and values; what is said of a picture stands apart from what is known of it. */
function listed(told) {
  return Object.entries(told)
    .filter(([, value]) => value !== "" && value !== null && value !== undefined)
    .flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: String(value) })]);
}

async function remove(id, name) {
  if (!confirm(`Delete ${name}? It cannot be brought back.`)) return;
  try {
    await ask(`/v1/images/${encodeURIComponent(id)}`, { method: "DELETE" });
    at("shown").close();
    again();
  } catch (error) {
    say(error.message, true);
  }
}

function again() {
  const told = Object.fromEntries(new URLSearchParams(location.search));
  search(told, { keep: false });
}

function forget() {
  example = null;
  at("example").hidden = true;
  at("like").value = "";
}

function exampleOf(file) {
  const reader = new FileReader();
  reader.addEventListener("load", () => {
    example = reader.result;
    at("examplepicture").src = example;
    at("examplename").textContent = file.name;
    at("example").hidden = false;
    at("text").value = "";
    search(fields());
  });
  reader.readAsDataURL(file);
}

async function models() {
  const told = await ask("/health").catch(() => ({ models: [] }));
  const served = await ask("/v1/models").catch(() => ({ data: [] }));
  const states = new Map(told.models.map((model) => [model.name, model.state]));
  const options = [make("option", { value: "", text: "the default" })];
  for (const model of served.data) {
    if (model.type && model.type !== "embedding") continue;
    const state = states.get(model.id);
    options.push(make("option", { value: model.id, text: state ? `${model.id} (${state})` : model.id }));
  }
  at("model").replaceChildren(...options);
}

function restore() {
  const told = new URLSearchParams(location.search);
  for (const name of ["text", "model", "collection", "tags", "threshold"]) at(name).value = told.get(name) ?? "";
  if (["model", "collection", "tags", "threshold"].some((name) => told.get(name))) at("more").open = true;
}

at("search").addEventListener("submit", (event) => {
  event.preventDefault();
  if (at("text").value.trim()) forget();
  const told = fields();
  if (!told.text && !example) remember({});
  search(told);
});
at("like").addEventListener("change", () => at("like").files[0] && exampleOf(at("like").files[0]));
at("text").addEventListener("dragover", (event) => event.preventDefault());
at("text").addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  exampleOf(event.dataTransfer.files[0]);
});
at("forget").addEventListener("click", () => {
  forget();
  again();
});
at("next").addEventListener("click", page);
addEventListener("popstate", () => {
  forget();
  restore();
  again();
});
begin({ collection: () => at("collection").value.trim(), indexed: () => location.search || example || newest() });
await models();
restore();
again();
