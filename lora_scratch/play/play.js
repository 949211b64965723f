"use strict";
// The page of `lora-scratch play`. It asks the server for every state and draws the answer; it computes no figure.
const $ = (id) => document.getElementById(id);
const four = (value) => (value === null ? "–" : value.toFixed(4));
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(4);
const short = (text) => (text.length > 30 ? `${text.slice(0, 29)}…` : text);
const percent = (share) => `${Math.max(0, Math.min(1, share)) * 100}%`;
let adapters = [], adapter, row = null, range = [0, 1], asking = false, again = false;
const off = new Set();

function make(tag, text = "", attributes = {}, ...children) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

// ---- the question ----------------------------------------------------------------------------
function state() {
  return {
    adapter: adapter.name, text: $("text").value, pair: $("pair-part").hidden ? null : $("pair").value,
    strength: +$("strength").value, rank: +$("rank").value < +$("rank").max ? +$("rank").value : null,
    off: [...off], module: $("module").value, row,
  };
}

// One question at a time. What changes meanwhile is asked afterwards, the last state alone.
async function ask() {
  show_dials();
  if (asking) { again = true; return; }
  asking = true;
  const start = performance.now();
  try {
    const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(state()) };
    const response = await fetch("answer", request);
    const answer = await response.json();
    if (response.ok) {
      draw(answer);
      say(`answered in ${Math.round(performance.now() - start)} ms`);
    } else say(answer.error, true);
  } catch (error) {
    say(`no answer: has the command ended? (${error.message})`, true);
  }
  asking = false;
  if (again) { again = false; ask(); }
}

// ---- the answer ------------------------------------------------------------------------------
function draw(answer) {
  const number = adapter.task === "regression";
  draw_verdict(answer, number);
  $("scale").hidden = !number;
  if (number) draw_scale(answer);
  draw_scores(answer, number);
  draw_tokens(answer);
  draw_steps(answer);
  $("code").textContent = answer.code;
}

function draw_verdict({ base, adapted }, number) {
  const parts = [make("span", `base: ${named(base, number)} → `), "adapted: ", make("b", named(adapted, number))];
  $("verdict").replaceChildren(...parts);
}

// The number, or the label with its probability, or the likeliest three of several labels.
function named({ named: words, chosen, scores }, number) {
  if (number) return four(Object.values(scores)[0]);
  if (chosen.length === 1) return `${words} ${four(scores[chosen[0]])}`;
  const likeliest = [...chosen].sort((one, other) => scores[other] - scores[one]);
  return likeliest.length > 3 ? `${likeliest.slice(0, 3).join(", ")} and ${likeliest.length - 3} more` : words;
}

function draw_scale({ base, adapted }) {
  const values = [base, adapted].map((side) => Object.values(side.scores)[0]);
  range = [Math.min(range[0], Math.floor(Math.min(...values))), Math.max(range[1], Math.ceil(Math.max(...values)))];
  const [first, second, least, most] = $("scale").children;
  first.style.left = percent((values[0] - range[0]) / (range[1] - range[0]));
  second.style.left = percent((values[1] - range[0]) / (range[1] - range[0]));
  [least.textContent, most.textContent] = range;
}

function draw_scores({ base, adapted }, number) {
  const rows = Object.keys(adapted.scores).map((label) => {
    const track = make("span", "", { class: "track" }), limit = adapter.thresholds?.[label];
    for (const [kind, side] of [["base", base], ["adapted", adapted]]) {
      const bar = make("i", "", { class: kind });
      bar.style.width = percent(side.scores[label]);
      track.append(bar);
    }
    if (limit !== undefined) {
      const line = make("u", "", { title: `threshold ${limit}` });
      line.style.left = percent(limit);
      track.append(line);
    }
    const cell = (side) => make("td", four(side.scores[label]), side.chosen?.includes(label) ? { class: "chosen" } : {});
    const bars = make("td", "", { class: "bar", "aria-hidden": "true" }, number ? "" : track);
    return make("tr", "", {}, make("th", label, { scope: "row" }), bars, cell(base), cell(adapted));
  });
  $("scores").tBodies[0].replaceChildren(...rows);
}

function draw_tokens({ tokens, moved, row: shown }) {
  const most = Math.max(...moved, 1e-30), focused = document.activeElement.parentElement === $("tokens");
  const buttons = tokens.map((token, index) => {
    const button = make("button", token, { type: "button", "aria-pressed": index === shown, tabindex: index === shown ? 0 : -1 });
    button.append(make("small", four(moved[index])));
    button.style.setProperty("--heat", `${(55 * moved[index]) / most}%`);
    button.onclick = () => { row = index; ask(); };
    return button;
  });
  $("tokens").replaceChildren(...buttons);
  if (focused) buttons[shown].focus();
}

