"""How the page and its charts look: in light and in dark, on a phone and on a desk."""

COLOURS = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6575; --paper: #fff; --card: #f5f7fa;
  --line: #d9dee6; --first: #2463c7; --second: #d96c1d; --third: #2f9e44; --fourth: #9c36b5;
  --fifth: #0c8599; --sixth: #c92a2a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa4b5; --paper: #14171d;
  --card: #1d222b; --line: #343b48; --first: #6ea3ff; --second: #ff9f57;
  --third: #69db7c; --fourth: #da77f2; --fifth: #3bc9db; --sixth: #ff8787; } }
"""

CHART = """
svg path { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg path.first { stroke: var(--first); }
svg path.second { stroke: var(--second); }
svg path.third { stroke: var(--third); }
svg path.fourth { stroke: var(--fourth); }
svg path.fifth { stroke: var(--fifth); }
svg path.sixth { stroke: var(--sixth); }
svg path.dots { stroke-width: 3.2; stroke-linecap: round; opacity: 0.45; }
svg .thin { opacity: 0.45; }
svg path.thin { stroke-width: 0.7; stroke-dasharray: 2 2; }
svg path.large { stroke-width: 7; opacity: 1; }
svg .ideal, svg .best { stroke: var(--soft); stroke-width: 1.3; stroke-dasharray: 4 4; }
svg rect.first, svg circle.first { fill: var(--first); }
.grid line { stroke: var(--line); stroke-width: 0.8; }
.words text { fill: var(--soft); font-size: 11px; }
.words .x { text-anchor: middle; }
.words .y { text-anchor: end; }
.words .title { fill: var(--ink); }
"""

STYLE = (
    COLOURS
    + """
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem clamp(0.8rem, 3vw, 2rem) 3rem; max-width: 68rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1, h2, pre, header p, .tiles, figcaption, .legend { overflow-wrap: anywhere; }
h1 { font-size: clamp(1.3rem, 4vw, 1.9rem); line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.15rem; margin: 0 0 0.6rem; }
header p { color: var(--soft); margin: 0.2rem 0; }
section { margin-top: 2.2rem; }
p { margin: 0.4rem 0; max-width: 46rem; }
small { color: var(--soft); font-size: 0.8rem; font-weight: normal; }
.tiles { display: grid; gap: 0.7rem; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); }
.tiles div { background: var(--card); border-radius: 0.6rem; padding: 0.7rem 0.9rem; display: grid; }
.tiles strong { font-size: 1.35rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: 0.9rem; }
.tiles + table { margin-top: 1rem; }
.figures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
figure { margin: 0; background: var(--card); border-radius: 0.6rem; padding: 0.7rem; max-width: 34rem; }
figcaption { font-size: 0.9rem; margin-bottom: 0.3rem; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; font-size: 0.85rem; }
.legend span::before { content: ""; display: inline-block; width: 1.1rem; margin-right: 0.4rem;
  vertical-align: middle; border-top: 3px solid var(--first); }
.legend .second::before { border-color: var(--second); }
.legend .best::before { border-top: 2px dashed var(--soft); }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; }
th, td { padding: 0.3rem 0.7rem 0.3rem 0; vertical-align: top; border-bottom: 1px solid var(--line); }
th small { display: block; }
.facts, .bars, .columns { table-layout: fixed; width: 100%; }
.facts th { font-weight: normal; color: var(--soft); width: 34%; }
.wide { overflow-x: auto; max-width: 100%; --shade: color-mix(in srgb, var(--ink) 22%, transparent);
  background: linear-gradient(90deg, var(--paper) 30%, transparent) left / 2.5rem 100% no-repeat local,
    linear-gradient(270deg, var(--paper) 30%, transparent) right / 2.5rem 100% no-repeat local,
    linear-gradient(90deg, var(--shade), transparent) left / 0.9rem 100% no-repeat scroll,
    linear-gradient(270deg, var(--shade), transparent) right / 0.9rem 100% no-repeat scroll; }
.wide + .wide { margin-top: 1rem; }
.numbers td, .numbers thead th { text-align: right; white-space: nowrap; }
.numbers thead th:first-child { text-align: left; }
.numbers th[scope=row] { white-space: nowrap; }
figure.whole { grid-column: 1 / -1; max-width: none; }
.small { display: none; }
.option { white-space: nowrap; }
.advice { border-left: 3px solid var(--second); padding-left: 0.8rem; }
.confusions { overflow-wrap: normal; }
.confusions th, .confusions td { padding: 0.3rem 0.6rem; text-align: right; white-space: nowrap; }
.confusions th[scope=row] { position: sticky; left: 0; background: var(--paper); }
.confusions td.wrong { background: color-mix(in srgb, var(--second) calc(var(--share) * 70%), transparent); }
.confusions td.right { background: color-mix(in srgb, var(--first) calc(var(--share) * 55%), transparent); }
.bars th { width: 32%; font-weight: normal; }
.bars td:last-child { width: 11rem; text-align: right; white-space: nowrap; padding-right: 0; }
.bars i { display: block; height: 0.8rem; margin-top: 0.35rem; border-radius: 0.2rem;
  background: var(--first); width: max(1px, calc(var(--share) * 100%)); }
.columns th { width: 30%; }
.columns td:nth-child(2) { width: 7rem; }
.spark { height: 1.6rem; width: 6rem; }
.spark rect { fill: var(--first); }
pre { background: var(--card); border-radius: 0.6rem; padding: 0.8rem; white-space: pre-wrap; margin: 0; }
@media (max-width: 44rem) { .broad { display: none; } .small { display: block; } }
@media (max-width: 34rem) { th, td { padding-right: 0.5rem; } .spark { width: 3.2rem; }
  .bars tr, .columns tr { display: grid; border-bottom: 1px solid var(--line); }
  .bars tr { grid-template-columns: minmax(0, 1fr) 9.5rem; }
  .columns tr { grid-template-columns: 4rem minmax(0, 1fr); }
  .bars th, .bars td, .columns th, .columns td { border: 0; min-width: 0; }
  .bars th, .columns th { grid-column: 1 / -1; width: auto; padding-bottom: 0; }
  .bars td:last-child, .columns td:nth-child(2) { width: auto; white-space: normal; } }
"""
    + CHART
)
