// Draw the formulas of a page with KaTeX, which is fetched only by pages that have some.
(() => {
  const here = new URL(".", document.currentScript.src);
  const marked = document.querySelectorAll(".arithmatex");
  const notebook = document.querySelectorAll(".jp-RenderedMarkdown");
  const inNotebook = [...notebook].filter((cell) => /\$[^$]+\$/.test(cell.textContent));
  if (!marked.length && !inNotebook.length) return;

  const add = (tag, attributes) =>
    new Promise((done, failed) => {
      const element = Object.assign(document.createElement(tag), attributes, { onload: done, onerror: failed });
      document.head.append(element);
    });
  const options = { macros: { ...window.formulaMacros }, throwOnError: false };
  const draw = () => {
    for (const element of marked) {
      const tex = element.textContent.trim();
      window.katex.render(tex.slice(2, -2), element, { ...options, displayMode: tex.startsWith("\\[") });
    }
    const delimiters = [
      { left: "$$", right: "$$", display: true },
      { left: "$", right: "$", display: false },
    ];
    for (const cell of inNotebook) window.renderMathInElement(cell, { ...options, delimiters });
  };
  add("link", { rel: "stylesheet", href: new URL("katex/katex.min.css", here).href });
  add("script", { src: new URL("katex/katex.min.js", here).href })
    .then(() => inNotebook.length && add("script", { src: new URL("katex/auto-render.min.js", here).href }))
    .then(draw);
})();