function draw_steps({ formula, scaling, unseen, steps, one, module, tokens, row: shown }) {
  const isOff = off.has(module) ? " — switched off: the update is not added" : "";
  $("formula").replaceChildren(make("b", formula), ` with ${scaling || "its own scaling"}; ${tokens[shown]}${unseen && `; not shown: ${unseen}`}${isOff}`);
  $("steps").tBodies[0].replaceChildren(...steps.map((step) => {
    const most = Math.max(...step.numbers.map(Math.abs), 1e-30);
    const cells = step.numbers.map((value) => {
      const cell = make("td", signed(value));
      cell.style.setProperty("--side", value < 0 ? "var(--minus)" : "var(--plus)");
      cell.style.setProperty("--heat", `${(45 * Math.abs(value)) / most}%`);
      return cell;
    });
    const head = make("th", step.symbol, { scope: "row" }), shape = make("td", `(${step.shape.join(", ")})`);
    return make("tr", "", {}, head, shape, make("td", four(step.norm)), make("td", four(step.row_norm)), ...cells);
  }));
  $("one").hidden = !one;
  if (!one) return;
  const terms = one.low.map((low, k) => `(${signed(low)})(${signed(one.B[k])})`).join(" + ");
  $("one").textContent = `The output number that moves most, number ${one.index + 1}: ${signed(one.base)} + `
    + `${+one.scaling.toPrecision(4)} · [${terms}] = ${signed(one.base)} ${signed(one.update)} = ${signed(one.y)}`;
}

// ---- dials and switches ----------------------------------------------------------------------
function show_dials() {
  const strength = +$("strength").value, rank = +$("rank").value, all = +$("rank").max;
  $("strength-value").textContent = strength.toFixed(2);
  $("rank-value").textContent = rank < all ? `${rank} of ${all}` : `all ${all}`;
  const kept = `They hold ${(100 * adapter.kept[rank - 1]).toFixed(2)} % of all ‖ΔW‖².`;
  $("rank-note").textContent = adapter.fixed_rank || kept;
  for (const button of $("grid").querySelectorAll("[role=switch]")) {
    const { name } = button.dataset;
    button.setAttribute("aria-checked", !off.has(name));
    button.setAttribute("aria-current", name === $("module").value);
  }
}

function flip(names) {
  const all = names.every((name) => off.has(name));
  for (const name of names) all ? off.delete(name) : off.add(name);
  ask();
}

function header(text, names, what) {
  const button = make("button", text.replaceAll(".", ".\u200b"), { type: "button", tabindex: -1, "aria-label": `switch ${what} ${text}` });
  button.onclick = () => flip(names);
  return make("th", "", { scope: what === "layer" ? "row" : "col" }, button);
}

function draw_grid() {
  const layers = [...new Set(adapter.modules.map((m) => m.layer))], kinds = [...new Set(adapter.modules.map((m) => m.projection))];
  const most = Math.max(...adapter.modules.map((m) => m.norm), 1e-30);
  const names = (key, value) => adapter.modules.filter((m) => m[key] === value).map((m) => m.name);
  const cell = (layer, kind) => {
    const module = adapter.modules.find((m) => m.layer === layer && m.projection === kind);
    if (!module) return make("td");
    const label = `layer ${layer}, ${kind}, update ${four(module.norm)} of the weight`;
    const button = make("button", four(module.norm), { type: "button", role: "switch", tabindex: -1, title: module.name, "aria-label": label });
    button.dataset.name = module.name;
    button.style.setProperty("--heat", `${(60 * module.norm) / most}%`);
    button.onclick = () => flip([module.name]);
    return make("td", "", {}, button);
  };
  const head = make("tr", "", {}, make("th", "layer"), ...kinds.map((kind) => header(kind, names("projection", kind), "projection")));
  const rows = layers.map((layer) => make("tr", "", {}, header(layer, names("layer", layer), "layer"), ...kinds.map((kind) => cell(layer, kind))));
  $("grid").replaceChildren(make("thead", "", {}, head), make("tbody", "", {}, ...rows));
  $("grid").querySelector("[role=switch]").tabIndex = 0;
}

