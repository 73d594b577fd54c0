"use strict";
// Without this the page is complete: nothing sorts, filters or enlarges.
const key = (cell) => cell?.dataset.sort ?? cell?.textContent.trim() ?? "";

function compare(a, b) {
  const [x, y] = [Number(a), Number(b)];
  if (a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y)) return x - y;
  return a.localeCompare(b, "en", { numeric: true });
}

for (const table of document.querySelectorAll("table.claims, table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      // A claim is a body of two rows, a run is a row.
      const claims = table.classList.contains("claims");
      const items = claims ? [...table.tBodies] : [...table.tBodies[0].rows];
      const cell = (item) => (claims ? item.rows[0] : item).cells[place];
      items.sort((a, b) => compare(key(cell(a)), key(cell(b))) * (falling ? -1 : 1));
      (claims ? table : table.tBodies[0]).append(...items);
    });
  });
}

const filter = document.querySelector(".filter");
const boxes = [...filter.querySelectorAll("input")];
function show() {
  const wanted = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
  for (const body of document.querySelectorAll(".claims > tbody")) body.hidden = !wanted.has(body.dataset.verdict);
}
filter.hidden = false;
filter.addEventListener("change", show);
show();

const dialog = document.querySelector("dialog");
for (const button of document.querySelectorAll(".enlarge")) {
  button.addEventListener("click", () => {
    const [small, large] = [button.querySelector("img"), dialog.querySelector("img")];
    large.src = small.src;
    large.alt = small.alt;
    dialog.showModal();
  });
}
