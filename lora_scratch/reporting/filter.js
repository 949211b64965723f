"use strict";
// Show the rows that have the chosen kind, the chosen label and the typed words.
for (const form of document.querySelectorAll("form.filter")) {
  const rows = [...form.parentElement.querySelectorAll("tbody tr")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const { kind, label, words, count } = form.elements;
  const chosen = (select, numbers) => !select || !select.value || numbers.split(" ").includes(select.value);
  const apply = () => {
    const sought = words.value.trim().toLowerCase();
    let shown = 0;
    rows.forEach((row, i) => {
      const { kind: own, labels } = row.dataset;
      row.hidden = !(chosen(kind, own) && chosen(label, labels) && texts[i].includes(sought));
      shown += !row.hidden;
    });
    count.value = `${shown} of ${rows.length} rows`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("pageshow", apply); // a browser that goes back has kept what was chosen
  form.hidden = false;
}
addEventListener("beforeprint", () => document.querySelectorAll("details.fold").forEach((fold) => (fold.open = true)));
