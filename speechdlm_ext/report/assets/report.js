"use strict";
// Players: the playhead follows the sound; a click, a drag or the keys of a slider seek; one plays at a time.
(() => {
  const figures = [...document.querySelectorAll("figure.timeline")];
  const players = figures.map((figure) => figure.querySelector("audio"));

  figures.forEach((figure, number) => {
    const audio = players[number];
    const track = figure.querySelector(".track");
    const head = figure.querySelector(".playhead");
    const whole = Number(figure.dataset.duration);
    const length = () => (Number.isFinite(audio.duration) ? audio.duration : whole);

    const show = () => {
      const time = audio.currentTime;
      head.hidden = false;
      head.style.left = `${Math.min(100, (100 * time) / length())}%`;
      track.setAttribute("aria-valuenow", time.toFixed(1));
      track.setAttribute("aria-valuetext", `${time.toFixed(1)} s`);
    };
    const follow = () => {
      show();
      if (!audio.paused && !audio.ended) requestAnimationFrame(follow);
    };
    const seek = (time) => {
      audio.currentTime = Math.min(Math.max(time, 0), length());
      show();
    };
    const toggle = () => (audio.paused ? audio.play().catch(() => {}) : audio.pause());
    const seekTo = (event) => {
      const box = track.getBoundingClientRect();
      seek((length() * (event.clientX - box.left)) / box.width);
    };

    audio.addEventListener("play", () => {
      players.forEach((other) => other !== audio && other.pause());
      follow();
    });
    for (const name of ["pause", "seeked", "timeupdate", "ended"]) audio.addEventListener(name, show);

    track.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      seekTo(event);
      track.setPointerCapture(event.pointerId);
    });
    track.addEventListener("pointermove", (event) => {
      if (track.hasPointerCapture(event.pointerId)) seekTo(event);
    });
    track.addEventListener("dblclick", toggle);
    track.addEventListener("keydown", (event) => {
      const now = audio.currentTime;
      const moves = {
        ArrowRight: now + 1, ArrowUp: now + 1, ArrowLeft: now - 1, ArrowDown: now - 1,
        PageUp: now + 5, PageDown: now - 5, Home: 0, End: length(),
      };
      if (event.key in moves) seek(moves[event.key]);
      else if (event.key === " " || event.key === "Enter") toggle();
      else return;
      event.preventDefault();
    });
  });

  document.querySelectorAll("button[data-copy]").forEach((button) => {
    button.addEventListener("click", async () => {
      const text = button.parentElement.querySelector("code").textContent;
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(button.parentElement.querySelector("code"));
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  });
})();
