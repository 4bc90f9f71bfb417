"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const rows = [...table.tBodies[0].rows].map(row => [row.cells[column].dataset.value, row]);
    const numeric = rows.every(([value]) => value === "" || !Number.isNaN(Number(value)));
    rows.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = numeric ? a - b : a.localeCompare(b, undefined, {numeric: true});
      return up ? order : -order;
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
    heads.forEach(other => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  }));
}
const dialog = document.querySelector("dialog");
for (const button of document.querySelectorAll(".gallery button")) {
  button.addEventListener("click", () => {
    const figure = button.closest("figure");
    dialog.querySelector("img").src = button.querySelector("img").src;
    dialog.querySelector("figcaption").textContent =
      [...figure.querySelector("figcaption").children].map(part => part.textContent).join("  ·  ");
    dialog.showModal();
  });
}
dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
const copy = document.querySelector(".copy");
if (copy && navigator.clipboard) {
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.querySelector("blockquote").innerText);
    copy.textContent = "Copied";
  });
}
