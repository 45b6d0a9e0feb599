// Looks again by itself while a promote run goes on; without scripts a link does the same.
"use strict";
for (const part of document.querySelectorAll("[data-watch]")) {
  const look = async () => {
    try {
      const found = await (await fetch(part.dataset.watch)).json();
      if (String(found.revision) !== part.dataset.revision || found.promotion.state !== "running") {
        location.reload();
        return;
      }
    } catch {
      // The server may be starting again; the next look will tell.
    }
    setTimeout(look, 1500);
  };
  setTimeout(look, 1500);
}
