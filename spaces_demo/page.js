// What the page does in the browser: play from a segment, follow the song, sort the ranking, lead to results, share a
// picture. It is run once for the whole page and listens on the document, since results are replaced at every press.
() => {
  if (window.apexPage) return;
  window.apexPage = true;

  // Gradio draws the names of files that are too large as HTML. No server keeps a name with this character.
  const { get } = Object.getOwnPropertyDescriptor(File.prototype, "name");
  Object.defineProperty(File.prototype, "name", { get() { return get.call(this).replaceAll("<", "‹"); } });

  // Gradio's player draws 20 pixels a second, of which a window shows less than a minute; without that, the whole song.
  const { assign } = Object;
  Object.assign = (...parts) => {
    const whole = assign(...parts);
    if (whole.minPxPerSec === 20) whole.minPxPerSec = 0;
    return whole;
  };

  // Gradio's player draws the waveform in a shadow root and keeps its audio element there.
  const findPlayer = () => {
    const host = document.querySelector("#score-song #waveform > div");
    return host && host.shadowRoot && host.shadowRoot.querySelector("audio");
  };

  const seek = (part) => {
    const player = findPlayer();
    if (!player) return;
    player.currentTime = Number(part.dataset.start);
    player.play();
  };

  const follow = () => {
    const player = findPlayer();
    const now = player && !player.paused ? player.currentTime : -1;
    document.querySelectorAll(".apex-times .apex-seek").forEach((button) => {
      if (now >= Number(button.dataset.start) && now < Number(button.dataset.end)) {
        button.setAttribute("aria-current", "true");
      } else button.removeAttribute("aria-current");
    });
    document.querySelectorAll(".apex-strips").forEach((strips) => {
      const head = strips.querySelector(".apex-playhead");
      const share = now / Number(strips.dataset.seconds);
      head.hidden = share < 0 || share > 1;
      head.style.left = `${100 * share}%`;
    });
  };

  const sort = (button) => {
    const head = button.closest("th");
    const table = head.closest("table");
    const column = [...head.parentNode.children].indexOf(head);
    // Numbers open with the highest, the place and names with the first.
    const isDescending = head.getAttribute("aria-sort") === "none" ? column > 1
      : head.getAttribute("aria-sort") === "ascending";
    const key = (row) => row.children[column].dataset.sort;
    const rows = [...table.tBodies[0].rows];
    const isText = column === 1;
    rows.sort((a, b) => (isText ? key(a).localeCompare(key(b)) : Number(key(a)) - Number(key(b))));
    if (isDescending) rows.reverse();
    [...head.parentNode.children].forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", isDescending ? "descending" : "ascending");
    table.tBodies[0].append(...rows);
  };

  // A browser that cannot share files, as most on desktops, never shows the button.
  const readPicture = async (button) => {
    const link = button.parentNode.querySelector('a[href^="data:image/png"]');
    return new File([await (await fetch(link.href)).blob()], button.dataset.name, { type: "image/png" });
  };
  const share = async (button) => {
    try {
      await navigator.share({ files: [await readPicture(button)] });
    } catch (error) {
      if (error.name !== "AbortError") throw error;  // the visitor changed their mind
    }
  };
  const offerShare = () => {
    for (const button of document.querySelectorAll(".apex-share[hidden]")) {
      const file = new File([], "picture.png", { type: "image/png" });
      if (navigator.canShare && navigator.canShare({ files: [file] })) button.hidden = false;
    }
  };

  // Results are told to screen readers, and lie where whoever asked for them looks and goes on by keyboard.
  const status = document.createElement("p");
  status.className = "apex-hidden";
  status.id = "apex-status";
  status.setAttribute("role", "status");
  document.body.append(status);
  const told = new WeakMap();  // Gradio changes a panel in place where it can, so each knows the run that it is of
  const lead = () => {
    offerShare();
    // What is refused, too: a region that appears together with its text is read by few.
    for (const text of document.querySelectorAll('[data-testid="toast-text"]')) {
      if (!told.has(text)) status.textContent = text.textContent;
      told.set(text, true);
    }
    for (const panel of document.querySelectorAll(".apex-results")) {
      if (told.get(panel) === panel.dataset.run || !panel.getClientRects().length) continue;
      told.set(panel, panel.dataset.run);
      status.textContent = panel.dataset.announcement;
      const active = document.activeElement;
      // Whoever went on to something else is left there.
      const isWaiting = !active || active === document.body || active.matches("button") || panel.contains(active);
      const heading = panel.querySelector("[tabindex='-1']");
      if (isWaiting && heading) heading.focus({ preventScroll: true });
      const { top } = panel.getBoundingClientRect();
      if (isWaiting && (top < 0 || top > 0.6 * window.innerHeight)) {
        const isStill = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
        panel.scrollIntoView({ behavior: isStill ? "auto" : "smooth", block: "start" });
      }
    }
  };
  const changes = { childList: true, subtree: true, attributes: true, attributeFilter: ["data-run"] };
  new MutationObserver(lead).observe(document.body, changes);

  document.addEventListener("click", (event) => {
    const part = event.target.closest(".apex-seek, .apex-cells [data-start], .apex-sort, .apex-share");
    if (part) (part.matches(".apex-sort") ? sort : part.matches(".apex-share") ? share : seek)(part);
  });
  // One stop of the tab key for all times of a song; arrows go from one to the next.
  document.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (!step || !event.target.matches(".apex-times .apex-seek")) return;
    const buttons = [...event.target.parentNode.children];
    const place = buttons.indexOf(event.target) + step;
    const next = buttons[Math.min(Math.max(place, 0), buttons.length - 1)];
    buttons.forEach((button) => { button.tabIndex = button === next ? 0 : -1; });
    next.focus();
    event.preventDefault();
  });
  // Events of a media element do not leave its shadow root, so its clock is read instead.
  window.setInterval(follow, 250);
}
