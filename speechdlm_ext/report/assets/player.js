"use strict";
// Players: a timeline is drawn from data, follows the audio, and seeks by click, drag and keys; one plays at a time.
const Timelines = (() => {
  const LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const HEIGHT = 56; // of a channel's outline, in the drawing's units
  const LANE = 10; // of the speech below it
  const CLOSEST = 5; // seconds in view at the highest zoom
  const BEFORE = 1; // seconds played before the event that is jumped to
  const APART = 0.08; // seconds by which two files that play together may differ
  const KINDS = {
    turn: "turn", backchannel: "backchannel", overlap: "overlap", interruption: "interruption",
    gap: "gap", pause: "pause",
  };
  const playing = new Set();

  const make = (tag, attributes = {}, ...children) => {
    const svg = ["svg", "path", "rect"].includes(tag);
    const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  const clock = (seconds) => {
    const minutes = Math.floor(seconds / 60);
    return minutes ? `${minutes}:${(seconds - 60 * minutes).toFixed(1).padStart(4, "0")} min` : `${seconds.toFixed(1)} s`;
  };
  const percent = (part, whole) => `${whole ? (100 * part) / whole : 0}%`;

  const wavePath = (levels, width) => {
    const step = width / levels.length;
    const heights = [...levels].map((sign) => Math.max(0.4, (LEVELS.indexOf(sign) / 63) * (HEIGHT / 2 - 1)));
    const point = (sign) => (height, column) =>
      `${((column + 0.5) * step).toFixed(3)} ${(HEIGHT / 2 + sign * height).toFixed(1)}`;
    return `M${[...heights.map(point(-1)), ...heights.map(point(1)).reverse()].join("L")}Z`;
  };

  const box = (name, [start, end], y, height, duration) => make("rect", {
    class: name, x: start, y, width: Math.max(end - start, duration / 2000), height,
  });

  // A channel: its turns behind its waveform, its speech below; backchannels are hollow.
  const drawChannel = (data, number) => {
    const own = (kind) => data.events[kind].filter(([, , mask]) => (mask >> number) & 1);
    const drawing = make("svg", {
      viewBox: `0 0 ${data.duration} ${HEIGHT + LANE}`, preserveAspectRatio: "none", role: "img",
    });
    const spoken = own("ipu").reduce((sum, [start, end]) => sum + end - start, 0);
    drawing.setAttribute("aria-label", `Channel ${data.channels[number]}: speech in `
      + `${Math.round((100 * spoken) / (data.duration || 1))} % of the time`);
    own("turn").forEach((turn) => drawing.append(box("turn", turn, 0, HEIGHT + LANE, data.duration)));
    const levels = data.outlines.length === data.channels.length ? data.outlines[number] : "";
    if (levels) drawing.append(make("path", { class: "wave", d: wavePath(levels, data.duration) }));
    const listening = new Set(own("backchannel").map(([start]) => start));
    own("ipu").forEach((ipu) => drawing.append(
      box(listening.has(ipu[0]) ? "speech listening" : "speech", ipu, HEIGHT + 2, LANE - 4, data.duration)));
    const row = make("div", { class: `channel channel-${number % 4}` }, drawing);
    return [row, make("span", { class: "name" }, data.channels[number])];
  };

  // One channel with several speakers: its waveform has a row of its own.
  const drawMixed = (data) => data.outlines.map((levels) => make("div", { class: "channel mixed" },
    make("svg", { viewBox: `0 0 ${data.duration} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      make("path", { class: "wave", d: wavePath(levels, data.duration) }))));

  const drawBetween = (data) => {
    const lane = make("div", { class: "between", "aria-hidden": "true" });
    for (const kind of ["pause", "gap", "overlap", "interruption"]) {
      for (const [start, end] of data.events[kind]) {
        const mark = make("span", { class: kind, title: `${KINDS[kind]}, ${(end - start).toFixed(2)} s` });
        mark.style.left = percent(start, data.duration);
        mark.style.width = percent(end - start, data.duration);
        lane.append(mark);
      }
    }
    return lane;
  };

  const drawParts = (data) => make("div", { class: "parts" }, ...data.parts.map(([name, start, end], number) => {
    const part = make("span", { class: `part part-${number}` }, make("i", {}, name));
    part.style.left = percent(start, data.duration);
    part.style.width = percent(end - start, data.duration);
    return part;
  }));

  const drawAxis = (axis, duration, width) => {
    const steps = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];
    const step = steps.find((s) => (width * s) / (duration || 1) >= 56) || duration || 1;
    axis.replaceChildren();
    for (let time = 0; time <= duration - 0.4 * step; time += step) {
      const mark = make("span", {}, time >= 60 ? `${Math.floor(time / 60)}:${String(time % 60).padStart(2, "0")}` : `${time}`);
      mark.style.left = percent(time, duration);
      axis.append(mark);
    }
  };

  // The sources play together: the first one has the controls. Without any, there is only a position.
  const openSound = (data, figure) => {
    if (!data.sources.length) {
      let time = 0;
      return { audio: null, get time() { return time; }, set time(value) { time = value; }, toggle() {} };
    }
    const [audio, ...others] = data.sources.map((source) => make("audio", { preload: "metadata", src: source }));
    audio.controls = true;
    audio.setAttribute("aria-label", `Audio of ${data.title}`);
    const join = () => others.forEach((other) => {
      if (Math.abs(other.currentTime - audio.currentTime) > APART) other.currentTime = audio.currentTime;
    });
    audio.addEventListener("play", () => { join(); others.forEach((other) => other.play().catch(() => {})); });
    audio.addEventListener("pause", () => others.forEach((other) => other.pause()));
    audio.addEventListener("seeking", join);
    audio.addEventListener("timeupdate", join);
    audio.addEventListener("ratechange", () => others.forEach((other) => { other.playbackRate = audio.playbackRate; }));
    audio.addEventListener("volumechange", () => others.forEach((other) => {
      Object.assign(other, { volume: audio.volume, muted: audio.muted });
    }));
    audio.addEventListener("error", () => {
      const name = data.sources[0].startsWith("data:") ? "in this page" : decodeURIComponent(data.sources[0]);
      figure.append(make("p", { class: "note", role: "alert" }, `The audio cannot be played: ${name}`));
    });
    return {
      audio,
      get time() { return audio.currentTime - data.offset; },
      set time(value) { audio.currentTime = value + data.offset; },
      toggle() { if (audio.paused) audio.play().catch(() => {}); else audio.pause(); },
    };
  };

  const channelsOf = (data, mask) => data.channels.filter((_, number) => (mask >> number) & 1);

  // The events at a time, in words: for the line below and for screen readers.
  const describe = (data, time) => {
    if (time < data.lead) return "before the measured part";
    const at = (kind) => data.events[kind].filter(([start, end]) => start <= time && time < end);
    const words = [];
    const backchannels = at("backchannel");
    for (const ipu of at("ipu")) {
      const who = channelsOf(data, ipu[2])[0];
      words.push(backchannels.some((other) => other[0] === ipu[0] && other[2] === ipu[2]) ? `${who} backchannel` : `${who} speaks`);
    }
    for (const kind of ["interruption", "overlap", "gap", "pause"]) {
      for (const [start, end] of at(kind)) words.push(`${kind} of ${(end - start).toFixed(2)} s`);
    }
    return words.length ? words.join(", ") : "silence";
  };

  const draw = (figure, data) => {
    const sound = openSound(data, figure);
    const { audio } = sound;
    const name = `${data.title}, ${clock(data.duration)}`;
    const channels = make("div", { class: "channels" });
    if (data.outlines.length !== data.channels.length) channels.append(...drawMixed(data));
    const rows = data.channels.map((_, number) => drawChannel(data, number));
    channels.append(...rows.map(([row]) => row), drawBetween(data));
    const head = make("div", { class: "playhead", hidden: "" });
    const track = make("div", {
      class: "track", role: "slider", tabindex: "0", "aria-label": `Position in ${name}`,
      "aria-valuemin": "0", "aria-valuemax": data.duration.toFixed(1), "aria-valuenow": "0", "aria-valuetext": "0.0 s",
    }, drawParts(data), channels, head);
    const axis = make("div", { class: "axis", "aria-hidden": "true" });
    const scroller = make("div", { class: "scroller" }, make("div", { class: "stretch" }, track, axis));
    const frame = make("div", { class: "frame" }, scroller);
    rows.forEach(([row, label]) => { frame.append(label); label.hidden = true; row.dataset.row = ""; });
    const readout = make("p", { class: "readout", "aria-hidden": "true" });
    const tools = make("div", { class: "tools" });
    figure.dataset.duration = data.duration;

    // Names stay in view when the timeline is scrolled.
    const placeNames = () => rows.forEach(([row, label]) => {
      label.className = `name ${row.className.split(" ")[1]}`;
      label.style.top = `${row.offsetTop + channels.offsetTop + 4}px`;
      label.hidden = false;
    });

    const show = () => {
      const time = Math.min(Math.max(sound.time, 0), data.duration);
      head.hidden = false;
      head.style.left = percent(time, data.duration);
      const words = describe(data, time);
      readout.textContent = `${clock(time)} · ${words}`;
      track.setAttribute("aria-valuenow", time.toFixed(1));
      track.setAttribute("aria-valuetext", `${clock(time)}, ${words}`);
      const place = (time / (data.duration || 1)) * track.clientWidth;
      const { scrollLeft, clientWidth } = scroller;
      if (track.clientWidth > clientWidth && (place < scrollLeft || place > scrollLeft + 0.92 * clientWidth)) {
        scroller.scrollLeft = place - 0.15 * clientWidth;
      }
    };
    const seek = (time) => {
      sound.time = Math.min(Math.max(time, 0), data.duration);
      show();
    };
    const follow = () => {
      if (audio.paused || audio.ended) return;
      if (sound.time >= data.duration && data.duration) audio.pause();
      show();
      requestAnimationFrame(follow);
    };
    const seekTo = (event) => {
      const place = track.getBoundingClientRect();
      seek((data.duration * (event.clientX - place.left)) / place.width);
    };

    if (audio) {
      if (data.offset) audio.addEventListener("loadedmetadata", () => { if (sound.time < 0) sound.time = 0; });
      audio.addEventListener("play", () => {
        playing.forEach((other) => other !== audio && other.pause());
        playing.add(audio);
        if (sound.time < 0 || sound.time >= data.duration - 0.02) sound.time = 0;
        follow();
      });
      audio.addEventListener("pause", () => playing.delete(audio));
      for (const event of ["pause", "seeked", "timeupdate", "ended"]) audio.addEventListener(event, show);
    }

    track.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.pointerType === "touch") return; // a finger may be about to scroll
      seekTo(event);
      track.setPointerCapture(event.pointerId);
    });
    track.addEventListener("click", (event) => { if (event.pointerType === "touch") seekTo(event); });
    track.addEventListener("pointermove", (event) => {
      if (track.hasPointerCapture(event.pointerId)) seekTo(event);
    });
    track.addEventListener("dblclick", () => sound.toggle());

    let zoom = 1;
    const buttons = {};
    const magnify = (by) => {
      const most = Math.max(1, 2 ** Math.ceil(Math.log2(data.duration / CLOSEST || 1)));
      zoom = Math.min(most, Math.max(1, zoom * by));
      scroller.firstChild.style.width = `${100 * zoom}%`;
      drawAxis(axis, data.duration, track.clientWidth);
      buttons.less.disabled = zoom === 1;
      buttons.more.disabled = zoom >= most;
      const place = (sound.time / (data.duration || 1)) * track.clientWidth;
      scroller.scrollLeft = place - scroller.clientWidth / 2;
    };
    let jumped = { kind: "", time: 0, start: 0 };
    const jump = (kind) => {
      const starts = data.events[kind].map(([start]) => start);
      const waiting = jumped.kind === kind && sound.time >= jumped.time - 0.01 && sound.time <= jumped.start;
      const from = waiting ? jumped.start : sound.time;
      const next = starts.find((start) => start > from);
      const start = next === undefined ? starts[0] : next;
      jumped = { kind, time: Math.max(0, start - BEFORE), start };
      seek(jumped.time);
    };
    track.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const now = sound.time;
      const moves = {
        ArrowRight: now + 1, ArrowUp: now + 1, ArrowLeft: now - 1, ArrowDown: now - 1,
        PageUp: now + 5, PageDown: now - 5, Home: 0, End: data.duration,
      };
      if (event.key in moves) seek(moves[event.key]);
      else if (event.key === " " || event.key === "Enter") sound.toggle();
      else if (event.key === "+" || event.key === "=") magnify(2);
      else if (event.key === "-") magnify(0.5);
      else return;
      event.preventDefault();
    });

    for (const [kind, words] of Object.entries(KINDS)) {
      const count = data.events[kind].length;
      const label = `Next ${words}, ${count} in all`;
      const button = make("button", { type: "button", class: `jump ${kind}`, "aria-label": label, title: label },
        make("i"), `${words} `, make("b", {}, String(count)));
      button.disabled = !count;
      button.addEventListener("click", () => jump(kind));
      tools.append(button);
    }
    for (const [key, sign, label, by] of [["less", "−", "Zoom out", 0.5], ["more", "+", "Zoom in", 2]]) {
      buttons[key] = make("button", { type: "button", class: "zoom", "aria-label": label, title: label }, sign);
      buttons[key].addEventListener("click", () => magnify(by));
    }
    tools.append(make("span", { class: "zooms" }, buttons.less, buttons.more));

    figure.append(frame, readout, ...(audio ? [audio] : [make("p", { class: "note" }, "No audio.")]), tools);
    placeNames();
    magnify(1);
    show();
    head.hidden = true;
    if (window.ResizeObserver) {
      new ResizeObserver(() => { placeNames(); drawAxis(axis, data.duration, track.clientWidth); }).observe(scroller);
    }
    return { toggle: () => sound.toggle(), seek, stop: () => audio && audio.pause() };
  };

  document.querySelectorAll("figure.timeline > script").forEach((script) => {
    draw(script.parentElement, JSON.parse(script.textContent));
  });
  return { draw, make };
})();
