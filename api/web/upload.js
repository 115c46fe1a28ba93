// Pictures that are dropped, chosen or pasted: sent one by one, each with its progress, until it is indexed.

import { ask, at, make, refusal } from "/assets/common.js";

const SIDE_BY_SIDE = 3;
const DONE = { indexed: "indexed", failed: "failed", deleted: "deleted" };
const waiting = [];
let sending = 0;
let collectionOf = () => "";
let whenIndexed = () => {};

/** Watches the page; `indexed` is told after each picture. Files that are dropped beside everything are meant as well:
    a browser would leave the page for them. */
export function begin({ collection, indexed }) {
  collectionOf = collection;
  whenIndexed = indexed;
  at("files").addEventListener("change", () => {
    add(at("files").files);
    at("files").value = "";
  });
  const drop = at("drop");
  const brings = (event) => event.dataTransfer.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!brings(event)) return;
    event.preventDefault();
    drop.classList.toggle("over", drop.contains(event.target));
  });
  for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    if (event.defaultPrevented || !brings(event)) return;
    event.preventDefault();
    add(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) add(event.clipboardData.files);
  });
}

function add(files) {
  const tags = at("newtags").value.split(",").map((tag) => tag.trim()).filter(Boolean);
  for (const file of files) {
    const state = make("span", { text: "waiting" });
    const bar = make("progress", { max: "1", value: "0", "aria-label": `Upload of ${file.name}` });
    at("uploads").prepend(make("li", {}, make("span", { text: file.name, kind: "name", title: file.name }), bar, state));
    waiting.push({ file, tags: tags.length ? tags : null, state, bar });
  }
  next();
}

function next() {
  while (sending < SIDE_BY_SIDE && waiting.length) {
    sending += 1;
    send(waiting.shift()).finally(() => {
      sending -= 1;
      next();
    });
  }
}

async function send(one) {
  one.state.textContent = "uploading";
  try {
    const item = await sent(one);
    one.bar.value = 1;
    if (item.duplicate && item.state === "indexed") return end(one, "known already", "good");
    await follow(one, item);
  } catch (error) {
    end(one, error.message, "bad");
  }
}

/** By XMLHttpRequest, which tells how much has left; `fetch` does not. */
function sent({ file, tags, bar, state }) {
  const form = new FormData();
  if (tags) form.append("tags", JSON.stringify(tags));
  form.append("files", file, file.name);
  if (collectionOf()) form.append("collection", collectionOf());
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/v1/images");
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) bar.value = event.loaded / event.total;
      if (event.loaded === event.total) state.textContent = "indexing";
    });
    request.addEventListener("load", () => {
      const item = request.response?.data?.[0];
      if (request.status < 300 && item && !item.error) resolve(item);
      else reject(new Error(refusal(request.response) ?? `The server answered ${request.status}.`));
    });
    request.addEventListener("error", () => reject(new Error("The server does not answer.")));
    request.send(form);
  });
}

/** An accepted picture is asked after until it is through. */
async function follow(one, item) {
  let wait = 250;
  while (!DONE[item.state]) {
    one.state.textContent = item.state;
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(wait * 1.5, 5000);
    item = await ask(`/v1/images/${encodeURIComponent(item.id)}`);
  }
  if (item.state === "indexed") return end(one, "indexed", "good");
  const why = (item.ways ?? []).map((way) => way.error?.detail).find(Boolean);
  end(one, why ?? item.state, "bad");
}

function end(one, text, kind) {
  one.state.textContent = text;
  one.state.className = kind;
  one.bar.value = 1;
  if (kind === "good") whenIndexed();
}
