"use strict";
(() => {
  const root = document.documentElement;

  // Browsers may deny storage to local files. The theme is then lost when the page is closed.
  const remembered = {
    get() { try { return localStorage.getItem("whisperlab-theme"); } catch { return null; } },
    set(theme) { try { localStorage.setItem("whisperlab-theme", theme); } catch { /* not stored */ } },
  };

  const isDark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;

  function setUpTheme() {
    const kept = remembered.get();
    if (kept === "light" || kept === "dark") root.dataset.theme = kept;
    document.getElementById("theme").addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      remembered.set(root.dataset.theme);
    });
  }

  const sortKey = (row, column) => row.cells[column].dataset.sort;

  function compare(a, b) {
    if (a === "" || b === "") return (a === "") - (b === "");
    const numeric = Number(a) - Number(b);
    return Number.isNaN(numeric) ? a.localeCompare(b) : numeric;
  }

  // Empty cells stay last in both directions.
  function sortBy(table, column, descending) {
    const body = table.tBodies[0];
    const sign = (a, b) => (descending && a !== "" && b !== "" ? -1 : 1);
    const rows = [...body.rows].sort((one, other) => {
      const a = sortKey(one, column), b = sortKey(other, column);
      return sign(a, b) * compare(a, b);
    });
    body.append(...rows);
  }

  function setUpTable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortBy(table, column, descending);
    }));
  }

  // An apostrophe keeps spreadsheets from running text as a formula.
  function csvCell(value) {
    if (value === null || value === undefined) return "";
    const text = typeof value === "string" && /^[\s\u200b]*[=+\-@＝＋－＠]|^[\t\r]/.test(value) ? "'" + value : String(value);
    return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  }

  function csvOf(rows) {
    const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
    const lines = rows.map((row) => names.map((name) => csvCell(row[name])).join(","));
    return [names.map(csvCell).join(","), ...lines].join("\r\n") + "\r\n";
  }

  function setUpCsv() {
    const button = document.getElementById("csv");
    if (!button) return;
    button.addEventListener("click", () => {
      const rows = JSON.parse(document.getElementById("data").textContent);
      download(csvOf(rows), button.dataset.name);
    });
  }

  function download(text, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // A click on a segment's time plays from there; see wireChart for the timelines.
  function setUpRecording(article) {
    const audio = article.querySelector("audio");
    if (!audio) {
      article.querySelectorAll(".seek").forEach((button) => { button.disabled = true; });
      return;
    }
    article.querySelectorAll(".seek").forEach((button) => button.addEventListener("click", () => {
      audio.currentTime = Number(button.dataset.time);
      audio.play();
    }));
  }

  // Makes a data frame sortable: columns get buttons, cells get sort keys. The second head row only has the names of
  // the index and is removed. Tables with cells that span rows do not change.
  const valueOf = (cell) => {
    const text = cell.textContent.trim();
    if (["", "-", "–", "NaN", "None", "nan"].includes(text)) return "";
    const number = /^[+-]?[\d,]*\.?\d+(e[+-]?\d+)?/i.exec(text);
    return number ? String(Number(number[0].replaceAll(",", ""))) : text;
  };

  function setUpDataFrame(table) {
    const head = table.tHead, body = table.tBodies[0];
    if (!head || !body || !body.rows.length || head.rows.length > 2) return;
    const width = head.rows[0].cells.length;
    if ([...head.rows, ...body.rows].some((row) => row.cells.length !== width)) return;
    const names = head.rows.length === 2 ? [...head.rows[1].cells].map((cell) => cell.textContent) : [];
    if (head.rows.length === 2) head.deleteRow(1);
    const counted = [...body.rows].every((row, place) => row.cells[0].textContent.trim() === String(place));
    if (counted && width > 1 && !names[0] && !head.rows[0].cells[0].textContent.trim()) {  // a default index
      [...head.rows, ...body.rows].forEach((row) => row.deleteCell(0));
    }
    [...head.rows[0].cells].forEach((cell, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = cell.textContent || names[column] || "row";
      cell.replaceChildren(button);
      cell.scope = "col";
      cell.classList.add("head");
      const values = [...body.rows].map((row) => valueOf(row.cells[column]));
      const numeric = values.every((value) => value === "" || !Number.isNaN(Number(value)));
      [...body.rows].forEach((row, place) => {
        row.cells[column].classList.toggle("number", numeric);
        row.cells[column].dataset.sort = numeric || values[place] === "" ? values[place] : row.cells[column].textContent;
      });
    });
    table.classList.add("sortable");
    const save = document.createElement("button");
    save.type = "button";
    save.className = "save";
    save.textContent = "CSV";
    save.title = "Download this table";
    save.addEventListener("click", () => {
      const titles = [...head.rows[0].cells].map((cell) => cell.textContent);
      download(csvOf([...body.rows].map((row) => Object.fromEntries(
        titles.map((title, column) => [title, row.cells[column].textContent])))), "table.csv");
    });
    table.after(save);
  }

  // Elements that scroll sideways get keyboard focus.
  function setUpScrolling() {
    document.querySelectorAll("main div, main pre").forEach((box) => {
      if (box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "visible" && !box.hasAttribute("tabindex")) {
        box.tabIndex = 0;
      }
    });
  }

  // An embedded page is compressed. It is unpacked when it becomes visible.
  async function unpack(frame) {
    const bytes = Uint8Array.from(atob(frame.dataset.page), (letter) => letter.charCodeAt(0));
    frame.removeAttribute("data-page");
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    frame.srcdoc = await new Response(stream).text();
  }

  function setUpFrames() {
    const frames = document.querySelectorAll("iframe[data-page]");
    if (!("DecompressionStream" in window)) {
      frames.forEach((frame) => { frame.hidden = true; frame.nextElementSibling.hidden = false; });
      return;
    }
    const watcher = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
      watcher.unobserve(entry.target);
      unpack(entry.target);
    }));
    frames.forEach((frame) => watcher.observe(frame));
  }

  // Interactive figures: the specification in the page is drawn in place of the static drawing, as wide as its place.
  // Expressions are interpreted (ast), because the page forbids the evaluation of text as code.
  async function drawChart(figure) {
    const spec = JSON.parse(figure.querySelector("script.spec").textContent);
    const fixed = figure.querySelector(".static");
    let holder = figure.querySelector(".live");
    if (!holder) {
      holder = document.createElement("div");
      holder.className = "live";
      fixed.after(holder);
    }
    const width = figure.clientWidth;
    spec.width = Math.max(220, width - 90);
    spec.autosize = { type: "pad" };
    const { view } = await vegaEmbed(holder, spec, { ast: true, renderer: "svg", actions: false, tooltip: { theme: isDark() ? "dark" : "light" } });
    figure.classList.add("drawn");
    figure.drawn = { view, width };
    const drawing = holder.querySelector("svg");
    drawing.setAttribute("role", "img");
    drawing.setAttribute("aria-label", spec.description);
    drawing.querySelectorAll('[role="graphics-symbol"]:not([aria-label])').forEach((mark) => mark.removeAttribute("role"));
    return view;
  }

  function setUpCharts() {
    if (!window.vegaEmbed) return;
    document.querySelectorAll("figure.chart").forEach(async (figure) => {
      wireChart(figure, await drawChart(figure));
      let waiting = 0;
      new ResizeObserver(() => {
        if (figure.clientWidth === figure.drawn.width || !figure.clientWidth) return;
        clearTimeout(waiting);
        waiting = setTimeout(async () => wireChart(figure, await drawChart(figure)), 150);
      }).observe(figure);
    });
  }

  // A click on a timeline plays from there; a click on a configuration selects its row in every table.
  function wireChart(figure, view) {
    const audio = figure.querySelector("audio") ?? figure.closest(".recording")?.querySelector("audio");
    const signals = view.getState({ signals: () => true, data: () => false }).signals;
    if ("brush" in signals && "picked" in signals) {  // lines through the box stay, and so do their rows
      view.addSignalListener("brush", (_, box) => {
        const [axes, [low, high]] = [box.axis ?? [], box.height ?? [0, -1]];
        const inside = JSON.parse(figure.querySelector("script.spec").textContent).layer[0].data.values
          .filter((row) => axes.includes(row.axis) && row.height >= low && row.height <= high);
        const ids = [...new Set(inside.map((row) => row.config_id))];
        view.signal("picked", ids).runAsync();
        choose(ids);
      });
    }
    if (audio && "playhead" in signals) {
      const show = () => view.signal("playhead", audio.currentTime).runAsync();
      const follow = () => { show(); if (!audio.paused) requestAnimationFrame(follow); };
      audio.addEventListener("play", follow);
      audio.addEventListener("seeked", show);
      view.addEventListener("click", (event) => {
        const box = figure.querySelector(".live svg").getBoundingClientRect();
        const at = view.scale("x").invert(event.clientX - box.left - view.origin()[0]);
        audio.currentTime = Math.max(0, at);
        audio.play();
      });
    }
    view.addEventListener("click", (_, item) => {
      const id = item?.datum?.config_id;
      if (id === undefined || "brush" in signals) return;
      choose([id]);
      document.querySelector("tr.chosen")?.scrollIntoView({ block: "center", behavior: "smooth" });
    });
  }

  function choose(ids) {
    const chosen = new Set(ids.map(String));
    document.querySelectorAll("tr[data-config]").forEach((row) => row.classList.toggle("chosen", chosen.has(row.dataset.config)));
  }

  // Long tables get a field that filters their rows, and a list that groups them: rows and means by value.
  const FEW_ROWS = 8;

  function setUpFilter(table) {
    const body = table.tBodies[0];
    if (!body || body.rows.length <= FEW_ROWS || !table.tHead) return;
    const titles = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
    const bar = document.createElement("p");
    bar.className = "filter";
    const field = Object.assign(document.createElement("input"), { type: "search", placeholder: "filter rows" });
    field.setAttribute("aria-label", "Filter the rows of the table");
    const list = document.createElement("select");
    list.setAttribute("aria-label", "Group the rows of the table");
    list.append(new Option("group by …", ""), ...titles.map((title, column) => new Option(title, column)));
    const count = Object.assign(document.createElement("span"), { className: "muted" });
    count.setAttribute("role", "status");
    const groups = document.createElement("div");
    bar.append(field, " ", list, " ", count);
    const shown = () => [...body.rows].filter((row) => !row.hidden);
    const regroup = () => groups.replaceChildren(...(list.value === "" ? [] : [grouped(shown(), titles, Number(list.value))]));
    field.addEventListener("input", () => {
      const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      [...body.rows].forEach((row) => {
        const text = row.textContent.toLowerCase();
        row.hidden = !wanted.every((word) => text.includes(word));
      });
      count.textContent = `${shown().length} of ${body.rows.length} rows`;
      regroup();
    });
    list.addEventListener("change", regroup);
    (table.closest(".wide") ?? table).before(bar, groups);
  }

  function grouped(rows, titles, by) {
    const found = Map.groupBy ? Map.groupBy(rows, (row) => row.cells[by].textContent.trim()) : new Map();
    const numeric = titles.map((_, column) => column).filter((column) => column !== by
      && rows.some((row) => row.cells[column].classList.contains("number")));
    const table = document.createElement("table");
    table.className = "grouped";
    const head = table.createTHead().insertRow();
    [titles[by], "rows", ...numeric.map((column) => "mean " + titles[column])].forEach((title) => {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = title;
      head.append(cell);
    });
    const body = table.createTBody();
    found.forEach((members, value) => {
      const row = body.insertRow();
      row.insertCell().textContent = value;
      row.insertCell().textContent = members.length;
      numeric.forEach((column) => {
        const values = members.map((one) => one.cells[column].dataset.sort).filter((text) => text !== "" && !Number.isNaN(Number(text))).map(Number);
        row.insertCell().textContent = values.length ? (values.reduce((a, b) => a + b, 0) / values.length).toPrecision(3) : "–";
      });
      [...row.cells].slice(1).forEach((cell) => cell.classList.add("number"));
    });
    const box = document.createElement("div");
    box.className = "wide";
    box.append(table);
    return box;
  }

  // The first occurrence of each term of the glossary shows its definition to a pointer and to the keyboard.
  function setUpTerms() {
    const terms = JSON.parse(document.getElementById("terms")?.textContent ?? "{}");
    const open = new Set(Object.keys(terms));
    if (!open.size) return;
    const letters = (term) => term.replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replaceAll(" ", "[ \\u00a0]");
    const walker = document.createTreeWalker(document.getElementById("content"), NodeFilter.SHOW_TEXT, (node) =>
      node.parentElement.closest("p, li, dd, figcaption, td, th, caption") && !node.parentElement.closest("code, pre, a, button, svg, abbr, summary, script, .aligned")
        ? NodeFilter.FILTER_ACCEPT : NodeFilter.FILTER_SKIP);
    const nodes = [];
    while (walker.nextNode()) nodes.push(walker.currentNode);
    for (let node of nodes) {
      while (open.size) {
        const found = new RegExp("(?<![\\w-])(" + [...open].sort((a, b) => b.length - a.length).map(letters).join("|") + ")(?![\\w-])").exec(node.textContent);
        if (!found) break;
        const term = found[1].replaceAll("\u00a0", " ");
        open.delete(term);
        const rest = node.splitText(found.index);
        const abbr = document.createElement("abbr");
        abbr.className = "term";
        abbr.tabIndex = 0;
        abbr.dataset.term = terms[term];
        abbr.setAttribute("aria-label", term + ": " + terms[term]);
        abbr.setAttribute("role", "note");
        node = rest.splitText(term.length);
        rest.replaceWith(abbr);
        abbr.append(rest);
      }
    }
  }

  setUpTheme();
  setUpTerms();
  document.querySelectorAll("table.dataframe").forEach(setUpDataFrame);
  document.querySelectorAll("table.sortable").forEach(setUpTable);
  document.querySelectorAll("table.sortable").forEach(setUpFilter);
  document.querySelectorAll(".recording").forEach(setUpRecording);
  setUpCsv();
  setUpScrolling();
  setUpFrames();
  setUpCharts();
})();
