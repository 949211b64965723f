// The TeX macros of every formula in these pages: write \dW, not \Delta W.
window.formulaMacros = {
  "\\dW": "\\Delta W",                  // the update of a weight
  "\\A": "A",                           // (rank, in)
  "\\B": "B",                           // (out, rank)
  "\\T": "^{\\top}",                    // transposed
  "\\scale": "\\tfrac{\\alpha}{r}",     // the scaling, alpha over rank
  "\\norm": "\\lVert #1 \\rVert",
  "\\lora": "x\\,W\\T + b + s\\,(x\\,\\A\\T)\\,\\B\\T", // the output of an adapted layer
  "\\grad": "\\frac{\\partial L}{\\partial #1}", // the gradient of the loss
};
