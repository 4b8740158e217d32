// What scrolls sideways can be reached and moved by keyboard, too.
const SCROLLING =
  "mjx-container[display], pre, .rg-wide, .cell_output, .pst-scrollable-table-container, .output";

function makeScrollable() {
  for (const element of document.querySelectorAll(SCROLLING)) {
    const scrolls = element.scrollWidth > element.clientWidth + 1;
    if (scrolls && !element.hasAttribute("tabindex")) element.tabIndex = 0;
  }
}

addEventListener("load", async () => {
  // Its entries are no list items for a screen reader, so it must not announce a list.
  document.querySelectorAll(".citation-list[role=list]").forEach((one) => one.removeAttribute("role"));
  await window.MathJax?.startup?.promise;
  makeScrollable();
});
addEventListener("resize", makeScrollable);
