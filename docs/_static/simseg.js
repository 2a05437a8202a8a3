// Browsers refuse to fetch one file from another: opened from disk, search lists its results without their text.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// Sphinx marks on a page what was searched for, also in the titles of icons, which have no box to mark.
SVGTitleElement.prototype.getBBox = () => new DOMRect();
