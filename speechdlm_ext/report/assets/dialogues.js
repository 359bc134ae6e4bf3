"use strict";
// The list of dialogues: sorted and filtered by any figure; one is chosen and played above it.
(() => {
  const MORE = 100; // rows that are shown at first, and at each further step
  const { draw, make } = Timelines;
  const section = document.querySelector("[data-dialogues]");
  if (!section) return;
  const { columns, rows } = JSON.parse(document.getElementById("dialogue-list").textContent);
  const find = (selector) => section.querySelector(selector);
  const [stage, form, table, count, more] = ["figure", "form", "table", "[role=status]", ".more"].map(find);
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const corpora = [...new Set(rows.map((row) => row.corpus))];
  let sorting = { column: -2, descending: false }; // -2: as they came, -1: by name
  let chosen = null;
  let player = null;
  let shown = MORE;
  let order = rows;

  const text = (value, { digits }) => (value === null ? "–" : value.toFixed(digits));
  const option = (value, words) => make("option", { value }, words);

  // Filter: name, corpus, and figures between two bounds. What is not known fits no bound.
  const conditions = find(".conditions");
  const addCondition = () => {
    const first = conditions.children[0];
    const added = first.cloneNode(true);
    added.querySelectorAll("input").forEach((input) => { input.value = ""; });
    added.querySelector("legend").textContent = `Condition ${conditions.children.length + 1}`;
    conditions.append(added);
    return added;
  };
  const bound = (input) => (input.value.trim() === "" ? null : Number(input.value));
  const fits = (row) => {
    const wanted = form.elements.name.value.trim().toLowerCase();
    const corpus = form.elements.corpus.value;
    if (wanted && !row.name.toLowerCase().includes(wanted)) return false;
    if (corpus && row.corpus !== corpus) return false;
    return [...conditions.children].every((condition) => {
      const [least, most] = [...condition.querySelectorAll("input")].map(bound);
      if (least === null && most === null) return true;
      const value = row.values[Number(condition.querySelector("select").value)];
      return value !== null && (least === null || value >= least) && (most === null || value <= most);
    });
  };
  const compare = (one, other) => {
    const { column, descending } = sorting;
    if (column === -2) return 0;
    const sign = descending ? -1 : 1;
    if (column === -1) return sign * one.name.localeCompare(other.name, undefined, { numeric: true });
    const [a, b] = [one.values[column], other.values[column]];
    if (a === null || b === null) return (a === null) - (b === null); // what is not known comes last either way
    return sign * (a - b);
  };

  const renderRow = (row) => {
    const button = make("button", { type: "button", title: row.name }, row.name);
    const line = make("tr", { "data-id": row.id }, make("th", { scope: "row" }, button, make("small", {}, row.corpus)));
    row.values.forEach((value, number) => {
      const cell = make("td", {}, text(value, columns[number]));
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
  const render = () => {
    body.replaceChildren();
    addRows(0);
    count.textContent = `${order.length} of ${rows.length} dialogues`;
    heads.forEach((head, number) => {
      const direction = number - 1 !== sorting.column ? "none" : sorting.descending ? "descending" : "ascending";
      head.setAttribute("aria-sort", direction);
    });
    form.elements.sort.value = String(sorting.column);
    form.elements.direction.value = sorting.descending ? "down" : "up";
    form.elements.direction.disabled = sorting.column === -2;
  };
  const update = () => {
    shown = MORE;
    order = rows.filter(fits);
    order.sort(compare); // stable: equal ones stay as they came
    render();
  };

  // The first column covers what lies below it.
  const bringIntoView = (head) => {
    const box = table.parentElement;
    const [left, right] = [head.offsetLeft - heads[0].offsetWidth, head.offsetLeft + head.offsetWidth - box.clientWidth];
    if (head.cellIndex > 0) box.scrollLeft = Math.max(right, Math.min(box.scrollLeft, left));
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
    if (event.detail === 0) return; // chosen by a key: the list stays where it is
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
    // Names are read from A on; of figures the greatest are wanted first.
    sorting = { column, descending: column === sorting.column ? !sorting.descending : column >= 0 };
    update();
  });
  form.addEventListener("input", (event) => {
    const { sort, direction } = form.elements;
    if (event.target === sort) sorting = { column: Number(sort.value), descending: Number(sort.value) >= 0 };
    if (event.target === direction) sorting.descending = direction.value === "down";
    update();
    table.parentElement.scrollTop = 0;
    if (event.target === sort) bringIntoView(heads[sorting.column + 1]);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => {
    [...conditions.children].slice(1).forEach((condition) => condition.remove());
    sorting = { column: -2, descending: false };
    setTimeout(update);
  });
  find(".add").addEventListener("click", () => addCondition().querySelector("select").focus());
  more.addEventListener("click", () => {
    const first = shown;
    shown += MORE;
    addRows(first);
    body.rows[first].querySelector("button").focus();
  });

  form.elements.corpus.append(option("", "all"), ...corpora.map((name) => option(name, name)));
  conditions.querySelector("select").append(...columns.map(({ words }, number) => option(String(number), words)));
  form.elements.sort.append(option("-2", "as they came"), option("-1", "name"),
    ...columns.map(({ words }, number) => option(String(number), words)));
  update();
  if (rows.length) choose(rows[0]);
})();