// Arrow keys move within the grid and within the tokens; Tab leaves them.
function arrows(event) {
  const here = event.target, cells = [...event.currentTarget.querySelectorAll("button")];
  const lines = [...event.currentTarget.querySelectorAll("tr")].map((line) => [...line.cells].map((cell) => cell.firstElementChild));
  const line = lines.findIndex((buttons) => buttons.includes(here)), column = line < 0 ? 0 : lines[line].indexOf(here);
  const beside = (step) => line < 0 ? cells[cells.indexOf(here) + step] : lines[line][column + step];
  const beyond = (step) => line < 0 ? cells[cells.indexOf(here) + step] : lines[line + step]?.[column];
  const moves = {
    ArrowLeft: () => beside(-1), ArrowRight: () => beside(1), ArrowUp: () => beyond(-1), ArrowDown: () => beyond(1),
    Home: () => cells[0], End: () => cells.at(-1),
  };
  if (!moves[event.key]) return;
  event.preventDefault();
  const next = moves[event.key]();
  if (!next) return;
  for (const button of cells) button.tabIndex = button === next ? 0 : -1;
  next.focus();
}

// ---- adapters and rows -----------------------------------------------------------------------
function choose_adapter(name) {
  adapter = adapters.find((one) => one.name === name);
  off.clear();
  row = null;
  const words = { single_label: "one label", multi_label: "several labels", regression: "a number" };
  $("about").textContent = `${words[adapter.task]} · base ${adapter.base} · ${adapter.modules.length} modules adapted · ${adapter.folder}`;
  $("pair-part").hidden = !adapter.pairs;
  $("rank").max = adapter.kept.length; // before the value, which it bounds
  $("rank").value = adapter.kept.length;
  $("rank").disabled = Boolean(adapter.fixed_rank);
  $("strength").value = 1;
  $("module").replaceChildren(...adapter.modules.map((m) => make("option", m.name)));
  $("module").value = adapter.first;
  const notes = { single_label: "✓ predicted.", multi_label: "✓ predicted: above its threshold, the upright line.", regression: "■ base, ● adapted." };
  $("scores-note").textContent = `${notes[adapter.task]} Without the adapter the head is as it was before training, too.`;
  draw_grid();
  choose_kind(adapter.changed.lists[0].length ? 0 : 1);
  if (!$("text").value || !$("text").dataset.typed) choose_row(adapter.changed.lists.flat()[0]);
  ask();
}

function choose_kind(kind) {
  const { words, lists, note } = adapter.changed;
  $("kinds").replaceChildren($("kinds").firstElementChild, ...words.map((word, index) => {
    const radio = make("input", "", { type: "radio", name: "kind" });
    radio.checked = index === kind;
    radio.onchange = () => choose_kind(index);
    const label = make("label", "", {}, radio, ` ${word} (${lists[index].length})`);
    return label;
  }));
  const focused = document.activeElement.name === "kind";
  $("rows").replaceChildren(...lists[kind].map((one) => make("option", `${one.label}: ${short(one.before)} → ${short(one.after)} · ${one.texts.join(" | ")}`)));
  $("rows").onchange = () => { choose_row(lists[kind][$("rows").selectedIndex]); ask(); };
  if (focused) $("kinds").querySelector(":checked").focus();
  $("rows-part").hidden = !lists.flat().length;
  $("rows-note").hidden = !note;
  $("rows-note").textContent = note;
  if (adapter.task === "regression") {
    const numbers = lists.flat().flatMap((one) => [+one.label, +one.before, +one.after]);
    range = [Math.floor(Math.min(0, ...numbers)), Math.ceil(Math.max(1, ...numbers))];
  }
}

function choose_row(one) {
  $("text").value = one ? one.texts[0] : "i am so happy today";
  $("pair").value = one?.texts[1] ?? "";
  delete $("text").dataset.typed;
  row = null;
}

async function start() {
  adapters = await (await fetch("adapters")).json();
  $("adapter").replaceChildren(...adapters.map((one) => make("option", one.name)));
  $("adapter").onchange = () => choose_adapter($("adapter").value);
  $("text").oninput = $("pair").oninput = () => { $("text").dataset.typed = "yes"; row = null; ask(); };
  $("strength").oninput = $("rank").oninput = ask;
  $("module").onchange = () => { row = null; ask(); };
  $("reset").onclick = () => { off.clear(); $("strength").value = 1; $("rank").value = $("rank").max; ask(); };
  $("grid").onkeydown = $("tokens").onkeydown = arrows;
  $("copy").onclick = async () => {
    await navigator.clipboard.writeText($("code").textContent);
    say("copied");
  };
  choose_adapter(adapters[0].name);
}
start();
