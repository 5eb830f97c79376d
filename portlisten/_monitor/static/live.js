// Keeps the status page up to date.  Only what has changed is exchanged, so the focus,
// the selection and what is unfolded stay.  Nothing is sent but the request for events.
"use strict";

// After so many milliseconds without an event, the page says that it is old.
const STALE = 4000;
// After so many milliseconds, a broken connection is tried again.
const RETRY = 5000;

const stale = document.getElementById("stale");
let heard = Date.now();
let began = heard;

function say(text) {
  if (stale.textContent !== text) {
    stale.textContent = text;
    document.body.classList.toggle("old", text !== "");
  }
}

function exchange(event) {
  heard = Date.now();
  say("");
  for (const [id, html] of Object.entries(JSON.parse(event.data))) {
    if (id === "title") {
      document.title = html;
      continue;
    }
    const place = document.getElementById(id);
    if (place && place.innerHTML !== html) {
      // A box that is scrolled sideways stays where it is, and keeps the focus.
      const boxes = [...place.querySelectorAll(".box")];
      const lefts = boxes.map((box) => box.scrollLeft);
      const focused = boxes.indexOf(document.activeElement);
      place.innerHTML = html;
      place.querySelectorAll(".box").forEach((box, index) => {
        box.scrollLeft = lefts[index] || 0;
        if (index === focused) box.focus({ preventScroll: true });
      });
    }
  }
}

function listen() {
  const events = new EventSource("events");
  events.onmessage = exchange;
  events.onerror = () => {
    events.close();
    setTimeout(listen, RETRY);
  };
}

setInterval(() => {
  if (Date.now() - heard > STALE) {
    say("This page is old: the monitor does not answer.");
  }
}, 1000);

listen();
