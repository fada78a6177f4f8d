// Fetches the page that is shown again and again, and puts in what changed. Without it the page is the same, but still.
"use strict";

const TIMEOUT_MS = 15000;
const refreshMs = Number(document.body.dataset.refreshS) * 1000;
const trouble = document.getElementById("trouble");
let asOf = document.getElementById("as-of").textContent;
let running = false;
let timer = 0;

async function refresh() {
  if (running || document.hidden) return;
  running = true;
  const slow = setTimeout(() => document.documentElement.classList.add("loading"), 1000);
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (answer.ok) {
      show(new DOMParser().parseFromString(await answer.text(), "text/html"));
      tell("");
    } else {
      tell(answer.status === 503 ? "The ledger does not answer." : `The service answers ${answer.status}.`);
    }
  } catch {
    tell("The service can't be reached.");
  } finally {
    clearTimeout(slow);
    document.documentElement.classList.remove("loading");
    running = false;
  }
}

function show(fresh) {
  // Another kind of page (a first device, the ledger is back) or another version of this one: begin anew.
  const shape = (page) => page.body.dataset.page + [...page.querySelectorAll("[data-live]")].map((part) => part.id);
  if (shape(fresh) !== shape(document)) {
    location.reload();
    return;
  }
  const focused = document.activeElement?.id;
  for (const part of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(part.id);
    if (now.innerHTML !== part.innerHTML) part.replaceChildren(...now.childNodes);
  }
  asOf = document.getElementById("as-of").textContent;
  if (focused && document.activeElement?.id !== focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

function tell(what) {
  const said = what && `${what} These are the figures as of ${asOf}; trying again every ${refreshMs / 1000} s.`;
  if (trouble.textContent !== said) trouble.textContent = said;
  document.documentElement.classList.toggle("stale", Boolean(what));
}

function again() {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    await refresh();
    again();
  }, refreshMs);
}

document.documentElement.classList.add("scripting");
if (!document.querySelector("[data-final]")) again();
document.addEventListener("visibilitychange", refresh);
// A page on its way says so; one that comes back out of the browser's history is whole again.
document.addEventListener("submit", () => document.documentElement.classList.add("loading"));
document.addEventListener("click", (event) => {
  const plain = !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
  const link = event.target.closest?.("a[href^='/']");
  if (link && plain) document.documentElement.classList.add("loading");
});
addEventListener("pageshow", () => document.documentElement.classList.remove("loading"));
