// The server renders; this keeps the page up to date with what it sends, and adds filter, pause and theme.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const live = $("live"), filter = $("filter"), pause = $("pause");
  let source, held = {}, paused = false;

  // morph makes node a like node b and keeps what can stay, so that focus, selection and scrolling survive a frame.
  function morph(a, b) {
    for (const { name } of [...a.attributes]) if (!b.hasAttribute(name) && name !== "hidden") a.removeAttribute(name);
    for (const { name, value } of b.attributes) if (a.getAttribute(name) !== value) a.setAttribute(name, value);
    children(a, b);
  }
  const key = (n) => n.nodeType === 1 ? n.getAttribute("data-key") : null;
  const alike = (a, b) => a && a.nodeType === b.nodeType && a.nodeName === b.nodeName && key(a) === key(b);
  function children(a, b) {
    const keyed = new Map();
    for (const c of a.children) if (key(c) !== null) keyed.set(key(c), c);
    let at = a.firstChild;
    for (const want of [...b.childNodes]) {
      const k = key(want);
      let have = k !== null ? keyed.get(k) : at;
      if (!alike(have, want) || (k === null && key(at) !== null)) {
        a.insertBefore(want, at);
        continue;
      }
      if (have !== at) a.insertBefore(have, at); else at = at.nextSibling;
      if (have.nodeType === 1) morph(have, want);
      else if (have.nodeValue !== want.nodeValue) have.nodeValue = want.nodeValue;
    }
    while (at) { const next = at.nextSibling; at.remove(); at = next; }
  }

  function apply(sections) {
    for (const id in sections) {
      const fresh = document.createElement("template");
      fresh.innerHTML = sections[id];
      children($(id), fresh.content);
    }
    narrow();
    const words = $("words"), sign = document.querySelector(".verdict .sign");
    if (words && sign) document.title = sign.textContent + " " + words.textContent;
  }

  function narrow() {
    const text = filter.value.trim().toLowerCase();
    for (const e of document.querySelectorAll("#workers tbody tr, #routes tbody tr, #cards > article, #events li"))
      e.hidden = text !== "" && !e.textContent.toLowerCase().includes(text);
  }

  function show(state, words) {
    live.className = "live " + state;
    live.lastElementChild.textContent = words;
  }
  function state() {
    if (paused) show("", "paused");
    else if (source && source.readyState === EventSource.OPEN) show("on", "live");
    else show("lost", "no connection");
  }
  function connect() {
    if (source) return;
    source = new EventSource("stream");
    source.onopen = state;
    source.onmessage = (e) => {
      const sections = JSON.parse(e.data);
      if (paused) Object.assign(held, sections); else apply(sections);
    };
    source.onerror = () => {
      state();
      // A browser gives up for good on an answer that is not a stream, as a proxy's 502.
      if (source && source.readyState === EventSource.CLOSED) { source = null; setTimeout(wake, 2000); }
    };
  }
  function disconnect() { if (source) source.close(); source = null; }
  function wake() { if (document.hidden) disconnect(); else connect(); }

  function setPaused(on) {
    paused = on;
    pause.setAttribute("aria-pressed", on);
    pause.textContent = on ? "Resume" : "Pause";
    if (!on) { apply(held); held = {}; }
    state();
  }
  const themes = ["", "dark", "light"];
  function setTheme(name) {
    if (name) document.documentElement.dataset.theme = name; else delete document.documentElement.dataset.theme;
    $("theme").textContent = name ? name[0].toUpperCase() + name.slice(1) : "Theme";
    try { localStorage.setItem("theme", name); } catch { /* not kept */ }
  }
  const nextTheme = () => setTheme(themes[(themes.indexOf(document.documentElement.dataset.theme || "") + 1) % themes.length]);

  let saved = "";
  try { saved = localStorage.getItem("theme") || ""; } catch { /* the system's */ }
  if (themes.includes(saved)) setTheme(saved);
  filter.addEventListener("input", narrow);
  $("tools").addEventListener("submit", (e) => e.preventDefault());
  pause.addEventListener("click", () => setPaused(!paused));
  $("theme").addEventListener("click", nextTheme);
  document.addEventListener("visibilitychange", wake);
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.target === filter) {
      if (e.key === "Escape") { filter.value = ""; narrow(); filter.blur(); }
      return;
    }
    if (e.key === "/") { e.preventDefault(); filter.focus(); }
    else if (e.key === "p") setPaused(!paused);
    else if (e.key === "t") nextTheme();
  });
  wake();
})();
