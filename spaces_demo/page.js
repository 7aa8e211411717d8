// What the page does in the browser: play from a segment, follow the playing segment, sort the ranking. It is run once
// for the whole page and listens on the document, since results are replaced whenever a song is scored.
() => {
  if (window.apexPage) return;
  window.apexPage = true;

  // Gradio's player draws the waveform in a shadow root and keeps its audio element there.
  const findPlayer = () => {
    const host = document.querySelector("#score-song #waveform > div");
    return host && host.shadowRoot && host.shadowRoot.querySelector("audio");
  };

  const seek = (button) => {
    const player = findPlayer();
    if (!player) return;
    player.currentTime = Number(button.dataset.start);
    player.play();
  };

  const follow = () => {
    const player = findPlayer();
    document.querySelectorAll(".apex-seek").forEach((button) => {
      const now = player && !player.paused ? player.currentTime : -1;
      const isPlaying = now >= Number(button.dataset.start) && now < Number(button.dataset.end);
      button.closest("th").classList.toggle("apex-playing", isPlaying);
      if (isPlaying) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
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

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".apex-seek, .apex-sort");
    if (button) (button.matches(".apex-seek") ? seek : sort)(button);
  });
  // Events of a media element do not leave its shadow root, so its clock is read instead.
  window.setInterval(follow, 250);
}
