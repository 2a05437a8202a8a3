// What the search puts first: pages that say how to do something, above all one whose title is what was asked for; then the
// home page, then the rest. Sphinx's own weights otherwise (its _static/searchtools.js).
const asked = (new URLSearchParams(location.search).get("q") || "").toLowerCase();
var Scorer = {
  score: ([page, title, anchor, description, score]) =>
    score + (/^tutorials\/(?!findings|results)/.test(page) ? 60 : 0) + (page === "index" ? 10 : 0)
    + (title.toLowerCase().includes(asked) ? 20 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
