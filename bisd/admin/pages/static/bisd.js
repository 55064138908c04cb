// What makes the pages livelier than they need to be: times in the reader's zone, copying, and what happens meanwhile.
"use strict";

(() => {
  const soon = 1500;
  const again = 10000;
  const brief = new Intl.DateTimeFormat(undefined, {day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit"});
  const exact = new Intl.DateTimeFormat(undefined, {dateStyle: "full", timeStyle: "long"});

  function localise(root) {
    for (const time of root.querySelectorAll("time[datetime]:not([data-utc])")) {
      const at = new Date(time.dateTime);
      time.dataset.utc = time.title;
      time.textContent = brief.format(at);
      time.title = `${exact.format(at)} (${time.dataset.utc})`;
    }
  }

  function offerCopies(root) {
    for (const button of root.querySelectorAll("button[data-copies]")) {
      button.hidden = !navigator.clipboard;
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(document.getElementById(button.dataset.copies).textContent);
        const before = button.textContent;
        button.textContent = button.dataset.done;
        tell(button.dataset.done);
        setTimeout(() => { button.textContent = before; }, 2000);
      });
    }
  }

  function tell(text) {
    document.getElementById("told").textContent = text;
  }

  // A form that is under way is not sent twice.
  document.addEventListener("submit", (event) => {
    const button = event.submitter;
    if (button && button.dataset.busy) {
      button.textContent = button.dataset.busy;
    }
    setTimeout(() => { for (const one of event.target.querySelectorAll("button")) one.disabled = true; });
  });
  window.addEventListener("pageshow", () => {
    for (const one of document.querySelectorAll("button:disabled")) one.disabled = false;
  });

  // Each part that may change is taken from the page as it is now, unless somebody is in the middle of it.
  function replace(fresh) {
    let arrived = 0;
    for (const now of document.querySelectorAll("[data-live][id]")) {
      const next = fresh.getElementById(now.id);
      if (!next) continue;
      localise(next);
      if (next.innerHTML === now.innerHTML || now.contains(document.activeElement) || now.querySelector("details[open]")) continue;
      const known = new Set([...now.querySelectorAll("[data-row]")].map((row) => row.dataset.row));
      const isFirst = known.size === 0;
      now.replaceChildren(...document.importNode(next, true).childNodes);
      offerCopies(now);
      for (const row of now.querySelectorAll("[data-row]")) {
        if (!known.has(row.dataset.row)) {
          arrived += 1;
          if (!isFirst) row.classList.add("fresh");
        }
      }
    }
    if (arrived) tell(document.body.dataset.arrived.replace("{number}", arrived));
  }

  function follow(url) {
    const mark = document.getElementById("live");
    let waiting = null;
    let last = 0;

    async function refresh() {
      waiting = null;
      last = Date.now();
      const answer = await fetch(location.href, {credentials: "same-origin"});
      if (answer.ok) replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
    }

    function ask() {
      if (!waiting && !document.hidden) {
        waiting = setTimeout(() => refresh().catch(() => {}), Math.max(0, last + soon - Date.now()));
      }
    }

    function show(on) {
      if (!mark) return;
      mark.hidden = false;
      mark.classList.toggle("on", on);
      mark.textContent = on ? mark.dataset.on : mark.dataset.off;
    }

    function listen() {
      const source = new EventSource(url);
      source.addEventListener("open", () => show(true));
      source.addEventListener("changed", ask);
      source.addEventListener("error", () => {
        show(false);
        if (source.readyState === EventSource.CLOSED) setTimeout(listen, again);
      });
      window.addEventListener("pagehide", () => source.close(), {once: true});
    }

    document.addEventListener("visibilitychange", ask);
    listen();
  }

  localise(document);
  offerCopies(document);
  if (document.body.dataset.follow) follow(document.body.dataset.follow);
})();
