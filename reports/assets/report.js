"use strict";
// What the page can do beyond being read: another theme, everything open on paper. It stands without this.

const root = document.documentElement;
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const themeButton = document.getElementById("theme");

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches;
}

function nameTheme() {
  themeButton.textContent = isDark() ? "Light theme" : "Dark theme";
}

// Pictures follow the system; where the page does not, their media query is replaced by a fixed answer.
function paintPictures(paper = false) {
  const query = "}@media (prefers-color-scheme: dark)";
  const wanted = paper || root.dataset.theme ? (isDark() && !paper ? "}@media all" : "}@media not all") : query;
  for (const image of document.querySelectorAll(".picture img")) {
    image.dataset.drawn ??= image.getAttribute("src");
    image.src = image.dataset.drawn.replace(query, wanted);
  }
}

themeButton.hidden = false;
nameTheme();
systemDark.addEventListener("change", () => {
  nameTheme();
  root.dispatchEvent(new Event("themechange"));
});
themeButton.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";  // in memory only: a sandboxed page has no storage
  nameTheme();
  paintPictures();
  root.dispatchEvent(new Event("themechange"));
});

const openedForPaper = [];
addEventListener("beforeprint", () => {
  paintPictures(true);  // paper is white
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    openedForPaper.push(details);
  }
});
addEventListener("afterprint", () => {
  paintPictures();
  while (openedForPaper.length) openedForPaper.pop().open = false;
});

// Interactive views: each file behind this one registers views.NAME(host, data). Where one is up, the picture beside it is for paper.
const views = {};
const shared = {};

async function showView(host) {
  const picture = host.parentElement.querySelector(".picture");
  host.hidden = false;
  try {
    await views[host.dataset.view](host, JSON.parse(document.getElementById(host.dataset.from).textContent));
    picture?.classList.add("replaced");
  } catch (error) {
    host.replaceChildren();
    host.hidden = true;  // the picture stands
    console.error(error);
  }
}

// A page of many analyses keeps what is closed in templates until somebody opens it, so that the document stays light; a page saved by
// the browser has them too. A page of usual size stays searchable as a whole.
const MOST_NODES = 5000;

const opened = new MutationObserver((changes) => {
  for (const { target } of changes) {
    const aside = target.querySelector(":scope > template");
    aside?.replaceWith(aside.content);
  }
});
opened.observe(root, { subtree: true, attributeFilter: ["open"] });

function putAside(details) {
  const aside = document.createElement("template");
  aside.content.append(...[...details.childNodes].filter((node) => node.nodeName !== "SUMMARY"));
  details.append(aside);
}

queueMicrotask(async () => {
  await Promise.all([...document.querySelectorAll(".view")].map(showView));
  if (document.getElementsByTagName("*").length >= MOST_NODES) document.querySelectorAll("main details:not([open])").forEach(putAside);
  root.dataset.ready = "";
});
