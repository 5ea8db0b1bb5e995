"use strict";
// A click on the heading of a column sorts its table by it, and one more turns the order round. Numbers go by their
// size and not by their interval; a cell without a number comes last in both orders.
// An address that ends in #sort=TABLE,COLUMN or #sort=TABLE,COLUMN,descending opens sorted; columns count from 0.
function valueOf(row, column, isNumber) {
  const text = row.cells[column].textContent.trim();
  return isNumber ? parseFloat(text.replace(/^[<(]/, "")) : text;
}

function sort(heading) {
  const table = heading.closest("table"), column = heading.cellIndex, body = table.tBodies[0];
  const isNumber = heading.classList.contains("number");
  const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const rows = Array.from(body.rows, (row) => [valueOf(row, column, isNumber), row]);
  rows.sort(([a], [b]) => {
    if (!isNumber) return sign * a.localeCompare(b, "en", { numeric: true });
    return Number.isNaN(a) || Number.isNaN(b) ? Number.isNaN(a) - Number.isNaN(b) : sign * (a - b);
  });
  for (const other of heading.parentNode.cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  body.append(...rows.map(([, row]) => row));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("th button");
  if (button) sort(button.parentNode);
});

const asked = /^#sort=([\w-]+),(\d+)(,descending)?$/.exec(location.hash);
const headings = asked && document.getElementById(asked[1])?.tHead?.rows[0].cells;
if (headings && headings[asked[2]]) {
  const button = headings[asked[2]].querySelector("button");
  button.click();
  if (asked[3]) button.click();
}
