// Models with their state and memory, and buttons that load and unload them; looked at anew while the page is seen.

import { ask, at, bytes, make, post, say } from "/assets/common.js";

const EVERY_MS = 2000;
const busy = new Map();
const wrong = new Map();
let types = new Map();

async function look() {
  try {
    const told = await ask("/health");
    const { held_bytes: held, budget_bytes: budget } = told.memory;
    at("memory").textContent = budget ? `${bytes(held)} of ${bytes(budget)} in use by models` : `${bytes(held)} in use by models`;
    show(told.models);
    if (at("status").classList.contains("bad")) say("");
  } catch (error) {
    say(error.message, true);
  }
}

/** Type and default are the entries' own; where none may be read, the page does without. */
async function kinds() {
  const entries = await ask("/api/v1/models?limit=500").catch(() => ({ data: [] }));
  types = new Map(entries.data.map((model) => [model.name, model]));
}

function show(models) {
  const focused = document.activeElement?.dataset?.act;
  at("models").replaceChildren(...models.map(row));
  if (focused) document.querySelector(`[data-act="${CSS.escape(focused)}"]`)?.focus();
}

function row(model) {
  const ref = `${model.name}@${model.version}`;
  const about = types.get(model.name);
  const told = [about?.type, busy.get(ref) ?? model.state, model.bytes ? bytes(model.bytes) : null];
  const name = make("div", { kind: "name", text: ref });
  if (about?.default && about.version === model.version) name.append(" ", make("span", { kind: "tag", text: "default" }));
  const names = make("div", {}, name, make("div", { kind: "told", text: told.filter(Boolean).join(" · ") }));
  const loaded = model.state === "loaded";
  const actions = make("div", { kind: "actions" }, act(ref, loaded ? "unload" : "load"));
  if (loaded) actions.append(act(ref, "warmup"));
  const item = make("li", {}, names, actions);
  if (wrong.has(ref)) item.append(make("div", { kind: "wrong", text: wrong.get(ref) }));
  return item;
}

function act(ref, what) {
  const labels = { load: "Load", unload: "Unload", warmup: "Warm up" };
  const button = make("button", { type: "button", text: labels[what], "aria-label": `${labels[what]} ${ref}`, "data-act": `${what} ${ref}` });
  button.disabled = busy.has(ref);
  button.addEventListener("click", () => change(ref, what));
  return button;
}

async function change(ref, what) {
  busy.set(ref, { load: "loading", unload: "unloading", warmup: "warming up" }[what]);
  wrong.delete(ref);
  say(`${ref}: ${busy.get(ref)}`);
  await look();
  try {
    const answer = await post(`/api/v1/models/${encodeURIComponent(ref)}/${what}`);
    say(`${ref}: ${answer?.state ?? "done"}`);
  } catch (error) {
    wrong.set(ref, error.message);
    say(`${ref}: ${error.message}`, true);
  }
  busy.delete(ref);
  await look();
}

await kinds();
await look();
setInterval(() => document.hidden || look(), EVERY_MS);
