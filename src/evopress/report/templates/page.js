// Says below a heat map what its cell says when pointed at: fingers cannot hover.
for (const kind of ["mouseover", "click"])
  document.addEventListener(kind, (event) => {
    const cell = event.target.closest("[data-unit]");
    if (cell) cell.closest("section").querySelector(".readout").textContent = cell.title;
  });
