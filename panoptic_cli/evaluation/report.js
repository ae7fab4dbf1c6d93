// Tables of the class "sortable" are sorted by the column whose head is clicked.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.textContent) return;
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    const numeric = head.classList.contains("number");
    if (button.textContent === "PQ") head.setAttribute("aria-sort", "descending");
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const down = before ? before === "ascending" : numeric;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].textContent;
      const value = (row) => {
        const number = parseFloat(key(row));
        return Number.isNaN(number) ? (down ? -Infinity : Infinity) : number; // what has no figure comes last
      };
      const compare = numeric
        ? (a, b) => (value(a) > value(b)) - (value(a) < value(b))
        : (a, b) => key(a).localeCompare(key(b));
      const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? compare(b, a) : compare(a, b)));
      table.tBodies[0].append(...rows);
    });
  });
}
