"""How the page looks, and the little that it does: tables sort and filter."""

CSS = """
:root { --paper: #fff; --ink: #1c1f23; --soft: #5c6670; --line: #d5dae0; --fill: #eef1f4;
  --one: #0b62b8; --two: #b4490f; --three: #2c7a3f; --bad: #b3261e; color-scheme: light dark; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #16191d; --ink: #e6e9ec;
  --soft: #9aa5b1; --line: #3a424b; --fill: #22272e; --one: #6db3ff; --two: #ff9f5a;
  --three: #6fd08a; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { margin: 2.2rem 0 .5rem; font-size: 1.25rem;
  border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
h3 { margin: 1.4rem 0 .4rem; font-size: 1.05rem; }
p { max-width: 52rem; margin: .4rem 0; } .soft, figcaption, nav { color: var(--soft); }
nav a { margin-right: 1rem; } a { color: var(--one); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .55rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; max-width: 20rem; overflow: hidden;
  text-overflow: ellipsis; }
td:has(> .left), td:has(> svg.left) { text-align: left; }
.classes th, .classes td { padding: .2rem .35rem; font-size: 13px; }
figcaption span { white-space: nowrap; margin-right: .8em; }
th { color: var(--soft); font-weight: 600; }
.sorts thead th { cursor: pointer; } .sorts th[aria-sort] { color: var(--ink); }
.wide { overflow-x: auto; } .tall { max-height: 40rem; overflow: auto; }
.tall thead th { position: sticky; top: 0; background: var(--paper); }
.up { color: var(--three); } .down { color: var(--bad); }
.matrix td.n { background: color-mix(in srgb, var(--one) var(--p), transparent); }
.matrix td.n.wrong { background: color-mix(in srgb, var(--bad) var(--p), transparent); }
.matrix th { vertical-align: bottom; }
.matrix th.turned { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 12rem;
  text-align: left; vertical-align: top; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; } .charts figure { margin: 0; width: 17rem; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .axis { stroke: var(--line); fill: none; } svg path { fill: none; stroke-width: 1.8; }
.c0 { stroke: var(--one); } .c1 { stroke: var(--two); stroke-dasharray: 6 3; }
.c2 { stroke: var(--three); stroke-dasharray: 2 3; }
.c3 { stroke: var(--soft); stroke-dasharray: 9 3 2 3; }
svg .bar { fill: var(--one); stroke: none; } svg .other { fill: var(--soft); stroke: none; }
.sheet { margin-top: .8rem; } .sheet figure { margin: 0 0 1.2rem; break-inside: avoid; }
.sheet img { max-width: 100%; height: auto; display: block; border: 1px solid var(--line); }
input[type=search] { font: inherit; padding: .2rem .5rem; margin: .3rem 0; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; }
  .tall { max-height: none; overflow: visible; } .wide { overflow: visible; }
  nav, input { display: none; } h2, h3 { break-after: avoid; } tr { break-inside: avoid; }
  th, td { padding: .1rem .25rem; } th { white-space: normal; }
  .classes th, .classes td { font-size: 6.5pt; padding: .05rem .15rem; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll('table.sorts')) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const body = table.tBodies[0];
  heads.forEach((head, at) => head.addEventListener('click', () => {
    const up = head.getAttribute('aria-sort') === 'descending';
    heads.forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const key = row => row.cells[at].textContent.trim().replace('\\u2212', '-');
    const number = text => text === '-' || text === '' ? NaN : Number(text);
    const rows = [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b), m = number(x), n = number(y);
      if (isNaN(m) && isNaN(n)) return x.localeCompare(y);
      if (isNaN(m) || isNaN(n)) return isNaN(m) ? (up ? 1 : -1) : (up ? -1 : 1);
      return m - n;
    });
    body.append(...(up ? rows : rows.reverse()));
  }));
}
for (const field of document.querySelectorAll('input[type=search]')) {
  field.hidden = false;
  const rows = document.getElementById(field.dataset.table).tBodies[0].rows;
  field.addEventListener('input', () => {
    const wanted = field.value.toLowerCase();
    for (const row of rows)
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
  });
}
"""
