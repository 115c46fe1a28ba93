// What both pages use: the API, elements without markup, the theme.

export class Problem extends Error {}

/** An answer of the API; what it refuses is a Problem with its detail. */
export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Problem("The server does not answer.");
  }
  if (answer.status === 204) return null;
  const told = await answer.json().catch(() => null);
  if (!answer.ok) throw new Problem(refusal(told) ?? `The server answered ${answer.status}.`);
  return told;
}

export function post(path, body) {
  return ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body ?? {}) });
}

/** What an answer says is wrong: a problem, or the error of its only item. */
export function refusal(told) {
  return told?.data?.[0]?.error?.detail ?? told?.detail ?? null;
}

/** An element; texts are texts, never markup. */
export function make(name, options = {}, ...children) {
  const { text, kind, ...attributes } = options;
  const element = document.createElement(name);
  if (kind) element.className = kind;
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export const at = (id) => document.getElementById(id);

export function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${count.toFixed(unit && count < 100 ? 1 : 0)} ${units[unit]}`;
}

/** What is kept in this browser; one that keeps nothing has a page as well. */
function kept(change) {
  try {
    return change(localStorage);
  } catch {
    return null;
  }
}

function themed() {
  const before = kept((storage) => storage.getItem("theme"));
  if (before === "light" || before === "dark") document.documentElement.dataset.theme = before;
  at("theme").addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    kept((storage) => storage.setItem("theme", document.documentElement.dataset.theme));
  });
}

themed();
