"use strict";
// The list of dialogues: sorted by a column, searched by name; the selected one is played above it.
(() => {
  const MORE = 100; // rows at first, and with each further step
  const { draw, make } = Timelines;
  const section = document.querySelector("[data-dialogues]");
  if (!section) return;
  const { digits, rows } = JSON.parse(document.getElementById("dialogue-list").textContent);
  const find = (selector) => section.querySelector(selector);
  const [stage, search, table, count, more] = ["figure", "input", "table", "[role=status]", ".more"].map(find);
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  let sorting = { column: -2, descending: false }; // -2: original order, -1: by name
  let chosen = null;
  let player = null;
  let shown = MORE;
  let order = rows;

  const compare = (one, other) => {
    const { column, descending } = sorting;
    if (column === -2) return 0;
    const sign = descending ? -1 : 1;
    if (column === -1) return sign * one.name.localeCompare(other.name, undefined, { numeric: true });
    const [a, b] = [one.values[column], other.values[column]];
    if (a === null || b === null) return (a === null) - (b === null); // unknown values come last either way
    return sign * (a - b);
  };

  const renderRow = (row) => {
    const button = make("button", { type: "button", title: row.name }, row.name);
    const line = make("tr", { "data-id": row.id }, make("th", { scope: "row" }, button, make("small", {}, row.corpus)));
    row.values.forEach((value, number) => {
      const cell = make("td", {}, value === null ? "–" : value.toFixed(digits[number]));
      if (number === sorting.column) cell.className = "sorted";
      line.append(cell);
    });
    if (row === chosen) line.setAttribute("aria-current", "true");
    return line;
  };
  const addRows = (first) => {
    body.append(...order.slice(first, shown).map(renderRow));
    more.hidden = order.length <= shown;
  };
  const update = () => {
    shown = MORE;
    const words = search.value.trim().toLowerCase();
    order = rows.filter((row) => `${row.name}\n${row.corpus}`.toLowerCase().includes(words));
    order.sort(compare); // stable: equal ones keep their order
    body.replaceChildren();
    addRows(0);
    count.textContent = `${order.length} of ${rows.length} dialogues`;
    heads.forEach((head, number) => {
      const direction = number - 1 !== sorting.column ? "none" : sorting.descending ? "descending" : "ascending";
      head.setAttribute("aria-sort", direction);
    });
  };

  const choose = (row) => {
    if (player) player.stop();
    chosen = row;
    body.querySelectorAll("[aria-current]").forEach((line) => line.removeAttribute("aria-current"));
    const line = [...body.rows].find((each) => each.dataset.id === String(row.id));
    if (line) line.setAttribute("aria-current", "true");
    const data = JSON.parse(document.getElementById(`dialogue-${row.id}`).textContent);
    stage.replaceChildren(make("figcaption", {}, make("b", { title: data.title }, data.title), make("span", {}, data.note)));
    player = draw(stage, data);
  };

  body.addEventListener("click", (event) => {
    const line = event.target.closest("tr");
    if (!line) return;
    const row = rows.find((each) => String(each.id) === line.dataset.id);
    if (row === chosen) { player.toggle(); return; }
    choose(row);
    if (event.detail === 0) return; // selected by a key: the list keeps its place
    if (stage.getBoundingClientRect().top < 0 || stage.getBoundingClientRect().bottom > innerHeight) {
      stage.scrollIntoView({ block: "nearest" });
    }
  });
  body.addEventListener("keydown", (event) => {
    const line = event.target.closest("tr");
    const targets = {
      ArrowDown: line.nextElementSibling, ArrowUp: line.previousElementSibling,
      Home: body.firstElementChild, End: body.lastElementChild,
    };
    if (!(event.key in targets)) return;
    event.preventDefault();
    if (targets[event.key]) targets[event.key].querySelector("button").focus();
  });
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const column = button.closest("th").cellIndex - 1;
    // Names are sorted from A; of figures the greatest come first.
    sorting = { column, descending: column === sorting.column ? !sorting.descending : column >= 0 };
    update();
  });
  search.addEventListener("input", () => { update(); table.parentElement.scrollTop = 0; });
  more.addEventListener("click", () => {
    const first = shown;
    shown += MORE;
    addRows(first);
    body.rows[first].querySelector("button").focus();
  });

  update();
  if (rows.length) choose(rows[0]);
})();
